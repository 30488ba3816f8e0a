"""Which tokens top-k, top-p and min-p leave, and a draw among those: never the whole vocabulary sorted for a sharp distribution.

    likeliest tokens, descending  p_1 >= p_2 >= ...       kept = the first c of them, c >= 1:
        top-k    i <= k                                    M = their mass (1 without top-k)
        top-p    p_1 + .. + p_(i-1) < top_p M              the smallest set with at least that share
        min-p    p_i >= min_p p_1

Each acts on what the one before left, so all three together keep a beginning of the descending order, and the kept set is that of
`transformers`' TopK-, TopP- and MinPLogitsWarper in this order. Only exact ties differ: there a lower token id comes first, where
`transformers` keeps all that tie at top-k's border. (vLLM applies min-p before top-k and top-p; it differs where all are used.)

The likeliest tokens are looked for in the blocks of the vocabulary with the highest maxima. Rows whose set may reach beyond what
was looked at are looked at again, wider, and at last sorted whole. It does not know temperatures, penalties or requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = ((8, 32), (32, 64), (64, 128))  # blocks looked into, tokens taken from them


@dataclass(frozen=True, slots=True)
class Cut:
    """The truncations of R rows, on the device; None where no row uses one.

    Example: ``Cut(top_k=None, top_p=tensor([[0.95], [1.0]]), min_p=None, most_k=0)``

    top_k int64 [R, 1] (the vocabulary's size or more: all), top_p float64 [R, 1] (1: all), min_p float32 [R, 1] (0: all).
    `most_k` is the highest top-k, 0 without one.
    """

    top_k: Tensor | None
    top_p: Tensor | None
    min_p: Tensor | None
    most_k: int

    def of(self, rows: Tensor) -> Cut:
        """The truncations of these rows alone."""
        top_k, top_p, min_p = (None if part is None else part[rows] for part in (self.top_k, self.top_p, self.min_p))
        return Cut(top_k, top_p, min_p, self.most_k)


class Kept(NamedTuple):
    """Drawn tokens int64 [R], their probabilities float32 [R] within the kept set, and its entropy in nats float32 [R]."""

    tokens: Tensor
    probs: Tensor
    entropies: Tensor | None


def draw_kept(probs: Tensor, noise: Tensor, cut: Cut, wants_entropies: bool = False) -> Kept:
    """Draw from what `cut` leaves of probs [R, V] by the inverse CDF in token order, noise float64 [R].

    On CUDA this waits for the device once a call, to learn whether rows must be looked at again.
    """
    rows, tokens, chosen, entropies = None, noise.new_zeros(0), noise, noise
    for level in _levels(probs.shape[-1], cut.most_k):
        here, u, own = (probs, noise, cut) if rows is None else (probs[rows], noise[rows], cut.of(rows))
        ids, kept, is_whole = _whole(here, own) if level is None else _among_likeliest(here, own, *level)
        found = _pick(ids, kept, u, wants_entropies)
        if rows is None:
            tokens, chosen, entropies = found
        else:
            tokens[rows], chosen[rows], entropies[rows] = found
        if is_whole is None:
            break
        open_rows = (~is_whole).nonzero().squeeze(-1)
        if not len(open_rows):
            break
        rows = open_rows if rows is None else rows[open_rows]
    return Kept(tokens, chosen, entropies if wants_entropies else None)


def _levels(vocabulary: int, most_k: int) -> list[tuple[int, int] | None]:
    """(blocks, tokens) to look at, one after another; None: all. The k likeliest tokens always lie in k blocks."""
    return [*(level for level in _LEVELS if most_k < level[0] and 4 * level[1] <= vocabulary), None]


def _among_likeliest(probs: Tensor, cut: Cut, blocks: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [R, size] ascending, their probabilities with zeros where not kept, and whether that is the whole set [R]."""
    vocabulary = probs.shape[-1]
    block = 32 if vocabulary <= 8192 else 64
    if 2 * block * blocks < vocabulary:
        padded = F.pad(probs, (0, -vocabulary % block), value=-1.0) if vocabulary % block else probs
        parts = padded.view(len(probs), -1, block)
        highest, best = parts.amax(-1).topk(blocks + 1)
        beyond, best = highest[:, blocks:], best[:, :blocks]
        values, at = parts.gather(1, best[:, :, None].expand(-1, -1, block)).flatten(1).topk(size)
        at = best.gather(1, at // block) * block + at % block
    else:  # most blocks would be looked into: all are
        values, at = probs.topk(size)
        beyond = torch.full_like(values[:, :1], -1.0)
    ids, order = at.sort(-1)
    count = _count(values, cut)
    least = values.gather(1, count - 1)
    # Strictly: what ties with the least kept may lie beyond, and the lower id has precedence
    is_whole = (least > values[:, -1:]) & (least > beyond)
    if cut.min_p is not None:  # min-p's set ends where the next token fails, so no token beyond may pass
        is_whole &= (cut.min_p == 0) | (beyond < cut.min_p * values[:, :1])
    return ids, _kept(values.gather(1, order), least, count), is_whole.squeeze(-1)


def _whole(probs: Tensor, cut: Cut) -> tuple[Tensor, Tensor, None]:
    """The same of the whole distribution."""
    if probs.is_cuda:
        values = probs.sort(dim=-1, descending=True).values
    else:  # numpy's vectorised sort is ten times faster than torch's there
        values = torch.from_numpy(np.sort(-probs.numpy(), axis=-1)).neg_()
    count = _count(values, cut)
    ids = torch.arange(probs.shape[-1], device=probs.device).expand(probs.shape)
    return ids, _kept(probs, values.gather(1, count - 1), count), None


def _count(values: Tensor, cut: Cut) -> Tensor:
    """How many of the descending values [R, C] are kept, int64 [R, 1]."""
    sums = values.cumsum(-1, dtype=torch.float64)
    count = torch.full_like(values[:, :1], values.shape[-1], dtype=torch.int64)
    if cut.top_k is not None:
        count = torch.minimum(count, cut.top_k)
    if cut.top_p is not None:
        mass = 1.0 if cut.top_k is None else torch.where(cut.top_k <= values.shape[-1], sums.gather(1, count - 1), 1.0)
        goal = torch.where(cut.top_p < 1, cut.top_p * mass, torch.inf)
        count = torch.minimum(count, (sums - values < goal).sum(-1, keepdim=True))
    if cut.min_p is not None:
        count = torch.minimum(count, (values >= cut.min_p * values[:, :1]).sum(-1, keepdim=True))
    return count.clamp_(min=1)


def _kept(probs: Tensor, least: Tensor, count: Tensor) -> Tensor:
    """probs [R, C] in token order with zeros outside the kept: those above the least one, and the first of its equals."""
    is_above, is_tie = probs > least, probs == least
    quota = count - is_above.sum(-1, keepdim=True)
    return torch.where(is_above | (is_tie & (is_tie.cumsum(-1) <= quota)), probs, 0.0)


def _pick(ids: Tensor, kept: Tensor, noise: Tensor, wants_entropies: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse CDF over kept [R, C]: tokens, probabilities after renormalising, entropies (else the noise again)."""
    sums = kept.cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(sums, noise[:, None] * sums[:, -1:], right=True).clamp_(max=kept.shape[-1] - 1)
    mass = sums[:, -1:].float()
    chosen = (kept.gather(1, place) / mass).squeeze(-1)
    entropies = torch.special.entr(kept / mass).sum(-1) if wants_entropies else chosen
    return ids.gather(1, place).squeeze(-1), chosen, entropies
