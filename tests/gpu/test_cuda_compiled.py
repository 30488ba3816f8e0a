"""The CUDA kernels, compiled, on a card: the cases of the interpreter, more of them at once, and under a captured graph."""

from types import ModuleType

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
    batch_of,
    check_attention,
    check_gate,
    check_heads,
    check_norm,
    dense,
    normal,
    stored,
)

from headway.model import cuda

pytestmark = pytest.mark.gpu
needs_card = pytest.mark.skipif(not cuda.is_there(), reason="needs a CUDA card of generation 8.0 or later, and Triton")


def kernels() -> tuple[ModuleType, ModuleType]:
    from headway.model.cuda import blocks, elementwise

    return elementwise, blocks


@needs_card
@pytest.mark.parametrize(("rows", "size"), [*NORMS, (3000, 960)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms_are_rounded_once(rows: int, size: int, dtype: torch.dtype, offset: float) -> None:
    check_norm(kernels()[0], rows, size, dtype, offset, "cuda")


@needs_card
@pytest.mark.parametrize(("heads", "kv_heads"), [*HEADS, (14, 2)])
@pytest.mark.parametrize(("dim", "turned"), TURNS)
@pytest.mark.parametrize("norms", [False, True])
def test_heads_are_the_trainer_s(heads: int, kv_heads: int, dim: int, turned: int, norms: bool) -> None:
    check_heads(kernels()[0], heads, kv_heads, dim, turned, norms, "cuda", tokens=500)


@needs_card
@pytest.mark.parametrize(("rows", "width"), [*GATES, (3000, 4864)])
def test_gates_are_the_trainer_s(rows: int, width: int) -> None:
    check_gate(kernels()[0], rows, width, most=2, device="cuda")


@needs_card
@pytest.mark.parametrize(("kv_heads", "group", "dim"), GROUPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("splits", [0, 1, 2])
def test_attention_without_prefixes(kv_heads: int, group: int, dim: int, dtype: torch.dtype, splits: int) -> None:
    batch = batch_of(LENGTHS, kv_heads=kv_heads, group=group, dim=dim, dtype=dtype, device="cuda")
    check_attention(kernels()[1], batch, 0, splits)


@needs_card
@pytest.mark.parametrize("window", [0, 1, 33, 500])
@pytest.mark.parametrize("splits", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("dim", "dtype"), [(16, torch.float32), (64, torch.bfloat16), (80, torch.bfloat16), (128, torch.bfloat16)]
)
def test_prefixes_windows_and_splits(window: int, splits: int, dim: int, dtype: torch.dtype) -> None:
    batch = batch_of(PADDED, PREFIXES, PREFIX_OF, kv_heads=2, group=7, dim=dim, dtype=dtype, device="cuda")
    check_attention(kernels()[1], batch, window, splits)


@needs_card
@pytest.mark.parametrize("splits", [1, 3])
def test_a_captured_graph_reads_lengths_blocks_and_tokens_anew(splits: int) -> None:
    """Rows grow across the end of a block, one becomes padding, another a reader of the prefix, between replays."""
    elementwise, blocks = kernels()
    batch = batch_of((31, 95, 7), (75,), (0, -1, -1), dim=64, dtype=torch.bfloat16, device="cuda")
    first, lengths = (torch.tensor(x, dtype=torch.int32, device="cuda") for x in ([0, 4, 8], [31, 95, 7]))
    numbers = torch.randperm(12, generator=torch.Generator().manual_seed(0)).int().cuda()
    keys, values = (normal(12, 2, *shape, device="cuda").bfloat16() for shape in ((64, 32), (32, 64)))
    batch.own = (numbers, first, lengths, keys, values)
    x, weight = normal(3, 64, device="cuda"), normal(64, seed=1, device="cuda")

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        found = blocks.attend(batch.q, batch.k, batch.v, *batch.pools(blocks.Table), 0.125, 60, splits=splits)
        return found, elementwise.rms_norm(x, weight, 0.0, 1e-5)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found, normed = step()
    for turn in range(4):
        memory = stored(batch)
        wanted = dense(batch, 0.125, 60)
        graph.replay()
        torch.cuda.synchronize()
        assert float((found.double().cpu() - wanted).abs().max()) < 2e-2
        assert torch.equal(keys, memory[0])
        assert torch.equal(values, memory[1])
        assert torch.equal(normed, elementwise.rms_norm(x, weight, 0.0, 1e-5))
        lengths += 1
        batch.q.mul_(-1.1)
        batch.k.add_(0.5)
        x.mul_(3.0).add_(1.0)
        if turn == 1:
            lengths[2] = 0
            batch.shared[2][1] = 75
            batch.shared[1][1] = batch.shared[1][0]
        if turn == 2:
            numbers[0:8] = numbers[0:8].flip(0)
            lengths[2] = 5


@needs_card
def test_nothing_is_compiled_anew_as_lengths_and_pools_change() -> None:
    """A compilation would break a capture: only shapes may ask for one."""
    blocks = kernels()[1]

    def compiled() -> int:
        return sum(
            len(cache[0])
            for kernel in (blocks._store, blocks._attend, blocks._combine)
            for cache in kernel.device_caches.values()
        )

    counts = []
    for own, prefixes, readers in (((1, 5), (), ()), ((16, 48), (32,), (0, 0)), ((300, 0), (1,), (0, -1))):
        check_attention(blocks, batch_of(own, prefixes, readers, dim=64, dtype=torch.bfloat16, device="cuda"), 0, 2)
        counts.append(compiled())
    assert counts[1:] == counts[:-1]


@needs_card
def test_pools_of_more_than_two_to_the_31_numbers() -> None:
    """The last blocks of a pool are found: offsets are of 64 bits."""
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GB of free memory")
    blocks = kernels()[1]
    batch = batch_of((40,), kv_heads=2, dim=64, dtype=torch.bfloat16, device="cuda")
    small, wanted = stored(batch), dense(batch, 0.125, 0)
    numbers, first, lengths, *pool = batch.own
    size = (1 << 31) // pool[0][0].numel() + 8
    keys, values = (torch.zeros(size, *part.shape[1:], dtype=part.dtype, device="cuda") for part in pool)
    keys[-len(pool[0]) :], values[-len(pool[1]) :] = pool
    batch.own = (numbers + (size - len(pool[0])), first, lengths, keys, values)
    found = blocks.attend(batch.q, batch.k, batch.v, *batch.pools(blocks.Table), 0.125, 0)
    assert float((found.double().cpu() - wanted).abs().max()) < 2e-2
    for now, then in zip((keys, values), small, strict=True):
        torch.testing.assert_close(now[-len(then) :], then, rtol=0, atol=0, equal_nan=True)
        assert not now[: -len(then)].any()
