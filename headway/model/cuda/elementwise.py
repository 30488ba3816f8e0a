"""What lies between the products of a decode step, one launch each: 16-bit numbers in memory, float32 in between.

    rms_norm      x / rms(x) * (offset + weight)                                     a program a row
    turn_heads    each head of q and k normed, then turned, where it lies            a program a head
    gate          silu(gate) * up                                                    a program a tile of a row

They round where the trainer's PyTorch rounds under autocast to bfloat16, so that sampler and trainer are one policy; only sums
run in another order. Sizes are compiled in; nothing waits for the card, and nothing but the result is allocated, so that all of
it can be captured in a CUDA graph. To be imported only where Triton is. This file does not know what a layer is, nor attention.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from headway.model.cuda import jit, launch

_GATE_TILE = 1024


@jit
@no_type_check
def _rms_norm(x, weight, out, stride, offset, eps, SIZE: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    inside = at < SIZE
    values = tl.load(x + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    factors = tl.load(weight + at, mask=inside, other=0.0) + offset
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / SIZE + eps)
    tl.store(out + row * SIZE + at, (values * scale * factors).to(tl.bfloat16), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
    """x / rms(x) * (offset + weight): x [T, n] float32 or bfloat16, rows contiguous, weight [n] float32 -> bfloat16 [T, n]."""
    rows, size = x.shape
    assert x.stride(1) == 1, "rows are read along memory"
    assert weight.dtype == torch.float32, "weights of a norm stay float32"
    assert weight.is_contiguous(), "and lie end to end"
    out = torch.empty((rows, size), dtype=torch.bfloat16, device=x.device)
    if rows:
        padded = triton.next_power_of_2(size)
        warps = min(16, max(1, padded // 512))
        _rms_norm[(rows,)](x, weight, out, x.stride(0), offset, eps, SIZE=size, PADDED=padded, **launch(warps))
    return out


@jit
@no_type_check
def _turn(
    both, q_weight, k_weight, cos, sin, offset, eps,
    HEADS: tl.constexpr, ALL_HEADS: tl.constexpr, DIM: tl.constexpr, TURNED: tl.constexpr,
    HALF: tl.constexpr, REST: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    # Both halves of the turned dimensions and the rest are a tile each: a pair that is turned lies in one thread.
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    start = both + (token * ALL_HEADS + head) * DIM
    at, rest_at = tl.arange(0, HALF), tl.arange(0, REST)
    inside, rest_inside = at < TURNED // 2, rest_at < DIM - TURNED
    low = tl.load(start + at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(start + TURNED // 2 + at, mask=inside, other=0.0).to(tl.float32)
    rest = tl.load(start + TURNED + rest_at, mask=rest_inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        weight = q_weight
        if head >= HEADS:
            weight = k_weight
        squares = tl.sum(low * low, axis=0) + tl.sum(high * high, axis=0) + tl.sum(rest * rest, axis=0)
        scale = tl.rsqrt(squares / DIM + eps)
        low = low * scale * (tl.load(weight + at, mask=inside, other=0.0) + offset)
        high = high * scale * (tl.load(weight + TURNED // 2 + at, mask=inside, other=0.0) + offset)
        rest = rest * scale * (tl.load(weight + TURNED + rest_at, mask=rest_inside, other=0.0) + offset)
        low = low.to(tl.bfloat16).to(tl.float32)
        high = high.to(tl.bfloat16).to(tl.float32)
    tl.debug_barrier()  # every thread has read before one writes
    if HAS_NORM:
        tl.store(start + TURNED + rest_at, rest.to(tl.bfloat16), mask=rest_inside)
    if TURNED > 0:
        turn = token * TURNED + at
        cos_low = tl.load(cos + turn, mask=inside, other=0.0).to(tl.bfloat16).to(tl.float32)
        sin_low = tl.load(sin + turn, mask=inside, other=0.0).to(tl.bfloat16).to(tl.float32)
        cos_high = tl.load(cos + TURNED // 2 + turn, mask=inside, other=0.0).to(tl.bfloat16).to(tl.float32)
        sin_high = tl.load(sin + TURNED // 2 + turn, mask=inside, other=0.0).to(tl.bfloat16).to(tl.float32)
        # each product is rounded before the sum, as in rope.rotate: `launch` must not let them be fused
        new_low = (low * cos_low).to(tl.bfloat16).to(tl.float32) - (high * sin_low).to(tl.bfloat16).to(tl.float32)
        new_high = (high * cos_high).to(tl.bfloat16).to(tl.float32) + (low * sin_high).to(tl.bfloat16).to(tl.float32)
        tl.store(start + at, new_low.to(tl.bfloat16), mask=inside)
        tl.store(start + TURNED // 2 + at, new_high.to(tl.bfloat16), mask=inside)


def turn_heads(
    both: Tensor,
    heads: int,
    kv_heads: int,
    norms: tuple[Tensor, Tensor] | None,
    offset: float,
    eps: float,
    turn: tuple[Tensor, Tensor] | None,
) -> None:
    """Norm, then turn the heads of q and k, in place: contiguous bfloat16 q | k | v, [T, heads + 2 kv_heads, d].

    `norms`: weights [d] for heads of q and of k, float32; `turn`: cos and sin [T, 1, r], r <= d, float32. None leaves that out.
    The numbers are those of `Norm.forward` and of `rope.rotate` with a gradient.
    """
    tokens, all_heads, dim = both.shape
    if not tokens or (norms is None and turn is None):
        return
    assert both.is_contiguous(), "heads lie end to end"
    assert both.dtype == torch.bfloat16, "heads are bfloat16"
    assert all_heads == heads + 2 * kv_heads, "q, k and v"
    cos, sin = (both, both) if turn is None else (x.contiguous() for x in turn)
    q_weight, k_weight = (both, both) if norms is None else norms
    turned = 0 if turn is None else cos.shape[-1]
    _turn[(tokens, heads + kv_heads)](
        both, q_weight, k_weight, cos, sin, offset, eps,
        HEADS=heads, ALL_HEADS=all_heads, DIM=dim, TURNED=turned,
        HALF=triton.next_power_of_2(max(1, turned // 2)), REST=triton.next_power_of_2(max(1, dim - turned)),
        HAS_NORM=norms is not None, **launch(1),
    )  # fmt: skip


@jit
@no_type_check
def _gate(gate_up, out, SIZE: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = at < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + at, mask=inside, other=0.0).to(tl.float32)
    swish = (gate / (1.0 + tl.exp(-gate))).to(tl.bfloat16).to(tl.float32)
    tl.store(out + row * SIZE + at, (swish * up).to(tl.bfloat16), mask=inside)


def gate(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of contiguous bfloat16 [T, 2 m] -> [T, m]."""
    assert gate_up.is_contiguous(), "rows lie end to end"
    assert gate_up.dtype == torch.bfloat16, "gates are bfloat16"
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, size), dtype=torch.bfloat16, device=gate_up.device)
    if rows:
        _gate[(rows, triton.cdiv(size, _GATE_TILE))](gate_up, out, SIZE=size, TILE=_GATE_TILE, **launch(4))
    return out
