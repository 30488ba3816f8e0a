"""A draw from what top-k, top-p and min-p leave of a whole row, not sorted, and without the host: on a CUDA card.

    n(t) = #{p >= t},  m(t) = sum {p >= t}     over the row, tile after tile, sums in float64; both fall as t rises
    top-k    the highest t with n(t) >= k      top-p    the highest t with m(t) >= top_p M      min-p    t = min_p max p
    the draw                                            the highest t with m(t) > u (mass of the kept)

A probability is no negative number, so its bits are ordered as it is: each t is found by 31 halvings between the bits of 0 and
those of the likeliest, and what is above a t that was found is in. How many of the tokens that tie at t are in, or which of them
is drawn, follows by division; a last pass finds it among them by its number. That is the descending order, equals by token id,
of `engine.truncation`, where the formulas are; only the last bits of float64 sums differ.

A program a row, which returns at once where the row is drawn already. What varies is read on the card, and nothing is allocated:
a CUDA graph can hold it. A row that is not of numbers ends, too, with some token. To be imported only where Triton is. This file
does not know how other rows were drawn, nor what a request is.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from headway.model.cuda import jit, launch

_TILE, _WARPS = 4096, 8


@jit
@no_type_check
def _tile(values, start, SIZE: tl.constexpr, TILE: tl.constexpr):
    """Token ids, their probabilities, and the bits of these without a sign; -1 beyond the row."""
    at = start + tl.arange(0, TILE)
    inside = at < SIZE
    probs = tl.load(values + at, mask=inside, other=0.0)
    bits = probs.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return at, probs, tl.where(inside, bits, -1)


@jit
@no_type_check
def _highest_bits(values, SIZE: tl.constexpr, TILE: tl.constexpr):
    most = tl.full([TILE], 0, tl.int32)
    for start in range(0, SIZE, TILE):
        _, _, bits = _tile(values, start, SIZE, TILE)
        most = tl.maximum(most, bits)
    return tl.max(most, axis=0)


@jit
@no_type_check
def _from(values, least, SIZE: tl.constexpr, TILE: tl.constexpr):
    """n(t) int32 and m(t) float64, t given by its bits."""
    count = tl.full([TILE], 0, tl.int32)
    mass = tl.full([TILE], 0.0, tl.float64)
    for start in range(0, SIZE, TILE):
        _, probs, bits = _tile(values, start, SIZE, TILE)
        is_in = bits >= least
        count += is_in.to(tl.int32)
        mass += tl.where(is_in, probs, 0.0).to(tl.float64)
    return tl.sum(count, axis=0), tl.sum(mass, axis=0)


@jit
@no_type_check
def _search(
    values, low, high, goal, IS_COUNT: tl.constexpr, IS_STRICT: tl.constexpr, SIZE: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """The bits of the highest t whose n(t), or m(t), reaches the goal, or exceeds it; `low` where none above it does."""
    for _ in range(31):
        middle = low + (high - low + 1) // 2
        count, mass = _from(values, middle, SIZE, TILE)
        if IS_COUNT:
            is_reached = count >= goal
        elif IS_STRICT:
            is_reached = mass > goal
        else:
            is_reached = mass >= goal
        low = tl.where(is_reached, middle, low)
        high = tl.where(is_reached, high, middle - 1)
    return low


@jit
@no_type_check
def _around(values, bits, SIZE: tl.constexpr, TILE: tl.constexpr):
    """Of the value with these bits: itself float64, how many are above it, their sum, and how many tie with it."""
    above, mass = _from(values, bits + 1, SIZE, TILE)
    till, _ = _from(values, bits, SIZE, TILE)
    return bits.to(tl.float32, bitcast=True).to(tl.float64), above, mass, till - above


@jit
@no_type_check
def _times(mass, value, most):
    """How often the value goes into the mass, float64 from 0 to `most`."""
    times = mass / tl.where(value > 0, value, 1.0)
    return tl.minimum(tl.where(times > 0, times, 0.0), most.to(tl.float64))


@jit
@no_type_check
def _kept(
    values, highest, top_k, top_p, min_p,
    HAS_K: tl.constexpr, HAS_P: tl.constexpr, HAS_MIN: tl.constexpr, SIZE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """How many tokens are kept, their mass float64, and bits that the least of them has at least. The cuts point to a row's."""
    least = tl.minimum(highest, 0)
    count, mass = _from(values, least, SIZE, TILE)
    whole = 1.0
    if HAS_K:
        k = tl.load(top_k)
        count = tl.maximum(tl.minimum(k, SIZE), 1).to(tl.int32)
        least = _search(values, least, highest, count, True, False, SIZE, TILE)
        value, above, mass, ties = _around(values, least, SIZE, TILE)
        mass += (count - above).to(tl.float64) * value
        whole = tl.where(k <= SIZE, mass, 1.0)
    if HAS_P:
        p = tl.load(top_p)
        goal = tl.where(p < 1, p * whole, float("inf"))
        bits = _search(values, tl.minimum(highest, 0), highest, goal, False, False, SIZE, TILE)
        value, above, before, ties = _around(values, bits, SIZE, TILE)
        some = tl.maximum(tl.ceil(_times(goal - before, value, ties)).to(tl.int32), 1)
        is_less = above + some < count
        count = tl.where(is_less, above + some, count)
        mass = tl.where(is_less, before + some.to(tl.float64) * value, mass)
        least = tl.where(is_less, bits, least)
    if HAS_MIN:
        bits = (tl.load(min_p) * highest.to(tl.float32, bitcast=True)).to(tl.int32, bitcast=True)
        some, before = _from(values, bits, SIZE, TILE)
        is_less = some < count
        count = tl.where(is_less, some, count)
        mass = tl.where(is_less, before, mass)
        least = tl.where(is_less, bits, least)
    return count, mass, least


