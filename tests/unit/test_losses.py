"""The losses against numbers worked out by hand, and the laws that tie them together."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.train.losses import dpo, nll, sequence_sums

T, F = True, False
LN2 = math.log(2)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def gradient(loss: Tensor, of: Tensor) -> list[float]:
    (found,) = torch.autograd.grad(loss, of)
    return found.tolist()


# -- nll ---------------------------------------------------------------------------------------------------------------


def test_nll_by_hand() -> None:
    # targets: 1.5 and 0.5 nats, 4 targets in the whole step: (1.5 + 0.5) / 4 = 0.5; each learned token's gradient is -1/4
    logprobs = leaf(-1.5, -0.5)
    loss = nll(logprobs, 4)
    assert loss.item() == pytest.approx(0.5)
    assert gradient(loss, logprobs) == [-0.25, -0.25]


def test_nll_of_a_step_that_learns_nothing_is_zero_and_not_nan() -> None:
    logprobs = leaf()
    loss = nll(logprobs, 0)
    assert loss.item() == 0.0
    assert gradient(loss, logprobs) == []


def test_nll_of_a_step_is_the_sum_of_its_pieces() -> None:
    logprobs = leaf(-1.0, -2.0, -4.0)
    whole = nll(logprobs, 3)
    pieces = nll(logprobs[:1], 3) + nll(logprobs[1:], 3)
    assert whole.item() == pytest.approx(7 / 3)
    assert pieces.item() == pytest.approx(7 / 3)
    assert gradient(whole, logprobs) == pytest.approx(gradient(pieces, logprobs))


# -- DPO ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_dpo_where_policy_is_reference_is_log_2(beta: float) -> None:
    chosen, rejected = leaf(-10.0, -3.0), leaf(-20.0, -1.0)
    loss, terms = dpo(chosen, rejected, chosen.detach(), rejected.detach(), beta, 2)
    assert loss.item() == pytest.approx(LN2)
    assert terms.chosen_rewards.tolist() == [0.0, 0.0]
    assert terms.rejected_rewards.tolist() == [0.0, 0.0]
    # sigmoid(0) = 1/2: each chosen sequence is pushed by -beta/2 a pair, each rejected one by +beta/2, over 2 pairs
    pushed = torch.autograd.grad(loss, (chosen, rejected))
    assert pushed[0].tolist() == pytest.approx([-beta / 4] * 2)
    assert pushed[1].tolist() == pytest.approx([beta / 4] * 2)


def test_dpo_by_hand() -> None:
    # rewards: 0.5 (-10 + 12) = 1 and 0.5 (-20 + 19) = -0.5; margin 1.5; -log sigmoid(1.5) = log(1 + e^-1.5) = 0.2014133
    # and a pair at margin 0: log 2. Sum over 2 pairs, divided by 4 pairs of the step.
    chosen, rejected = leaf(-10.0, -5.0), leaf(-20.0, -6.0)
    loss, terms = dpo(chosen, rejected, torch.tensor([-12.0, -5.0]), torch.tensor([-19.0, -6.0]), 0.5, 4)
    assert terms.chosen_rewards.tolist() == [1.0, 0.0]
    assert terms.rejected_rewards.tolist() == [-0.5, 0.0]
    assert loss.item() == pytest.approx((0.2014133 + LN2) / 4, abs=1e-6)
    # d/d chosen = -beta sigmoid(-margin) / total: -0.5 x 0.1824255 / 4 and -0.5 x 0.5 / 4
    assert gradient(loss, chosen) == pytest.approx([-0.0228032, -0.0625], abs=1e-6)


def test_dpo_is_finite_far_from_the_reference() -> None:
    chosen, rejected = leaf(-2000.0), leaf(-10.0)
    loss, _ = dpo(chosen, rejected, torch.tensor([-10.0]), torch.tensor([-2000.0]), 1.0, 1)
    assert loss.item() == pytest.approx(3980.0)  # -log sigmoid(-3980) = 3980
    assert gradient(loss, chosen) == [-1.0]


@pytest.mark.parametrize(
    ("loss", "smoothing", "expected", "slope"),
    [
        # h = (-10 + 12) - (-20 + 19) = 3, beta 0.5, margin 1.5: -log sigmoid(1.5) = 0.2014133, sigmoid(-1.5) = 0.1824255,
        # -log sigmoid(-1.5) = 1.7014133, sigmoid(1.5) = 0.8175745. The slope is d loss / d chosen.
        ("sigmoid", 0.0, 0.2014133, -0.5 * 0.1824255),
        # 0.9 x 0.2014133 + 0.1 x 1.7014133;  0.5 (-0.9 x 0.1824255 + 0.1 x 0.8175745)
        ("sigmoid", 0.1, 0.3514133, 0.5 * (-0.1641830 + 0.0817575)),
        # (0.9 x 0.2014133 - 0.1 x 1.7014133) / 0.8;  0.5 (-0.1641830 - 0.0817575) / 0.8
        ("robust", 0.1, 0.0139133, 0.5 * (-0.1641830 - 0.0817575) / 0.8),
        ("hinge", 0.0, 0.0, 0.0),  # the margin is above 1
        ("ipo", 0.0, 4.0, 4.0),  # (3 - 1 / (2 x 0.5))^2 = 4, 2 (3 - 1)
    ],
)
def test_each_loss_of_the_family_by_hand(loss: Any, smoothing: float, expected: float, slope: float) -> None:
    chosen = leaf(-10.0)
    found, terms = dpo(chosen, leaf(-20.0), torch.tensor([-12.0]), torch.tensor([-19.0]), 0.5, 1, loss, smoothing)
    assert found.item() == pytest.approx(expected, abs=1e-6)
    assert gradient(found, chosen)[0] == pytest.approx(slope, abs=1e-6)
    assert (terms.chosen_rewards.item(), terms.rejected_rewards.item()) == (1.0, -0.5)


@pytest.mark.parametrize(
    ("loss", "smoothing", "start"),
    [("sigmoid", 0.0, LN2), ("sigmoid", 0.2, LN2), ("robust", 0.2, LN2), ("hinge", 0.0, 1.0), ("ipo", 0.0, 1 / (4 * 0.2**2))],
)
def test_each_loss_starts_where_it_should_and_pushes_the_chosen_up(loss: Any, smoothing: float, start: float) -> None:
    chosen, rejected = leaf(-10.0, -3.0), leaf(-20.0, -1.0)
    found, _ = dpo(chosen, rejected, chosen.detach(), rejected.detach(), 0.2, 2, loss, smoothing)
    assert found.item() == pytest.approx(start)
    up, down = torch.autograd.grad(found, (chosen, rejected))
    assert up.max() < 0 < down.min()


def test_label_smoothing_holds_the_margin_where_it_believes_the_labels() -> None:
    # cDPO is least where sigmoid(margin) = 1 - e: at e = 0.2 that is log 4
    chosen = leaf(math.log(4.0))
    found, _ = dpo(chosen, torch.zeros(1), torch.zeros(1), torch.zeros(1), 1.0, 1, "sigmoid", 0.2)
    assert gradient(found, chosen) == pytest.approx([0.0], abs=1e-6)


def test_ipo_is_least_at_a_margin_of_one_half() -> None:
    chosen = leaf(1 / (2 * 0.1))
    found, terms = dpo(chosen, torch.zeros(1), torch.zeros(1), torch.zeros(1), 0.1, 1, "ipo")
    assert (found.item(), gradient(found, chosen)) == (0.0, [0.0])
    assert terms.chosen_rewards.item() == pytest.approx(0.5)


# -- sums --------------------------------------------------------------------------------------------------------------


def test_sequence_sums_by_hand() -> None:
    values = leaf(1.0, 2.0, 4.0, 8.0)
    sums = sequence_sums(values, torch.tensor([0, 2, 0, 2]), 4)
    assert sums.tolist() == [5.0, 0.0, 10.0, 0.0]  # owners 1 and 3 have no token
    assert gradient(sums[2], values) == [0.0, 1.0, 0.0, 1.0]
