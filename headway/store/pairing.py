"""Correct and wrong rollouts of one problem to pairs: which belong together, by a rule, each rollout used once.

    rows of whole problems --all (right, wrong) of one author--> scored --sort--> greedily, at most `limit` a problem

Millions of rollouts pass through here, so the work is on arrays: two texts' common beginning is found eight bytes at a time, for
all pairs at once. This file does not know tables; `queries` hands it the rows.
"""

# pyright: basic
# (the types of pyarrow are partial)

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from headway.types import content_id

PairRule = Literal["beginning", "length", "hardest"]
BEGINNING = 1024  # characters over which two texts' beginnings are compared
_ACROSS = np.iinfo(np.int64).max  # in the place of an author, where a pair has two


class Sides(NamedTuple):
    """The rollouts of whole problems that may be paired, n rows in order of problem and author. Arrays of length n.

    `problem` and `author` are non-decreasing numbers, `texts` the first BEGINNING characters, `lengths` those of the whole texts
    in characters, `text_keys` equal where the texts are, `shares` how many of a problem's wrong rollouts give this one's answer.
    """

    problem: np.ndarray
    author: np.ndarray
    is_right: np.ndarray
    lengths: np.ndarray
    text_keys: np.ndarray
    shares: np.ndarray
    ids: pa.Array
    texts: pa.Array


def pair_up(
    sides: Sides, limit: int, seed: int, rule: PairRule = "beginning", max_length_ratio: float = 0.0, across: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the right ones, rows of the wrong ones), at most `limit` pairs a problem, in order of problem; no row twice.

    Pairs are of one author, author by author; with `across` also of two, last. Within these, first come by `rule`:

    beginning   the longest common beginning (in UTF-8 bytes, of the first BEGINNING characters): what differs is then the mistake
                and what follows from it, and the tokens before it cancel in DPO's gradient; then the most similar in length
    length      the most similar in length, so that length says nothing about which is right; then the common beginning
    hardest     the wrong answer that most of the problem's wrong rollouts give, its own trap; then as "beginning"

    Ties are broken by a seeded hash. Of an author's rollouts of one side with equal texts only the last counts. Pairs whose
    lengths differ by more than the factor `max_length_ratio` (0: any) are left out.
    """
    right, wrong = _candidates(sides, across)
    apart = np.abs(sides.lengths[right] - sides.lengths[wrong])
    if max_length_ratio:
        low, high = (f(sides.lengths[right], sides.lengths[wrong]) for f in (np.minimum, np.maximum))
        fits = high <= max_length_ratio * low
        right, wrong, apart = right[fits], wrong[fits], apart[fits]
    alike = -shared_beginnings(sides.texts, right, wrong)
    author = np.where(sides.author[right] == sides.author[wrong], sides.author[right], _ACROSS)
    keys = [sides.problem[right], author, *((apart, alike) if rule == "length" else (alike, apart))]
    if rule == "hardest":
        keys.insert(2, -sides.shares[wrong])
    order = np.lexsort(keys[::-1])
    right, wrong, keys = right[order], wrong[order], [key[order] for key in keys]
    kept = _greedy(right, wrong, keys, limit, lambda i: content_id(seed, sides.ids[right[i]], sides.ids[wrong[i]]))
    return right[kept], wrong[kept]


def _candidates(sides: Sides, across: bool) -> tuple[np.ndarray, np.ndarray]:
    """All (right, wrong) rows of one author, or with `across` of one problem."""
    rows = np.flatnonzero(_is_last_of_its_text(sides))
    group = sides.problem[rows] if across else sides.author[rows]
    rows = rows[np.lexsort((sides.is_right[rows], group))]  # each group: its wrong ones, then its right ones
    group, is_right = (sides.problem if across else sides.author)[rows], sides.is_right[rows]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(rows) else np.zeros(0, int)
    sizes = np.diff(np.r_[starts, len(rows)])
    num_wrong = np.add.reduceat(~is_right, starts) if len(rows) else sizes
    repeats = np.where(is_right, np.repeat(num_wrong, sizes), 0)
    right = np.repeat(np.arange(len(rows)), repeats)
    within = np.arange(len(right)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return rows[right], rows[np.repeat(np.repeat(starts, sizes), repeats) + within]


def _is_last_of_its_text(sides: Sides) -> np.ndarray:
    order = np.lexsort((sides.text_keys, sides.is_right, sides.author))  # stable: equal ones stay in order
    columns = [column[order] for column in (sides.text_keys, sides.is_right, sides.author)]
    same_as_next = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    is_last = np.ones(len(order), bool)
    is_last[order[:-1][same_as_next]] = False
    return is_last


def shared_beginnings(texts: pa.Array, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How many bytes of UTF-8 the texts at `first` share from the start with those at `second`: an int64 array."""
    texts = texts.cast(pa.large_binary())
    offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8)
    data = np.concatenate([np.frombuffer(texts.buffers()[2] or b"", np.uint8), np.zeros(8, np.uint8)])
    words = np.ndarray((len(data) - 7,), np.dtype("<u8"), data, strides=(1,))  # the eight bytes that start at each byte
    a, b = offsets[first], offsets[second]
    shortest = np.minimum(offsets[first + 1] - a, offsets[second + 1] - b)
    shared = np.zeros(len(first), np.int64)
    alive = np.arange(len(first))
    while len(alive):
        done = shared[alive]
        differs = words[a[alive] + done] ^ words[b[alive] + done]
        lowest = differs & (~differs + np.uint64(1))  # the lowest bit that differs: in the first byte that differs
        shared[alive] += np.where(differs == 0, 8, np.frexp(lowest.astype(np.float64))[1].astype(np.int64) - 1 >> 3)
        alive = alive[(differs == 0) & (shared[alive] < shortest[alive])]
    return np.minimum(shared, shortest)


def _greedy(right: np.ndarray, wrong: np.ndarray, keys: Sequence[np.ndarray], limit: int, tie_of: object) -> np.ndarray:
    """Positions of the pairs taken, from pairs sorted by `keys` (the first is the problem)."""
    n = len(right)
    if not n:
        return np.zeros(0, int)
    problem = keys[0]
    starts = np.flatnonzero(np.r_[True, problem[1:] != problem[:-1]])
    ends = np.r_[starts[1:], n]
    ties_next = np.r_[np.logical_and.reduce([key[1:] == key[:-1] for key in keys]), False]
    simple = (limit == 1) & ~ties_next[starts]
    kept: list[tuple[int, int]] = [(i, i) for i in starts[simple].tolist()]  # (place in the order of choice, position)
    for start, end in zip(starts[~simple].tolist(), ends[~simple].tolist(), strict=True):
        used: set[tuple[bool, int]] = set()
        taken, position = 0, start
        while position < end and taken < limit:
            stop = position + 1
            while ties_next[stop - 1]:
                stop += 1
            run = range(position, stop)
            for i in run if len(run) == 1 else sorted(run, key=tie_of):  # type: ignore[arg-type]
                names = {(True, int(right[i])), (False, int(wrong[i]))}
                if taken < limit and not used & names:
                    used |= names
                    kept.append((start + taken, i))
                    taken += 1
            position = stop
    return np.array([i for _, i in sorted(kept)], int)
