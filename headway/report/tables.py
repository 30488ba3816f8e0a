"""A run's folder -> plain numbers: the staircase, the curves, the funnels; and the staircase for the terminal.

    results.json         -> read_run  -> RunResults(stages=[StageRow, ...])
    metrics/STAGE.jsonl  -> curves    -> [Curve(stage, name, steps, values), ...]
    selections/NAME.json -> funnels   -> [(NAME, Funnel), ...], and reports: what the kept rows are like

It computes nothing that needs a model or the rollout table (`readings` and `compare` read that), and does not know how
a number is drawn: `charts` and `page` do. Readings are re-exported here, so that one import has all tables.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.config import STAGES
from headway.durable import read_json
from headway.errors import RunError
from headway.report.markup import amount, clean, clock, p_value, points
from headway.report.readings import Reading, readings
from headway.types import Funnel

__all__ = [
    "Curve",
    "Reading",
    "RunResults",
    "StageRow",
    "curves",
    "funnels",
    "read_run",
    "readings",
    "render_staircase",
    "reports",
    "staircase",
]

ALPHA = 0.05  # "better" and "worse" are only said below it


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage's evaluation, as `results.json` has it. Shares are in [0, 1]; None where the run did not measure it.

    Example: ``StageRow(stage="sft", accuracy=0.61, ci_low=0.58, ci_high=0.64, num_problems=400, samples_per_problem=4,
    truncated=0.01, no_answer=0.02, p_vs_previous=0.0004, train_tokens=1_200_000, wall_s=58.0, …)``
    """

    stage: str
    accuracy: float
    ci_low: float
    ci_high: float
    num_problems: int
    samples_per_problem: float
    truncated: float
    no_answer: float
    p_vs_previous: float | None
    train_tokens: int
    wall_s: float
    difference_vs_previous: float | None = None
    pass_at_k: dict[int, float] = field(default_factory=dict[int, float])
    majority: float | None = None
    best_by_logprob: float | None = None
    families: dict[str, float] = field(default_factory=dict[str, float])
    mean_tokens: float | None = None
    unverifiable: float = 0.0

    @property
    def claim(self) -> str:
        """What may be said against the stage before: better, worse, no visible difference, or "" without a test."""
        if self.p_vs_previous is None or self.difference_vs_previous is None:
            return ""
        if self.p_vs_previous >= ALPHA or self.difference_vs_previous == 0:
            return "no visible difference"
        return "better" if self.difference_vs_previous > 0 else "worse"


