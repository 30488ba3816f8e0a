"""Stored rollouts judged again: what is added, what is compared, and that nothing is written twice."""

import json
from pathlib import Path

import pytest

from headway.cli import main
from headway.errors import StoreError
from headway.evaluate import regrade as module
from headway.evaluate.regrade import regrade
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict
from headway.verify.judge import VERIFIER, Verifier

TEXTS = [(r"\boxed{4}", Outcome.CORRECT), (r"\boxed{5}", Outcome.WRONG), ("I do not know", Outcome.NO_ANSWER)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four problems with three rollouts each. An older verifier called all of them WRONG, a still older one none of them."""
    made = Store(tmp_path / "run" / "store")
    problems = [Problem.make("test", "test", f"{n} + {4 - n}?", "4", Split.TRAIN) for n in range(4)]
    made.add_problems(problems)
    rollouts = [
        Rollout.make(problem.id, "teacher", 0, index, "", text, stop_reason=StopReason.IMPORTED)
        for problem in problems
        for index, (text, _) in enumerate(TEXTS)
    ]
    made.add_rollouts(rollouts)
    for verifier, outcome in (("rules@0", Outcome.WRONG), ("old@0", Outcome.CORRECT)):
        made.add_verdicts([Verdict(rollout.id, verifier, outcome, "old", "?") for rollout in rollouts])
    (tmp_path / "run" / "recipe.json").write_text("{}", encoding="utf-8")
    return made


def run(store: Store, **more) -> module.Regraded:
    with Verifier() as verifier:
        return regrade(store, verifier, **{"everything": False, "tell": lambda done, total: None} | more)


@pytest.mark.parametrize("chunk", [1, 5, 4096])
def test_missing_verdicts_are_added_once_and_compared_with_the_newest_other(store, monkeypatch, chunk):
    monkeypatch.setattr(module, "_ROWS", module._ROWS.replace("LIMIT 4096", f"LIMIT {chunk}"))
    told = []
    found = run(store, sample=99, tell=lambda done, total: told.append((done, total)))
    assert (found.judged, found.added, found.num_changes) == (12, 12, 8)
    assert told[-1] == (12, 12)
    assert found.outcomes == {(Outcome.WRONG, outcome): 4 for _, outcome in TEXTS}
    assert {change.before.verifier for change in found.examples} == {"rules@0"}
    assert len(found.examples) == 8
    mine = store.verdicts(VERIFIER)
    assert [verdict.outcome for verdict in mine] == [outcome for _, outcome in TEXTS] * 4
    assert [verdict.rollout_id for verdict in mine] == [rollout.id for rollout in store.rollouts()]
    again = run(store)
    assert (again.judged, again.added) == (0, 0)
    everything = run(store, everything=True)
    assert (everything.judged, everything.added, everything.num_changes) == (12, 0, 8)
    assert store.verdicts(VERIFIER) == mine


def test_one_stopped_half_way_goes_on_with_the_rest(store, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", module._ROWS.replace("LIMIT 4096", "LIMIT 5"))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, tell=stop)
    assert len(store.verdicts(VERIFIER)) == 5
    rest = run(store)
    assert (rest.judged, rest.added) == (7, 7)
    assert [verdict.outcome for verdict in store.verdicts(VERIFIER)] == [outcome for _, outcome in TEXTS] * 4


def test_another_verifier_can_be_named_and_an_unknown_one_is_refused(store):
    found = run(store, against="old@0")
    assert found.outcomes == {(Outcome.CORRECT, outcome): 4 for _, outcome in TEXTS}
    with pytest.raises(StoreError, match=r"no verdict by 'rules@7'; it has some by old@0, rules@0, rules@1"):
        run(store, against="rules@7")


def test_with_no_other_verifier_it_is_compared_with_its_own_verdicts(tmp_path):
    made = Store(tmp_path / "store")
    problem = Problem.make("test", "test", "2 + 2?", "4", Split.TRAIN)
    rollout = Rollout.make(problem.id, "teacher", 0, 0, "", r"\boxed{4}", stop_reason=StopReason.IMPORTED)
    made.add_problems([problem])
    made.add_rollouts([rollout])
    made.add_verdicts([Verdict(rollout.id, VERIFIER, Outcome.WRONG, "a bug of then", "4")])
    found = run(made, everything=True, sample=1)
    assert (found.added, found.num_changes, found.examples[0].before.reason) == (0, 1, "a bug of then")


def test_the_sample_is_even_and_repeatable(store):
    first = [change.after.rollout_id for change in run(store, sample=3).examples]
    assert [change.after.rollout_id for change in run(store, everything=True, sample=3).examples] == first
    seen = {change.after.rollout_id for seed in range(30) for change in run(store, everything=True, sample=3, seed=seed).examples}
    assert len(set(first)) == 3
    assert len(seen) == 8  # every change is drawn sooner or later


def test_the_verb(store, tmp_path, capsys):
    def said(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["verify", "--run", str(tmp_path / "run"), *words])
        return int(ended.value.code or 0), *capsys.readouterr()

    code, out, _ = said("--diff", "--sample", "1")
    assert code == 0
    assert f"{VERIFIER}: 12 rollouts judged, 12 new verdicts" in out
    assert "compared with an earlier verdict: 12; other outcome: 8" in out
    assert "wrong -> correct: 4" in out
    assert out.count("reference '4'") == 1
    code, out, _ = said("--regrade", "--diff", "--json", "--against", "rules@0")
    found = json.loads(out)
    assert (found["judged"], found["added"], found["changed"]) == (12, 0, 8)
    assert {"before": "wrong", "after": "no_answer", "count": 4} in found["outcomes"]
    assert found["examples"][0]["before_verifier"] == "rules@0"
    code, _, err = said("--against", "nobody@1")
    assert (code, err.count("\n")) == (2, 1)
