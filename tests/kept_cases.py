"""Rows of probabilities, truncations and noise that are hard to draw from, and a check of the kernel against the sorted row.

It knows what truncations mean, and nothing of how the kernel finds what they leave.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import ModuleType

import torch
from torch import Tensor

from headway.engine.truncation import Cut, Kept, draw_kept

ALMOST_ONE = 1 - 2.0**-53
USES = [use for use in product((False, True), repeat=3) if any(use)]  # of top-k, top-p, min-p


def hard_rows(vocabulary: int) -> Tensor:
    """float32 [9, V]: flat, one token alone, sharp, nearly flat, exact ties, zeros, tiny tails, powers of two, uneven ones."""
    generator = torch.Generator().manual_seed(vocabulary)
    places = torch.randperm(vocabulary, generator=generator)
    logits = torch.randn(9, vocabulary, generator=generator) * torch.tensor([0, 0, 6, 0.2, 0, 1, 0, 0, 3.0])[:, None]
    logits[4] = torch.randint(0, 4, (vocabulary,), generator=generator)
    logits[5, places[::2]] = float("-inf")
    probs = logits.softmax(-1)
    probs[1] = torch.zeros(vocabulary).index_fill_(0, places[:1], 1.0)
    probs[6] = torch.full((vocabulary,), 2.0**-40).index_fill_(0, places[:1], 0.9)
    # four eighths and sixteen thirty-seconds, so that sums, shares and borders are exact
    probs[7] = torch.zeros(vocabulary).index_fill_(0, places[:4], 2.0**-3).index_fill_(0, places[4:20], 2.0**-5)
    return probs


def hard_cut(vocabulary: int, use: tuple[bool, bool, bool], turn: int = 0) -> Cut:
    """One truncation for each of the rows, another at each turn; among them borders within equals, and none at all."""
    top_k = [vocabulary // 2, 3, 40, vocabulary // 3, vocabulary // 2, vocabulary, 7, 6, 1]
    top_p = [0.3, 0.9, 0.95, 0.5, 0.6, 0.8, 0.9 + 2.0**-36, 0.625, 1.0]
    min_p = [1.0, 0.5, 0.001, 0.6, 0.2, 0.05, 0.0, 0.25, 0.3]
    if turn % 2:
        top_k, top_p, min_p = [10**9, *top_k[:-1]], [*top_p[3:], 1e-9, 0.5, 0.7], [0.0] * 4 + min_p[:5]
    return Cut(
        torch.tensor(top_k)[:, None] if use[0] else None,
        torch.tensor(top_p, dtype=torch.float64)[:, None] if use[1] else None,
        torch.tensor(min_p)[:, None] if use[2] else None,
        max(top_k) if use[0] else 0,
    )


def hard_noise(turn: int) -> Tensor:
    """float64 [9]: either end, exact shares, and any."""
    some = torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(turn))
    for place, value in enumerate((0.0, ALMOST_ONE, 0.5, 0.25)):
        some[(2 * place + turn) % 9] = value
    return some


def check_rest(kept: ModuleType, probs: Tensor, noise: Tensor, cut: Cut, device: str = "cpu") -> None:
    """Every row but each third, which is whole, is drawn as from the sorted row; the whole ones stay as they are."""
    rows = len(probs)
    wanted = draw_kept(probs, noise, replace(cut, most_k=probs.shape[1]), wants_entropies=True)  # sorted whole
    is_whole = torch.arange(rows) % 3 == 2
    found = Kept(torch.full((rows,), -7), torch.full((rows,), -7.0), torch.full((rows,), -7.0))
    found = Kept(*(part.to(device) for part in found if part is not None))
    cuts = (part if part is None else part.to(device) for part in (cut.top_k, cut.top_p, cut.min_p))
    kept.draw_rest(probs.to(device), noise.to(device), *cuts, is_whole.to(device), *found)
    check_same(found, wanted, ~is_whole)
    assert all((part.cpu()[is_whole] == -7).all() for part in found if part is not None)


def check_same(found: Kept, wanted: Kept, rows: Tensor | slice = slice(None)) -> None:
    """The same tokens, and probabilities and entropies as far as float32 says them."""
    assert found.tokens.cpu()[rows].tolist() == wanted.tokens[rows].tolist()
    torch.testing.assert_close(found.probs.cpu()[rows], wanted.probs[rows], rtol=1e-6, atol=1e-12)
    if found.entropies is not None and wanted.entropies is not None:
        torch.testing.assert_close(found.entropies.cpu()[rows], wanted.entropies[rows], rtol=1e-5, atol=1e-5)
