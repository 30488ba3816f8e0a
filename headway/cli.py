"""The command line: `headway VERB ...`. It only translates; the work is imported inside each verb.

    exit 0    done
    exit 2    the user can put it right: one line on standard error says what is wrong (`--debug` shows where)
    exit 130  stopped by Ctrl-C; the same command goes on from there

It does not know how anything is done, and loads nothing heavy before a verb asks for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from headway import __version__
from headway.errors import HeadwayError, RunError

app = typer.Typer(
    name="headway",
    help="Turn a small language model into a reasoning model in four measured steps, on one table of rollouts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunOption = Annotated[str, typer.Option("--run", help="The run: its folder, or its name under runs/.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; the arguments default to the process's own."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_trace = "--debug" in words  # wherever it stands
    words = [word for word in words if word != "--debug"]
    try:
        code = app(words, prog_name="headway", standalone_mode=False)
        sys.stdout.flush()
    except (HeadwayError, typer.BadParameter) as error:
        code = _refuse(error, wants_trace)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own: an unknown verb or option, a missing argument
            raise
        code = _refuse(error, wants_trace)
    if code == 130:
        print("stopped; the same command goes on from here", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(error: Any, wants_trace: bool) -> int:
    """Say in one line what is wrong."""
    from headway.report.markup import clean

    if wants_trace:
        import traceback

        traceback.print_exception(error)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if message:  # a bare `headway` has printed its help and has no message
        print(f"headway: {' '.join(clean(message).split())}", file=sys.stderr)
    return 2


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"headway {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of all verbs; `main` reads --debug itself, so that it may stand anywhere."""


RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A TOML file, such as recipes/tiny.toml.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe's key; may be repeated.")
]
RootOption = Annotated[Path, typer.Option("--root", help="The folder that runs are kept in.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    until: Annotated[str, typer.Option("--until", metavar="STAGE", help="End after this stage.")] = "",
    root: RootOption = Path("runs"),
) -> None:
    """Run a recipe: all its stages, an evaluation after each, and the page. Goes on where it was stopped."""
    from headway import verbs

    verbs.run(recipe, overrides or [], root, until=until)


def _stage_verb(stage: str, text: str) -> None:
    """Register one stage as a verb of its own."""

    @app.command(stage, help=text)
    def verb(recipe: RecipeArgument, overrides: SetOption = None, root: RootOption = Path("runs")) -> None:
        from headway import verbs

        verbs.run(recipe, overrides or [], root, only=stage)


_stage_verb("base", "Train and measure the base model alone.")
_stage_verb("midtrain", "Stage 1 alone: mid-training on every correct teacher rollout.")
_stage_verb("sft", "Stage 2 alone: fine-tuning on a compact subset.")
_stage_verb("dpo", "Stage 3 alone: correct rollouts over wrong ones of the same problem.")
_stage_verb("rl", "Stage 4 alone: reinforcement learning with verifiable rewards.")


@app.command("eval")
def evaluate(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A Hugging Face folder or a hub name.")],
    recipe: RecipeArgument,
    overrides: SetOption = None,
    root: RootOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Measure any checkpoint on a recipe's held-out problems."""
    from headway import verbs

    verbs.evaluate(checkpoint, recipe, overrides or [], root, as_json)


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

    verify_run(_store_of(run).parent, everything, diff, against, sample, as_json)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="A query over the tables problems, rollouts and verdicts.")],
    run: RunOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Ask the table of rollouts a question in SQL (DuckDB's)."""
    import json

    from headway.store.store import Store

    rows = Store(_store_of(run), create=False).sql(query)
    if as_json:
        for row in rows.to_pylist():
            print(json.dumps(row, default=str))  # ASCII: control characters are escaped
    else:
        _print_rows(rows.column_names, [list(row.values()) for row in rows.to_pylist()])


@app.command()
def show(
    prefix: Annotated[str, typer.Argument(metavar="ID", help="The id of a problem or a rollout, or its beginning.")],
    run: RunOption = "",
) -> None:
    """Show a rollout with its verdicts and its problem, or a problem with its rollouts."""
    from headway.store.store import Store
    from headway.types import Rollout

    store = Store(_store_of(run), create=False)
    found = store.find(prefix)
    if isinstance(found, Rollout):
        _print_record("rollout", found)
        for verdict in store.sql(_VERDICTS_OF.format(_quoted(found.id))).to_pylist():
            print("verdict:", *(_cell(value) for value in verdict.values()))
        _print_record("problem", store.find(found.problem_id))
    else:
        _print_record("problem", found)
        rows = store.sql(_ROLLOUTS_OF.format(_quoted(found.id)))
        _print_rows(rows.column_names, [list(row.values()) for row in rows.to_pylist()])


_VERDICTS_OF = "select verifier, outcome, reason, extracted from verdicts where rollout_id = {} order by verifier"
_ROLLOUTS_OF = """
    select rollouts.id as rollout, sampler, step, index, stop_reason, num_tokens, verifier, outcome, extracted
    from rollouts left join verdicts on verdicts.rollout_id = rollouts.id
    where problem_id = {} order by sampler, step, index, verifier, rollouts.id
"""


@app.command("clean")
def clean_problems(
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="Problem files, folders or hub data sets.")],
    against: Annotated[list[str], typer.Option("--against", metavar="EVAL", help="An evaluation set; may be repeated.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the problems that are kept here, as JSONL.")] = None,
    explain: Annotated[int, typer.Option("--explain", min=0, help="Show so many removals, both questions side by side.")] = 0,
    near: Annotated[bool, typer.Option("--near", help="Also keep only one of nearly equal questions.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove from problem files what evaluation sets hold, in the same or in other words, and say why."""
    from headway.report.cleaning import clean_files

    clean_files(data, against, out, explain, near, as_json)


def _quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _print_record(kind: str, record: Any) -> None:
    """Every field of a record; text of several lines is indented below its name, long lists are counted."""
    from dataclasses import fields

    from headway.report.markup import clean

    print(f"{kind}:")
    for field in fields(record):
        value = getattr(record, field.name)
        lines = (f"({len(value)})" if isinstance(value, tuple) else clean(value)).split("\n")
        print(f"  {field.name}:", lines[0] if len(lines) == 1 else "\n    " + "\n    ".join(lines))


def _print_rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for the eye in a terminal; tab-separated lines for the next program in a pipe."""
    if not sys.stdout.isatty():
        for row in (names, *rows):
            print("\t".join(map(_cell, row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in names:
        table.add_column(Text(_cell(name)))
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    Console().print(table)


def _cell(value: Any) -> str:
    """A value on one line: newlines, tabs and control characters are shown as such, nothing as nothing."""
    from headway.report.markup import clean

    return "" if value is None else clean(value).replace("\n", "\\n").replace("\t", "\\t")


def _store_of(run: str) -> Path:
    """The rollout table of the run that is meant; without a name, of the only run there is."""
    store = run_folder(run) / "store"
    if not store.is_dir():
        raise RunError(f"{store} is missing: there are no rollouts to read")
    return store


def run_folder(run: str) -> Path:
    """The folder of a run given by its folder or by its name under runs/; "" means the only run there is."""
    if run:
        folder = next((path for path in (Path(run), Path("runs", run)) if (path / "recipe.json").is_file()), None)
        if folder is None:
            raise RunError(f"there is no run {run!r}: neither that folder nor runs/{run} holds a recipe.json")
        return folder
    found = sorted(path.parent for path in Path("runs").glob("*/recipe.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none so far"
        raise RunError(f"say which run with --run NAME (under runs/: {names})")
    return found[0]
