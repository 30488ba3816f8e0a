"""Attention inside documents: the layout by hand, values and gradients against the textbook in float64."""

import pytest
import torch
from torch import Tensor

from headway.model.attention import attend, lay_out

LENGTHS = [7, 1, 12, 11, 3, 7, 2]


def textbook(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int = 0) -> Tensor:
    """softmax(q k' / sqrt d) v, document by document and head by head; with a window, of the last `window` tokens."""
    group = q.shape[1] // k.shape[1]
    documents = []
    for qd, kd, vd in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        length = qd.shape[0]
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        if window:
            hidden |= torch.ones(length, length, dtype=torch.bool).tril(-window)
        heads = []
        for head in range(q.shape[1]):
            scores = qd[:, head] @ kd[:, head // group].t() / q.shape[2] ** 0.5
            heads.append(scores.masked_fill(hidden, float("-inf")).softmax(-1) @ vd[:, head // group])
        documents.append(torch.stack(heads, dim=1))
    return torch.cat(documents)


def test_layout_of_two_documents() -> None:
    layout = lay_out([3, 2])
    assert layout.positions.tolist() == [0, 1, 2, 0, 1]
    # 2 < 0.8 x 3: the documents are not similar, each is a group of its own
    assert [group.tolist() for group in layout.groups] == [[[0, 1, 2]], [[3, 4]]]
    assert layout.inverse.tolist() == [0, 1, 2, 3, 4]
    assert layout.last.tolist() == [2, 4]


def test_layout_gathers_similar_documents_and_pads_behind() -> None:
    layout = lay_out([4, 1, 5])
    # 5 and 4 are similar (4 >= 0.8 x 5); the longest comes first; document 0 at 0..3, 1 at 4, 2 at 5..9
    assert [group.tolist() for group in layout.groups] == [[[5, 6, 7, 8, 9], [0, 1, 2, 3, 0]], [[4]]]
    assert layout.inverse.tolist() == [5, 6, 7, 8, 10, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(20))
def test_every_token_is_gathered_once_and_found_again(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 30, (int(torch.randint(1, 12, (1,), generator=generator)),), generator=generator).tolist()
    layout = lay_out(lengths)
    places = torch.cat([group.reshape(-1) for group in layout.groups])
    assert places[layout.inverse].tolist() == list(range(sum(lengths)))
    assert len(set(layout.inverse.tolist())) == sum(lengths)
    assert layout.positions.tolist() == [p for n in lengths for p in range(n)]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attend_equals_the_textbook(kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(kv_heads)
    shape = (sum(LENGTHS), 4, 8)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    mine = [x[:, :heads].clone().requires_grad_() for x, heads in ((q, 4), (k, kv_heads), (v, kv_heads))]
    theirs = [x.detach().clone().requires_grad_() for x in mine]
    out, expected = attend(*mine, lay_out(LENGTHS)), textbook(*theirs, LENGTHS)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    push = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    out.backward(push)
    expected.backward(push)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)


def test_layout_of_a_document_that_begins_as_another() -> None:
    layout = lay_out([3, 2], shared={1: (0, 2)})
    assert layout.positions.tolist() == [0, 1, 2, 2, 3]
    assert [group.tolist() for group in layout.groups] == [[[0, 1, 3, 4]], [[0, 1, 2]]]  # 3 < 0.8 x 4
    assert layout.inverse.tolist() == [4, 5, 6, 2, 3]


def test_a_shared_beginning_is_as_if_it_stood_before_each() -> None:
    generator = torch.Generator().manual_seed(0)
    # document 0 is 6 long; 1 continues its first 4 with 5, 2 stands alone, 3 continues the first 2 of document 2 with 3
    lengths, shared = [6, 5, 4, 3], {1: (0, 4), 3: (2, 2)}
    whole = [list(range(6)), [0, 1, 2, 3, *range(6, 11)], list(range(11, 15)), [11, 12, *range(15, 18)]]
    q, k, v = (torch.randn(18, 4, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    mine = [x[:, :heads].clone().requires_grad_() for x, heads in ((q, 4), (k, 2), (v, 2))]
    theirs = [x.detach().clone().requires_grad_() for x in mine]
    out = attend(*mine, lay_out(lengths, shared=shared))
    order = [i for document in whole for i in document]
    spread = textbook(*(x[order] for x in theirs), [len(document) for document in whole])
    own = [place for place, i in enumerate(order) if i not in order[:place]]
    torch.testing.assert_close(out, spread[own], rtol=1e-10, atol=1e-10)
    push = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    out.backward(push)
    spread[own].backward(push)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", [1, 2, 11, 12, 13, 300, 700])
def test_a_window_equals_the_textbook(window: int) -> None:
    generator = torch.Generator().manual_seed(window)
    lengths = [7, 1, 12, 11, 3, 700, 2]  # 700 queries are done in steps
    q, k, v = (torch.randn((sum(lengths), 4, 8), generator=generator, dtype=torch.float64) for _ in range(3))
    mine = [x[:, :heads].clone().requires_grad_() for x, heads in ((q, 4), (k, 2), (v, 2))]
    theirs = [x.detach().clone().requires_grad_() for x in mine]
    out, expected = attend(*mine, lay_out(lengths), window), textbook(*theirs, lengths, window)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    push = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    out.backward(push)
    expected.backward(push)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)


def test_a_window_of_three_sees_three() -> None:
    # equal scores: the mean of the values seen. Values 0, 1, 2, ...: token 5 sees 3, 4, 5; token 1 sees 0 and 1
    q = torch.zeros(6, 1, 2)
    v = torch.arange(6.0)[:, None, None].expand(6, 1, 2)
    assert attend(q, q, v, lay_out([6]), window=3)[:, 0, 0].tolist() == pytest.approx([0, 0.5, 1, 2, 3, 4])
    # documents of 3: each position of the second starts anew
    assert attend(q, q, v, lay_out([3, 3]), window=2)[:, 0, 0].tolist() == pytest.approx([0, 0.5, 1.5, 3, 3.5, 4.5])


def test_the_scale_multiplies_the_scores() -> None:
    q, k, v = torch.randn(3, 9, 2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attend(q, k, v, lay_out([9]), scale=0.5), attend(q, k, v, lay_out([9])))  # 4 ** -0.5
    torch.testing.assert_close(attend(q, k, v, lay_out([9]), scale=1.0), attend(2 * q, k, v, lay_out([9])))


def test_the_first_token_sees_itself_alone() -> None:
    q, k, v = torch.randn(3, 6, 2, 4, generator=torch.Generator().manual_seed(0))
    out = attend(q, k, v, lay_out([4, 2]))
    torch.testing.assert_close(out[[0, 4]], v[[0, 4]])
