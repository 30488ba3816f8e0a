"""What samples leave behind in the cache, for prompts that begin alike: the next turn of a chat, the same system prompt.

    sample ends --copy--> kept strand, its token ids beside it --copy--> the strand of a prompt that begins with some of them
                            |
                            +-- freed, the least recently used first, where memory is short; all, where the weights change

A strand is found by token ids alone, and what is copied are the keys and values that a forward pass over these ids gave: only the
rest of the prompt is computed. It does not know who waits, or what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from headway.engine.cache import BLOCK, BlockCache, Strand, blocks_of

LEAST = BLOCK  # tokens that begin alike; below, a prompt is as quickly computed with the others
_MOST = 256  # strands


@dataclass(slots=True, eq=False)
class _Kept:
    ids: np.ndarray
    strand: Strand


class Keeping:
    """The kept strands of one cache, least recently used first."""

    def __init__(self, cache: BlockCache):
        self._cache = cache
        self._kept: list[_Kept] = []

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, ids: Sequence[int], strand: Strand) -> None:
        """Keep a copy of a strand that begins at position 0 and holds the tokens `ids`, if memory allows."""
        cache, blocks = self._cache, blocks_of(len(ids))
        room = cache.most - cache.own.size - cache.shared.size  # to take memory from those at work would only be undone
        if len(ids) < LEAST or blocks > room:
            return
        wanted = np.array(ids, dtype=np.int64)
        for one in [one for one in self._kept if len(one.ids) <= len(ids) and alike(one.ids, wanted) == len(one.ids)]:
            self._drop(one)  # it is the beginning of what comes
        while len(self._kept) >= _MOST or cache.kept.used + blocks > room:
            self._drop(self._kept[0])
        copy = Strand(cache.kept)
        if cache.extend(copy, len(ids)):
            cache.copy(strand, copy, len(ids))
            self._kept.append(_Kept(wanted, copy))

    def find(self, ids: Sequence[int], others: Iterable[tuple[Sequence[int], Strand]] = ()) -> tuple[Strand | None, int]:
        """The strand that begins with the most of a prompt's tokens, and how many: LEAST or more and never all, or (None, 0).

        `others` are (ids, strand) that are in the cache anyway.
        """
        wanted = np.array(ids[:-1], dtype=np.int64)  # the last one is computed in any case: its hidden state is wanted
        best: _Kept | None = None
        strand, most = None, LEAST - 1
        for one in self._kept:
            if (count := alike(one.ids, wanted)) > most:
                best, strand, most = one, one.strand, count
        for known, other in others:
            if (count := alike(np.array(known[: other.length], dtype=np.int64), wanted)) > most:
                best, strand, most = None, other, count
        if best is not None:
            self._kept.remove(best)
            self._kept.append(best)
        return strand, most if strand is not None else 0

    def free(self, blocks: int) -> bool:
        """Let go of strands until so many blocks are free; whether they are. Where even all would not do, none is let go.

        A fourth of what is kept goes at once: what is left must be moved together before another pool can have the memory.
        """
        cache = self._cache
        if cache.free + cache.kept.used < blocks:
            return False
        if cache.free < blocks:
            blocks = max(blocks, cache.free + cache.kept.used // 4)
            while cache.free < blocks:
                self._drop(self._kept[0])
        return True

    def clear(self) -> None:
        """Let go of all."""
        for one in list(self._kept):
            self._drop(one)

    def _drop(self, one: _Kept) -> None:
        self._kept.remove(one)
        self._cache.close(one.strand)


def alike(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two sequences begin with alike."""
    size = min(len(one), len(other))
    differ = one[:size] != other[:size]
    return int(differ.argmax()) if differ.any() else size
