"""Learning from pairs: log 2 at the start, the formula by hand, and the same gradient in any pieces."""

import json
import math
import random
from typing import Any

import pytest
import torch
from tiny_policy import STOP, assert_same_gradients, naive_logprobs, ragged, step_gradient, tiny
from torch import Tensor

from headway.model.transformer import Decoder
from headway.stage_config import DpoConfig
from headway.train.batching import Document, epochs
from headway.train.collapse import WINDOW, collapse
from headway.train.preference import DocumentPair, Preference, pair_batch, reference_logprobs


def pairs_of(count: int, seed: int = 0) -> list[DocumentPair]:
    """Pairs that share a prompt of 1 to 5 tokens, with completions of ragged length."""
    chance = random.Random(seed)
    made = []
    for good, bad in zip(ragged(count, seed + 1), ragged(count, seed + 2), strict=True):
        prompt = tuple(chance.randrange(4, 40) for _ in range(chance.randrange(1, 6)))
        made.append(DocumentPair(Document(prompt + good.ids, len(prompt)), Document(prompt + bad.ids, len(prompt))))
    return made


def preference(model: Decoder, pairs: list[DocumentPair], reference: Tensor, batch: int = 0, **settings: Any) -> Preference:
    config = DpoConfig(**settings)
    return Preference(model, pairs, lambda: epochs(len(pairs), batch or len(pairs), 0), config, reference)


@pytest.mark.parametrize("seed", [0, 1])
def test_reference_logprobs_are_those_of_each_document_alone(seed: int) -> None:
    model, pairs = tiny(seed), pairs_of(9, seed)
    found = reference_logprobs(model, pairs)
    assert found.shape == (9, 2)
    by_hand = [[sum(naive_logprobs(model, side)) for side in (pair.chosen, pair.rejected)] for pair in pairs]
    assert torch.allclose(found, torch.tensor(by_hand), rtol=1e-5, atol=1e-4)
    assert torch.equal(reference_logprobs(model, pairs[3:6]), found[3:6])  # whoever its neighbours are
    assert not found.requires_grad


def test_pairs_lie_chosen_first() -> None:
    pairs = pairs_of(3)
    reference = torch.arange(6.0).view(3, 2)
    batch = pair_batch(pairs, [2, 0], reference, torch.device("cpu"))
    assert batch.numbers == (2, 0)
    assert batch.reference.tolist() == [4.0, 0.0, 5.0, 1.0]
    sides = [pairs[2].chosen, pairs[0].chosen, pairs[2].rejected, pairs[0].rejected]
    assert batch.lengths.tolist() == [float(side.num_targets) for side in sides]
    learned = [batch.flat.targets[batch.flat.owner == number].tolist() for number in range(4)]
    assert learned == [list(side.ids[side.first_target :]) for side in sides]
    assert batch.flat.num_tokens == sum(pairs[i].num_tokens - 2 for i in (0, 2))  # a prompt once; no side's last token


