"""The losses of RL, as pure functions of per-token log-probs. Tensors only: no model, no rollout, no constants of a recipe.

    clip       - sum_t w_t min( rho_t A, clip(rho_t, 1-low, 1+high) A )             PPO, GRPO, DAPO; GSPO with a sequence's ratio
    weight     - sum_t w_t sg( clip(rho_t, 1-low, 1+high) ) A log p_t               CISPO: no token loses its gradient
    reinforce  - sum_t w_t A log p_t                                                RLOO: no ratio at all
    KL         + coef sum_t w_t k(log p_t, log ref_t)                               k1, k2 or k3

`rho = exp(log p - log p_old)`, sg stops the gradient, and `w_t` carries the normalisation (`token_weights`) by a number of the
*whole* optimizer step: a long batch and its pieces give one gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.train.losses import sequence_sums


@dataclass(frozen=True, slots=True)
class Clipped:
    """Tokens whose ratio the clip acted on, detached sums: above 1 + clip_high and below 1 - clip_low."""

    high: Tensor
    low: Tensor


def token_log_ratio(logprobs: Tensor, old_logprobs: Tensor, weights: Tensor) -> Tensor:
    """log rho [N] of each token, 0 (and without gradient) where its weight is 0."""
    return torch.where(weights > 0, logprobs - old_logprobs, torch.zeros_like(logprobs))


def sequence_log_ratio(log_ratio: Tensor, weights: Tensor, owner: Tensor, sequences: int) -> Tensor:
    """GSPO's log s_i (2507.18071, eq. 7): each token [N] gets the mean over the tokens with a weight of its sequence `owner[n]`.

    s_i = (pi(y) / pi_old(y)) ^ (1 / length): as all tokens share it, whole sequences are clipped.
    """
    sums = sequence_sums(log_ratio, owner, sequences)
    lengths = sequence_sums((weights > 0).to(log_ratio.dtype), owner, sequences).clamp(min=1)
    return (sums / lengths)[owner]


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, weights: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Clipped]:
    """PPO's clipped surrogate (1707.06347, eq. 7), asymmetric as in DAPO (2503.14476, eq. 8): the loss and what was clipped.

    log_ratio, advantages and weights [N], one a learned token; weights are 0 where nothing is learned. A token whose ratio has
    left the bounds on the side that its advantage wants has no gradient. At ratio 1 and advantage 1 the gradient is `nll`'s.
    """
    ratio = log_ratio.exp()
    plain = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    loss = -(weights * torch.minimum(plain, bounded)).sum()
    with torch.no_grad():
        acted = (bounded < plain) & (weights > 0)
        return loss, Clipped((acted & (advantages > 0)).sum(), (acted & (advantages < 0)).sum())


def weighted_surrogate(
    logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, weights: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Clipped]:
    """CISPO (MiniMax-M1, 2506.13585, eq. 4): the clipped ratio, held constant, weighs the gradient of log p of every token.

    `clip_low = 1` is no lower bound. Where the ratio is within the bounds the gradient is that of `clipped_surrogate`.
    """
    counted = weights > 0
    with torch.no_grad():
        ratio = log_ratio.exp()
        factor = weights * advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
        clipped = Clipped(((ratio > 1 + clip_high) & counted).sum(), ((ratio < 1 - clip_low) & counted).sum())
    return -(factor * torch.where(counted, logprobs, torch.zeros_like(logprobs))).sum(), clipped


def reinforce(logprobs: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    """REINFORCE as in RLOO (2402.14740, eq. 5): right only for tokens of the policy itself, as it corrects for no other."""
    return -(weights * advantages * torch.where(weights > 0, logprobs, torch.zeros_like(logprobs))).sum()


def kl_estimate(kind: str, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """An estimate a token [N] of KL(policy || reference) in nats, from tokens of the policy (Schulman 2020), r = ref / policy:

        k1  - log r             unbiased, of both signs    as a loss: gradient 0 in expectation; right when taken off the reward
        k2  (log r)^2 / 2       biased, never negative     as a loss: the right gradient, that of KL(policy || reference)
        k3  r - 1 - log r       unbiased, never negative   as a loss: the gradient of KL(reference || policy); GRPO's choice

    The gradients are those of a token's own KL on tokens of the policy as it is; off it, they would need the ratio as a weight.
    """
    log_r = reference_logprobs - logprobs
    if kind == "k1":
        return -log_r
    if kind == "k2":
        return log_r.square() / 2
    assert kind == "k3", f"no estimator {kind!r}"
    return log_r.exp() - 1 - log_r


def kl_penalty(kind: str, logprobs: Tensor, reference_logprobs: Tensor, weights: Tensor) -> Tensor:
    """sum of w_t k_t: the weighted estimate over the tokens that have a weight."""
    known = torch.where(weights > 0, logprobs, reference_logprobs)  # before the estimate: 0 x the slope of a nan is a nan
    return (weights * kl_estimate(kind, known, reference_logprobs)).sum()


@torch.no_grad()
def truncated_weights(trainer_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Truncated importance sampling (Yao et al. 2025; cap 2.0): min(p_trainer / p_sampler, cap) a token [N], and the capped ones.

    Both are of the weights that sampled, before any update: the factor corrects what differs between two ways of computing
    one policy (another engine, another precision), and never lets a token count more than `cap` times.
    """
    ratio = (trainer_logprobs - sampler_logprobs).exp()
    return ratio.clamp(max=cap), ratio > cap


def token_weights(level: str, lengths: Sequence[int], constant: float = 0.0) -> list[float]:
    """The weight of each token of each sequence of an optimizer step whose sequences have these `lengths`.

        token         1 / tokens of the step                   DAPO: a long response weighs more
        sequence      1 / (sequences x its length)             GRPO: each response weighs the same
        sequence_sum  1 / sequences                            RLOO: a response is one action of summed log-prob
        constant      1 / constant                             Dr. GRPO: rollouts of a step x max_tokens

    >>> token_weights("sequence", [1, 4])
    [0.5, 0.125]
    """
    if level == "token":
        tokens = sum(lengths)
        return [1 / tokens] * len(lengths)
    if level == "sequence":
        return [1 / (len(lengths) * n) for n in lengths]
    if level == "sequence_sum":
        return [1 / len(lengths)] * len(lengths)
    assert level == "constant", f"no loss level {level!r}"
    return [1 / constant] * len(lengths)