@jit
@no_type_check
def _tied(values, wanted, place, SIZE: tl.constexpr, TILE: tl.constexpr):
    """The id of the token that has these bits and before which `place` others have them."""
    before = tl.minimum(place, 0)
    found = before
    for start in range(0, SIZE, TILE):
        at, _, bits = _tile(values, start, SIZE, TILE)
        is_tied = (bits == wanted).to(tl.int32)
        number = before + tl.cumsum(is_tied, axis=0)
        is_it = (is_tied > 0) & (number == place + 1)
        found = tl.maximum(found, tl.max(tl.where(is_it, at, 0), axis=0))
        before += tl.sum(is_tied, axis=0)
    return found


@jit
@no_type_check
def _entropy(values, count, mass, least, SIZE: tl.constexpr, TILE: tl.constexpr):
    """In nats, of the `count` likeliest; those that tie at the end are counted, not looked at."""
    total = tl.full([TILE], 0.0, tl.float32)
    above = tl.full([TILE], 0, tl.int32)
    lowest = tl.full([TILE], 0x7FFFFFFF, tl.int32)
    for start in range(0, SIZE, TILE):
        _, _, bits = _tile(values, start, SIZE, TILE)
        lowest = tl.minimum(lowest, tl.where(bits >= least, bits, 0x7FFFFFFF))
    end = tl.min(lowest, axis=0)
    for start in range(0, SIZE, TILE):
        _, probs, bits = _tile(values, start, SIZE, TILE)
        is_in = bits > end
        share = tl.where(is_in, probs, 0.0) / mass
        total -= share * tl.log(tl.where(share > 0, share, 1.0))
        above += is_in.to(tl.int32)
    share = end.to(tl.float32, bitcast=True) / mass
    rest = (count - tl.sum(above, axis=0)).to(tl.float32) * share * tl.log(tl.where(share > 0, share, 1.0))
    return tl.sum(total, axis=0) - rest


@jit
@no_type_check
def _draw_rest(
    probs, noise, top_k, top_p, min_p, is_whole, tokens, chosen, entropies,
    HAS_K: tl.constexpr, HAS_P: tl.constexpr, HAS_MIN: tl.constexpr, HAS_ENTROPIES: tl.constexpr,
    SIZE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if tl.load(is_whole + row) == 0:
        values = probs + row * SIZE
        highest = _highest_bits(values, SIZE, TILE)
        count, mass, least = _kept(
            values, highest, top_k + row, top_p + row, min_p + row, HAS_K, HAS_P, HAS_MIN, SIZE, TILE
        )  # fmt: skip
        goal = tl.load(noise + row) * mass
        # From 1 on: what has no probability is never drawn
        bits = _search(values, tl.maximum(least, 1), highest, goal, False, True, SIZE, TILE)
        value, above, before, ties = _around(values, bits, SIZE, TILE)
        place = tl.floor(_times(goal - before, value, ties)).to(tl.int32)
        place = tl.maximum(tl.minimum(place, tl.minimum(ties, count - above) - 1), 0)
        tl.store(tokens + row, _tied(values, bits, place, SIZE, TILE).to(tl.int64))
        tl.store(chosen + row, (value / mass).to(tl.float32))
        if HAS_ENTROPIES:
            tl.store(entropies + row, _entropy(values, count, mass.to(tl.float32), least, SIZE, TILE))


def draw_rest(
    probs: Tensor,
    noise: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    is_whole: Tensor,
    tokens: Tensor,
    chosen: Tensor,
    entropies: Tensor | None,
) -> None:
    """Draw the rows of probs [R, V] float32 that are not whole, and write tokens int64, chosen float32 and entropies float32 [R].

    noise float64 [R]; top_k int64, top_p float64, min_p float32 [R, 1] as in `truncation.Cut`; is_whole bool [R]. Others stay.
    """
    rows, vocabulary = probs.shape
    types = {
        torch.float32: (probs, min_p, chosen, entropies), torch.float64: (noise, top_p),
        torch.int64: (top_k, tokens), torch.bool: (is_whole,),
    }  # fmt: skip
    given = [(x, dtype) for dtype, tensors in types.items() for x in tensors if x is not None]
    assert all(x.dtype == dtype and x.is_contiguous() for x, dtype in given), "types as above, numbers end to end"
    assert all(x is probs or x.numel() == rows for x, _ in given), "a number a row"
    if rows:
        top_ks, top_ps, min_ps, found = (probs if x is None else x for x in (top_k, top_p, min_p, entropies))
        _draw_rest[(rows,)](
            probs, noise, top_ks, top_ps, min_ps, is_whole.view(torch.uint8), tokens, chosen, found,
            HAS_K=top_k is not None, HAS_P=top_p is not None, HAS_MIN=min_p is not None,
            HAS_ENTROPIES=entropies is not None, SIZE=vocabulary, TILE=_TILE, **launch(_WARPS),
        )  # fmt: skip
