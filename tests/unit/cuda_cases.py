"""Inputs of the CUDA kernels and what must come out, written with PyTorch alone; and the kernels in Triton's interpreter.

It knows the cache's layout, and nothing of how the kernels compute.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headway.engine.cache import BLOCK
from headway.model.rope import rotate
from headway.model.transformer import Norm

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
needs_interpreter = pytest.mark.skipif(
    find_spec("triton") is None or torch.cuda.is_available(),
    reason="in Triton's interpreter (pip install triton, on Linux); on a machine with a card tests/gpu runs the same, compiled",
)


@cache
def interpreted() -> tuple[ModuleType, ModuleType]:
    """(elementwise, blocks) for CPU tensors. Triton reads the variable as it decorates and first runs; no other test sees it."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        from headway.model.cuda import blocks, elementwise

        elementwise.rms_norm(torch.ones(1, 1), torch.ones(1), 0.0, 0.0)
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before
    _round_as_cards_do()
    return elementwise, blocks


def _round_as_cards_do() -> None:
    """The interpreter cuts float32 off to bfloat16, and multiplies the bits of bfloat16 matrices as if they were integers."""
    from triton.runtime import interpreter

    convert, dot, tl = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot, interpreter.tl

    def rounded(data: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(data, source, target, mode)
        flat = torch.from_numpy(np.array(data, dtype=np.float32, ndmin=1)).bfloat16().view(torch.int16)
        return flat.numpy().view(np.uint16).reshape(np.shape(data))

    def product(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (
                interpreter.TensorHandle(convert(x.data, tl.bfloat16, tl.float32, None).view(np.float32), tl.float32)
                for x in (a, b)
            )
        return dot(self, a, b, *rest)

    interpreter._convert_float, interpreter.InterpreterBuilder.create_dot = rounded, product


def normal(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """float32 numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def exact_norm(x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
    """x / rms(x) * (offset + weight) in float64."""
    wide = x.double()
    return wide * (wide.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * (weight.double() + offset)


def trained_heads(
    both: Tensor, heads: int, kv_heads: int, norms: tuple[Tensor, Tensor] | None, offset: float, eps: float, turn: Any
) -> Tensor:
    """q | k | v as the trainer makes them: `Norm.forward` and `rope.rotate`, with a gradient."""
    with torch.enable_grad():
        parts = [both[:, :heads], both[:, heads : heads + kv_heads]]
        for number, weight in enumerate(norms or ()):
            norm = Norm(both.shape[2], eps, offset).to(both.device)
            norm.weight.data.copy_(weight)
            parts[number] = norm(parts[number])
        if turn is not None:
            parts = [rotate(part, *turn) for part in parts]
        return torch.cat([*parts, both[:, heads + kv_heads :]], dim=1).detach()


def trained_gate(gate_up: Tensor) -> Tensor:
    """silu(gate) * up as the trainer makes it."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


@dataclass(slots=True)
class Batch:
    """A decode step: q, k and v are views of one tensor; `own` and `shared` are (blocks, first, lengths, keys, values)."""

    q: Tensor
    k: Tensor
    v: Tensor
    own: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    shared: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

    def pools(self, table: Any) -> tuple[Any, Any]:
        """The pools as `attend` takes them; `table`: its class."""
        return tuple((table(*pool[:3]), *pool[3:]) for pool in (self.own, self.shared))  # type: ignore[return-value]


def batch_of(
    own: Sequence[int],
    prefixes: Sequence[int] = (),
    prefix_of: Sequence[int] = (),
    *,
    kv_heads: int = 2,
    group: int = 2,
    dim: int = 64,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Batch:
    """`own` lengths with the new token, 0 for padding; `prefixes`: lengths of shared prompts, `prefix_of`: each row's, -1: none.

    Blocks are dealt in random order, among others that belong to nobody. What is stored nowhere is not a number in keys, and so
    must not be seen; in values it is a large number, which must have no weight.
    """
    draw = np.random.default_rng(len(own) + dim)
    prefix_of = prefix_of or [-1] * len(own)

    def pool(lengths: Sequence[int], owner: Sequence[int], spare: int) -> tuple[Tensor, ...]:
        counts = [-(-n // BLOCK) for n in lengths]
        size = sum(counts) + spare
        order = draw.permutation(size)[: sum(counts)]
        ends = np.cumsum(counts)
        mine = [order[end - count : end] for end, count in zip(ends, counts, strict=True)]
        numbers = [mine[i] if i >= 0 else order[:0] for i in owner]
        first = np.cumsum([0, *map(len, numbers)])[:-1]
        keys, values = normal(size, kv_heads, dim, BLOCK, seed=1), normal(size, kv_heads, BLOCK, dim, seed=2)
        stored = torch.zeros(size, BLOCK, dtype=torch.bool)
        for length, blocks in zip(lengths, mine, strict=True):
            for place in range(length):
                stored[int(blocks[place // BLOCK]), place % BLOCK] = True
        keys = keys.masked_fill(~stored[:, None, None, :], torch.nan)
        values = values.masked_fill(~stored[:, None, :, None], 1e4)
        lengths = [lengths[i] if i >= 0 else 0 for i in owner]
        table = [torch.from_numpy(np.asarray(x, dtype=np.int32)) for x in (np.concatenate(numbers), first, lengths)]
        return tuple(x.to(device) for x in (*table, keys.to(dtype), values.to(dtype)))

    both = normal(len(own), (group + 2) * kv_heads, dim, seed=3).to(dtype).to(device)
    q, k, v = both.split([group * kv_heads, kv_heads, kv_heads], dim=1)
    return Batch(q, k, v, pool(own, range(len(own)), 3), pool(prefixes, prefix_of, 2 if prefixes else 0))  # type: ignore[arg-type]


def dense(batch: Batch, scale: float, window: int) -> Tensor:
    """A plain softmax in float64 over what a row sees, new token and all; zeros for padding. Stores nothing."""
    rows, heads, dim = batch.q.shape
    kv_heads = batch.k.shape[1]
    out = torch.zeros(rows, heads, dim, dtype=torch.float64)
    for row in range(rows):
        if int(batch.own[2][row]) == 0:
            continue
        keys, values = [], []
        for blocks, first, lengths, pool_keys, pool_values in (batch.shared, batch.own):
            for place in range(int(lengths[row])):
                block = int(blocks[int(first[row]) + place // BLOCK])
                keys.append(pool_keys[block, :, :, place % BLOCK])
                values.append(pool_values[block, :, place % BLOCK])
        keys[-1], values[-1] = batch.k[row], batch.v[row]
        kept = window or len(keys)
        key, value = (torch.stack(x[-kept:]).double().cpu() for x in (keys, values))  # [tokens, kv_heads, dim]
        asked = batch.q[row].double().cpu().view(kv_heads, heads // kv_heads, dim)
        weights = (torch.einsum("hgd,thd->hgt", asked, key) * scale).softmax(-1)
        out[row] = torch.einsum("hgt,thd->hgd", weights, value).reshape(heads, dim)
    return out


def stored(batch: Batch) -> tuple[Tensor, Tensor]:
    """Keys and values of the own pool with the new tokens where they belong: copies."""
    blocks, first, lengths, keys, values = batch.own
    keys, values = keys.clone(), values.clone()
    for row in range(len(lengths)):
        last = int(lengths[row]) - 1
        if last >= 0:
            block = int(blocks[int(first[row]) + last // BLOCK])
            keys[block, :, :, last % BLOCK] = batch.k[row].to(keys.dtype)
            values[block, :, last % BLOCK] = batch.v[row].to(values.dtype)
    return keys, values


def check_attention(blocks: ModuleType, batch: Batch, window: int, splits: int) -> None:
    """Attend; compare with the dense softmax, and see that the new tokens were stored, and nothing else was."""
    scale = batch.q.shape[2] ** -0.5
    wanted, memory = dense(batch, scale, window), (*stored(batch), *(x.clone() for x in batch.shared[3:]))
    found = blocks.attend(batch.q, batch.k, batch.v, *batch.pools(blocks.Table), scale, window, splits=splits)
    assert found.dtype == batch.q.dtype
    assert float((found.double().cpu() - wanted).abs().max()) < TOLERANCE[batch.q.dtype]
    for now, then in zip((*batch.own[3:], *batch.shared[3:]), memory, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)


def steps_apart(found: Tensor, wanted: Tensor) -> int:
    """The most steps of bfloat16 between two tensors of it."""

    def order(x: Tensor) -> Tensor:
        bits = x.contiguous().view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return int((order(found) - order(wanted)).abs().max())
