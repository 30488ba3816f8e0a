"""Learning from rewards: on the policy's own samples the ratio is 1, pieces are the whole, the temperature is in it."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny_policy import STOP, VOCABULARY, assert_same_gradients, naive_logprobs, step_gradient, tiny

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.model.transformer import Decoder
from headway.stage_config import RlConfig
from headway.train.batching import Document, epochs
from headway.train.likelihood import Likelihood
from headway.train.policy import PolicyGradient, Sampled, Trajectory
from headway.types import Request


class Given:
    """A sampling that gives fixed trajectories, and counts as its state how often it was asked."""

    def __init__(self, trajectories: Sequence[Trajectory], temperature: float = 1.0):
        self.trajectories, self.temperature, self.asked = trajectories, temperature, 0

    def sample(self, step: int) -> Sampled:
        self.asked += 1
        return Sampled(self.trajectories, self.temperature, {"accuracy": 0.25})

    def state(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def restore(self, state: dict[str, Any]) -> None:
        self.asked = state["asked"]


def sampled(model: Decoder, temperature: float, count: int = 24, seed: int = 0, advantages: float = 0.0) -> list[Trajectory]:
    """Fresh completions by the engine, of ragged length; the advantages are random unless one is given."""
    chance = random.Random(seed)
    requests = []
    for number in range(count):
        prompt = tuple(chance.randrange(4, VOCABULARY) for _ in range(chance.randrange(1, 12)))
        requests.append(Request(prompt, (sample_key(seed, number),), chance.choice([1, 7, 40]), temperature))
    made = []
    for request, (completion,) in zip(requests, Engine(model, [STOP]).generate(requests), strict=True):
        document = Document(request.prompt_ids + completion.token_ids, len(request.prompt_ids))
        made.append(Trajectory(document, completion.logprobs, advantages or chance.uniform(-2, 2)))
    return made


def gradient_of(model: Decoder, trajectories: Sequence[Trajectory], temperature: float = 1.0, **settings: Any) -> Any:
    return step_gradient(model, PolicyGradient(model, Given(trajectories, temperature), RlConfig(**settings)))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_on_its_own_samples_the_ratio_is_one(temperature: float, seed: int) -> None:
    model = tiny(seed)
    trajectories = sampled(model, temperature, seed=seed)
    objective = PolicyGradient(model, Given(trajectories, temperature), RlConfig(micro_batch_tokens=64))
    _, numbers, many = step_gradient(model, objective)
    row: dict[str, Any] = {}
    assert objective.finish_step(1, row) is False
    assert many > 3
    assert 0 < row["gap_max"] <= 1e-4
    assert row["temperature"] == temperature
    assert row["accuracy"] == 0.25
    assert numbers[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert numbers[0]["clipped"] == 0.0
    tokens = sum(t.document.num_targets for t in trajectories)
    mean = sum(t.advantage * t.document.num_targets for t in trajectories) / tokens
    assert numbers[0]["loss"] == pytest.approx(-mean, abs=1e-4)  # -sum of A over tokens, at ratio 1


def test_a_wrong_temperature_shows_in_the_gap() -> None:
    model = tiny()
    objective = PolicyGradient(model, Given(sampled(model, 0.7), 1.0), RlConfig())
    step_gradient(model, objective)
    row: dict[str, Any] = {}
    objective.finish_step(1, row)
    assert row["gap_max"] > 0.1


def off_policy(trajectories: Sequence[Trajectory], seed: int = 0) -> list[Trajectory]:
    """The same with sampler log-probs moved by up to 0.6, so that some ratios are clipped."""
    chance = random.Random(seed)
    return [
        Trajectory(t.document, tuple(lp + chance.uniform(-0.6, 0.6) for lp in t.sampler_logprobs), t.advantage)
        for t in trajectories
    ]


@pytest.mark.parametrize("loss_level", ["token", "sequence"])
@pytest.mark.parametrize("seed", [0, 1])
def test_micro_batches_do_not_change_the_gradient(loss_level: str, seed: int) -> None:
    trajectories = off_policy(sampled(tiny(seed), 0.7, seed=seed))
    model = tiny(seed).double()
    pieces, small, many = gradient_of(model, trajectories, 0.7, micro_batch_tokens=16, loss_level=loss_level)
    whole, large, one = gradient_of(model, trajectories, 0.7, micro_batch_tokens=100_000, loss_level=loss_level)
    assert many > 10
    assert one == 1
    assert 0.05 < large[0]["clipped"] < 0.95
    assert_same_gradients(pieces, whole)
    assert small[0] == pytest.approx(large[0], rel=1e-5)


def test_the_two_loss_levels_by_hand() -> None:
    model = tiny(1)
    one, three = Document((5, 6, STOP), 2), Document((7, 8, 9, STOP), 1)
    trajectories = [
        Trajectory(one, tuple(naive_logprobs(model, one)), 2.0),
        Trajectory(three, tuple(naive_logprobs(model, three)), -1.0),
    ]
    # at ratio 1: token level (1 x 2 + 3 x -1) / 4 = -0.25; sequence level (2 + -1) / 2 = 0.5; the loss is minus that
    assert gradient_of(model, trajectories, loss_level="token")[1][0]["loss"] == pytest.approx(0.25, abs=1e-4)
    assert gradient_of(model, trajectories, loss_level="sequence")[1][0]["loss"] == pytest.approx(-0.5, abs=1e-4)


def test_at_advantage_one_the_gradient_is_that_of_the_likelihood() -> None:
    model = tiny(1)
    trajectories = sampled(model, 1.0, advantages=1.0)
    policy, _, _ = gradient_of(model, trajectories)
    documents = [t.document for t in trajectories]
    likelihood, _, _ = step_gradient(
        model, Likelihood(model, documents, lambda: epochs(len(documents), len(documents), 0), 99_999)
    )
    assert_same_gradients(policy, likelihood, 1e-4)


def test_advantages_belong_to_their_own_tokens() -> None:
    """Only the tokens after the prompt, the stop token among them, feel the advantage: the gradient by autograd, by hand."""
    model = tiny(2)
    document, advantage, old = Document((10, 11, 12, STOP), 2), 1.5, (-2.0, -3.5)
    found, numbers, _ = gradient_of(model, [Trajectory(document, old, advantage)], 0.7, clip_low=0.99, clip_high=1e9)
    ratios = [math.exp(lp - o) for lp, o in zip(naive_logprobs(model, document, 0.7), old, strict=True)]
    assert numbers[0]["loss"] == pytest.approx(-advantage * sum(ratios) / 2, rel=1e-4)
    assert numbers[0]["kl"] == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / 2, rel=1e-4)
    other, _, _ = gradient_of(model, [Trajectory(Document((10, 11, 12, STOP), 3), old[1:], advantage)], 0.7, clip_high=1e9)
    assert float((found[0] - other[0]).norm()) > 1e-3


def test_minibatches_part_the_trajectories_and_only_the_first_is_on_policy() -> None:
    model = tiny()
    trajectories = sampled(model, 1.0, count=7)
    objective = PolicyGradient(model, Given(trajectories), RlConfig(minibatches=3, micro_batch_tokens=32))
    seen: list[tuple[int, ...]] = []
    for number, update in enumerate(objective.updates(0)):
        shares = 0.0
        for micro in update:
            for owner in range(micro.flat.num_documents):
                seen.append(tuple(micro.flat.targets[micro.flat.owner == owner].tolist()))
            shares += micro.share
            objective.loss(micro)
        assert shares == pytest.approx(1.0)
        with torch.no_grad():
            model.norm.weight.mul_(1.1 + number)  # what an update would do
    assert sorted(seen) == sorted(t.document.ids[t.document.first_target :] for t in trajectories)
    row: dict[str, Any] = {}
    objective.finish_step(1, row)
    assert row["gap_max"] <= 1e-4  # measured before the first update, not after


def test_a_step_without_trajectories_has_no_update() -> None:
    model = tiny()
    objective = PolicyGradient(model, Given([]), RlConfig())
    assert list(objective.updates(0)) == []
    row: dict[str, Any] = {}
    objective.finish_step(1, row)
    assert row == {"accuracy": 0.25, "temperature": 1.0, "gap_max": 0.0}


def test_its_state_is_that_of_the_sampling() -> None:
    model, sampling = tiny(), Given([])
    objective = PolicyGradient(model, sampling, RlConfig())
    list(objective.updates(0))
    assert objective.state() == {"asked": 1}
    objective.restore({"asked": 7, "tensors": {}})
    assert sampling.asked == 7
    assert objective.kept_tensors() == {}
