"""RL's losses against numbers worked out by hand, and the laws that tie them together."""

import math

import pytest
import torch
from torch import Tensor

from headway.train.losses import nll
from headway.train.policy_losses import (
    clipped_surrogate,
    kl_estimate,
    kl_penalty,
    reinforce,
    sequence_log_ratio,
    token_log_ratio,
    token_weights,
    truncated_weights,
    weighted_surrogate,
)

LN2 = math.log(2)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def gradient(loss: Tensor, of: Tensor) -> list[float]:
    (found,) = torch.autograd.grad(loss, of)
    return found.tolist()


# -- clip: PPO, GRPO, DAPO ---------------------------------------------------------------------------------------------


def surrogate(ratio: float, advantage: float) -> tuple[float, float, float, float]:
    """Loss, gradient, and tokens clipped above and below, of one token of weight 1 with clip 0.2 / 0.3."""
    logprobs, one = leaf(-1.0 + math.log(ratio)), torch.ones(1)
    loss, clipped = clipped_surrogate(token_log_ratio(logprobs, -one, one), advantage * one, one, 0.2, 0.3)
    return loss.item(), gradient(loss, logprobs)[0], clipped.high.item(), clipped.low.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "high", "low"),
    [
        (1.2, 2.0, -2.4, -2.4, 0, 0),  # inside: -rho A, and its gradient in log p is -rho A
        (1.5, 2.0, -2.6, 0.0, 1, 0),  # a good token that grew past 1.3: -1.3 A, no gradient
        (0.5, 2.0, -1.0, -1.0, 0, 0),  # a good token that shrank: min takes rho A, it may come back
        (0.9, -2.0, 1.8, 1.8, 0, 0),  # inside
        (0.5, -2.0, 1.6, 0.0, 0, 1),  # a bad token that shrank past 0.8: 0.8 |A|, no gradient
        (1.5, -2.0, 3.0, 3.0, 0, 0),  # a bad token that grew: not clipped
    ],
)
def test_clip_by_hand(ratio: float, advantage: float, loss: float, slope: float, high: int, low: int) -> None:
    assert surrogate(ratio, advantage) == pytest.approx((loss, slope, high, low), abs=1e-5)


# -- weight: CISPO -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "low", "loss", "slope", "clipped"),
    [
        (1.5, 2.0, 1.0, 3.0, -3.0, (0, 0)),  # log p = -1: loss -1.5 x 2 x -1 = 3, gradient -1.5 x 2
        (8.0, 2.0, 1.0, 10.0, -10.0, (1, 0)),  # the weight stops at 5, and the token keeps its gradient
        (8.0, -2.0, 1.0, -10.0, 10.0, (1, 0)),  # of a bad one, too
        (0.1, -2.0, 1.0, -0.2, 0.2, (0, 0)),  # no lower bound
        (0.1, -2.0, 0.2, -1.6, 1.6, (0, 1)),  # with one: 0.8
    ],
)
def test_weight_by_hand(ratio: float, advantage: float, low: float, loss: float, slope: float, clipped: tuple[int, int]) -> None:
    logprobs, one = leaf(-1.0), torch.ones(1)
    log_ratio = token_log_ratio(logprobs, torch.tensor([-1.0 - math.log(ratio)]), one)
    found, acted = weighted_surrogate(logprobs, log_ratio, advantage * one, one, low, 4.0)
    assert found.item() == pytest.approx(loss, abs=1e-5)
    assert gradient(found, logprobs) == pytest.approx([slope], abs=1e-5)
    assert (acted.high.item(), acted.low.item()) == clipped


def test_within_the_bounds_weight_has_the_gradient_of_clip() -> None:
    logprobs, old = leaf(-1.0, -2.0, -0.5), torch.tensor([-1.1, -1.9, -0.5])
    advantages, weights = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.2, 0.3, 0.5])
    log_ratio = token_log_ratio(logprobs, old, weights)
    one, _ = clipped_surrogate(log_ratio, advantages, weights, 0.2, 0.2)
    other, _ = weighted_surrogate(logprobs, log_ratio, advantages, weights, 0.2, 0.2)
    assert gradient(one, logprobs) == pytest.approx(gradient(other, logprobs))


# -- the ratio of a sequence: GSPO -------------------------------------------------------------------------------------


