"""Log-probabilities of given tokens, without ever holding tokens x vocabulary logits.

    lp_t = z_t[y_t] - logsumexp(z_t),   z_t = W h_t / temperature,        d lp / d z = onehot(y) - softmax(z)

Forward and backward walk over chunks of tokens and make the chunk's logits anew; only hidden states and one number a token
are kept. It does not know which loss the log-probs go into.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headway.model import products

_CHUNK_ELEMENTS = 8_388_608  # float32 logits held at once (32 MiB)


def _chunks(tokens: int, vocabulary: int) -> range:
    return range(0, tokens, max(1, _CHUNK_ELEMENTS // vocabulary))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        steps = _chunks(hidden.shape[0], weight.shape[0])
        out = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        norm = torch.empty_like(out)
        for start in steps:
            part = slice(start, start + steps.step)
            logits = _logits(hidden[part], weight, scale[part])
            norm[part] = logits.logsumexp(-1)
            out[part] = logits.gather(-1, targets[part, None]).squeeze(-1) - norm[part]
        ctx.save_for_backward(hidden, weight, targets, scale, norm)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, scale, norm = ctx.saved_tensors
        steps = _chunks(hidden.shape[0], weight.shape[0])
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None  # None: it is frozen
        for start in steps:
            part = slice(start, start + steps.step)
            d_logits = _logits(hidden[part], weight, scale[part]).sub_(norm[part, None]).exp_().neg_()
            d_logits.scatter_add_(-1, targets[part, None], torch.ones_like(d_logits[:, :1]))
            d_logits.mul_((grads[0][part] * scale[part])[:, None])
            d_logits = d_logits.to(weight.dtype)
            d_hidden[part] = (d_logits @ weight).to(hidden.dtype)
            if d_weight is not None:
                d_weight += d_logits.t() @ hidden[part].to(weight.dtype)
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None


def _logits(hidden: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """float32 logits [T, vocabulary] divided by the temperature (scale = 1 / temperature, [T])."""
    return products.wide_product(hidden, weight).mul_(scale[:, None])


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """log p(targets[t] | hidden[t]) in nats, float32 [T], of the distribution at `temperature` (a number or [T]).

    hidden [T, width], weight [vocabulary, width], targets int64 [T]. Differentiable in hidden and weight.
    """
    temperature = torch.as_tensor(temperature, dtype=torch.float32, device=hidden.device)
    scale = (1.0 / temperature).expand(hidden.shape[0])
    if hidden.is_cuda and torch.is_autocast_enabled("cuda"):
        weight = weight.to(torch.get_autocast_dtype("cuda"))
    return _TokenLogprobs.apply(hidden, weight, targets, scale)  # type: ignore[no-any-return]


@torch.no_grad()
def next_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """float32 logits [B, vocabulary] at temperature 1: what the sampler draws from."""
    if hidden.is_cuda and torch.is_autocast_enabled("cuda"):
        weight = weight.to(torch.get_autocast_dtype("cuda"))
    return products.wide_product(hidden, weight)
