"""How a plan is shown: a table of the stages, what was measured, what is not known, what does not fit; or one JSON object.

It does not know how the numbers came about.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.plan.planning import Plan, StagePlan, make_plan
from headway.recipe import load_recipe
from headway.report.markup import clean, duration, size

_PARTS = (
    "weights",
    "gradients",
    "moments",
    "kept",
    "activations",
    "vocabulary",
    "update",
    "gathered",
    "packed",
    "cache",
    "drawing",
)


def plan(recipe_path: str, overrides: Sequence[str], root: Path, wants_probe: bool, as_json: bool, ranks: int = 1) -> None:
    """Plan a recipe and print it."""
    recipe = load_recipe(recipe_path, overrides)
    waiting = Console(stderr=True)

    def say(note: str) -> None:
        if not as_json:
            waiting.print(Text(f"{note} ..."), soft_wrap=True)

    found = make_plan(recipe, root, wants_probe, say, ranks)
    if as_json:
        print(json.dumps(asdict(found) | {"peak": found.peak, "seconds": found.seconds, "disk": found.disk}))
        return
    show(found, Console(width=None if sys.stdout.isatty() else 200))


def show(found: Plan, console: Console) -> None:
    """Print a plan."""
    count = sum(found.parameters.values())
    parts = ", ".join(f"{name} {value:,}" for name, value in found.parameters.items() if value)
    lines = [f"{clean(found.recipe)}: {count:,} parameters ({parts}), from {clean(found.shape_from)}; on {found.device}"]
    _print(console, lines)
    console.print(_work(found))
    console.print(_memory(found))
    _print(console, ["memory is the process's at its highest, estimated: either training or sampling, not both at once"])
    if found.measured:
        _print(console, ["measured here: " + "; ".join(f"{name} {_number(value)}" for name, value in found.measured.items())])
    _print(console, [f"not measured: {clean(note)}" for note in found.notes])
    fits = f"fits: {size(found.peak)} of {size(found.available)} free; disk {size(found.disk)} of {size(found.free_disk)} free"
    _print(console, [f"warning: {clean(line)}" for line in found.warnings] or [fits])


def _print(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _work(found: Plan) -> Table:
    """Tokens, steps, time, disk."""
    table = Table()
    for head in ("stage", "steps", "tokens trained", "tokens sampled", "micro-batch", "time", "disk"):
        table.add_column(head, justify="left" if head == "stage" else "right")
    for stage in found.stages:
        micro = f"{stage.micro_batch:,}{'' if stage.from_data else ' (limit)'}" if stage.micro_batch else "-"
        counts = (_count(stage.steps), _count(stage.trained_tokens), _count(stage.sampled_tokens))
        table.add_row(stage.stage, *counts, micro, _time(stage.seconds), size(stage.disk))
    table.add_section()
    trained, sampled = (_sum(found.stages, key) for key in ("trained_tokens", "sampled_tokens"))
    table.add_row("in all", _sum(found.stages, "steps"), trained, sampled, "", _time(found.seconds), size(found.disk))
    return table


def _memory(found: Plan) -> Table:
    """Bytes by stage and part."""
    table = Table()
    shown = [part for part in _PARTS if any(stage.memory.get(part) for stage in found.stages)]
    for head in ("memory", *shown, "process", "safety", "at its highest"):
        table.add_column(head, justify="left" if head == "memory" else "right")
    for stage in found.stages:
        parts = [size(stage.memory[part]) if stage.memory[part] else "-" for part in (*shown, "process", "safety")]
        table.add_row(stage.stage, *parts, size(stage.peak))
    return table


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _sum(stages: Sequence[StagePlan], key: str) -> str:
    values = [getattr(stage, key) for stage in stages]
    return "?" if None in values else f"{sum(values):,}"


def _time(seconds: float | None) -> str:
    return "?" if seconds is None else duration(seconds)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
