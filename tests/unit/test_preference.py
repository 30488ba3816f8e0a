"""Learning from pairs: log 2 at the start, the formula by hand, and the same gradient in any pieces."""

import math
import random
from typing import Any

import pytest
import torch
from tiny_policy import STOP, assert_same_gradients, naive_logprobs, ragged, step_gradient, tiny
from torch import Tensor

from headway.config import DpoConfig
from headway.model.transformer import Decoder
from headway.train.batching import Document, epochs
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
    found = reference_logprobs(model, pairs, 64)
    assert found.shape == (9, 2)
    by_hand = [[sum(naive_logprobs(model, side)) for side in (pair.chosen, pair.rejected)] for pair in pairs]
    assert torch.allclose(found, torch.tensor(by_hand), rtol=1e-5, atol=1e-4)
    assert torch.allclose(reference_logprobs(model, pairs, 1_000_000), found, rtol=1e-5, atol=1e-4)
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
    reference = reference_logprobs(model, pairs, 128)
    made = preference(model, pairs, reference, micro_batch_tokens=128, length_normalised=length_normalised)
    _, numbers, _ = step_gradient(model, made)
    assert numbers[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert numbers[0]["margin"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"nll_weight": 0.7}, {"length_normalised": True}, {"length_normalised": True, "nll_weight": 0.2}]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_micro_batches_do_not_change_the_gradient(settings: dict[str, Any], seed: int) -> None:
    model, pairs = tiny(seed).double(), pairs_of(17, seed)
    reference = reference_logprobs(tiny(seed + 2), pairs, 512)  # another model: margins of both signs
    settings |= {"beta": 0.03}
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
    reference = reference_logprobs(model, [pair], 64)
    made = preference(model, [pair], reference, micro_batch_tokens=64)
    step_gradient(model, made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    after = reference_logprobs(model, [pair], 64)
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
