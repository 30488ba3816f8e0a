"""Two runs side by side on the same held-out problems, with a paired test; and a staircase pooled over seeds.

    final stage's evaluation of A and of B --> rate of each problem --> paired test      (one run each)
    [A seed 0, A seed 1] and [B seed 0, B seed 1] --> the same, pooled (metrics.pooled_paired_test)

It reads the rates from the rollout tables, not from results.json: only there are they by problem. It does not know how
anything was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.errors import DataError, RunError
from headway.evaluate.metrics import Estimate, Paired, pooled_paired_test
from headway.report.markup import clean, p_value, percent, points
from headway.report.readings import problem_rates, sampling_of
from headway.report.tables import ALPHA, read_run

Runs = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean accuracy of A and of B on the problems that both answered, and the paired test of A - B.

    `a` and `b` are means over seeds of means over problems, in [0, 1]; `difference` = a - b with its 95 % interval and
    two-sided p. `seeds` holds each pair of runs' own difference, `smallest_visible` the true difference that the test
    would have found in 80 % of repetitions, `left_out` how many (seed, problem) rates had no partner.
    """

    name_a: str
    name_b: str
    a: float
    b: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    num_problems: int
    left_out: int
    seeds: tuple[float, ...]
    smallest_visible: float
    warning: str = ""

    @property
    def record(self) -> dict[str, float]:
        """What `headway compare A B --json` prints."""
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "ci_low": self.ci_low,
            "ci_high": self.ci_high,
            "p": self.p,
        }


@dataclass(frozen=True, slots=True)
class PooledStage:
    """A stage over several runs: mean accuracy with interval, and the pooled paired test against the stage before."""

    stage: str
    estimate: Estimate
    seeds: tuple[float, ...]  # each run's own accuracy
    versus_previous: Paired | None


def compare(run_a: Runs, run_b: Runs, stage_a: str = "", stage_b: str = "") -> Comparison:
    """Compare the final stages of two runs, or of two lists of runs that are paired in their order (one pair a seed).

    `stage_a` and `stage_b` name another stage than the last. Raises DataError where the lists differ in length or a
    pair shares no evaluated problem, RunError where a run was not evaluated.
    """
    runs_a, runs_b = _listed(run_a), _listed(run_b)
    if len(runs_a) != len(runs_b):
        raise DataError(f"compare pairs runs in their order: {len(runs_a)} on one side, {len(runs_b)} on the other")
    strata = [(_rates(a, stage_a), _rates(b, stage_b)) for a, b in zip(runs_a, runs_b, strict=True)]
    for a, b, (rates_a, rates_b) in zip(runs_a, runs_b, strata, strict=True):
        if not rates_a.keys() & rates_b.keys():
            raise DataError(f"{a} and {b} share no evaluated problem: they cannot be compared")
    found = pooled_paired_test(strata)
    shared = [({p: a[p] for p in a if p in b}, {p: b[p] for p in b if p in a}) for a, b in strata]
    return Comparison(
        name_a=_name(runs_a),
        name_b=_name(runs_b),
        a=_mean([_mean(list(a.values())) for a, _ in shared]),
        b=_mean([_mean(list(b.values())) for _, b in shared]),
        difference=found.difference,
        ci_low=found.low,
        ci_high=found.high,
        p=found.p,
        num_problems=found.num_problems,
        left_out=found.left_out,
        seeds=tuple(_mean([a[p] - b[p] for p in a]) for a, b in shared),
        smallest_visible=found.smallest_visible,
        warning=_warning([(a, stage_a) for a in runs_a] + [(b, stage_b) for b in runs_b]),
    )


