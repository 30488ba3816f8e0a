"""RL's objectives by name: what each is by hand, that pieces are the whole for all of them, and what contradicts itself."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from test_policy import Given
from tiny_policy import STOP, VOCABULARY, assert_same_gradients, naive_logprobs, step_gradient, tiny

from headway.errors import ConfigError
from headway.model.transformer import Decoder
from headway.objectives import OBJECTIVES, contradiction, filled
from headway.recipe import parse_recipe
from headway.stage_config import RlConfig
from headway.train.advantages import group_advantages
from headway.train.batching import Document, epochs
from headway.train.frozen import fixed_logprobs, frozen_copy
from headway.train.likelihood import Likelihood
from headway.train.policy import PolicyGradient, Trajectory

NAMES = sorted(OBJECTIVES)
LN2 = math.log(2)


# -- by hand -----------------------------------------------------------------------------------------------------------

SHORT, LONG = Document((5, 6, STOP), 2), Document((5, 6, 8, 9, STOP), 2)
SMALL = {"prompts": 1, "group_size": 2, "max_tokens": 16}


def example(model: Decoder) -> list[Trajectory]:
    """A group of two, right and wrong: ratios 2 | 1/2, 1, 2 to the sampler; reference / policy is 2 | 1, 1, 1/2."""
    one, three = naive_logprobs(model, SHORT), naive_logprobs(model, LONG)
    return [
        Trajectory(SHORT, (one[0] - LN2,), 1.0, (one[0] + LN2,)),
        Trajectory(LONG, (three[0] + LN2, three[1], three[2] - LN2), -1.0, (three[0], three[1], three[2] - LN2)),
    ]


BY_HAND = {
    # clipped at 1.2: min(2, 1.2) = 1.2 | min(-1/2, -0.8) -1 -2 = -3.8; means 1.2 and -3.8/3: -(1.2 - 1.2666667)/2 = 0.0333333
    # k3 of 2 = 1 - log 2 = 0.3068528, of 1/2 = log 2 - 1/2 = 0.1931472: 0.04 (0.3068528 + 0.1931472/3)/2 = 0.0074247
    "grpo": 0.0333333 + 0.0074247,
    "dr_grpo": -(1.2 - 3.8) / 32,  # 1 x 2 x 16 tokens
    "dapo": -(1.28 - 3.8) / 4,
    "gspo": -(1.0004 - 1.0) / 2,  # s = 2, clipped, and (1/2 x 1 x 2)^(1/3) = 1
    "ppo": -(1.2 - 3.8) / 4,
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_each_clipped_objective_by_hand(name: str) -> None:
    model = tiny(1)
    config = RlConfig.model_validate(SMALL | {"objective": name})
    _, [numbers], _ = step_gradient(model, PolicyGradient(model, Given(example(model)), config))
    assert numbers["loss"] == pytest.approx(BY_HAND[name], abs=2e-6)
    assert numbers["clipped_high"] == pytest.approx(1 / 4)
    assert numbers["clipped_low"] == pytest.approx(0.0 if name == "gspo" else 1 / 4)
    assert ("kl_reference" in numbers) == (name == "grpo")
    if name == "grpo":
        assert numbers["kl_reference"] == pytest.approx((0.3068528 + 0.1931472) / 4, abs=1e-5)


def test_cispo_by_hand() -> None:
    model = tiny(1)
    (a,), (b, c, d) = naive_logprobs(model, SHORT), naive_logprobs(model, LONG)
    config = RlConfig.model_validate(SMALL | {"objective": "cispo"})
    _, [numbers], _ = step_gradient(model, PolicyGradient(model, Given(example(model)), config))
    assert numbers["loss"] == pytest.approx(-(2 * a - (0.5 * b + c + 2 * d)) / 4, abs=1e-4)
    assert numbers["clipped"] == 0.0  # up to 5, and down to anything


def test_rloo_by_hand() -> None:
    """No ratio, sums of log-probs, the mean over responses; its KL was in the reward, so it is only measured here."""
    model = tiny(1)
    (a,), three = naive_logprobs(model, SHORT), naive_logprobs(model, LONG)
    assert group_advantages([1.0, -1.0], scale_by_std=False, leave_one_out=True) == [2.0, -2.0]
    trajectories = [Trajectory(t.document, t.sampler_logprobs, 2 * t.advantage, t.reference_logprobs) for t in example(model)]
    config = RlConfig.model_validate(SMALL | {"objective": "rloo"})
    _, [numbers], _ = step_gradient(model, PolicyGradient(model, Given(trajectories), config))
    assert numbers["loss"] == pytest.approx(-(2 * a - 2 * sum(three)) / 2, abs=1e-4)
    assert numbers["kl_reference"] == pytest.approx(0.125, abs=1e-5)
    assert "clipped" not in numbers


# -- what holds for all of them ----------------------------------------------------------------------------------------


def eight(model: Decoder, is_shared: bool, distance: float, seed: int = 0) -> list[Trajectory]:
    """Eight trajectories of 3 + 9 tokens, of two prompts or of eight, whose log-probs differ by up to `distance`."""
    chance = random.Random(seed)
    prompts = [tuple(chance.randrange(4, VOCABULARY) for _ in range(3)) for _ in range(8)]
    made = []
    for i in range(8):
        document = Document((*prompts[i % 2 if is_shared else i], *chance.choices(range(4, VOCABULARY), k=8), STOP), 3)
        own = naive_logprobs(model, document)
        near = [tuple(lp + chance.uniform(-distance, distance) for lp in own) for _ in range(2)]
        made.append(Trajectory(document, near[0], chance.uniform(-2, 2), near[1]))
    return made


def gradients(model: Decoder, trajectories: Sequence[Trajectory], **settings: Any) -> tuple[Any, float, int]:
    config = RlConfig.model_validate({"prompts": 2, "group_size": 4, "max_tokens": 16} | settings)
    found, numbers, count = step_gradient(model, PolicyGradient(model, Given(trajectories, 0.8), config))
    return found, numbers[0]["loss"], count


@pytest.mark.parametrize("is_shared", [False, True], ids=["own prompts", "shared prompts"])
@pytest.mark.parametrize("name", NAMES)
def test_pieces_are_the_whole_in_float32(name: str, is_shared: bool) -> None:
    """8 x 1, 4 x 2, 2 x 4 and 1 x 8; alone no prompt is shared. With truncated importance sampling, too."""
    model = tiny(1, scale=3.0)
    trajectories = eight(model, is_shared, 0.6)
    for extra in ({}, {"tis_cap": 1.3}):
        tokens = [3 + 9, 3 + 18, 3 + 36, 999] if is_shared else [12, 24, 48, 999]
        whole, loss, count = gradients(model, trajectories, objective=name, micro_batch_tokens=999, **extra)
        assert count == 1
        counts = []
        for limit in tokens:
            pieces, small, count = gradients(model, trajectories, objective=name, micro_batch_tokens=max(16, limit), **extra)
            assert_same_gradients(pieces, whole, 1e-6)
            assert small == pytest.approx(loss, rel=1e-6, abs=1e-6)
            counts.append(count)
        assert counts == [8, 4, 2, 1]


@pytest.mark.parametrize("name", NAMES)
def test_at_ratio_one_and_advantage_one_the_gradient_is_that_of_the_likelihood(name: str) -> None:
    """Where all responses are equally long, every normaliser is a multiple of the token's, 1/72."""
    model = tiny(1)
    trajectories = [Trajectory(t.document, t.sampler_logprobs, 1.0, t.sampler_logprobs) for t in eight(model, True, 0.0)]
    documents = [t.document for t in trajectories]
    config = RlConfig.model_validate({"objective": name, "prompts": 2, "group_size": 4, "max_tokens": 18})
    policy, _, _ = step_gradient(model, PolicyGradient(model, Given(trajectories), config))
    likelihood, _, _ = step_gradient(model, Likelihood(model, documents, lambda: epochs(8, 8, 0), 999))
    times = {"rloo": 9.0, "dr_grpo": 72 / (2 * 4 * 18)}.get(name, 1.0)  # 9 tokens a response; 144 tokens of room
    assert_same_gradients(policy, [g * times for g in likelihood], 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_advantage_goes_through_the_model_for_a_kl_in_the_loss_alone(name: str) -> None:
    model = tiny(1)
    trajectories = [
        Trajectory(t.document, t.sampler_logprobs, t.advantage if i < 3 else 0.0, t.reference_logprobs)
        for i, t in enumerate(eight(model, False, 0.1))
    ]
    objective = PolicyGradient(model, Given(trajectories), RlConfig.model_validate({"objective": name}))
    [[micro]] = list(objective.updates(0))
    assert micro.flat.num_documents == (8 if name == "grpo" else 3)
    none = [Trajectory(t.document, t.sampler_logprobs, 0.0, t.reference_logprobs) for t in trajectories]
    empty = PolicyGradient(model, Given(none), RlConfig.model_validate({"objective": name}))
    assert len(list(empty.updates(0))) == (name == "grpo")


@pytest.mark.parametrize("kl", ["k2", "k3"])
def test_the_pull_to_the_reference_by_itself(kl: str) -> None:
    """Without an advantage the loss is the KL's alone, and its gradient autograd's through the naive log-probs."""
    model = tiny(1)
    trajectories = [Trajectory(t.document, t.sampler_logprobs, 0.0, t.reference_logprobs) for t in eight(model, True, 0.5)]
    found, loss, _ = gradients(model, trajectories, kl=kl, kl_coef=0.3)
    logs = [(naive_logprobs(model, t.document, 0.8), t.reference_logprobs) for t in trajectories]
    pairs = [(r - p) for own, reference in logs for p, r in zip(own, reference, strict=True)]
    each = [x * x / 2 if kl == "k2" else math.exp(x) - 1 - x for x in pairs]
    assert loss == pytest.approx(0.3 * sum(each) / 72, rel=1e-5)
    double, _, _ = gradients(model, trajectories, kl=kl, kl_coef=0.6)
    assert_same_gradients(double, [2 * g for g in found], 1e-5)


# -- truncated importance sampling, epochs -----------------------------------------------------------------------------


def test_tis_by_hand() -> None:
    """In the first update the trainer's ratio is 1, and trainer / sampler, at most 1.5, is the weight: 1.5 | 1/2, 1, 1.5."""
    model = tiny(1)
    config = RlConfig.model_validate(SMALL | {"tis_cap": 1.5})
    _, [numbers], _ = step_gradient(model, PolicyGradient(model, Given(example(model)), config))
    assert numbers["loss"] == pytest.approx(-(1.5 - (0.5 + 1 + 1.5)) / 4, abs=1e-5)
    assert numbers["tis_capped"] == pytest.approx(2 / 4)
    assert numbers["clipped"] == 0.0
    _, [uncapped], _ = step_gradient(model, PolicyGradient(model, Given(example(model)), RlConfig.model_validate(SMALL)))
    assert "tis_capped" not in uncapped


def test_later_updates_have_their_ratio_to_the_trainer_of_the_steps_start() -> None:
    model = tiny(1)
    before = frozen_copy(model)
    trajectories = eight(model, True, 0.3)
    config = RlConfig.model_validate({"tis_cap": 9.0, "minibatches": 2, "clip_low": 0.9, "clip_high": 99.0})
    objective = PolicyGradient(model, Given(trajectories), config)
    seen = 0
    for [micro] in objective.updates(0):
        chosen = [t for t in trajectories if list(t.sampler_logprobs) == pytest.approx(micro.sampler[:9].tolist(), abs=1e-6)]
        own = [trajectories[i] for i in range(trajectories.index(chosen[0]), 8, 2)]
        start = [lp for t in own for lp in naive_logprobs(before, t.document)]
        assert micro.start.tolist() == pytest.approx(start, abs=1e-4)
        now = [lp for t in own for lp in naive_logprobs(model, t.document)]
        each = [t.advantage for t in own for _ in range(9)]
        sampler = [lp for t in own for lp in t.sampler_logprobs]
        # p_now / p_start x p_start / p_sampler
        expected = -sum(math.exp(n - s) * a for n, s, a in zip(now, sampler, each, strict=True)) / 36
        assert float(objective.loss(micro)[0].detach()) == pytest.approx(expected, abs=1e-4)
        with torch.no_grad():
            model.norm.weight.mul_(1.05)
        seen += 1
    assert seen == 2


def test_epochs_go_over_every_trajectory_parted_anew() -> None:
    model = tiny(1)
    trajectories = eight(model, False, 0.1)

    def parts(step: int, **settings: int) -> list[frozenset[int]]:
        objective = PolicyGradient(model, Given(trajectories), RlConfig.model_validate({"epochs_per_batch": 3} | settings))
        first = [t.document.ids[:3] for t in trajectories]
        flats = [micro.flat.ids.view(-1, 11)[:, :3].tolist() for [micro] in objective.updates(step)]
        return [frozenset(first.index(tuple(prompt)) for prompt in flat) for flat in flats]

    found = parts(0, minibatches=2)
    assert len(found) == 6
    assert all(a | b == set(range(8)) and len(a) == 4 for a, b in zip(found[::2], found[1::2], strict=True))
    assert len({frozenset((a, b)) for a, b in zip(found[::2], found[1::2], strict=True)}) == 3
    assert found == parts(0, minibatches=2) != parts(1, minibatches=2)
    assert parts(0) == [frozenset(range(8))] * 3


# -- the frozen copy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1], ids=["tied", "untied"])
def test_a_frozen_copy_stays_as_it_was(seed: int) -> None:
    model = tiny(seed)
    documents = [t.document for t in eight(model, True, 0.0)]
    expected = [naive_logprobs(model, document, 0.7) for document in documents]
    frozen = frozen_copy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    for limit in (16, 999):
        for found, right in zip(fixed_logprobs(frozen, documents, limit, 0.7), expected, strict=True):
            assert found.tolist() == pytest.approx(right, abs=1e-4)
    moved = fixed_logprobs(model, documents, 999, 0.7)
    assert moved[0].tolist() != pytest.approx(expected[0], abs=1e-2)


PROBLEMS = {"sources": [{"family": "chain_sum", "count": 3}]}


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_its_settings_and_survives_being_written_out(name: str) -> None:
    config = RlConfig.model_validate({"objective": name})
    assert {key: getattr(config, key) for key in OBJECTIVES[name]} == OBJECTIVES[name]
    assert RlConfig.model_validate(config.model_dump(mode="json")) == config
    tuned = RlConfig.model_validate({"objective": name, "kl_coef": 0.001, "steps": 3})
    assert tuned.kl_coef == 0.001


def test_without_a_name_the_settings_are_what_they_were() -> None:
    config = RlConfig()
    loss = {"clip_low": 0.2, "clip_high": 0.28, "scale_by_std": True, "loss_level": "token", "kl_coef": 0.0, "tis_cap": 0.0}
    assert {key: getattr(config, key) for key in loss} == loss
    named = RlConfig.model_validate({"objective": "dapo"}).model_dump()
    assert named == config.model_dump() | {"objective": "dapo"}  # they are DAPO's loss
    assert filled({"steps": 3}) == {"steps": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "gspo", "ratio_level": "token"}, '`objective = "gspo"` is `ratio_level = "sequence"`'),
        ({"objective": "dr_grpo", "scale_by_std": True}, '`objective = "dr_grpo"` is `scale_by_std = false`'),
        ({"objective": "grpo", "loss_level": "token"}, '`loss_level = "sequence"`, and the recipe says "token"'),
        ({"objective": "rloo", "minibatches": 2}, "`minibatches` or `epochs_per_batch`"),
        ({"objective": "rloo", "clip_high": 0.3}, "`clip_high` would do nothing"),
        ({"surrogate": "reinforce", "epochs_per_batch": 2}, "`minibatches` or `epochs_per_batch`"),
        ({"surrogate": "reinforce", "ratio_level": "sequence"}, '`ratio_level = "sequence"` would do nothing'),
        ({"kl": "k2"}, '`kl = "k2"` needs a `kl_coef` above 0'),
        ({"objective": "dapo", "kl": "k1"}, '`kl = "k1"` needs a `kl_coef` above 0'),
        ({"kl": "k1", "kl_coef": 0.1}, "`scale_by_std = true` would scale"),
        ({"tis_cap": 0.5}, "`tis_cap` is the highest weight of a token"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe({"name": "a", "model": {"checkpoint": "x"}, "problems": PROBLEMS, "rl": settings}, "a.toml")
    assert str(caught.value).startswith("a.toml: rl: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "grpo", "kl_coef": 0.0},
        {"objective": "rloo", "kl_coef": 0.0},
        {"objective": "ppo", "kl": "k1", "kl_coef": 0.02},
        {"objective": "cispo", "minibatches": 4, "epochs_per_batch": 2, "tis_cap": 2.0},
        {"surrogate": "weight", "ratio_level": "sequence"},
    ],
)
def test_settings_that_go_together_are_taken(settings: dict[str, Any]) -> None:
    assert contradiction(RlConfig.model_validate(settings).model_dump()) == ""
