"""The losses, as pure functions of per-token log-probs. Tensors only: no model, no rollout, no constants of a recipe.

    nll      - sum lp / N
    dpo      mean f(h),  h = (lw - rw) - (ll - rl):  f = - log sigmoid(beta h)          Rafailov 2023, eq. 7; others: `DpoLoss`

Those of RL are in `policy_losses`. Every loss is normalised by a number of the *whole* optimizer step (tokens or pairs), which
the caller passes as `total`: a long batch and its pieces give one gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from headway.stage_config import DpoLoss


def nll(logprobs: Tensor, total: float) -> Tensor:
    """Negative log-likelihood in nats a token: logprobs [N] of learned tokens, of which the whole step has `total`.

    Where the whole step learns nothing (`total` 0) the loss is 0.
    """
    return -logprobs.sum() / max(1.0, total)


@dataclass(frozen=True, slots=True)
class DpoTerms:
    """What a batch of pairs gave, each [pairs] and detached: rewards are beta (policy - reference) in nats."""

    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_reference: Tensor,
    rejected_reference: Tensor,
    beta: float,
    total: float,
    loss: DpoLoss = "sigmoid",
    label_smoothing: float = 0.0,
) -> tuple[Tensor, DpoTerms]:
    """A loss of the DPO family over `total` pairs a step: log-probs [pairs] of sequences, or (IPO, length-normalised) a token.

    With h = (chosen - its reference) - (rejected - its reference), m = beta h, and e = `label_smoothing`, of each pair:

        sigmoid   - (1 - e) log sigmoid(m) - e log sigmoid(-m)                   arXiv 2305.18290, eq. 7; cDPO (Mitchell 2023)
        robust    (- (1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2 e)     rDPO (arXiv 2403.00409)
        hinge     max(0, 1 - m)                                                  SLiC-HF (2305.10425) in RSO's form (2309.06657)
        ipo       (h - 1 / (2 beta))^2                                           arXiv 2310.12036, eq. 17

    At policy = reference the mean loss is log 2, log 2, 1 and 1 / (4 beta^2).
    """
    chosen_rewards = beta * (chosen - chosen_reference)
    rejected_rewards = beta * (rejected - rejected_reference)
    margin = chosen_rewards - rejected_rewards
    if loss == "ipo":
        each = (margin / beta - 1 / (2 * beta)).square()
    elif loss == "hinge":
        each = F.relu(1 - margin)
    else:
        each = -F.logsigmoid(margin)
        if label_smoothing:
            flipped = label_smoothing * F.logsigmoid(-margin)
            each = (1 - label_smoothing) * each + (flipped if loss == "robust" else -flipped)
        if loss == "robust":
            each = each / (1 - 2 * label_smoothing)
    return each.sum() / total, DpoTerms(chosen_rewards.detach(), rejected_rewards.detach())


def sequence_sums(values: Tensor, owner: Tensor, sequences: int) -> Tensor:
    """Sum of values [T] by owner [T] in 0 .. sequences-1: float32 [sequences]."""
    return values.new_zeros(sequences).index_add(0, owner, values)
