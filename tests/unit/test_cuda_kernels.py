"""The CUDA kernels in Triton's interpreter, on the CPU: the trainer's own roundings, and a dense softmax over the blocks.

What only a card shows (layouts, races, alignment) is in tests/gpu/test_cuda_compiled.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_cases import (
    GATES,
    GROUPS,
    HEADS,
    LENGTHS,
    NORMS,
    PADDED,
    PREFIX_OF,
    PREFIXES,
    TURNS,
    Batch,
    batch_of,
    check_attention,
    check_gate,
    check_heads,
    check_norm,
    interpreted,
    needs_interpreter,
    normal,
)

from headway.model import cuda

FOR_HOPPER = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from headway.model.cuda import elementwise, launch
types = {"both": "*bf16", "offset": "fp32", "eps": "fp32"} | dict.fromkeys(["q_weight", "k_weight", "cos", "sin"], "*fp32")
sizes = dict(HEADS=4, ALL_HEADS=8, DIM=64, TURNED=64, HALF=32, REST=1, HAS_NORM=False)
signature = {name: types.get(name, "constexpr") for name in elementwise._turn.arg_names}
constants = {(elementwise._turn.arg_names.index(name),): value for name, value in sizes.items()}
source = ASTSource(fn=elementwise._turn, signature=signature, constexprs=constants)
print(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch(1)).asm["ptx"])
"""


def check(batch: Batch, window: int, splits: int) -> None:
    check_attention(interpreted()[1], batch, window, splits)


def test_without_a_card_there_are_no_kernels() -> None:
    assert cuda.is_there() <= torch.cuda.is_available()


@needs_interpreter
@pytest.mark.parametrize(("rows", "size"), NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms_are_rounded_once(rows: int, size: int, dtype: torch.dtype, offset: float) -> None:
    check_norm(interpreted()[0], rows, size, dtype, offset)


@needs_interpreter
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize(("dim", "turned"), TURNS)
@pytest.mark.parametrize("norms", [False, True])
def test_heads_are_the_trainer_s(heads: int, kv_heads: int, dim: int, turned: int, norms: bool) -> None:
    check_heads(interpreted()[0], heads, kv_heads, dim, turned, norms)


@needs_interpreter
def test_a_product_that_the_trainer_rounds_is_not_fused_with_the_sum(tmp_path: Path) -> None:
    """What the interpreter cannot show, and Hopper would: bf16(a cos) + bf16(b sin) as one instruction that rounds once."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    made = subprocess.run([sys.executable, "-c", FOR_HOPPER], capture_output=True, text=True, check=True, env=environment).stdout
    assert "mul" in made
    assert "fma" not in made


@needs_interpreter
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of the interpreter, at -200
@pytest.mark.parametrize(("rows", "width"), GATES)
def test_gates_are_the_trainer_s(rows: int, width: int) -> None:
    check_gate(interpreted()[0], rows, width, most=1)


@needs_interpreter
@pytest.mark.parametrize(("kv_heads", "group", "dim"), GROUPS)
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
    check(batch_of(PADDED, PREFIXES, PREFIX_OF, kv_heads=1, dim=16), window, splits)


@needs_interpreter
@pytest.mark.parametrize("window", [0, 33, 71])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_of_no_power_of_two_behind_a_prefix(window: int, dtype: torch.dtype) -> None:
    check(batch_of((1, 64, 33), (95,), (0, 0, -1), kv_heads=2, group=4, dim=80, dtype=dtype), window, 2)


@needs_interpreter
def test_queries_may_be_wider_than_the_cache() -> None:
    batch = batch_of(LENGTHS, kv_heads=1, dim=16, dtype=torch.bfloat16)
    before = batch.q.clone()
    batch.q, batch.k, batch.v = batch.q.float(), batch.k.float(), batch.v.float()
    blocks = interpreted()[1]
    found = blocks.attend(batch.q, batch.k, batch.v, *batch.pools(blocks.Table), 0.25, 0)
    assert found.dtype == torch.float32
    wanted = blocks.attend(before, batch.k, batch.v, *batch.pools(blocks.Table), 0.25, 0)
    assert torch.equal(found.bfloat16(), wanted)


@needs_interpreter
@pytest.mark.parametrize("splits", [1, 3])
def test_all_rows_are_padding(splits: int) -> None:
    check(batch_of((0, 0), kv_heads=1, dim=16), 0, splits)


@needs_interpreter
def test_large_scores_do_not_overflow() -> None:
    batch = batch_of((200, 70), (40,), (0, -1), kv_heads=1)
    batch.q.mul_(100.0)  # scores up to some 400, whose last bits are 3e-5
    check_attention(interpreted()[1], batch, 0, 5, most=1e-3)


@needs_interpreter
def test_lengths_are_read_anew_in_each_step() -> None:
    """One token after another into the same memory, across the end of a block, is a longer sequence each time."""
    batch = batch_of((31, 95), (33,), (0, -1), kv_heads=1, dim=16)
    lengths, first = (torch.tensor(x, dtype=torch.int32) for x in ([31, 95], [0, 4]))  # four blocks each: there is room to grow
    numbers = torch.randperm(8, generator=torch.Generator().manual_seed(0)).int()
    batch.own = (numbers, first, lengths, normal(8, 1, 16, 32, seed=4), normal(8, 1, 32, 16, seed=5))
    for _ in range(3):
        check(batch, 0, 2)
        lengths += 1
        batch.k.add_(0.5)
