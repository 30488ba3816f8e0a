"""Attention over variable lengths: what the CUDA kernel is asked for, answered on the CPU by its published contract.

The kernel itself has no form on the CPU; tests/gpu/test_cuda_precision.py asks it.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen as kernel_module
from torch import Tensor

from headway.model import varlen
from headway.model.attention import attend, lay_out


def contract(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Flash Attention's words: query i of a sequence sees the keys from i + len_k - len_q - left to i + len_k - len_q + right,
    both included; a left or right of -1 is no bound. Each key's head serves heads / kv_heads queries' heads."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert enable_gqa or query.shape[1] == key.shape[1]
    group = query.shape[1] // key.shape[1]
    left, right = window_size
    parts: list[Tensor] = []
    for a, b, c, d in zip(cu_seq_q, cu_seq_q[1:], cu_seq_k, cu_seq_k[1:], strict=False):
        q, k, v = query[a:b], key[c:d].repeat_interleave(group, 1), value[c:d].repeat_interleave(group, 1)
        at = torch.arange(len(q))[:, None] + len(k) - len(q)
        seen = torch.arange(len(k))[None, :]
        hidden = (seen > at + right) if right >= 0 else torch.zeros(len(q), len(k), dtype=torch.bool)
        if left >= 0:
            hidden = hidden | (seen < at - left)
        scores = torch.einsum("ihd,jhd->hij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        parts.append(torch.einsum("hij,jhd->ihd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v))
    return torch.cat(parts)


@pytest.mark.parametrize("window", [0, 1, 3, 200])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("lengths", "shared"), [([7, 1, 12, 3], {}), ([6, 5, 4, 3], {1: (0, 4), 3: (2, 2)}), ([5, 1], {1: (0, 5)})]
)
def test_the_kernel_is_asked_for_what_attend_gives(
    lengths: list[int], shared: Mapping[int, tuple[int, int]], kv_heads: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_module, "varlen_attn", contract)
    draw = torch.Generator().manual_seed(kv_heads)
    q, k, v = (torch.randn(sum(lengths), n, 8, generator=draw, dtype=torch.float64) for n in (4, kv_heads, kv_heads))
    mine = [x.clone().requires_grad_() for x in (q, k, v)]
    theirs = [x.clone().requires_grad_() for x in (q, k, v)]
    layout = lay_out(lengths, shared=shared)
    expected = attend(*theirs, layout, window, scale=0.3)
    found = varlen.causal(*mine, varlen.on_device(layout.documents, bool(shared), "cpu"), window, scale=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    push = torch.randn(found.shape, generator=draw, dtype=torch.float64)
    found.backward(push)
    expected.backward(push)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)


def test_documents_on_a_device() -> None:
    # document 1 continues the first 2 of document 0 with 3 tokens: rows 0..3 and 4..6; its places are 0, 1, 4, 5, 6
    documents = varlen.on_device(lay_out([4, 3], shared={1: (0, 2)}).documents, True, "cpu")
    assert documents.index is not None
    assert documents.index.tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6]
    assert (documents.own_starts.tolist(), documents.starts.tolist()) == ([0, 4, 7], [0, 4, 9])
    assert (documents.longest_own, documents.longest) == (4, 5)
    assert varlen.on_device(lay_out([4, 3]).documents, False, "cpu").index is None


def test_it_computes_in_what_autocast_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(kernel_module, "varlen_attn", lambda q, k, v, *_, **__: asked.extend([q.dtype, k.dtype, v.dtype]) or q)
    documents = varlen.on_device(lay_out([3]).documents, False, "cpu")
    x = torch.zeros(3, 2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert varlen.causal(x, x, x.bfloat16(), documents).dtype == torch.bfloat16
    assert asked == [torch.bfloat16] * 3


def test_only_a_card_is_asked() -> None:
    assert not varlen.can_compute(torch.zeros(3, 2, 8, dtype=torch.bfloat16))
    assert lay_out([3]).on_cuda is None
