"""Log-probabilities of given tokens, without ever holding tokens x vocabulary logits.

    lp_t = z_t[y_t] - logsumexp(z_t),   z_t = W h_t / temperature,        d lp / d z = onehot(y) - softmax(z)
    entropy_t = - sum_v p_v log p_v,    p = softmax(z_t)                  in the same chunks, without a gradient

Forward and backward walk over chunks of tokens and make the chunk's logits anew; only hidden states and one number a token
are kept. The gradient of W is added up in float32, whatever the products are made in. It does not know the losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headway.model import products

_CHUNK_ELEMENTS = 8_388_608  # float32 logits held at once (32 MiB)
_CUDA_CHUNKS = 16  # times as many on CUDA: a product of 40 rows would leave it idle
_LEAST_TOKENS = 128  # of a chunk, however large the vocabulary: each chunk reads W twice and its gradient once
_MOST_ELEMENTS = 33_554_432  # what those may come to hold (128 MiB)


def chunk_tokens(tokens: int, vocabulary: int, device: str = "cpu") -> int:
    """Tokens whose logits are held at once: 32 MiB of them, but 128 tokens at least if these take no more than 128 MiB."""
    least = min(_LEAST_TOKENS, _MOST_ELEMENTS // vocabulary) if vocabulary < _CHUNK_ELEMENTS else 0
    held = _CHUNK_ELEMENTS * (_CUDA_CHUNKS if device == "cuda" else 1) // vocabulary
    return max(1, min(tokens, max(held, least)))


def _chunks(hidden: Tensor, weight: Tensor) -> range:
    return range(0, hidden.shape[0], chunk_tokens(hidden.shape[0], weight.shape[0], hidden.device.type))


class _TokenLogprobs(torch.autograd.Function):
    """`kind` is the type that products are made in; weight and its gradient keep their own."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, kind: torch.dtype, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        steps, low = _chunks(hidden, weight), weight.to(kind)
        out = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        norm = torch.empty_like(out)
        entropy = torch.empty_like(out if with_entropy else out[:0])
        for start in steps:
            part = slice(start, start + steps.step)
            logits = _logits(hidden[part], low, scale[part])
            norm[part] = logits.logsumexp(-1)
            out[part] = logits.gather(-1, targets[part, None]).squeeze(-1) - norm[part]
            if with_entropy:
                logits.sub_(norm[part, None])  # log p, each at most 0: a sum of like signs
                entropy[part] = -logits.exp().mul_(logits).sum(-1)
            del logits  # before the next chunk's are made
        ctx.save_for_backward(hidden, weight, targets, scale, norm)
        ctx.mark_non_differentiable(entropy)
        ctx.kind = kind
        return out, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, scale, norm = ctx.saved_tensors
        steps, low = _chunks(hidden, weight), weight.to(ctx.kind)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None  # None: it is frozen
        for start in steps:
            part = slice(start, start + steps.step)
            d_logits = _logits(hidden[part], low, scale[part]).sub_(norm[part, None]).exp_().neg_()
            d_logits.scatter_add_(-1, targets[part, None], torch.ones_like(d_logits[:, :1]))
            d_logits.mul_((grads[0][part] * scale[part])[:, None])
            d_logits = d_logits.to(ctx.kind)
            d_hidden[part] = (d_logits @ low).to(hidden.dtype)
            if d_weight is not None:
                _add_product(d_weight, d_logits.t(), hidden[part].to(ctx.kind))
            del d_logits
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b in float32: [vocabulary, width], [vocabulary, T], [T, width]; in place if it can."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _logits(hidden: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """float32 logits [T, vocabulary] divided by the temperature (scale = 1 / temperature, [T])."""
    return products.wide_product(hidden, weight).mul_(scale[:, None])


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """log p(targets[t] | hidden[t]) in nats, float32 [T], of the distribution at `temperature` (a number or [T]).

    hidden [T, width], weight [vocabulary, width], targets int64 [T]. Differentiable in hidden and weight.
    """
    return _apply(hidden, weight, targets, temperature, False)[0]


def token_logprobs_and_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """As `token_logprobs`, and the entropy of each of those distributions in nats, float32 [T], which has no gradient."""
    return _apply(hidden, weight, targets, temperature, True)


def _apply(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    temperature = torch.as_tensor(temperature, dtype=torch.float32, device=hidden.device)
    scale = (1.0 / temperature).expand(hidden.shape[0])
    kind = weight.dtype
    if hidden.is_cuda and torch.is_autocast_enabled("cuda"):
        kind = torch.get_autocast_dtype("cuda")
    return _TokenLogprobs.apply(hidden, weight, targets, scale, kind, with_entropy)  # type: ignore[no-any-return]


@torch.no_grad()
def next_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """float32 logits [B, vocabulary] at temperature 1: what the sampler draws from."""
    return products.wide_product(hidden, weight)
