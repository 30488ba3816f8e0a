"""The verbs of a run: its stages, its measures, its report.

They only translate; the work is imported inside each verb.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headway.cli.folders import checkpoint_folder, run_folder, store_of
from headway.cli.options import (
    CheckpointArgument,
    FromPreviousOption,
    JsonOption,
    RecipeArgument,
    RootOption,
    RunOption,
    SetOption,
    app,
)


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    until: Annotated[str, typer.Option("--until", metavar="STAGE", help="End after this stage.")] = "",
    root: RootOption = Path("runs"),
    from_previous: FromPreviousOption = False,
) -> None:
    """Run a recipe: all its stages, an evaluation after each, and the page. Goes on where it was stopped."""
    from headway import verbs

    verbs.run(recipe, overrides or [], root, until=until, from_previous=from_previous)


def _stage_verb(stage: str, text: str) -> None:
    """Register one stage as a verb of its own."""

    @app.command(stage, help=text)
    def verb(
        recipe: RecipeArgument,
        overrides: SetOption = None,
        root: RootOption = Path("runs"),
        from_previous: FromPreviousOption = False,
    ) -> None:
        from headway import verbs

        verbs.run(recipe, overrides or [], root, only=stage, from_previous=from_previous)


_stage_verb("base", "Train and measure the base model alone.")
_stage_verb("midtrain", "Stage 1 alone: mid-training on every correct teacher rollout.")
_stage_verb("sft", "Stage 2 alone: fine-tuning on a compact subset.")
_stage_verb("dpo", "Stage 3 alone: correct rollouts over wrong ones of the same problem.")
_stage_verb("rl", "Stage 4 alone: reinforcement learning with verifiable rewards.")


@app.command("eval")
def evaluate(
    checkpoint: CheckpointArgument,
    recipe: RecipeArgument,
    overrides: SetOption = None,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Measure any checkpoint on a recipe's held-out problems."""
    from headway import verbs

    verbs.evaluate(checkpoint_folder(checkpoint), recipe, overrides or [], root, as_json)


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run: its folder, or its name; or several with commas.")] = "",
) -> None:
    """Print a run's staircase and write its page again; of several runs (seeds), print the pooled staircase."""
    from headway.report.shell import report as show_report

    show_report([run_folder(name) for name in run.split(",")])


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A run, or several with commas between them.")],
    b: Annotated[str, typer.Argument(help="The run or runs to compare with, paired in order.")],
    as_json: JsonOption = False,
) -> None:
    """Put the final models of two runs side by side with a paired test."""
    from headway.report.shell import compare_runs

    compare_runs([run_folder(name) for name in a.split(",")], [run_folder(name) for name in b.split(",")], as_json)


@app.command()
def verify(
    run: RunOption = "",
    everything: Annotated[bool, typer.Option("--regrade", help="Judge again what this verifier has judged already.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show which outcomes differ from the verdicts in the table.")] = False,
    against: Annotated[str, typer.Option("--against", metavar="NAME@V", help="Compare with this verifier's verdicts.")] = "",
    sample: Annotated[int, typer.Option("--sample", min=0, help="How many of the differences to show, drawn at random.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Judge a run's rollouts with this build's verifier; verdicts are added, none is changed."""
    from headway.report.shell import verify_run

    verify_run(store_of(run).parent, everything, diff, against, sample, as_json)


@app.command()
def xray(
    recipe: RecipeArgument,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="base, midtrain, sft, dpo or rl.")],
    overrides: SetOption = None,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Show what a stage is about to learn, token by token, and check it: nothing is trained."""
    from headway import verbs

    verbs.xray(recipe, overrides or [], stage, root, as_json)
