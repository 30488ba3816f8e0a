"""Logits to tokens: keyed noise, temperature, top-p, and the log-prob of what was drawn.

    u = uniform(key, position);   token = smallest v with  sum_{w <= v} p_w > u

One uniform number a token decides it (inverse-CDF), and it is a function of (key, position) alone, where the key is a
function of (seed, problem, index, ...): neither the batch, nor the order, nor a restart changes a sample. It does not
know what a prompt or a cache is.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

_M64 = (1 << 64) - 1
_HEAD = 256  # tokens among which top-p's set is looked for first


def sample_key(seed: int, *coordinates: object) -> int:
    """The 64-bit noise key of one sample, from the run's seed and the sample's coordinates (problem, index, step ...)."""
    text = "\x1f".join(str(part) for part in (seed, *coordinates))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each (key, position): SplitMix64 of their mix. uint64 and int64 [B] -> float64 [B]."""
    with np.errstate(over="ignore"):
        x = keys + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(logits: Tensor, noise: Tensor, temperature: Tensor, top_p: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw one token a row.

    logits float32 [B, V] (temperature 1), noise float64 [B] in [0, 1), temperature float32 [B] (0 = the likeliest token),
    top_p float32 [B] or None for no truncation anywhere. Returns tokens int64 [B] and their log-probs float32 [B] under
    the distribution drawn from; a greedy row reports the log-prob at temperature 1.
    """
    greedy = temperature == 0
    scale = torch.where(greedy, torch.ones_like(temperature), temperature)
    logprobs = (logits / scale[:, None]).log_softmax(-1)
    truncated = top_p < 1 if top_p is not None else torch.zeros_like(greedy)
    if top_p is not None and bool(truncated.all()):
        tokens, chosen = _nucleus(logprobs, noise, top_p)
    else:
        tokens = _inverse_cdf(logprobs.exp(), noise)
        chosen = logprobs.gather(-1, tokens[:, None]).squeeze(-1)
        if top_p is not None and bool(truncated.any()):
            cut_tokens, cut_chosen = _nucleus(logprobs, noise, top_p)
            tokens, chosen = torch.where(truncated, cut_tokens, tokens), torch.where(truncated, cut_chosen, chosen)
    if bool(greedy.any()):
        best = logits.argmax(-1)
        tokens = torch.where(greedy, best, tokens)
        chosen = torch.where(greedy, logprobs.gather(-1, best[:, None]).squeeze(-1), chosen)
    return tokens, chosen


def _inverse_cdf(probs: Tensor, noise: Tensor) -> Tensor:
    """The first index whose cumulative probability exceeds noise times the total; never one of probability zero."""
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    goal = noise[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, goal, right=True).squeeze(-1).clamp_(max=probs.shape[-1] - 1)


def _nucleus(logprobs: Tensor, noise: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from the smallest set of likeliest tokens with mass >= top_p (Holtzman 2020), renormalised.

    That set is nearly always within the `_HEAD` likeliest tokens, and sorting a large vocabulary costs as much as a small model's
    step: so those are looked at first, and only the rows whose set goes beyond them are sorted whole.
    """
    if logprobs.shape[-1] <= 8 * _HEAD:  # a small one is sorted sooner than searched
        order = torch.arange(logprobs.shape[-1], device=logprobs.device).expand(logprobs.shape)
        return _nucleus_of(logprobs, order, noise, top_p)[:2]
    head = logprobs.topk(_HEAD, sorted=False).indices.sort(-1).values  # by token, as ties are ordered
    tokens, chosen, is_whole = _nucleus_of(logprobs.gather(-1, head), head, noise, top_p)
    beyond = (~is_whole).nonzero().squeeze(-1)
    if len(beyond):
        order = torch.arange(logprobs.shape[-1], device=logprobs.device).expand(len(beyond), -1)
        tokens[beyond], chosen[beyond], _ = _nucleus_of(logprobs[beyond], order, noise[beyond], top_p[beyond])
    return tokens, chosen


def _nucleus_of(logprobs: Tensor, order: Tensor, noise: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The draw from candidates [B, C] whose tokens are `order` [B, C], ascending; and whether the set ends within them."""
    ordered, places = torch.sort(logprobs, dim=-1, descending=True, stable=True)
    probs = ordered.exp()
    is_kept = probs.cumsum(-1) - probs < top_p[:, None]
    kept = torch.where(is_kept, probs, torch.zeros_like(probs))
    place = _inverse_cdf(kept, noise)[:, None]
    chosen = ordered.gather(-1, place) - kept.sum(-1, keepdim=True).log()
    least = ordered.masked_fill(~is_kept, math.inf).amin(-1)
    is_whole = least > ordered[:, -1]  # strictly: a token beyond the candidates may tie with the last of them
    return order.gather(-1, places.gather(-1, place)).squeeze(-1), chosen.squeeze(-1), is_whole
