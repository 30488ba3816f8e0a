"""The short way of inference gives what PyTorch gives, for any number of rows; the compiled attention is a plain softmax."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headway.engine.cache import BLOCK
from headway.model import products
from headway.model.kernel import FEW_ROWS, Blocks, kernel


def test_rows_are_rounded_to_few_numbers_and_by_an_eighth_at_most() -> None:
    rounded = [products.rounded(rows) for rows in range(1, 1025)]
    assert len(set(rounded)) == 64
    assert all(rows <= more <= rows * 9 / 8 + 1 for rows, more in enumerate(rounded, 1))
    assert all(products.rounded(more) == more for more in rounded), "a rounded number stays"
    assert products.rounded(1025) == 1025, "longer inputs go the ordinary way"


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 17, 64, 1000, 1025])
@pytest.mark.parametrize("is_packed", [False, True])
def test_products_are_those_of_pytorch(rows: int, is_packed: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    layer, gate_up = nn.Linear(24, 40), nn.Linear(24, 48, bias=False)
    x, residual = torch.randn(rows, 24, generator=generator), torch.randn(rows, 40, generator=generator)
    with torch.no_grad():
        if is_packed:
            products.pack([layer.weight, gate_up.weight], rows)
        if not products.is_direct(x):
            pytest.skip("no oneDNN here")
        wanted = layer(x)
        assert torch.allclose(products.linear(x, layer), wanted, atol=1e-5)
        assert torch.allclose(products.linear_add(x, layer, residual), wanted + residual, atol=1e-5)
        gate, up = (x @ gate_up.weight.T).chunk(2, -1)
        assert torch.allclose(products.swish_gate(x, gate_up), F.silu(gate) * up, atol=1e-5)


@pytest.mark.parametrize("rows", range(1, FEW_ROWS + 1))
@pytest.mark.parametrize(("width", "outputs"), [(1, 1), (7, 3), (16, 64), (40, 65), (576, 130), (1000, 1000)])
def test_a_product_of_few_rows(rows: int, width: int, outputs: int) -> None:
    """Whatever the sizes, the strides and the threads: each output is one thread's, its numbers in one order."""
    compiled = kernel()
    if compiled is None:
        pytest.skip("no C compiler here")
    draw = torch.Generator().manual_seed(width)
    wide, weight = torch.randn(rows, width + 5, generator=draw), torch.randn(outputs, width, generator=draw)
    x, bias = wide[:, 2 : 2 + width], torch.randn(outputs, generator=draw)
    residual = torch.randn(outputs, rows, generator=draw).t()  # not contiguous
    exact = x.double() @ weight.double().t()
    for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
        found = compiled.few_rows(x, weight, b, r)
        wanted = exact + (0 if b is None else b.double()) + (0 if r is None else r.double())
        assert float((found - wanted).abs().max()) < 1e-6 * (4 + width)
    torch.set_num_threads(2)
    assert torch.equal(compiled.few_rows(x, weight, bias, residual), found)


def test_a_packed_weight_that_changes_is_read_anew() -> None:
    layer, x = nn.Linear(8, 8, bias=False), torch.ones(4, 8)
    with torch.no_grad():
        products.pack([layer.weight], 4)
        layer.weight.fill_(2.0)
        assert torch.equal(products.linear(x, layer), torch.full((4, 8), 16.0))


@pytest.mark.parametrize("dim", [64, 80, 17, 128])
@pytest.mark.parametrize(("kv_heads", "group"), [(2, 2), (1, 7), (3, 1)])
@pytest.mark.parametrize("window", [0, 40])
def test_compiled_attention_is_a_softmax_over_the_blocks(dim: int, kv_heads: int, group: int, window: int) -> None:
    compiled = kernel()
    if compiled is None:
        pytest.skip("no C compiler here")
    generator = torch.Generator().manual_seed(dim)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    shared_tokens, own_tokens = (70, 0, 600), (5, 33, 1000)  # in whole, in part, and in more than one span of blocks
    pools = []
    for lengths in (shared_tokens, own_tokens):
        counts = [-(-n // BLOCK) for n in lengths]
        order = torch.randperm(sum(counts), generator=generator).numpy()
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        keys, values = random(max(1, sum(counts)), kv_heads, dim, BLOCK), random(max(1, sum(counts)), kv_heads, BLOCK, dim)
        pools.append((Blocks(order, starts, np.array(lengths, dtype=np.int64)), keys, values))
    (shared, shared_keys, shared_values), (own, own_keys, own_values) = pools
    q, k, v = random(3, kv_heads * group, dim), random(3, kv_heads, dim), random(3, kv_heads, dim)
    scale = dim**-0.5
    tables = shared.table(shared_keys, shared_values), own.table(own_keys, own_values)
    found = compiled.attend(q, k, v, *tables, scale, window)

    for sequence in range(3):
        parts = []
        for blocks, keys, values in pools:
            mine = blocks.blocks[blocks.starts[sequence] : blocks.starts[sequence + 1]]
            length = int(blocks.lengths[sequence])
            parts.append(
                (keys[mine].permute(1, 0, 3, 2).flatten(1, 2)[:, :length], values[mine].transpose(0, 1).flatten(1, 2)[:, :length])
            )
        all_keys, all_values = (torch.cat(both, 1) for both in zip(*parts, strict=True))  # [kv_heads, tokens, dim]
        assert torch.equal(all_keys[:, -1], k[sequence]), "the new token was stored"
        assert torch.equal(all_values[:, -1], v[sequence])
        scores = q[sequence].view(kv_heads, group, dim) @ all_keys.transpose(1, 2) * scale
        if window:
            scores[:, :, : max(0, scores.shape[-1] - window)] = -torch.inf
        wanted = (scores.softmax(-1) @ all_values).view(kv_heads * group, dim)
        assert torch.allclose(found[sequence], wanted, atol=2e-6), f"sequence {sequence}"
