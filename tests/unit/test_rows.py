"""Selected rows are read from one version of the store when they are looked at, in the order of the selection."""

from pathlib import Path

from headway.store.rows import Examples, Pairs
from headway.store.store import Store
from headway.types import Example, Pair, Problem, Rollout, Split, StopReason


def filled(path: Path) -> tuple[Store, list[Problem], list[Rollout]]:
    """Two problems; rollouts 0, 2, 4 of the first, 1, 3 of the second, which is also their place."""
    store = Store(path)
    problems = [Problem.make("s", "f", f"q{i}", str(i), Split.TRAIN, difficulty=0.5) for i in range(2)]
    rollouts = [
        Rollout.make(problems[i % 2].id, "teacher", 0, i, f"t{i}", f"text {i}", stop_reason=StopReason.IMPORTED) for i in range(5)
    ]
    store.add_problems(problems)
    store.add_rollouts(rollouts)
    return store, problems, rollouts


def test_examples_come_in_the_order_of_their_places_given(tmp_path):
    store, problems, rollouts = filled(tmp_path / "s")
    rows = Examples(store.at(store.versions()), [3, 0, 4])
    wanted = [Example(problems[i % 2], rollouts[i].id, f"text {i}") for i in (3, 0, 4)]
    assert list(rows) == wanted
    assert list(rows) == wanted  # a second look reads them again
    assert (len(rows), rows[1], rows[-1], rows[1:]) == (3, wanted[1], wanted[2], wanted[1:])
    assert rows == wanted
    assert rows != wanted[::-1]
    assert wanted[0] in rows


def test_pairs_know_both_texts_and_authors(tmp_path):
    store, problems, rollouts = filled(tmp_path / "s")
    rows = Pairs(store.at(store.versions()), [0, 1], [2, 3])
    assert list(rows) == [
        Pair(problems[i], f"text {i}", f"text {i + 2}", rollouts[i].id, rollouts[i + 2].id, f"t{i}", f"t{i + 2}") for i in (0, 1)
    ]


def test_no_rows_are_an_empty_sequence(tmp_path):
    store, _, _ = filled(tmp_path / "s")
    assert list(Examples(store, [])) == []
