"""The draw of what the likeliest tokens do not hold, compiled, on a card: against sorted rows on the CPU, and in a graph."""

from types import ModuleType

import pytest
import torch
from kept_cases import USES, check_rest, check_same, hard_cut, hard_noise, hard_rows

from headway.engine import truncation
from headway.engine.truncation import Cut, Kept, draw_kept
from headway.model import cuda

pytestmark = pytest.mark.gpu
needs_card = pytest.mark.skipif(not cuda.is_there(), reason="needs a CUDA card of generation 8.0 or later, and Triton")


def kernel() -> ModuleType:
    from headway.model.cuda import kept

    return kept


def on_card(cut: Cut) -> Cut:
    top_k, top_p, min_p = (None if part is None else part.cuda() for part in (cut.top_k, cut.top_p, cut.min_p))
    return Cut(top_k, top_p, min_p, cut.most_k)


@needs_card
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("vocabulary", [300, 4096, 4099, 50_000, 151_936])
@pytest.mark.parametrize("turn", [0, 1])
def test_rows_are_drawn_as_if_sorted(use: tuple[bool, bool, bool], vocabulary: int, turn: int) -> None:
    noise, cut = hard_noise(2 * USES.index(use) + turn), hard_cut(vocabulary, use, turn)
    check_rest(kernel(), hard_rows(vocabulary), noise, cut, "cuda")


@needs_card
def test_many_rows() -> None:
    """Offsets of rows are of 64 bits: 16,000 rows of 151,936 tokens are more than two to the 31."""
    vocabulary, rows = 151_936, 16_000
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GB of free memory")
    probs = torch.zeros(rows, vocabulary, device="cuda")
    hard = hard_rows(vocabulary)
    probs[-9:] = hard.cuda()
    is_whole = torch.ones(rows, dtype=torch.bool, device="cuda")
    is_whole[-9:] = False
    cut, noise = hard_cut(vocabulary, (False, True, False)), hard_noise(5)
    assert cut.top_p is not None
    top_p = torch.ones(rows, 1, dtype=torch.float64, device="cuda")
    many = torch.zeros(rows, dtype=torch.float64, device="cuda")
    top_p[-9:], many[-9:] = cut.top_p.cuda(), noise.cuda()
    tokens, chosen = torch.full((rows,), -7, device="cuda"), torch.full((rows,), -7.0, device="cuda")
    kernel().draw_rest(probs, many, None, top_p, None, is_whole, tokens, chosen, None)
    check_same(Kept(tokens[-9:], chosen[-9:], None), draw_kept(hard, noise, cut))
    assert (tokens[:-9] == -7).all()


@needs_card
@pytest.mark.parametrize("use", USES)
def test_a_draw_in_a_captured_graph_reads_numbers_and_truncations_anew(use: tuple[bool, bool, bool]) -> None:
    vocabulary = 5000
    probs, noise, cut = hard_rows(vocabulary), hard_noise(1), hard_cut(vocabulary, use)
    cut = Cut(None if cut.top_k is None else cut.top_k.clamp(max=200), cut.top_p, cut.min_p, 200 if use[0] else 0)
    assert truncation.has_kernel(torch.device("cuda"))
    p, u, held = probs.cuda(), noise.cuda(), on_card(cut)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        draw_kept(p, u, held, wants_entropies=True)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = draw_kept(p, u, held, wants_entropies=True)
    for turn in range(1, 9):
        order = torch.arange(9).roll(turn)
        probs, noise, cut = probs.roll(1, dims=1), hard_noise(turn), cut.of(order)
        p.copy_(probs)
        u.copy_(noise)
        for there, here in ((held.top_k, cut.top_k), (held.top_p, cut.top_p), (held.min_p, cut.min_p)):
            if there is not None and here is not None:
                there.copy_(here)
        graph.replay()
        torch.cuda.synchronize()
        check_same(found, draw_kept(probs, noise, cut, wants_entropies=True))
