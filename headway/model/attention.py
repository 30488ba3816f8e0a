"""Causal attention over documents that lie end to end in one flat row of tokens, and never see each other.

    tokens  [T]   = document 0 | document 1 | ...        no padding in any matrix product
    layout        = documents of similar length, gathered as a batch  [B, L, ...]  for the attention alone

Within a gathered batch padding stands behind every document, where causality hides it: no mask is needed, and the result
is that of each document alone. This file does not know what a layer is, nor that anything is cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SIMILAR = 0.8  # a gathered batch holds documents at least this share of its longest


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the documents of a flat row lie.

    Example: lengths (3, 2) give ``positions=[0,1,2,0,1]``, one group ``[[0,1,2],[3,4,0]]`` and ``inverse=[0,1,2,3,4]``.

    positions [T] restart at every document. Each group [B, L] holds token indices (padding repeats index 0).
    `inverse` [T] is each token's place among the flattened groups laid end to end.
    """

    positions: Tensor
    groups: tuple[Tensor, ...]
    inverse: Tensor
    lengths: tuple[int, ...]

    @property
    def last(self) -> Tensor:
        """The index of each document's last token, [documents]."""
        return torch.tensor(self.lengths, device=self.positions.device).cumsum(0) - 1


def lay_out(lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
    """The layout of documents with these lengths, in this order."""
    assert min(lengths, default=0) > 0, "a layout needs documents of at least one token"
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    positions = torch.cat([torch.arange(n) for n in lengths])
    inverse = torch.empty(int(sizes.sum()), dtype=torch.int64)
    groups: list[Tensor] = []
    offset = 0
    for members in _similar(lengths):
        longest = int(sizes[members].max())
        columns = torch.arange(longest)
        index = starts[members][:, None] + columns[None, :]
        valid = columns[None, :] < sizes[members][:, None]
        place = offset + torch.arange(index.numel()).view_as(index)
        inverse[index[valid]] = place[valid]
        groups.append(index.where(valid, torch.zeros_like(index)).to(device))
        offset += index.numel()
    return Layout(positions.to(device), tuple(groups), inverse.to(device), tuple(lengths))


def _similar(lengths: Sequence[int]) -> list[list[int]]:
    """Document numbers in groups of similar length, longest first, each group in its original order."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    for i in order:
        if groups and lengths[i] >= _SIMILAR * lengths[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


class _Gather(torch.autograd.Function):
    """x [T, ...] -> x[index] [B, L, ...]; each token's gradient is that of its one valid place, padding has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, offset: int) -> Tensor:
        ctx.save_for_backward(index, inverse)
        ctx.offset, ctx.shape = offset, x.shape
        return x.index_select(0, index.reshape(-1)).view(*index.shape, *x.shape[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        index, inverse = ctx.saved_tensors
        flat = grads[0].reshape(index.numel(), *ctx.shape[1:])
        place = inverse - ctx.offset
        if index.numel() >= ctx.shape[0] and ctx.offset == 0 and bool((place < index.numel()).all()):
            return flat.index_select(0, place), None, None, None
        here = (place >= 0) & (place < index.numel())
        out = flat.new_zeros(ctx.shape)
        out[here] = flat.index_select(0, place[here])
        return out, None, None, None


class _Scatter(torch.autograd.Function):
    """y [places, ...] -> y[inverse] [T, ...]; places that are padding get zero gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.shape = y.shape
        return y.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        out = grads[0].new_zeros(ctx.shape)
        out.index_copy_(0, inverse, grads[0])
        return out, None


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """Causal attention inside each document: q [T, heads, d], k and v [T, kv_heads, d] -> [T, heads, d]."""
    outputs: list[Tensor] = []
    offset = 0
    for index in layout.groups:
        parts = [_Gather.apply(x, index, layout.inverse, offset).transpose(1, 2) for x in (q, k, v)]  # type: ignore
        out = F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        outputs.append(out.transpose(1, 2).reshape(index.numel(), q.shape[1], q.shape[2]))
        offset += index.numel()
    return _Scatter.apply(torch.cat(outputs) if len(outputs) > 1 else outputs[0], layout.inverse)  # type: ignore