@pytest.mark.parametrize("length_normalised", [False, True])
def test_the_first_step_is_log_2_for_every_pair(length_normalised: bool) -> None:
    model, pairs = tiny(), pairs_of(8)
    reference = reference_logprobs(model, pairs)
    made = preference(model, pairs, reference, micro_batch_tokens=128, length_normalised=length_normalised)
    _, numbers, _ = step_gradient(model, made)
    assert numbers[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert numbers[0]["margin"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nll_weight": 0.7},
        {"length_normalised": True, "nll_weight": 0.2},
        {"loss": "ipo", "nll_weight": 0.2},
        {"loss": "robust"},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_micro_batches_do_not_change_the_gradient(settings: dict[str, Any], seed: int) -> None:
    model, pairs = tiny(seed).double(), pairs_of(17, seed)
    reference = reference_logprobs(tiny(seed + 2), pairs)  # another model: margins of both signs
    settings = {"beta": 0.03} | settings
    pieces, small, many = step_gradient(model, preference(model, pairs, reference, micro_batch_tokens=16, **settings))
    whole, large, one = step_gradient(model, preference(model, pairs, reference, micro_batch_tokens=100_000, **settings))
    assert many == 17
    assert one == 1
    assert 0 < large[0]["pair_accuracy"] < 1
    assert_same_gradients(pieces, whole)
    assert small[0] == pytest.approx(large[0], rel=1e-5)


def test_a_step_by_hand() -> None:
    """The loss, its numbers and its gradient of two pairs against the formula on whole logits."""
    model, pairs = tiny(1), pairs_of(2, seed=5)
    reference = torch.tensor([[-30.0, -31.0], [-60.0, -55.0]])
    made = preference(model, pairs, reference, micro_batch_tokens=64, beta=0.2, nll_weight=0.5)
    _, numbers, _ = step_gradient(model, made)
    policy = [(sum(naive_logprobs(model, p.chosen)), sum(naive_logprobs(model, p.rejected))) for p in pairs]
    chosen = [0.2 * (c - float(r[0])) for (c, _), r in zip(policy, reference, strict=True)]
    rejected = [0.2 * (w - float(r[1])) for (_, w), r in zip(policy, reference, strict=True)]
    margins = [c - w for c, w in zip(chosen, rejected, strict=True)]
    tokens = sum(p.chosen.num_targets for p in pairs)
    expected = sum(math.log1p(math.exp(-m)) for m in margins) / 2 - 0.5 * sum(c for c, _ in policy) / tokens
    assert numbers[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert numbers[0]["margin"] == pytest.approx(sum(margins) / 2, rel=1e-4)
    assert numbers[0]["chosen_reward"] == pytest.approx(sum(chosen) / 2, rel=1e-4)
    assert numbers[0]["rejected_reward"] == pytest.approx(sum(rejected) / 2, rel=1e-4)
    assert numbers[0]["chosen_logprob"] == pytest.approx(sum(c for c, _ in policy) / 2, rel=1e-4)
    assert numbers[0]["rejected_logprob"] == pytest.approx(sum(w for _, w in policy) / 2, rel=1e-4)
    assert numbers[0]["pair_accuracy"] == sum(m > 0 for m in margins) / 2


def test_a_step_makes_the_chosen_likelier_against_the_rejected() -> None:
    model = tiny(1)
    pair = DocumentPair(Document((5, 6, 10, 11, STOP), 2), Document((5, 6, 20, STOP), 2))
    reference = reference_logprobs(model, [pair])
    made = preference(model, [pair], reference, micro_batch_tokens=64)
    step_gradient(model, made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    after = reference_logprobs(model, [pair])
    assert after[0, 0] - after[0, 1] > reference[0, 0] - reference[0, 1]


def test_steps_out_of_order_are_those_of_the_stream() -> None:
    model, pairs = tiny(), pairs_of(7)
    reference = torch.zeros(7, 2)

    def asked(made: Preference, step: int) -> list[int]:
        return sorted(i for update in made.updates(step) for micro in update for i in micro.numbers)

    straight = preference(model, pairs, reference, batch=3, micro_batch_tokens=64)
    steps = [asked(straight, step) for step in range(6)]
    assert all(len(step) == 3 for step in steps)
    for step in (0, 3, 5):
        assert asked(preference(model, pairs, reference, batch=3, micro_batch_tokens=64), step) == steps[step]


def test_reference_logprobs_of_other_pairs_are_refused() -> None:
    with pytest.raises(AssertionError, match="one a document"):
        preference(tiny(), pairs_of(3), torch.zeros(2, 2))


def test_ipo_and_length_normalised_dpo_take_log_probs_a_token() -> None:
    """One pair of 4 and 2 targets: policy sums by hand, h = (c - rc) / 4 - (w - rw) / 2."""
    model = tiny(1)
    pair = DocumentPair(Document((5, 6, 10, 11, 12, STOP), 2), Document((5, 6, 20, STOP), 2))
    chosen, rejected = sum(naive_logprobs(model, pair.chosen)), sum(naive_logprobs(model, pair.rejected))
    reference = torch.tensor([[chosen - 2.0, rejected + 3.0]])  # the policy is 2 nats above and 3 below
    h = 2.0 / 4 + 3.0 / 2
    for settings, expected in [
        ({"loss": "ipo", "beta": 0.5}, (h - 1) ** 2),
        ({"length_normalised": True}, math.log1p(math.exp(-5 * h))),  # beta 5 is the published one
        ({"loss": "hinge", "length_normalised": True, "beta": 0.1}, 1 - 0.1 * h),
    ]:
        _, numbers, _ = step_gradient(model, preference(model, [pair], reference, micro_batch_tokens=64, **settings))
        assert numbers[0]["loss"] == pytest.approx(expected, rel=1e-3), settings
        assert numbers[0]["chosen_shift"] == pytest.approx(2.0 / 4, abs=1e-4)
        assert numbers[0]["rejected_shift"] == pytest.approx(-3.0 / 2, abs=1e-4)
        assert (numbers[0]["chosen_tokens"], numbers[0]["rejected_tokens"]) == (4.0, 2.0)


def test_the_lengths_and_shifts_of_a_step_are_means_over_all_of_it() -> None:
    model, pairs = tiny(1), pairs_of(6, seed=3)
    reference = torch.zeros(6, 2)
    _, numbers, many = step_gradient(model, preference(model, pairs, reference, micro_batch_tokens=32))
    sums = [(sum(naive_logprobs(model, p.chosen)), sum(naive_logprobs(model, p.rejected))) for p in pairs]
    lengths = [(p.chosen.num_targets, p.rejected.num_targets) for p in pairs]
    assert many > 1
    for side, name in enumerate(("chosen", "rejected")):
        tokens = sum(n[side] for n in lengths)
        assert numbers[0][f"{name}_tokens"] == pytest.approx(tokens / 6)
        assert numbers[0][f"{name}_shift"] == pytest.approx(sum(s[side] for s in sums) / tokens, rel=1e-4)


# -- the alarm ---------------------------------------------------------------------------------------------------------


def test_a_collapse_is_a_fall_below_the_reference_while_the_margin_grows() -> None:
    falling = [-0.11] * WINDOW
    assert "0.11 nats a token" in str(collapse([0.5] * WINDOW, falling))  # before the first step the margin is 0
    assert "(0.500 to 0.600)" in str(collapse([0.5] * WINDOW + [0.6] * WINDOW, falling))
    assert "nll_weight" in str(collapse([0.5] * WINDOW, falling))
    assert collapse([0.6] * WINDOW + [0.6] * WINDOW, falling) is None  # nothing grows
    assert collapse([0.5] * WINDOW, [-0.09] * WINDOW) is None  # not far enough
    assert collapse([0.5] * WINDOW, [-0.2] * 5 + [0.01] * 5) is None  # -0.95 / 10 on average
    assert collapse([0.5] * (WINDOW - 1), falling[1:]) is None  # too early to say


def test_the_alarm_sounds_once_where_a_collapse_begins_also_after_a_restart() -> None:
    """The margin grows all the time; the chosen fall in steps 6 to 30, and again from 50 on."""

    def sounded(restart_at: int) -> list[int]:
        made = preference(tiny(), pairs_of(3), torch.zeros(3, 2), micro_batch_tokens=64)
        alarms = []
        for step in range(1, 71):
            if step == restart_at:
                state = json.loads(json.dumps(made.state()))
                made = preference(tiny(), pairs_of(3), torch.zeros(3, 2), micro_batch_tokens=64)
                made.restore(state | {"tensors": {}})
            row = {"margin": float(step), "chosen_shift": -1.0 if 6 <= step <= 30 or step >= 50 else 0.5}
            assert made.finish_step(step, row) is False
            alarms += [step] if "alarm" in row else []
        return alarms

    # mean of the last 10 below -0.1: n steps of -1 among 10 - n of 0.5 need 1.5 n > 6, n = 5: at step 10, and at 54
    assert sounded(0) == [10, 54]
    assert [sounded(step) for step in (9, 10, 11, 53, 55)] == [[10, 54]] * 5
