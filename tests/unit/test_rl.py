"""RL's sampling on a real small policy: fresh groups, chosen, weighed and stored; and the stage, stopped and resumed."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sampler import parities, tokenizer
from tiny_workspace import workspace

from headway.errors import StoreError
from headway.stages.rl import Rollouts, reinforce
from headway.stages.workspace import Workspace
from headway.train.frozen import frozen_copy
from headway.train.policy import Sampled
from headway.types import Outcome, StopReason

BASIC: dict[str, Any] = {"steps": 3, "prompts": 4, "group_size": 4, "max_tokens": 16, "optimizer": {"lr": 0.003}}


def steps(work: Workspace, problems: int, count: int) -> list[Sampled]:
    rollouts = Rollouts(work, parities(problems))
    return [rollouts.sample(step) for step in range(count)]


def sampled(work: Workspace, step: int) -> list[tuple[str, int]]:
    return [(r.problem_id, r.index) for r in work.store.rollouts(sampler="rl", step=step)]


def test_trajectories_are_the_sampled_tokens_with_the_log_probs_of_then(tmp_path: Path) -> None:
    with workspace(tmp_path, rl=BASIC | {"prompts": 8}) as work:
        (found,) = steps(work, 12, 1)
        stored = {
            (*work.prompt_ids(p), *r.token_ids): r for p in parities(12) for r in work.store.rollouts("rl", tokens=True)
            if r.problem_id == p.id
        }  # fmt: skip
        verdicts = {v.rollout_id: v for v in work.store.verdicts()}
        for trajectory in found.trajectories:
            rollout = stored[trajectory.document.ids]
            prompt = len(trajectory.document.ids) - rollout.num_tokens
            assert trajectory.document.first_target == prompt
            assert trajectory.sampler_logprobs == rollout.logprobs
            assert (trajectory.advantage > 0) == (verdicts[rollout.id].outcome is Outcome.CORRECT)
        assert len(sampled(work, 0)) == len(verdicts) == 8 * 4
    assert len(found.trajectories) > 8
    assert sum(t.advantage for t in found.trajectories) == pytest.approx(0.0, abs=1e-9)
    assert found.numbers["trained_rollouts"] == len(found.trajectories) == 4 * found.numbers["trained_groups"]
    assert found.numbers["sampled_rollouts"] == 32
    assert found.temperature == 1.0


def test_the_temperature_falls_and_is_stored_with_each_sample(tmp_path: Path) -> None:
    with workspace(tmp_path, rl=BASIC | {"steps": 4}) as work:
        found = steps(work, 12, 4)
        assert [one.temperature for one in found] == pytest.approx([1.0, 0.8, 0.6, 0.6])
        for step, one in enumerate(found):
            assert {r.temperature for r in work.store.rollouts("rl", step=step)} == {one.temperature}
            assert {r.top_p for r in work.store.rollouts("rl", step=step)} == {1.0}


def test_dynamic_sampling_fills_the_batch_and_asks_no_problem_twice_in_a_step(tmp_path: Path) -> None:
    """A pool smaller than prompts x refills ran dry and asked again, with the same noise and so the same rollout ids."""
    settings = BASIC | {"dynamic_sampling": True, "max_refills": 9, "prompts": 6}
    with workspace(tmp_path, rl=settings) as work:
        found = steps(work, 10, 4)
        for step, one in enumerate(found):
            asked = sampled(work, step)
            assert len(set(asked)) == len(asked)
            assert set(Counter(problem for problem, _ in asked).values()) == {4}
            assert one.numbers["trained_groups"] <= 6
            assert one.numbers["trained_groups"] == 6 or len(asked) == 40  # full, or everything was asked
        assert len({r.id for r in work.store.rollouts("rl")}) == len(work.store.rollouts("rl"))


def test_without_dynamic_sampling_there_is_one_round(tmp_path: Path) -> None:
    with workspace(tmp_path, rl=BASIC | {"max_refills": 9}) as work:
        steps(work, 10, 1)
        assert len(sampled(work, 0)) == 16


def test_hard_prompts_get_more_samples_with_numbers_of_their_own(tmp_path: Path) -> None:
    with workspace(tmp_path, rl=BASIC | {"oversample": 3, "hard_below": 0.5, "prompts": 10}) as work:
        steps(work, 10, 1)
        outcome = {v.rollout_id: v.outcome for v in work.store.verdicts()}
        groups: dict[str, list[Any]] = {}
        for rollout in work.store.rollouts("rl"):
            groups.setdefault(rollout.problem_id, []).append(rollout)
    sizes = Counter(len(group) for group in groups.values())
    assert set(sizes) == {4, 12}
    for group in groups.values():
        assert [r.index for r in group] == list(range(len(group)))
        first = sum(outcome[r.id] is Outcome.CORRECT for r in group[:4]) / 4
        assert (len(group) == 12) == (first <= 0.5)


def test_truncated_responses_teach_nothing_where_they_are_masked(tmp_path: Path) -> None:
    short = BASIC | {"prompts": 10, "temperature_start": 1.3}
    counts = {}
    for masked in (False, True):
        with workspace(tmp_path / str(masked), rl=short | {"mask_truncated": masked}) as work:
            (found,) = steps(work, 12, 1)
            cut = {r.token_ids for r in work.store.rollouts("rl", tokens=True) if r.stop_reason is StopReason.LENGTH}
        ends = [t.document.ids[t.document.first_target :] for t in found.trajectories]
        counts[masked] = sum(end in cut for end in ends)
        assert any(end[-1] == tokenizer().stop_id for end in ends)
    assert counts[False] > 0
    assert counts[True] == 0


def test_with_a_kl_in_the_loss_groups_that_agree_are_learned_from_too(tmp_path: Path) -> None:
    settings = BASIC | {"prompts": 10, "objective": "grpo"}
    with workspace(tmp_path / "kl", rl=settings) as work:
        found = Rollouts(work, parities(12), frozen_copy(work.model)).sample(0)
    assert len(found.trajectories) == 40
    trained = [t for t in found.trajectories if t.advantage]
    assert 0 < len(trained) < 40
    assert found.numbers["trained_rollouts"] == len(trained) == 4 * found.numbers["trained_groups"]
    for t in found.trajectories:  # the reference is still the policy
        assert t.reference_logprobs == pytest.approx(t.sampler_logprobs, abs=1e-4)
    with workspace(tmp_path / "dynamic", rl=settings | {"dynamic_sampling": True}) as work:
        found = Rollouts(work, parities(12), frozen_copy(work.model)).sample(0)
    assert all(t.advantage for t in found.trajectories)  # it asks for groups that disagree


def test_a_batchs_baseline_is_the_mean_of_all(tmp_path: Path) -> None:
    with workspace(tmp_path, rl=BASIC | {"prompts": 10, "objective": "ppo"}) as work:
        (found,) = steps(work, 12, 1)
    right = found.numbers["accuracy"]
    high, low = (2 - 2 * right) / (2 * math.sqrt(right * (1 - right))), -2 * right / (2 * math.sqrt(right * (1 - right)))
    assert 0 < right < 1
    assert len(found.trajectories) == 40  # those of groups that agree, too: the baseline is not theirs alone
    assert Counter(round(t.advantage, 9) for t in found.trajectories) == {
        round(high, 9): round(40 * right),
        round(low, 9): 40 - round(40 * right),
    }


def test_the_kl_of_rloo_is_taken_off_the_reward_before_the_baseline(tmp_path: Path) -> None:
    with workspace(tmp_path, rl=BASIC | {"prompts": 10, "objective": "rloo", "kl_coef": 0.1}) as work:
        reference = frozen_copy(work.model)
        with torch.no_grad():
            reference.norm.weight.mul_(0.8)
        found = Rollouts(work, parities(12), reference).sample(0)
        outcome = {v.rollout_id: v.outcome for v in work.store.verdicts()}
        stored = work.store.rollouts("rl", tokens=True)
        group_of = {r.problem_id: [o for o in stored if o.problem_id == r.problem_id] for r in stored}
        right = {(*work.prompt_ids(p), *r.token_ids): outcome[r.id] for p in parities(12) for r in group_of.get(p.id, [])}
    assert len(found.trajectories) == 40
    for start in range(0, 40, 4):  # groups follow each other
        group = found.trajectories[start : start + 4]
        values = [
            (1.0 if right[t.document.ids] is Outcome.CORRECT else -1.0)
            - 0.1 * (sum(t.sampler_logprobs) - sum(t.reference_logprobs))
            for t in group
        ]
        for t, value in zip(group, values, strict=True):
            assert t.advantage == pytest.approx(value - (sum(values) - value) / 3, abs=1e-9)
    assert len({t.advantage for t in found.trajectories}) > 10  # not 1 and -1 alone


# -- the stage ---------------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Stands for a kill."""


