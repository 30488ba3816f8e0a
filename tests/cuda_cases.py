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
from headway.model.rope import rotate, rotation
from headway.model.transformer import Norm

NORMS = [(3, 64), (1, 1), (2, 40), (5, 576), (2, 3000), (1, 16384), (0, 8)]  # rows, size
HEADS = [(4, 2), (3, 1), (2, 2)]  # with kv heads
TURNS = [(64, 64), (80, 80), (96, 24), (40, 40), (80, 32), (16, 0), (128, 128)]  # dimensions of a head, turned ones
GATES = [(1, 1), (3, 40), (2, 1024), (2, 2600), (0, 16)]  # rows, width
GROUPS = [(2, 1, 64), (1, 2, 80), (2, 4, 40), (1, 8, 128), (1, 20, 16), (1, 3, 256)]  # kv heads, queries each, dimensions
LENGTHS = (1, 31, 32, 33, 200)
PADDED = (*LENGTHS, 0, 40, 0, 300, 33)  # with two rows of padding, one of which has a prefix
PREFIXES, PREFIX_OF = (70, 33, 500), (0, 0, 1, 1, 2, 0, -1, -1, -1, 0)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
needs_interpreter = pytest.mark.skipif(
    find_spec("triton") is None or torch.cuda.is_available(),
    reason="in Triton's interpreter (pip install triton, on Linux); on a machine with a card tests/gpu runs the same, compiled",
)


@cache
def interpreted() -> tuple[ModuleType, ModuleType]:
    """(elementwise, blocks) for CPU tensors. `conftest` has told Triton to interpret, before anything imported it."""
    assert os.environ.get("TRITON_INTERPRET") == "1"
    from headway.model.cuda import blocks, elementwise

    _mend_interpreter()
    return elementwise, blocks


def _mend_interpreter() -> None:
    """Make the interpreter compute as cards do.

    It cuts float32 off to bfloat16, multiplies the bits of bfloat16 matrices as if they were integers, and in Triton 3.6
    it cannot count to a loaded number with NumPy 2.4.
    """
    from triton.runtime import interpreter

    convert, dot, tl = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot, interpreter.tl
    patch_tensor = interpreter._patch_lang_tensor

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

    def patched(tensor: Any, *scope: Any) -> None:
        patch_tensor(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.squeeze())

    interpreter._convert_float, interpreter.InterpreterBuilder.create_dot = rounded, product
    interpreter._patch_lang_tensor = patched


def normal(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """float32 numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def check_norm(kernels: ModuleType, rows: int, size: int, dtype: torch.dtype, offset: float, device: str = "cpu") -> None:
    """The norm of rows that do not lie end to end is that in float64, rounded once."""
    x, weight = 3 * normal(rows, 2 * size, device=device)[:, size:].to(dtype), normal(size, seed=1, device=device)
    found = kernels.rms_norm(x, weight, offset, 1e-5)
    assert (found.dtype, found.shape) == (torch.bfloat16, x.shape)
    if rows:
        wide = x.double()
        wanted = wide * (wide.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * (weight.double() + offset)
        check_steps(found, wanted.bfloat16(), 1)


def check_steps(found: Tensor, wanted: Tensor, most: int) -> None:
    """Nearly all numbers of bfloat16 are equal, and none is further than so many steps: where float32 falls to the other side."""

    def order(x: Tensor) -> Tensor:
        bits = x.contiguous().view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    assert int((order(found) - order(wanted)).abs().max()) <= most
    assert float((found != wanted).double().mean()) < 5e-3


def check_heads(
    kernels: ModuleType, heads: int, kv_heads: int, dim: int, turned: int, norms: bool, device: str = "cpu", tokens: int = 3
) -> None:
    """q and k are the trainer's, from `Norm.forward` and `rope.rotate` with a gradient; v is what it was."""
    both = normal(tokens, heads + 2 * kv_heads, dim, device=device).bfloat16()
    weights = tuple(1 + normal(dim, seed=seed, device=device) / 4 for seed in (1, 2)) if norms else None
    turn = None
    if turned:
        angles = 100.0 ** -(torch.arange(0, turned, 2) / turned)
        turn = rotation(angles.to(device), (torch.arange(tokens) * 1511).to(device))
    wanted, found = _trained_heads(both, heads, kv_heads, weights, turn), both.clone()
    kernels.turn_heads(found, heads, kv_heads, weights, 0.5, 1e-6, turn)
    assert torch.equal(found[:, heads + kv_heads :], both[:, heads + kv_heads :])
    if not norms:
        assert torch.equal(found, wanted)
    else:  # the sum of squares runs in another order, and its last bit may turn a rounding
        assert float((found != wanted).double().mean()) < 5e-3
        assert float((found.float() - wanted.float()).abs().max()) < 0.04


def _trained_heads(both: Tensor, heads: int, kv_heads: int, norms: Sequence[Tensor] | None, turn: Any) -> Tensor:
    with torch.enable_grad():
        parts = [both[:, :heads], both[:, heads : heads + kv_heads]]
        for number, weight in enumerate(norms or ()):
            norm = Norm(both.shape[2], 1e-6, 0.5).to(both.device)
            norm.weight.data.copy_(weight)
            parts[number] = norm(parts[number])
        if turn is not None:
            parts = [rotate(part, *turn) for part in parts]
        return torch.cat([*parts, both[:, heads + kv_heads :]], dim=1).detach()


def check_gate(kernels: ModuleType, rows: int, width: int, most: int, device: str = "cpu") -> None:
    """silu(gate) * up is the trainer's, but for the last bits of the exponential."""
    gate_up = (6 * normal(rows, 2 * width, device=device)).bfloat16()
    if rows:
        gate_up[0, 0] = -200.0
    gate, up = gate_up.chunk(2, dim=-1)
    found, wanted = kernels.gate(gate_up), F.silu(gate) * up
    assert found.shape == wanted.shape
    if rows:
        check_steps(found, wanted, most)


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

    Blocks are dealt in random order, among others that belong to nobody. Where no token is stored there is no number.
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
        values = values.masked_fill(~stored[:, None, :, None], torch.nan)
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


def check_attention(blocks: ModuleType, batch: Batch, window: int, splits: int, most: float = 0.0) -> None:
    """Attend; compare with the dense softmax (`most`: how far off), and see that new tokens were stored, and nothing else."""
    scale = batch.q.shape[2] ** -0.5
    wanted, memory = dense(batch, scale, window), (*stored(batch), *(x.clone() for x in batch.shared[3:]))
    found = blocks.attend(batch.q, batch.k, batch.v, *batch.pools(blocks.Table), scale, window, splits=splits)
    assert found.dtype == batch.q.dtype
    assert float((found.double().cpu() - wanted).abs().max()) < (most or TOLERANCE[batch.q.dtype])
    for now, then in zip((*batch.own[3:], *batch.shared[3:]), memory, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)