def pooled_staircase(run_dirs: Sequence[str | Path]) -> list[PooledStage]:
    """The staircase over the runs of several seeds of one recipe. DataError unless all evaluated the same stages."""
    if not run_dirs:
        raise DataError("a pooled staircase needs at least one run")
    stages = [[row.stage for row in read_run(run).stages] for run in run_dirs]
    for run, names in zip(run_dirs, stages, strict=True):
        if names != stages[0]:
            raise DataError(f"{run} evaluated the stages {names}, {run_dirs[0]} evaluated {stages[0]}")
    rows: list[PooledStage] = []
    before: list[dict[str, float]] = []
    for stage in stages[0]:
        now = [problem_rates(run, stage) for run in run_dirs]
        nothing = [dict.fromkeys(rates, 0.0) for rates in now]
        level = pooled_paired_test(list(zip(now, nothing, strict=True)))  # accuracy = difference to a model at 0
        means = tuple(_mean(list(rates.values())) for rates in now)
        estimate = Estimate(level.difference, max(0.0, level.low), level.high, level.num_problems, float("nan"))
        rows.append(
            PooledStage(stage, estimate, means, pooled_paired_test(list(zip(now, before, strict=True))) if before else None)
        )
        before = now
    return rows


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print the comparison in three lines; "better" is only said where the test says so."""
    a, b = clean(comparison.name_a), clean(comparison.name_b)
    console.print(Text(f"A  {a}: {percent(comparison.a)}\nB  {b}: {percent(comparison.b)}"))
    claim = "no visible difference"
    if comparison.p < ALPHA and comparison.difference:
        claim = "A is better" if comparison.difference > 0 else "B is better"
    console.print(
        Text(
            f"A - B  {points(comparison.difference)} points (95 % interval {points(comparison.ci_low)} to "
            f"{points(comparison.ci_high)}), {p_value(comparison.p)}: {claim}"
        )
    )
    notes = [f"paired over {comparison.num_problems} problems"]
    if len(comparison.seeds) > 1:
        notes.append("by pair of runs " + ", ".join(points(seed) for seed in comparison.seeds))
    if comparison.left_out:
        notes.append(f"{comparison.left_out} rates without a partner left out")
    notes.append(f"smallest difference this test sees in 4 of 5 cases: {points(comparison.smallest_visible).lstrip('+')} points")
    console.print(Text("; ".join(notes)))
    if comparison.warning:
        console.print(Text(clean(comparison.warning), style="yellow"), soft_wrap=True)


def render_pooled(run_dirs: Sequence[str | Path], console: Console) -> None:
    """Print the staircase over several seeds as a table that fits 80 columns."""
    rows = pooled_staircase(run_dirs)
    title = Text(f"{clean(_name(run_dirs))}: mean accuracy on held-out problems, in percent")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("stage", max_width=16)
    for name in ("accuracy\n(95 % interval)", "change\n(95 % interval)", "p", "each run"):
        table.add_column(name, justify="right", no_wrap=name != "each run")
    for row in rows:
        one, change = row.estimate, row.versus_previous
        table.add_row(
            Text(clean(row.stage)),
            Text.assemble((f"{100 * one.mean:.1f}", "bold"), f" ({100 * one.low:.1f}\u2013{100 * one.high:.1f})"),
            f"{points(change.difference)} ({100 * change.low:.1f}\u2013{100 * change.high:.1f})" if change else "",
            p_value(change.p if change else None).removeprefix("p ").removeprefix("= "),
            " ".join(f"{100 * seed:.1f}" for seed in row.seeds),
        )
    console.print(table)
    console.print(
        f"{rows[0].estimate.num_problems} problems over {len(run_dirs)} runs; problems are the sampling unit. "
        f"p: paired test against the stage before, pooled over the runs."
    )
    if warning := _warning([(run, "") for run in run_dirs]):
        console.print(Text(clean(warning), style="yellow"), soft_wrap=True)


def _listed(runs: Runs) -> list[str | Path]:
    found = [runs] if isinstance(runs, str | Path) else list(runs)
    if not found:
        raise DataError("compare needs at least one run on each side")
    return found


def _rates(run: str | Path, stage: str) -> dict[str, float]:
    return problem_rates(run, _stage(run, stage))


def _stage(run: str | Path, stage: str) -> str:
    """The named stage, or the last that was evaluated."""
    names = [row.stage for row in read_run(run).stages]
    if not names:
        raise RunError(f"{run} has no evaluated stage")
    if stage and stage not in names:
        raise RunError(f"{run} has no evaluated stage {stage!r}; it has {', '.join(names)}")
    return stage or names[-1]


def _warning(evaluated: Sequence[tuple[str | Path, str]]) -> str:
    """One line where the (run, stage)s were not all sampled alike."""
    settings = [(run, sampling_of(run, _stage(run, stage))) for run, stage in evaluated]
    first, own = settings[0]
    other = next(((run, theirs) for run, theirs in settings if theirs != own), None)
    if other is None:
        return ""
    return f"sampled differently: {_name([first])} at {own}; {_name([other[0]])} at {other[1]}"


def _name(runs: Sequence[str | Path]) -> str:
    return " + ".join(Path(run).resolve().name for run in runs)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
