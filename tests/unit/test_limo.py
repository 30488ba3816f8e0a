"""LIMO's subset: which problems are hard enough, which solution stands for one, and where everything else falls."""

import pytest

from headway.errors import StoreError
from headway.store.limo import limo_examples
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict

C, W, U = Outcome.CORRECT, Outcome.WRONG, Outcome.UNVERIFIABLE


def add(store: Store, name: str, hard: list[Outcome], easy: list[Outcome] = (), texts: list[str] = ()) -> None:  # type: ignore[assignment]
    """A problem with rollouts of the policies "hard" and "easy", of these outcomes."""
    problem = Problem.make("s", "f", name, "1", Split.TRAIN)
    store.add_problems([problem])
    for policy, outcomes in (("hard", hard), ("easy", easy)):
        rollouts = [
            Rollout.make(
                problem.id, "teacher", 0, i, policy, texts[i] if texts else f"{name} {policy} {i}", stop_reason=StopReason.STOP
            )
            for i in range(len(outcomes))
        ]
        store.add_rollouts(rollouts)
        store.add_verdicts([Verdict(r.id, "rules@1", o) for r, o in zip(rollouts, outcomes, strict=True)])


def test_problems_solved_sometimes_stay_and_every_other_rollout_has_its_bin(tmp_path):
    store = Store(tmp_path)
    add(store, "fits", [C, W, W, W])
    add(store, "too often", [C, C, C, W])
    add(store, "easy", [C, W, W, W], [W, C])
    add(store, "few tries", [C, W, U, U])  # two tries: the unverifiable ones are none
    add(store, "never", [W, W, W, W])
    found = limo_examples(store, easy="easy", hard="hard", low=1, high=2, tries=4)
    assert [example.problem.question for example in found.rows] == ["fits"]
    assert found.funnel.considered == 22
    assert found.funnel.dropped == {
        "wrong": 14, "unverifiable": 2, "solved too often": 3, "solved by the easier model": 2, "tried too seldom": 1,
        "not the best of its problem": 0, "lower score": 0,
    } | {"wrong": 3 + 1 + 3 + 1 + 1 + 4}  # fmt: skip


def test_of_a_problem_the_best_explained_solution_stays_and_of_all_the_best(tmp_path):
    store = Store(tmp_path)
    good = "Perhaps 1. Let us check: therefore it is 1, and we verify it once more, since it matters."
    add(store, "a", [C, C, W], texts=["1", good, "2"])
    add(store, "b", [C, W, W], texts=["It is 1", "2", "3"])
    settings = {"hard": "hard", "low": 1, "high": 3, "tries": 3}
    assert sorted(e.completion for e in limo_examples(store, **settings).rows) == ["It is 1", good]
    best = limo_examples(store, **settings, max_examples=1)
    assert [e.completion for e in best.rows] == [good]
    assert (best.funnel.dropped["not the best of its problem"], best.funnel.dropped["lower score"]) == (1, 1)
    with pytest.raises(StoreError, match="solved too seldom"):
        limo_examples(store, **settings | {"low": 3})
