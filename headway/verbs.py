"""The verbs that do the work: what `cli` calls once a recipe is named. Imported inside the verb, since it loads torch.

It does not know option names or exit codes (`cli`), nor how a recipe runs (`pipeline`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from headway import ranks
from headway.config import Recipe
from headway.pipeline import evaluate_checkpoint, run_recipe, xray_stage
from headway.recipe import load_recipe
from headway.report.markup import clean, percent
from headway.report.progress import Display
from headway.report.tables import render_staircase
from headway.report.xray import render_xray
from headway.runs import Run
from headway.stages.preflight import refuse
from headway.train.processes import start


def run(
    recipe_path: str, overrides: Sequence[str], root: Path, until: str = "", only: str = "", from_previous: bool = False
) -> None:
    """Run a recipe with live progress; ends with the staircase and the page's path. Of several ranks the first one speaks."""
    start()
    with ranks.together():
        recipe = load_recipe(recipe_path, overrides)
    console = Console(quiet=ranks.rank() > 0)
    with Display(console) as display:

        def on_stage(opened: Run) -> None:
            _say_measured(opened, console)

        def say(note: str) -> None:
            console.print(Text(note), soft_wrap=True)

        folder = run_recipe(recipe, recipe_path, root, display, until, only, from_previous, on_stage, say)
    render_staircase(folder, console)
    console.print(Text(f"page: {folder / 'report.html'}"), soft_wrap=True)
    ranks.leave()


def _say_measured(opened: Run, console: Console) -> None:
    """One line for a stage that was just measured."""
    stages = json.loads((opened.folder / "results.json").read_text(encoding="utf-8"))["stages"]
    last = stages[-1]
    text = f"{last['stage']}: {percent(last['accuracy'])} ({percent(last['ci_low'])} to {percent(last['ci_high'])})"
    console.print(Text(f"{text} of {last['num_problems']} held-out problems, {last['wall_s']:.0f} s"), soft_wrap=True)


def evaluate(checkpoint: str, recipe_path: str, overrides: Sequence[str], root: Path, as_json: bool) -> None:
    """Measure any checkpoint on a recipe's held-out problems; a run folder of its own keeps the rollouts."""
    start()
    with ranks.together():
        recipe: Recipe = load_recipe(recipe_path, overrides)
    console = Console(stderr=as_json, quiet=ranks.rank() > 0)
    with Display(console) as display:

        def say(note: str) -> None:
            console.print(Text(note), soft_wrap=True)

        folder, result = evaluate_checkpoint(recipe, recipe_path, checkpoint, root, display, say)
    if as_json and not console.quiet:
        print(json.dumps(result))
    if not as_json:
        _say_result(checkpoint, folder, result, console)
    ranks.leave()


def _say_result(checkpoint: str, folder: Path, result: dict[str, Any], console: Console) -> None:
    """One line for a checkpoint that was measured."""
    programs = result.get("programs")
    ran = f"; {programs['ran']} of {programs['samples']} samples ran as programs, the others fell back" if programs else ""
    console.print(
        Text(
            f"{clean(checkpoint)}: {percent(result['accuracy'])} ({percent(result['ci_low'])} to {percent(result['ci_high'])}) "
            f"of {result['num_problems']} problems x {result['samples_per_problem']} samples; "
            f"truncated {percent(result['truncated'])}, no answer {percent(result['no_answer'])}{ran}; rollouts in {folder}"
        ),
        soft_wrap=True,
    )


def xray(recipe_path: str, overrides: Sequence[str], stage: str, root: Path, as_json: bool) -> None:
    """Show what a stage is about to learn from; RunError after it where the check fails."""
    recipe = load_recipe(recipe_path, overrides)
    with Display(Console(stderr=True)) as display:
        record = xray_stage(recipe, recipe_path, stage, root, display)
    if as_json:
        print(json.dumps(record))
    else:
        render_xray(record, Console())
    refuse(stage, record, "the lines above")
