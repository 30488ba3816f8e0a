"""Attention inside documents on CUDA, where they lie: Flash Attention over variable lengths, so that no padding is computed.

    q      [T, heads, d]           document j's own tokens are the rows   own_starts[j] : own_starts[j + 1]
    k, v   [places, kv_heads, d]   all its tokens, gathered where some are shared:   starts[j] : starts[j + 1]

The kernel aligns the causal mask to the end of both, and a document's own tokens are its last ones: with n of its m tokens its
own, query i sees the first m - n + i + 1 keys. It computes in 16 bits; elsewhere (float32, an older card, a PyTorch whose
`varlen_attn` cannot group heads) `attention` gathers similar documents instead, with the same results but for rounding.

It does not know what a layer is, nor how documents were laid out.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.model.kernel import Documents

_WIDEST = 256  # dimensions of a head that the kernel takes
_EIGHTH_GENERATION = (8, 0)  # the oldest cards that Flash Attention 2 runs on


class VarlenDocuments(NamedTuple):
    """Documents among flat tokens, on a device: `own_starts` and `starts` [documents + 1] in int32, `longest_own` and `longest`
    in tokens; `index` [places] gathers keys and values, None where no token is shared."""

    index: Tensor | None
    own_starts: Tensor
    starts: Tensor
    longest_own: int
    longest: int


def on_device(documents: Documents, is_shared: bool, device: torch.device | str) -> VarlenDocuments:
    """The same documents as the kernel wants them, moved once for all layers."""
    own_starts = F.pad(documents.own.cumsum(0), (1, 0)).to(device, torch.int32)
    index = documents.index.to(device) if is_shared else None
    return VarlenDocuments(
        index, own_starts, documents.starts.to(device, torch.int32), int(documents.own.max()), documents.longest
    )


def can_compute(q: Tensor) -> bool:
    """Are these queries something the kernel takes here: 16 bits (also by autocast), heads of at most 256 in steps of 8?"""
    if q.device.type != "cuda" or q.shape[-1] > _WIDEST or q.shape[-1] % 8:
        return False
    return _dtype(q).itemsize == 2 and torch.cuda.get_device_capability(q.device) >= _EIGHTH_GENERATION and _is_known()


def causal(q: Tensor, k: Tensor, v: Tensor, documents: VarlenDocuments, window: int = 0, scale: float | None = None) -> Tensor:
    """q [T, heads, d], k and v [T, kv_heads, d] -> [T, heads, d] in 16 bits. With a `window`, as in `attention.attend`."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x.to(_dtype(q)) for x in (q, k, v))
    if documents.index is not None:
        k, v = k.index_select(0, documents.index), v.index_select(0, documents.index)
    left = window - 1 if window else -1  # the kernel counts the tokens before, we count the token itself, too
    found = varlen_attn(
        q, k, v, documents.own_starts, documents.starts, documents.longest_own, documents.longest,
        scale=scale, window_size=(left, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    assert isinstance(found, Tensor), "without auxiliary outputs asked for, there is one"
    return found


def _dtype(x: Tensor) -> torch.dtype:
    """What this is computed in: autocast does not know the kernel."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


@cache
def _is_known() -> bool:
    """Does this PyTorch have the function, with windows and grouped heads?"""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()