def left(root: Path, stop_at: int = 99, **settings: Any) -> dict[str, Any]:
    """Run the stage, stopped at a step; its weights, rows, table and selection."""

    def tell(stage: str, done: int, total: int, numbers: dict[str, Any]) -> None:
        if stage == "rl" and "sampling" not in numbers and done >= stop_at:
            raise Stop

    with workspace(root, rl=BASIC | {"checkpoint_seconds": 1e-9} | settings) as work:
        work.tell = tell
        reinforce(work)
        rows = [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_s")} for r in work.run.metrics("rl").rows()]
        return {
            "weights": [p.detach().numpy().tobytes() for p in work.model.parameters()],
            "rows": rows,
            "rollouts": work.store.rollouts(tokens=True),
            "verdicts": work.store.verdicts(),
            "selection": json.loads((root / "tiny/selections/rl.json").read_text(encoding="utf-8")),
        }


@pytest.mark.parametrize(
    "settings",
    [
        {"dynamic_sampling": True, "max_refills": 4, "minibatches": 2},
        {"history_resampling": True, "rebalance": True, "prompts": 7},
        {"uniform_length": True, "max_length_variation": 0.4},
        {"objective": "grpo", "kl_coef": 0.2, "minibatches": 2, "epochs_per_batch": 2, "tis_cap": 2.0},
        {"objective": "rloo", "kl_coef": 0.2},
    ],
    ids=["dynamic", "history", "uniform", "grpo", "rloo"],
)
def test_stopped_and_resumed_is_straight_through(tmp_path: Path, settings: dict[str, Any]) -> None:
    straight = left(tmp_path / "straight", **settings)
    for stop_at in (1, 2):
        with pytest.raises(Stop):
            left(tmp_path / "cut", stop_at, **settings)
    assert left(tmp_path / "cut", **settings) == straight
    assert all(row["gap_max"] <= 1e-4 for row in straight["rows"])
    assert any(row["trained_groups"] for row in straight["rows"])
    if "kl_coef" in settings:  # how far it is from the start, which a resume has to know
        distances = [row["kl_reference"] for row in straight["rows"]]
        assert min(distances[1:]) > 1e-5


def test_prompts_of_uneven_length_are_left_out(tmp_path: Path) -> None:
    found = left(tmp_path, uniform_length=True, max_length_variation=0.3, temperature_start=1.2)
    lengths: dict[str, list[int]] = {}
    for rollout in found["rollouts"]:
        if rollout.sampler == "rl:lengths":
            lengths.setdefault(rollout.problem_id, []).append(rollout.num_tokens)
    assert 0 < len(found["selection"]["ids"]) < len(lengths) == 12
    assert {r.problem_id for r in found["rollouts"] if r.sampler == "rl"} <= set(found["selection"]["ids"])
    assert found["selection"]["funnel"]["dropped"]["responses of uneven length"] == 12 - len(found["selection"]["ids"])


def test_no_prompt_of_even_length_says_its_funnel(tmp_path: Path) -> None:
    match = r"keeps nothing: rl: kept 0 of 12; dropped 12 responses of uneven length; raise rl\.max_length_variation"
    with pytest.raises(StoreError, match=match):
        left(tmp_path, uniform_length=True, max_length_variation=1e-9, temperature_start=1.2, uniform_length_rounds=4)
