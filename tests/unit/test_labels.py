"""Pass counts are those of the first verdicts, a row a problem."""

from pathlib import Path

import pytest

from headway.store.labels import pass_counts
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict

C, W, N, U = Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.UNVERIFIABLE


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, name: str, outcomes: list[Outcome | None], sampler: str = "rl", split: Split = Split.TRAIN) -> str:
    """A problem with a rollout an outcome; None is not judged."""
    problem = Problem.make("made", "sums", name, "1", split)
    rollouts = [
        Rollout.make(problem.id, sampler, 0, i, "p", f"text {i}", stop_reason=StopReason.STOP) for i in range(len(outcomes))
    ]
    store.add_problems([problem])
    store.add_rollouts(rollouts)
    store.add_verdicts([Verdict(r.id, "rules@1", outcome) for r, outcome in zip(rollouts, outcomes, strict=True) if outcome])
    return problem.id


def counts(store: Store, samplers: list[str], **more: str) -> dict[str, tuple[int, int]]:
    return {row["problem_id"]: (row["n"], row["correct"]) for row in pass_counts(store, samplers, **more).to_pylist()}


def test_judged_rollouts_are_counted_and_the_rest_is_not(store):
    a = add(store, "a", [C, W, C, N, U, None])
    b = add(store, "b", [W], split=Split.HELDOUT)
    add(store, "c", [U, None])  # nothing judged: no row
    add(store, "d", [C], sampler="teacher")
    assert counts(store, ["rl"]) == {a: (4, 2), b: (1, 0)}
    table = pass_counts(store, ["rl"])
    assert table.column_names == ["problem_id", "n", "correct"]
    assert [str(column.type) for column in table.columns] == ["string", "int64", "int64"]
    assert table.column("problem_id").to_pylist() == sorted([a, b])


def test_several_samplers_together_and_none(store):
    a = add(store, "a", [C, W])
    d = add(store, "d", [C], sampler="teacher")
    assert counts(store, ["rl", "teacher"]) == {a: (2, 1), d: (1, 1)}
    assert counts(store, []) == {}
    assert counts(Store(store.path), ["nobody"]) == {}


def test_the_first_verdict_of_the_verifier_counts(store):
    a = add(store, "a", [W])
    rollout = store.rollouts()[0].id
    store.add_verdicts([Verdict(rollout, "rules@1", C), Verdict(rollout, "rules@2", C)])
    assert counts(store, ["rl"]) == {a: (1, 0)}
    assert counts(store, ["rl"], verifier="rules@2") == {a: (1, 1)}
