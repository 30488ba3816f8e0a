"""Which tokens top-k, top-p and min-p leave, and a draw among those: never the whole vocabulary sorted for a sharp distribution.

    likeliest tokens, descending  p_1 >= p_2 >= ...       kept = the first c of them, c >= 1:
        top-k    i <= k                                    M = their mass (1 without top-k)
        top-p    p_1 + .. + p_(i-1) < top_p M              the smallest set with at least that share
        min-p    p_i >= min_p p_1

Each acts on what the one before left, so all three together keep a beginning of the descending order, and the kept set is that of
`transformers`' TopK-, TopP- and MinPLogitsWarper in this order. Only exact ties differ: there a lower token id comes first, where
`transformers` keeps all that tie at top-k's border. (vLLM applies min-p before top-k and top-p; it differs where all are used.)

One uniform number decides among the kept, in descending order and equals by token id. The likeliest tokens are looked for in the
blocks of the vocabulary with the highest maxima. Rows whose set may reach beyond what was looked at are looked at again, wider,
and at last sorted whole; the sums run over the same numbers in the same order, so where a row's set is found changes no bit of
its draw. With the kernel of `cuda.kept` they are drawn from the whole row in one launch, which is there whether rows are left or
not: the host asks nothing, and a draw can be recorded. This file does not know temperatures, penalties or requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headway.model import cuda

_LEVELS = ((8, 32), (32, 64), (64, 128), (0, 256))  # blocks looked into (0: all), tokens taken from them; the third for top-k


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


def has_kernel(device: torch.device) -> bool:
    """Whether what the likeliest tokens do not hold is drawn by `cuda.kept`, so that a draw there can be recorded."""
    return device.type == "cuda" and cuda.is_there()


def levels(most_k: int, vocabulary: int) -> list[tuple[int, int]]:
    """(blocks looked into, tokens taken from them) of each look at a row, before the whole of it; none: that at once."""
    found = [(blocks, size) for blocks, size in _LEVELS if most_k < (blocks or size) and 4 * size <= vocabulary]
    return [level for level in found if level[0] < 64 or most_k >= 32]


def draw_kept(probs: Tensor, noise: Tensor, cut: Cut, wants_entropies: bool = False) -> Kept:
    """Draw from what `cut` leaves of probs [R, V] by the inverse CDF, noise float64 [R].

    The host waits for the device in one case: on CUDA without the kernel, and with levels, to learn which rows must be looked at
    again. A small vocabulary, or a top-k beyond all levels, is sorted whole at once, and with the kernel nothing is asked.
    """
    first, *wider = [*levels(cut.most_k, probs.shape[-1]), None]
    if first is None:
        return _whole(probs, noise, cut, wants_entropies)
    found, is_whole = _among_likeliest(probs, noise, cut, wants_entropies, *first)
    if has_kernel(probs.device):
        from headway.model.cuda import kept

        kept.draw_rest(probs, noise, cut.top_k, cut.top_p, cut.min_p, is_whole, found.tokens, found.probs, found.entropies)
        return found
    rows = (~is_whole).nonzero().squeeze(-1)
    for level in wider:
        if not len(rows):
            break
        part, u, own = probs[rows], noise[rows], cut.of(rows)
        if level is None:
            again, is_whole = _whole(part, u, own, wants_entropies), torch.ones_like(rows, dtype=torch.bool)
        else:
            again, is_whole = _among_likeliest(part, u, own, wants_entropies, *level)
        found.tokens[rows], found.probs[rows] = again.tokens, again.probs
        if found.entropies is not None and again.entropies is not None:
            found.entropies[rows] = again.entropies
        rows = rows[~is_whole]
    return found


def _among_likeliest(
    probs: Tensor, noise: Tensor, cut: Cut, wants_entropies: bool, blocks: int, size: int
) -> tuple[Kept, Tensor]:
    """A draw from the likeliest `size` tokens of `blocks` blocks, and whether those held a row's whole set [R]."""
    vocabulary = probs.shape[-1]
    block = 32 if vocabulary <= 8192 else 64
    if blocks and 2 * block * blocks < vocabulary:
        padded = F.pad(probs, (0, -vocabulary % block), value=-1.0) if vocabulary % block else probs
        parts = padded.view(len(probs), -1, block)
        highest, best = parts.amax(-1).topk(blocks + 1)
        beyond, best = highest[:, blocks:], best[:, :blocks]
        at = parts.gather(1, best[:, :, None].expand(-1, -1, block)).flatten(1).topk(size, sorted=False).indices
        ids = best.gather(1, at // block) * block + at % block
    else:  # most blocks would be looked into: all are
        ids = probs.topk(size, sorted=False).indices
        beyond = torch.full_like(noise, -1.0, dtype=probs.dtype)[:, None]
    ids = ids.sort(-1).values
    values, order = probs.gather(1, ids).sort(dim=-1, descending=True, stable=True)  # equals by id
    place, kept, count = _pick(values, noise, cut, wants_entropies)
    # Strictly: what ties with the least kept may lie beyond, and the lower id has precedence
    least = values.gather(1, count - 1)
    is_whole = (least > values[:, -1:]) & (least > beyond)
    if cut.min_p is not None:  # min-p's set ends where the next token fails, so no token beyond may pass
        is_whole &= (cut.min_p == 0) | (beyond < cut.min_p * values[:, :1])
    tokens = ids.gather(1, order.gather(1, place)).squeeze(-1)
    return kept._replace(tokens=tokens), is_whole.squeeze(-1)


def _whole(probs: Tensor, noise: Tensor, cut: Cut, wants_entropies: bool) -> Kept:
    """The same from all tokens: their values are sorted, and the token with the drawn value is looked up."""
    values = _descending(probs)
    place, kept, _ = _pick(values, noise, cut, wants_entropies)
    value = values.gather(1, place)
    before = place - (values > value).sum(-1, keepdim=True)  # equals that come first
    tokens = torch.searchsorted((probs == value).cumsum(-1), before, right=True)
    return kept._replace(tokens=tokens.clamp_(max=probs.shape[-1] - 1).squeeze(-1))  # the clamp is for NaN alone


def _descending(probs: Tensor) -> Tensor:
    if probs.is_cuda:
        return probs.sort(dim=-1, descending=True).values
    # numpy's vectorised sort is many times faster than torch's there
    return torch.from_numpy(np.sort(-probs.numpy(), axis=-1)).neg_()


def _pick(values: Tensor, noise: Tensor, cut: Cut, wants_entropies: bool) -> tuple[Tensor, Kept, Tensor]:
    """The place [R, 1] drawn among descending values [R, C], what is known of it (its token is not), and the kept ones' count."""
    sums = values.cumsum(-1, dtype=torch.float64)
    count = _count(values, sums, cut)
    mass = sums.gather(1, count - 1)
    place = torch.minimum(torch.searchsorted(sums, noise[:, None] * mass, right=True), count - 1)
    chosen = (values.gather(1, place) / mass).squeeze(-1).float()
    entropies = None
    if wants_entropies:
        shares = torch.where(torch.arange(values.shape[-1], device=values.device) < count, values / mass.float(), 0.0)
        entropies = torch.special.entr(shares).sum(-1)
    return place, Kept(place, chosen, entropies), count


def _count(values: Tensor, sums: Tensor, cut: Cut) -> Tensor:
    """How many of the descending values [R, C], with their running sums, are kept: int64 [R, 1]."""
    count = torch.full_like(sums[:, :1], values.shape[-1], dtype=torch.int64)
    if cut.top_k is not None:
        count = torch.minimum(count, cut.top_k)
    if cut.top_p is not None:
        mass = 1.0 if cut.top_k is None else torch.where(cut.top_k <= values.shape[-1], sums.gather(1, count - 1), 1.0)
        goal = torch.where(cut.top_p < 1, cut.top_p * mass, torch.inf)
        count = torch.minimum(count, (sums - values < goal).sum(-1, keepdim=True))
    if cut.min_p is not None:
        count = torch.minimum(count, (values >= cut.min_p * values[:, :1]).sum(-1, keepdim=True))
    return count.clamp_(min=1)
