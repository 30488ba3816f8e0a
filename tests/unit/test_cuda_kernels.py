"""The CUDA kernels in Triton's interpreter, on the CPU: the trainer's own roundings, and a dense softmax over the blocks.

What only a card shows (layouts, races, alignment) is in tests/gpu/test_cuda_kernels.py.
"""

import os

import pytest
import torch
from cuda_cases import (
    Batch,
    batch_of,
    check_attention,
    exact_norm,
    interpreted,
    needs_interpreter,
    normal,
    steps_apart,
    trained_gate,
    trained_heads,
)

from headway.model import cuda
from headway.model.rope import rotation

LENGTHS = (1, 31, 32, 33, 200)


def check(batch: Batch, window: int, splits: int) -> None:
    check_attention(interpreted()[1], batch, window, splits)


@needs_interpreter
def test_the_interpreter_is_nobody_else_s() -> None:
    interpreted()
    assert "TRITON_INTERPRET" not in os.environ


def test_without_a_card_there_are_no_kernels() -> None:
    if not torch.cuda.is_available():
        assert not cuda.is_there()


@needs_interpreter
@pytest.mark.parametrize(("rows", "size"), [(3, 64), (1, 1), (2, 40), (5, 576), (2, 3000), (1, 16384), (0, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms_are_rounded_once(rows: int, size: int, dtype: torch.dtype, offset: float) -> None:
    x, weight = 3 * normal(rows, 2 * size)[:, size:].to(dtype), normal(size, seed=1)  # rows that do not lie end to end
    found = interpreted()[0].rms_norm(x, weight, offset, 1e-5)
    assert (found.dtype, found.shape) == (torch.bfloat16, x.shape)
    if rows:
        wanted = exact_norm(x, weight, offset, 1e-5)
        assert steps_apart(found, wanted.bfloat16()) <= 1
        assert float((found != wanted.bfloat16()).double().mean()) < 2e-3  # where float32 falls to the other side


@needs_interpreter
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize(("dim", "turned"), [(64, 64), (80, 80), (96, 24), (40, 40), (80, 32), (16, 0), (128, 128)])
@pytest.mark.parametrize("norms", [False, True])
def test_heads_are_the_trainer_s(heads: int, kv_heads: int, dim: int, turned: int, norms: bool) -> None:
    both = normal(3, heads + 2 * kv_heads, dim).bfloat16()
    weights = (1 + normal(dim, seed=1) / 4, 1 + normal(dim, seed=2) / 4) if norms else None
    turn = rotation(100.0 ** -(torch.arange(0, turned, 2) / turned), torch.tensor([0, 7, 3011])) if turned else None
    wanted = trained_heads(both, heads, kv_heads, weights, 0.5, 1e-6, turn)
    found = both.clone()
    interpreted()[0].turn_heads(found, heads, kv_heads, weights, 0.5, 1e-6, turn)
    assert torch.equal(found[:, heads + kv_heads :], both[:, heads + kv_heads :])
    if not norms:
        assert torch.equal(found, wanted)
    else:  # the sum of squares is of float32, and its last bit may turn a rounding
        assert float((found != wanted).double().mean()) < 5e-3
        assert float((found.float() - wanted.float()).abs().max()) < 0.04


@needs_interpreter
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 40), (2, 1024), (2, 2600), (0, 16)])
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of the interpreter, at -200
def test_gates_are_the_trainer_s(rows: int, width: int) -> None:
    gate_up = (6 * normal(rows, 2 * width)).bfloat16()
    if rows:
        gate_up[0, 0] = -200.0
    found, wanted = interpreted()[0].gate(gate_up), trained_gate(gate_up)
    assert found.shape == wanted.shape
    if rows:  # exponentials are not the same to the last bit
        assert steps_apart(found, wanted) <= 1
        assert float((found != wanted).double().mean()) < 2e-3


@needs_interpreter
@pytest.mark.parametrize(
    ("kv_heads", "group", "dim"), [(2, 1, 64), (1, 2, 80), (2, 4, 40), (1, 8, 128), (1, 20, 16), (1, 3, 256)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("splits", [0, 2])
def test_attention_without_prefixes(kv_heads: int, group: int, dim: int, dtype: torch.dtype, splits: int) -> None:
    batch = batch_of(LENGTHS, kv_heads=kv_heads, group=group, dim=dim, dtype=dtype)
    assert len(batch.shared[3]) == 0, "an empty pool"
    check(batch, 0, splits)


@needs_interpreter
@pytest.mark.parametrize("window", [0, 1, 33, 500])
@pytest.mark.parametrize("splits", [1, 2, 5])
def test_prefixes_windows_and_splits(window: int, splits: int) -> None:
    rows, readers = (*LENGTHS, 0, 40, 0, 300, 33), (0, 0, 1, 1, 2, 0, -1, -1, -1, 0)  # the sixth and the eighth are padding
    check(batch_of(rows, (70, 33, 500), readers, kv_heads=1, dim=16), window, splits)


@needs_interpreter
@pytest.mark.parametrize("window", [0, 33, 71])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_of_no_power_of_two_behind_a_prefix(window: int, dtype: torch.dtype) -> None:
    check(batch_of((1, 64, 33), (95,), (0, 0, -1), kv_heads=2, group=4, dim=80, dtype=dtype), window, 2)


@needs_interpreter
@pytest.mark.parametrize("splits", [1, 3])
def test_all_rows_are_padding(splits: int) -> None:
    batch = batch_of((0, 0), kv_heads=1, dim=16)
    check(batch, 0, splits)


@needs_interpreter
def test_large_scores_do_not_overflow() -> None:
    batch = batch_of((200, 70), (40,), (0, -1), kv_heads=1, dim=64)
    batch.q.mul_(100.0)
    batch.k.mul_(100.0)
    check(batch, 0, 5)


@needs_interpreter
def test_lengths_are_read_anew_in_each_step() -> None:
    """One token after another into the same tables, across the end of a block, is a longer sequence each time."""
    batch = batch_of((31, 95), (33,), (0, -1), kv_heads=1, dim=16)
    batch.own[0][:] = torch.randperm(len(batch.own[3]))[: len(batch.own[0])].int()
    blocks = torch.arange(8, dtype=torch.int32)  # four blocks for each row, so that there is room to grow
    keys, values = normal(8, 1, 16, 32, seed=4), normal(8, 1, 32, 16, seed=5)
    lengths = torch.tensor([31, 95], dtype=torch.int32)
    batch.own = (blocks, torch.tensor([0, 4], dtype=torch.int32), lengths, keys, values)
    for _ in range(3):
        check(batch, 0, 2)
        lengths += 1
        batch.k.add_(0.5)