def test_a_sequences_ratio_by_hand() -> None:
    # ratios of the tokens 2 and 8 (sequence 0), 1/2 (sequence 2): geometric means 4 and 1/2; sequence 1 has no token, and the
    # last one of sequence 2 no weight
    log_ratio = torch.tensor([LN2, 3 * LN2, -LN2, 0.0])
    found = sequence_log_ratio(log_ratio, torch.tensor([0.1, 0.1, 0.1, 0.0]), torch.tensor([0, 0, 2, 2]), 3)
    assert found[:3].exp().tolist() == pytest.approx([4.0, 4.0, 0.5])


def test_gspo_by_hand() -> None:
    """Two sequences of A = 1: s = 4 is clipped to 1.5 and has no gradient; s = 1/2 stays, each token with 1/length of it."""
    logprobs = leaf(LN2, 3 * LN2, -LN2, -LN2)
    weights = torch.tensor([0.25, 0.25, 0.25, 0.25])  # sequence means over 2 sequences of 2
    log_ratio = sequence_log_ratio(token_log_ratio(logprobs, torch.zeros(4), weights), weights, torch.tensor([0, 0, 1, 1]), 2)
    loss, clipped = clipped_surrogate(log_ratio, torch.ones(4), weights, 0.6, 0.5)
    assert loss.item() == pytest.approx(-(1.5 + 0.5) / 2)
    # d/d lp_t of s/2 = s/2 x 1/length = 0.5 / 2 / 2
    assert gradient(loss, logprobs) == pytest.approx([0.0, 0.0, -0.125, -0.125])
    assert (clipped.high.item(), clipped.low.item()) == (2, 0)


# -- no ratio: RLOO ----------------------------------------------------------------------------------------------------


def test_reinforce_by_hand() -> None:
    # two responses, A = 2 (two tokens) and -2 (one): -(1/2)(2 x (-1 - 3) - 2 x -0.5) = 3.5
    logprobs = leaf(-1.0, -3.0, -0.5)
    loss = reinforce(logprobs, torch.tensor([2.0, 2.0, -2.0]), torch.full((3,), 0.5))
    assert loss.item() == 3.5
    assert gradient(loss, logprobs) == [-1.0, -1.0, 1.0]


# -- what holds for all ------------------------------------------------------------------------------------------------

KINDS = ["clip", "sequence", "weight", "reinforce"]


def loss_of(kind: str, logprobs: Tensor, old: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    if kind == "reinforce":
        return reinforce(logprobs, advantages, weights)
    log_ratio = token_log_ratio(logprobs, old, weights)
    if kind == "weight":
        return weighted_surrogate(logprobs, log_ratio, advantages, weights, 1.0, 4.0)[0]
    if kind == "sequence":
        log_ratio = sequence_log_ratio(log_ratio, weights, torch.zeros(len(logprobs), dtype=torch.int64), 1)
    return clipped_surrogate(log_ratio, advantages, weights, 0.2, 0.28)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_at_ratio_one_and_advantage_one_the_gradient_is_that_of_nll(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs = (-torch.rand(5, generator=generator)).requires_grad_()
    loss = loss_of(kind, logprobs, logprobs.detach(), torch.ones(5), torch.full((5,), 1 / 5))
    assert gradient(loss, logprobs) == pytest.approx(gradient(nll(logprobs, 5), logprobs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [-math.inf, math.nan, 900.0])
def test_a_token_of_no_weight_has_no_value_and_no_gradient(kind: str, bad: float) -> None:
    logprobs = leaf(-1.0, bad)
    weights = torch.tensor([1.0, 0.0])
    loss = loss_of(kind, logprobs, torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.0]), weights)
    assert loss.item() == {"clip": -1.0, "sequence": -1.0, "weight": 1.0, "reinforce": 1.0}[kind]
    assert gradient(loss, logprobs) == [-1.0, 0.0]
    penalty = kl_penalty("k3", logprobs, torch.tensor([-2.0, -2.0]), weights)
    assert penalty.item() == pytest.approx(1 / math.e)  # r = exp(-1): 1/e - 1 + 1
    assert gradient(penalty, logprobs)[1] == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_weight_gives_zeros(kind: str) -> None:
    logprobs = leaf(-1.0, -2.0)
    loss = loss_of(kind, logprobs, torch.zeros(2), torch.ones(2), torch.zeros(2))
    assert loss.item() == 0.0
    assert gradient(loss, logprobs) == [0.0, 0.0]


# -- normalisers -------------------------------------------------------------------------------------------------------


def test_the_four_normalisers_by_hand() -> None:
    lengths = [1, 3]  # responses
    assert token_weights("token", lengths) == [1 / 4, 1 / 4]
    assert token_weights("sequence", lengths) == [1 / 2, 1 / 6]
    assert token_weights("sequence_sum", lengths) == [1 / 2, 1 / 2]
    assert token_weights("constant", lengths, 4 * 10) == [1 / 40, 1 / 40]


# -- KL ----------------------------------------------------------------------------------------------------------------


def test_the_three_estimates_by_hand() -> None:
    # reference / policy = 2: k1 = -log 2, k2 = (log 2)^2 / 2, k3 = 2 - 1 - log 2
    policy, reference = torch.tensor([-2.0]), torch.tensor([-2.0 + LN2])
    assert kl_estimate("k1", policy, reference).item() == pytest.approx(-0.6931472)
    assert kl_estimate("k2", policy, reference).item() == pytest.approx(0.2402265)
    assert kl_estimate("k3", policy, reference).item() == pytest.approx(0.3068528)


P, R = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])  # policy and reference over three tokens


