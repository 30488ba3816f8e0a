"""Evaluation: sampled once whatever happens, and counted from the table as by hand."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_sampler import parities, policy, tokenizer

from headway.config import EvaluateConfig
from headway.engine.engine import Engine
from headway.evaluate.benchmark import evaluate, judged_samples, score
from headway.evaluate.metrics import accuracy, paired_test
from headway.sample import Plan, Sampler, rollouts_of
from headway.store.store import Store
from headway.types import Group, Outcome, Problem, Rollout, Split, StopReason, Verdict
from headway.verify.judge import Verifier

CONFIG = EvaluateConfig(samples=2, temperature=0.8, top_p=0.9, max_tokens=12)
HELDOUT = parities(520, Split.HELDOUT)  # a chunk of 512 with two samples each, and the rest


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as made:
        yield made


class Killed(Exception):
    """Stands for a kill."""


class Counting(Sampler):
    """A sampler that counts the chunks it samples, and dies before one of them."""

    def __init__(self, verifier: Verifier, dies_at: int = -1):
        super().__init__(Engine(policy(), tokenizer().stop_ids), tokenizer(), verifier, "", 0)
        self.chunks: list[int] = []
        self._dies_at = dies_at

    def sample(self, problems: Any, count: int, plan: Plan, *more: Any, **named: Any) -> list[Group]:
        if len(self.chunks) == self._dies_at:
            raise Killed
        self.chunks.append(len(problems))
        return super().sample(problems, count, plan, *more, **named)


def run(store: Store, sampler: Sampler, stage: str = "sft") -> list[tuple[int, int]]:
    shown: list[tuple[int, int]] = []
    evaluate(sampler, store, HELDOUT, CONFIG, stage, f"tiny/{stage}", lambda done, total, rate: shown.append((done, total)))
    return shown


def test_an_evaluation_that_was_stopped_goes_on_where_it_was(tmp_path: Path, verifier: Verifier) -> None:
    straight, cut = Store(tmp_path / "straight"), Store(tmp_path / "cut")
    whole = Counting(verifier)
    shown = run(straight, whole)
    assert whole.chunks == [512, 8]
    assert shown[-1] == (1040, 1040)
    assert shown == sorted(shown)

    with pytest.raises(Killed):
        run(cut, Counting(verifier, dies_at=1))
    rest = Counting(verifier)
    run(cut, rest)
    assert rest.chunks == [8]
    assert cut.rollouts(tokens=True) == straight.rollouts(tokens=True)
    assert cut.verdicts() == straight.verdicts()

    again = Counting(verifier, dies_at=0)
    assert run(cut, again)[-1] == (1040, 1040)
    assert again.chunks == []
    assert len(cut.rollouts()) == 1040


def test_a_kill_between_rollouts_and_verdicts_loses_and_repeats_nothing(tmp_path: Path, verifier: Verifier) -> None:
    straight, cut = Store(tmp_path / "straight"), Store(tmp_path / "cut")
    run(straight, Counting(verifier))
    plan = Plan("eval:sft", 0, "tiny/sft", CONFIG.temperature, CONFIG.top_p, CONFIG.max_tokens)
    cut.add_rollouts(rollouts_of(Counting(verifier).sample(HELDOUT[:512], 2, plan)), "eval:sft/0")
    run(cut, Counting(verifier))
    assert cut.rollouts(tokens=True) == straight.rollouts(tokens=True)
    assert cut.verdicts() == straight.verdicts()


def test_stages_do_not_share_samples(tmp_path: Path, verifier: Verifier) -> None:
    store = Store(tmp_path)
    run(store, Counting(verifier), "sft")
    second = Counting(verifier)
    run(store, second, "dpo")
    assert second.chunks == [512, 8]
    families = {problem.id: problem.family for problem in HELDOUT}
    sft, dpo = (judged_samples(store, stage, families) for stage in ("sft", "dpo"))
    assert [r.sampler for r, _ in sft] == ["eval:sft"] * 1040
    assert {r.id for r, _ in sft}.isdisjoint(r.id for r, _ in dpo)
    assert {(r.temperature, r.top_p) for r, _ in sft + dpo} == {(0.8, 0.9)}


def test_samples_are_judged_pairs_in_the_order_of_the_table(tmp_path: Path, verifier: Verifier) -> None:
    store = Store(tmp_path)
    run(store, Counting(verifier))
    families = {problem.id: problem.family for problem in HELDOUT}
    found = judged_samples(store, "sft", families)
    assert [(r.problem_id, r.index) for r, _ in found] == [(p.id, i) for p in HELDOUT for i in (0, 1)]
    assert all(v.rollout_id == r.id for r, v in found)
    few = {problem.id: problem.family for problem in HELDOUT[5:8]}
    assert [r.problem_id for r, _ in judged_samples(store, "sft", few)] == [p.id for p in HELDOUT[5:8] for _ in (0, 1)]


# -- the numbers -------------------------------------------------------------------------------------------------------

C, W, N, U = Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.UNVERIFIABLE


def stored(store: Store, stage: str, outcomes: dict[Problem, list[tuple[Outcome, str, bool]]]) -> None:
    """One rollout an (outcome, answer, is it truncated), of 10 tokens or of 30 where truncated."""
    rollouts, verdicts = [], []
    for problem, found in outcomes.items():
        for index, (outcome, answer, truncated) in enumerate(found):
            reason = StopReason.LENGTH if truncated else StopReason.STOP
            tokens = 30 if truncated else 10
            rollouts.append(
                Rollout.make(problem.id, f"eval:{stage}", 0, index, stage, answer, stop_reason=reason, num_tokens=tokens)
            )
            verdicts.append(Verdict(rollouts[-1].id, "rules@1", outcome, "", answer))
    store.add_rollouts(rollouts, f"eval:{stage}/0")
    store.add_verdicts(verdicts, f"eval:{stage}/0")


def test_scores_by_hand(tmp_path: Path) -> None:
    store, (a, b, c) = Store(tmp_path), parities(3, Split.HELDOUT)  # families "last 0", "last 1", "last 2"
    stored(store, "base", {p: [(W, "9", False)] * 4 for p in (a, b, c)})
    stored(
        store,
        "sft",
        {
            a: [(C, "0", False), (C, "0", False), (C, "0", False), (W, "7", False)],
            b: [(C, "1", False), (W, "5", False), (W, "5", False), (N, "", True)],
            c: [(W, "3", False), (N, "", True), (N, "", True), (U, "x", False)],
        },
    )
    families = {p.id: p.family for p in (a, b, c)}
    found = score(store, "sft", "base", families, 4)
    estimate = accuracy([3, 1, 0], [4, 4, 3])  # what could not be judged is no sample; rates 3/4, 1/4 and 0, mean 1/3
    assert found["accuracy"] == pytest.approx(1 / 3) == pytest.approx(estimate.mean)
    assert (found["ci_low"], found["ci_high"]) == (estimate.low, estimate.high)
    assert found["ci_low"] < 1 / 3 < found["ci_high"]
    assert (found["num_problems"], found["samples_per_problem"]) == (3, 4)
    assert found["truncated"] == pytest.approx(3 / 12)
    assert found["no_answer"] == pytest.approx(3 / 12)
    assert found["unverifiable"] == pytest.approx(1 / 12)
    assert found["mean_tokens"] == pytest.approx((9 * 10 + 3 * 30) / 12)
    assert found["families"] == {"last 0": 0.75, "last 1": 0.25, "last 2": 0.0}
    assert found["majority"] == pytest.approx(1 / 3)  # a: 0 wins and is right; b: 5 wins and is wrong; c: nothing right
    test = paired_test({a.id: 0.75, b.id: 0.25, c.id: 0.0}, {a.id: 0.0, b.id: 0.0, c.id: 0.0})
    assert (found["difference_vs_previous"], found["p_vs_previous"]) == (pytest.approx(1 / 3), test.p)


def test_the_first_measurement_has_nothing_to_compare_with(tmp_path: Path) -> None:
    store, problems = Store(tmp_path), parities(4, Split.HELDOUT)
    stored(store, "base", {p: [(C, "1", False), (W, "9", False)] for p in problems})
    found = score(store, "base", None, {p.id: p.family for p in problems}, 2)
    assert found["difference_vs_previous"] is None
    assert found["p_vs_previous"] is None
    assert found["pass_at_k"] == {"1": 0.5, "2": 1.0}


def test_one_problem_gives_numbers_that_json_can_say(tmp_path: Path) -> None:
    store, (a,) = Store(tmp_path), parities(1, Split.HELDOUT)
    for stage in ("base", "sft"):
        stored(store, stage, {a: [(C, "1", False), (W, "9", False)]})
    json.dumps(score(store, "sft", "base", {a.id: a.family}, 2), allow_nan=False)


def test_a_problem_that_lacks_samples_has_no_pass_at_k(tmp_path: Path) -> None:
    store, (a, b) = Store(tmp_path), parities(2, Split.HELDOUT)
    stored(store, "base", {a: [(C, "1", False)] * 2, b: [(W, "9", False)]})
    assert score(store, "base", None, {a.id: "x", b.id: "y"}, 2)["pass_at_k"] == {"1": 0.5}  # never padded (lighteval #771)