@dataclass(frozen=True, slots=True)
class RunResults:
    """What `results.json` says of a run. `name` is the folder's."""

    name: str
    recipe: str
    seed: int
    peak_memory_bytes: int
    stages: tuple[StageRow, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of one stage over its steps. Example: ``Curve("sft", "loss", (1, 2, 3), (2.1, 1.9, 1.8), missing=0)``.

    `missing` counts the rows that carry the name without a finite number.
    """

    stage: str
    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    missing: int = 0


def read_run(run_dir: str | Path) -> RunResults:
    """Read `results.json`. RunError names the file and the key where something is missing or of the wrong kind."""
    path = Path(run_dir) / "results.json"
    if not path.exists():
        raise RunError(f"{path} is missing: the run has not been evaluated yet")
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("stages"), list):
        raise RunError(f"{path} should be an object with a list `stages`")
    rows: list[StageRow] = []
    for number, record in enumerate(values["stages"]):
        if not isinstance(record, dict):
            raise RunError(f"{path}: stage {number} should be an object")
        rows.append(_stage_row(record, f"{path}: stage {number}", rows[-1] if rows else None))
    return RunResults(
        name=Path(run_dir).resolve().name,
        recipe=str(values.get("recipe", "")),
        seed=int(_number(values, "seed", str(path))),
        peak_memory_bytes=int(_number(values, "peak_memory_bytes", str(path))),
        stages=tuple(rows),
    )


def staircase(run_dir: str | Path) -> list[StageRow]:
    """The stages' evaluations, in order."""
    return list(read_run(run_dir).stages)


def curves(run_dir: str | Path) -> list[Curve]:
    """Every numeric key of `metrics/STAGE.jsonl` as a curve: stages in the recipe's order, keys as they first appear.

    A last line that a kill tore is not read; any other line that is not a JSON object is a RunError with its number.
    """
    paths = sorted((Path(run_dir) / "metrics").glob("*.jsonl"), key=lambda path: (_order(path.stem), path.stem))
    return [curve for path in paths for curve in _stage_curves(path)]


def funnels(run_dir: str | Path) -> list[tuple[str, Funnel]]:
    """The funnels of `selections/NAME.json`, each with NAME: those of a stage in the recipe's order, others before."""
    paths = sorted((Path(run_dir) / "selections").glob("*.json"), key=lambda path: (_order(path.stem), path.stem))
    found: list[tuple[str, Funnel]] = []
    for path in paths:
        selection = read_json(path)
        one = selection.get("funnel") if isinstance(selection, dict) else None
        several = selection.get("funnels", []) if isinstance(selection, dict) else []
        for funnel in ([one] if one else []) + list(several):
            found.append((path.stem, _funnel(funnel, path)))
    return found


def reports(run_dir: str | Path) -> dict[str, dict[str, float]]:
    """What a selection says of the rows it kept (`report` in `selections/NAME.json`): NAME -> name -> number."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted((Path(run_dir) / "selections").glob("*.json")):
        selection = read_json(path)
        report = selection.get("report") if isinstance(selection, dict) else None
        if isinstance(report, dict):
            found[path.stem] = {str(name): value for name, value in report.items() if _is_number(value)}
    return found


def render_staircase(run_dir: str | Path, console: Console) -> None:
    """Print the staircase as a table that fits 80 columns: accuracy with its interval, the paired test, and the cost."""
    run = read_run(run_dir)
    title = Text(f"{clean(run.name)}: accuracy on held-out problems after each stage, in percent")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("stage", max_width=16)
    for name in ("accuracy\n(95 % interval)", "change", "p", "", "cut\noff", "no\nans.", "tokens", "time"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in run.stages:
        interval = f"({100 * row.ci_low:.1f}\u2013{100 * row.ci_high:.1f})"
        claim = "unclear" if row.claim == "no visible difference" else row.claim
        table.add_row(
            Text(clean(row.stage)),
            Text.assemble((f"{100 * row.accuracy:.1f}", "bold"), f" {interval:<11}"),
            points(row.difference_vs_previous),
            p_value(row.p_vs_previous).removeprefix("p ").removeprefix("= "),
            Text(claim, style={"better": "green", "worse": "red"}.get(claim, "")),
            f"{100 * row.truncated:.1f}",
            f"{100 * row.no_answer:.1f}",
            amount(row.train_tokens),
            clock(row.wall_s),
        )
    console.print(table)
    if run.stages:
        last = run.stages[-1]
        console.print(
            f"{last.num_problems} problems, {amount(last.samples_per_problem)} samples each; problems are the sampling unit. "
            f"p: paired t-test against the stage before; better or worse is only said below {ALPHA}, otherwise unclear."
        )


def _stage_row(record: Mapping[str, Any], where: str, previous: StageRow | None) -> StageRow:
    """A checked StageRow; the difference is worked out from the accuracies where the record has none."""
    accuracy = _number(record, "accuracy", where)
    difference = _optional(record, "difference_vs_previous", where)
    if difference is None and previous is not None:
        difference = accuracy - previous.accuracy
    if not isinstance(record.get("stage"), str):
        raise RunError(f"{where}: `stage` should be a name")
    by_k = _mapping(record, "pass_at_k", where)
    if not all(k.isdigit() for k in by_k):
        raise RunError(f"{where}: the keys of `pass_at_k` should be numbers of samples")
    return StageRow(
        stage=record["stage"],
        accuracy=accuracy,
        ci_low=_number(record, "ci_low", where),
        ci_high=_number(record, "ci_high", where),
        num_problems=int(_number(record, "num_problems", where)),
        samples_per_problem=_number(record, "samples_per_problem", where),
        truncated=_number(record, "truncated", where),
        no_answer=_number(record, "no_answer", where),
        p_vs_previous=_optional(record, "p_vs_previous", where),
        train_tokens=int(_number(record, "train_tokens", where)),
        wall_s=_number(record, "wall_s", where),
        difference_vs_previous=difference,
        pass_at_k=dict(sorted((int(k), value) for k, value in by_k.items())),
        majority=_optional(record, "majority", where),
        best_by_logprob=_optional(record, "best_by_logprob", where),
        families=_mapping(record, "families", where),
        mean_tokens=_optional(record, "mean_tokens", where),
        unverifiable=_optional(record, "unverifiable", where) or 0.0,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(record: Mapping[str, Any], key: str, where: str) -> float:
    if not _is_number(record.get(key)):
        raise RunError(f"{where}: `{key}` should be a number, not {record.get(key)!r}")
    return record[key]


def _optional(record: Mapping[str, Any], key: str, where: str) -> float | None:
    return None if record.get(key) is None else _number(record, key, where)


def _mapping(record: Mapping[str, Any], key: str, where: str) -> dict[str, float]:
    values = record.get(key) or {}
    if not isinstance(values, dict):
        raise RunError(f"{where}: `{key}` should map names to numbers")
    return {str(name): _number(values, name, f"{where}: {key}") for name in values}


def _order(stage: str) -> int:
    """The place of a stage, or of a selection named after one ("dpo-own"), in the recipe; others first."""
    return next((place for place, name in enumerate(STAGES, 1) if stage.split("-")[0].split(".")[0] == name), 0)


def _stage_curves(path: Path) -> list[Curve]:
    points: dict[str, list[tuple[float, float]]] = {}
    missing: dict[str, int] = {}
    for number, row in enumerate(_rows(path), 1):
        step = row["step"] if _is_number(row.get("step")) else number
        for name, value in row.items():
            if name == "step" or isinstance(value, str | bool | list | dict):
                continue
            series = points.setdefault(name, [])
            if _is_number(value):
                series.append((step, float(value)))
            else:
                missing[name] = missing.get(name, 0) + 1
    return [
        Curve(path.stem, name, tuple(x for x, _ in series), tuple(y for _, y in series), missing.get(name, 0))
        for name, series in points.items()
        if series
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}") from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is torn, or nothing
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise RunError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows


def _funnel(values: Any, path: Path) -> Funnel:
    try:
        dropped = {str(reason): int(count) for reason, count in values["dropped"].items()}
        name, considered, kept = str(values["name"]), int(values["considered"]), int(values["kept"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError(f"{path}: a funnel should have name, considered, kept and dropped") from None
    if considered != kept + sum(dropped.values()):
        raise RunError(f"{path}: the funnel {name} does not add up")
    return Funnel(name, considered, kept, dropped)