@pytest.mark.parametrize(("kind", "bias"), [("k1", 0.0), ("k3", 0.0), ("k2", -0.00481)])
def test_the_mean_over_tokens_of_the_policy_is_the_kl(kind: str, bias: float) -> None:
    """k1 and k3 are unbiased; k2 is not. By enumeration: KL = 0.5 log 2.5 + 0.3 log 1.5 + 0.2 log 1/3 = 0.36006."""
    mean = (P * kl_estimate(kind, P.log(), R.log())).sum().item()
    assert mean == pytest.approx(0.360063 + bias, abs=1e-4)


def test_as_a_loss_k2_has_the_gradient_of_the_kl_k3_that_of_its_reverse_and_k1_none() -> None:
    logits = P.log().requires_grad_()

    def as_a_loss(kind: str) -> list[float]:
        """The mean gradient of the estimate over tokens of the policy, which are drawn and so have no gradient."""
        return gradient((P * kl_estimate(kind, logits.log_softmax(-1), R.log())).sum(), logits)

    def reward_of_k1() -> list[float]:
        """The mean gradient of REINFORCE with -k1 as the reward."""
        logprobs = logits.log_softmax(-1)
        reward = -kl_estimate("k1", logprobs, R.log()).detach()
        return gradient(-(P * reward * logprobs).sum(), logits)

    policy = logits.softmax(-1)
    forward = gradient((policy * (policy.log() - R.log())).sum(), logits)  # KL(policy || reference)
    reverse = gradient((R * (R.log() - logits.log_softmax(-1))).sum(), logits)  # KL(reference || policy)
    assert reverse == pytest.approx([0.3, 0.1, -0.4], abs=1e-6)  # policy - reference
    assert as_a_loss("k1") == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert as_a_loss("k2") == pytest.approx(forward, abs=1e-6)
    assert as_a_loss("k3") == pytest.approx(reverse, abs=1e-6)
    assert reward_of_k1() == pytest.approx(forward, abs=1e-6)
    assert forward != pytest.approx(reverse, abs=0.01)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_at_the_reference_there_is_no_kl_and_only_k1_has_a_gradient(kind: str) -> None:
    logprobs = leaf(-1.0, -2.0)
    penalty = kl_penalty(kind, logprobs, logprobs.detach(), torch.full((2,), 0.5))
    assert penalty.item() == 0.0
    assert gradient(penalty, logprobs) == ([0.5, 0.5] if kind == "k1" else [0.0, 0.0])


# -- truncated importance sampling -------------------------------------------------------------------------------------


def test_truncated_weights_by_hand() -> None:
    # trainer / sampler: 3 is capped at 2, 1/2 and 1 stay
    factors, capped = truncated_weights(torch.tensor([-1.0 + math.log(3), -1.0 - LN2, -1.0]), torch.full((3,), -1.0), 2.0)
    assert factors.tolist() == pytest.approx([2.0, 0.5, 1.0])
    assert capped.tolist() == [True, False, False]
