"""Evaluation rollouts from the table: per-problem rates for the tests, and a few real ones to read.

    rollouts (sampler = 'eval:STAGE') x newest verdict  -->  judged   (ids and outcomes only: cheap)
                                                        -->  readings (the texts of a few)

Which rollouts are shown must not flatter: problems are taken by how their outcome moved over the stages (gained, never
solved, lost, always solved), ties are broken by the problem's id, which is a hash of its text, and of each problem the
first sample drawn is shown. Only where a stage would then show no right or no wrong rollout, one of those is added. Of a hybrid
evaluation, a sample is the rollout of 'eval:STAGE:program', unless it fell back on one of 'eval:STAGE'.

This file does not know how rollouts were sampled or judged, nor how a page is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.errors import RunError
from headway.evaluate.metrics import rates, tally
from headway.store.store import Store
from headway.types import Outcome

# The newest verdict of each rollout: the highest version of verifier@version, then the last name.
_JUDGED = """
    SELECT r.id AS id, r.problem_id AS problem_id, r."index" AS "index", v.outcome AS outcome, v.extracted AS extracted,
           v.reason AS reason
    FROM rollouts r JOIN verdicts v ON v.rollout_id = r.id
    WHERE r.sampler IN ({sampler}, {sampler} || ':program')
    QUALIFY row_number() OVER (
        PARTITION BY r.problem_id, r."index"
        ORDER BY r.sampler, TRY_CAST(regexp_extract(v.verifier, '@([0-9]+)', 1) AS INTEGER) DESC NULLS LAST, v.verifier DESC) = 1
    ORDER BY problem_id, "index", id
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """One evaluation rollout and its newest verdict, without its text."""

    id: str
    problem_id: str
    index: int
    outcome: Outcome
    extracted: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One real evaluation rollout to read.

    `num_correct` of the problem's `num_samples` judged samples at this stage were CORRECT. `why` says why the problem
    is shown: "gained", "not solved", "lost", "solved throughout", or "added" (the stage's only right or wrong one).
    """

    stage: str
    problem_id: str
    family: str
    question: str
    reference: str
    text: str
    outcome: Outcome
    extracted: str
    reason: str
    stop_reason: str
    num_tokens: int
    index: int
    rollout_id: str
    num_correct: int
    num_samples: int
    why: str


def open_store(run_dir: str | Path) -> Store:
    """The run's rollout table; RunError where the run has none."""
    path = Path(run_dir) / "store"
    if not path.is_dir():
        raise RunError(f"{path} is missing: there are no rollouts to read")
    return Store(path, create=False)


def judged(store: Store, stage: str) -> list[Judged]:
    """All judged evaluation rollouts of a stage, by problem and sample."""
    rows = store.sql(_JUDGED.format(sampler=_literal(f"eval:{stage}"))).to_pylist()
    return [Judged(**(row | {"outcome": Outcome(row["outcome"])})) for row in rows]


def problem_rates(run_dir: str | Path, stage: str) -> dict[str, float]:
    """Problem id -> share of CORRECT among its judged samples at the stage. RunError where there is none."""
    found = rates(tally((row.problem_id, row.outcome) for row in judged(open_store(run_dir), stage)))
    if not found:
        raise RunError(f"{run_dir} holds no judged evaluation rollouts of the stage {stage}")
    return found


def sampling_of(run_dir: str | Path, stage: str) -> str:
    """How the stage's evaluation was sampled, as in "temperature 0.6, top-p 0.95, top-k 0, min-p 0"; several by "or"."""
    query = "SELECT DISTINCT temperature, top_p, top_k, min_p FROM rollouts WHERE sampler IN (?, ?) ORDER BY ALL"
    name = f"eval:{stage}"
    rows = open_store(run_dir).sql(query, [name, f"{name}:program"]).to_pylist()
    return " or ".join(", ".join(f"{key.replace('_', '-')} {value:g}" for key, value in row.items()) for row in rows)


def readings(run_dir: str | Path, stages: Sequence[str], per_stage: int = 4) -> list[Reading]:
    """About `per_stage` evaluation rollouts a stage, of the same few problems across stages.

    Grouped by problem, then in the order of `stages`. Empty where nothing was evaluated.
    """
    store = open_store(run_dir)
    by_stage = {stage: judged(store, stage) for stage in stages}
    chosen = _choose_problems(by_stage, per_stage)
    picked: list[tuple[str, Judged, str]] = []
    for stage, rows in by_stage.items():
        picked += [(stage, row, chosen[row.problem_id]) for row in _first_samples(rows) if row.problem_id in chosen]
        picked += [(stage, row, "added") for row in _missing_side(rows, chosen)]
    return _with_texts(store, picked, by_stage, list(chosen))


def _choose_problems(by_stage: dict[str, list[Judged]], count: int) -> dict[str, str]:
    """Problem id -> why it is shown: in turn one that was gained, one not solved, one lost, one solved throughout."""
    paths: defaultdict[str, list[float]] = defaultdict(list)
    for rows in by_stage.values():
        for problem_id, rate in rates(tally((row.problem_id, row.outcome) for row in rows)).items():
            paths[problem_id].append(rate)
    kinds: dict[str, list[str]] = {"gained": [], "not solved": [], "lost": [], "solved throughout": []}
    for problem_id in sorted(paths):
        kinds[_kind(paths[problem_id])].append(problem_id)
    chosen: dict[str, str] = {}
    while len(chosen) < count and any(kinds.values()):
        for kind, waiting in kinds.items():
            if waiting and len(chosen) < count:
                chosen[waiting.pop(0)] = kind
    return chosen


def _kind(path: Sequence[float]) -> str:
    """How a problem's share of correct samples moved from the first stage to the last."""
    if path[-1] >= 0.5:
        return "gained" if path[0] < 0.5 else "solved throughout"
    return "lost" if max(path) >= 0.5 else "not solved"


def _first_samples(rows: list[Judged]) -> list[Judged]:
    first: dict[str, Judged] = {}
    for row in rows:
        first.setdefault(row.problem_id, row)
    return list(first.values())


def _missing_side(rows: list[Judged], chosen: dict[str, str]) -> list[Judged]:
    """The stage's first right (or not right) rollout, where the first samples of the chosen problems show none."""
    shown = {row.outcome is Outcome.CORRECT for row in _first_samples(rows) if row.problem_id in chosen}
    added: list[Judged] = []
    for side in (True, False):
        if side not in shown:
            wanted = (row for row in rows if (row.outcome is Outcome.CORRECT) == side)
            added += [row for row in [next(wanted, None)] if row is not None]
    return added


def _with_texts(
    store: Store, picked: list[tuple[str, Judged, str]], by_stage: dict[str, list[Judged]], order: list[str]
) -> list[Reading]:
    """Fetch the texts of the picked rollouts and their problems; the chosen problems first."""
    if not picked:
        return []
    rollouts = _by_id(store, "rollouts", "id, text, stop_reason, num_tokens", [row.id for _, row, _ in picked])
    problems = _by_id(store, "problems", "id, family, question, reference", [row.problem_id for _, row, _ in picked])
    counts = {stage: tally((row.problem_id, row.outcome) for row in rows) for stage, rows in by_stage.items()}
    absent = {"family": "", "question": "(the problem is not in the table)", "reference": ""}
    found: list[Reading] = []
    for stage, row, why in picked:
        problem, rollout = problems.get(row.problem_id, absent), rollouts[row.id]
        correct, samples = counts[stage].get(row.problem_id, (0, 0))
        found.append(
            Reading(
                stage=stage,
                problem_id=row.problem_id,
                family=problem["family"],
                question=problem["question"],
                reference=problem["reference"],
                text=rollout["text"],
                outcome=row.outcome,
                extracted=row.extracted,
                reason=row.reason,
                stop_reason=str(rollout["stop_reason"]),
                num_tokens=rollout["num_tokens"],
                index=row.index,
                rollout_id=row.id,
                num_correct=correct,
                num_samples=samples,
                why=why,
            )
        )
    place = {problem_id: number for number, problem_id in enumerate(order)}
    rank = {stage: number for number, stage in enumerate(by_stage)}
    return sorted(found, key=lambda r: (place.get(r.problem_id, len(place)), r.problem_id, rank[r.stage], r.index))


def _by_id(store: Store, table: str, columns: str, ids: list[str]) -> dict[str, dict[str, Any]]:
    wanted = ", ".join(map(_literal, ids))
    return {row["id"]: row for row in store.sql(f"SELECT {columns} FROM {table} WHERE id IN ({wanted})").to_pylist()}


def _literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"
