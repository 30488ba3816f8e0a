"""Causal attention over documents that lie end to end in one flat row of tokens, and never see each other.

    tokens  [T]   = document 0 | document 1 | ...        no padding in any matrix product
    layout        = documents of similar length, gathered as a batch  [B, L, ...]  for the attention alone

That is how it is done without a kernel. In float32 on the CPU `fused` walks over the documents where they lie, in 16 bits on CUDA
`varlen`: neither gathers queries, and neither computes padding.

A document may begin with the first tokens of an earlier one (the prompt of a group, of a pair): those are computed once, and
gathered for each. Within a gathered batch padding stands behind every document, where causality hides it: no mask is needed, and
the result is that of each document alone. Only documents longer than a layer's window need one. This file does not know what a
layer is, nor that anything is cached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.model import fused, varlen
from headway.model.kernel import Documents
from headway.model.varlen import VarlenDocuments

_LEAST_STEP = 256  # queries of a windowed layer at once
_SIMILAR = 0.8  # a gathered batch holds documents at least this share of its longest


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the documents of a flat row lie.

    Example: lengths (3, 2) give ``positions=[0,1,2,0,1]``, groups ``[[0,1,2]]`` and ``[[3,4]]``, ``inverse=[0,1,2,3,4]``. If the
    second begins with the first two tokens of the first, ``positions=[0,1,2,2,3]`` and groups ``[[0,1,3,4]]`` and ``[[0,1,2]]``.

    positions [T] restart at every document. Each group [B, L] holds token indices (padding repeats index 0).
    `inverse` [T] is each token's place in its own document among the flattened groups laid end to end. `documents` says the same
    as `groups`, without padding, on the CPU; `on_cuda` says it once more where the layout is on a CUDA device.
    """

    positions: Tensor
    groups: tuple[Tensor, ...]
    inverse: Tensor
    documents: Documents
    lengths: tuple[int, ...]
    is_shared: bool  # some tokens stand in several documents
    on_cuda: VarlenDocuments | None = None

    @property
    def last(self) -> Tensor:
        """The index of each document's last token, [documents]."""
        return torch.tensor(self.lengths, device=self.positions.device).cumsum(0) - 1


def lay_out(
    lengths: Sequence[int], device: torch.device | str = "cpu", shared: Mapping[int, tuple[int, int]] | None = None
) -> Layout:
    """The layout of documents with these lengths, in this order.

    `shared[j] = (i, n)`: document j begins with the first n tokens of document i, which does not share itself; its length counts
    what comes after them.
    """
    assert min(lengths, default=0) > 0, "a layout needs documents of at least one token"
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    prefix, origin = torch.zeros_like(sizes), starts.clone()
    for document, (first, count) in (shared or {}).items():
        assert first not in (shared or {}), "a shared beginning belongs to a document that has all of it"
        prefix[document], origin[document] = count, starts[first]
    whole = prefix + sizes
    positions = torch.cat([torch.arange(p, n) for p, n in zip(prefix.tolist(), whole.tolist(), strict=True)])
    inverse = torch.empty(int(sizes.sum()), dtype=torch.int64)
    groups: list[Tensor] = []
    offset = 0
    for members in _similar(whole.tolist()):
        columns = torch.arange(int(whole[members].max()))[None, :]
        own = columns - prefix[members][:, None]
        index = torch.where(own < 0, origin[members][:, None] + columns, starts[members][:, None] + own)
        valid = columns < whole[members][:, None]
        place = offset + torch.arange(index.numel()).view_as(index)
        is_own = valid & (own >= 0)
        inverse[index[is_own]] = place[is_own]
        groups.append(index.where(valid, torch.zeros_like(index)).to(device))
        offset += index.numel()
    parts = zip(origin.tolist(), prefix.tolist(), starts.tolist(), lengths, strict=True)
    places = [torch.arange(a, a + n) for first, count, start, length in parts for a, n in ((first, count), (start, length)) if n]
    documents = Documents(torch.cat(places), F.pad(whole.cumsum(0), (1, 0)), sizes)
    on_cuda = varlen.on_device(documents, bool(shared), device) if torch.device(device).type == "cuda" else None
    return Layout(positions.to(device), tuple(groups), inverse.to(device), documents, tuple(lengths), bool(shared), on_cuda)


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
    """x [T, ...] -> x[index] [B, L, ...]; a token's gradient is the sum over its places, of which padding's are zero.

    Unless tokens are shared, a token has one valid place: its gradient is found there, which is cheaper than a sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, layout: Layout, offset: int) -> Tensor:
        ctx.save_for_backward(index, layout.inverse)
        ctx.offset, ctx.shape, ctx.is_shared = offset, x.shape, layout.is_shared
        return x.index_select(0, index.reshape(-1)).view(*index.shape, *x.shape[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        index, inverse = ctx.saved_tensors
        flat = grads[0].reshape(index.numel(), *ctx.shape[1:])
        if ctx.is_shared:
            rows = flat.reshape(index.numel(), -1)
            out = rows.new_zeros(ctx.shape[0], rows.shape[1])
            return out.scatter_add_(0, index.reshape(-1, 1).expand_as(rows), rows).view(ctx.shape), None, None, None
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


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int = 0, scale: float | None = None) -> Tensor:
    """Causal attention inside each document: q [T, heads, d], k and v [T, kv_heads, d] -> [T, heads, d].

    With a `window` each token sees the last `window` tokens of its document, itself included; 0: all of them. `scale` multiplies
    q k; None: d ** -0.5.
    """
    if not window or layout.documents.longest <= window:
        found = fused.causal(q, k, v, layout.documents, layout.is_shared, scale)
        if found is not None:
            return found
    if layout.on_cuda is not None and varlen.can_compute(q):
        return varlen.causal(q, k, v, layout.on_cuda, window, scale)
    outputs: list[Tensor] = []
    offset = 0
    for index in layout.groups:
        parts = [_Gather.apply(x, index, layout, offset).transpose(1, 2) for x in (q, k, v)]  # type: ignore
        out = _causal(*parts, window, scale)
        outputs.append(out.transpose(1, 2).reshape(index.numel(), q.shape[1], q.shape[2]))
        offset += index.numel()
    return _Scatter.apply(torch.cat(outputs) if len(outputs) > 1 else outputs[0], layout.inverse)  # type: ignore


def _causal(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None) -> Tensor:
    """q [B, heads, L, d], k and v [B, kv_heads, L, d] -> [B, heads, L, d]."""
    length, is_grouped = q.shape[2], q.shape[1] != k.shape[1]
    if not window or length <= window:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=is_grouped)
    step = max(window, _LEAST_STEP)  # queries at once: their keys are at most step + window, however long the document
    outputs: list[Tensor] = []
    for start in range(0, length, step):
        end, first = min(start + step, length), max(0, start - window + 1)
        at = torch.arange(start, end, device=q.device)[:, None]
        seen = torch.arange(first, end, device=q.device)[None, :]
        mask = (seen <= at) & (seen > at - window)
        keys, values = k[:, :, first:end], v[:, :, first:end]
        part = F.scaled_dot_product_attention(q[:, :, start:end], keys, values, mask, scale=scale, enable_gqa=is_grouped)
        outputs.append(part)
    return torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0]
