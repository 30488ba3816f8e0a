"""The losses, as pure functions of per-token log-probs. Tensors only: no model, no rollout, no constants of a recipe.

    nll      - sum lp / N
    dpo      - mean log sigmoid( beta [ (lw - rw) - (ll - rl) ] )                       Rafailov 2023, eq. 7

Those of RL are in `policy_losses`. Every loss is normalised by a number of the *whole* optimizer step (tokens or pairs), which
the caller passes as `total`: a long batch and its pieces give one gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


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
    chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor, beta: float, total: float
) -> tuple[Tensor, DpoTerms]:
    """Direct preference optimisation (arXiv 2305.18290, eq. 7): sequence log-probs [pairs], `total` pairs in the step.

    At policy = reference the mean loss is log 2.
    """
    chosen_rewards = beta * (chosen - chosen_reference)
    rejected_rewards = beta * (rejected - rejected_reference)
    loss = -F.logsigmoid(chosen_rewards - rejected_rewards).sum() / total
    return loss, DpoTerms(chosen_rewards.detach(), rejected_rewards.detach())


def sequence_sums(values: Tensor, owner: Tensor, sequences: int) -> Tensor:
    """Sum of values [T] by owner [T] in 0 .. sequences-1: float32 [sequences]."""
    return values.new_zeros(sequences).index_add(0, owner, values)
