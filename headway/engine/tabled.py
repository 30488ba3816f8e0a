"""Attention over the cache's blocks by a kernel that finds them in a table: in C on the CPU, in Triton on CUDA.

    blocks    the numbers of all sequences' blocks, end to end; of a prompt that several share, once
    first     where a sequence's begin among them          lengths    tokens in them

Where no kernel can be had, `paged.Decoding` does the same in PyTorch. This file does not know what is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headway.engine.cache import BlockCache, Pool, Strand
from headway.engine.paged import Decoding, advance
from headway.engine.transfer import Steady
from headway.model import cuda
from headway.model.kernel import MOST_DIM, MOST_GROUP, Blocks, Kernel, kernel
from headway.model.products import rounded


class CompiledDecoding:
    """The same as `Decoding`, by `c/blocks.c`: float32 on a CPU with a C compiler."""

    needs_dense = True  # memory follows the tokens in flight

    def __init__(self, cache: BlockCache, compiled: Kernel):
        self._cache, self._kernel = cache, compiled
        self._scale, self._windows = cache.config.attention_scale, cache.config.windows
        self._state = (-1, -1, -1)

    def begin(self, strands: Sequence[Strand]) -> np.ndarray:
        """As `Decoding.begin`."""
        own, shared = self._cache.own, self._cache.shared
        *_, positions = advance(own, strands)
        state = (own.version, shared.version, len(strands))
        if state == self._state:
            self._own.lengths[:] += 1
            return positions
        self._state = state
        order, starts = _in_order(own, len(strands))
        self._own = Blocks(order, starts, np.fromiter((s.length for s in strands), np.int64, len(strands)))
        prefixes = [s.prefix for s in strands]
        blocks = [block for prefix in prefixes if prefix is not None for block in prefix.blocks]
        counts = np.array([len(prefix.blocks) if prefix is not None else 0 for prefix in prefixes], dtype=np.int64)
        lengths = np.array([prefix.length if prefix is not None else 0 for prefix in prefixes], dtype=np.int64)
        self._shared = Blocks(np.array(blocks, dtype=np.int64), _starts(counts), lengths)
        layers = range(len(own.keys))
        self._shared_tables = [self._shared.table(shared.keys[layer], shared.values[layer]) for layer in layers]
        self._own_tables = [self._own.table(own.keys[layer], own.values[layer]) for layer in layers]
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `Decoding.attend`."""
        tables = self._shared_tables[layer], self._own_tables[layer]
        return self._kernel.attend(q, k, v, *tables, self._scale, self._windows[layer])


class CudaDecoding:
    """The same as `Decoding`, by `cuda.blocks`. Its tables stay where they are on the device, so that a step can be recorded."""

    needs_dense = False  # to move blocks would take longer than to read around the gaps

    def __init__(self, cache: BlockCache, device: torch.device):
        self._cache, self._device = cache, device
        self._scale, self._windows = cache.config.attention_scale, cache.config.windows
        self._own, self._shared, self._rows = (Steady(torch.int32, device) for _ in range(3))
        self._state = (-1, -1, -1)
        self._first, self._lengths, self._prefix = (np.zeros(shape, dtype=np.int32) for shape in ((2, 0), 0, 0))
        self._starts = np.zeros(0, dtype=np.int64)

    @property
    def places(self) -> tuple[int, ...]:
        """Changes whenever a table, or keys and values, lie elsewhere than before."""
        pools = self._cache.own, self._cache.shared
        return *(one.moves for one in (self._own, self._shared, self._rows)), *(pool.moves for pool in pools)

    def begin(self, strands: Sequence[Strand], rows: int = 0) -> np.ndarray:
        """As `Decoding.begin`. Tables have `rows` rows (0: those that `rounded` says), of which the last ones are empty."""
        own, shared, count = self._cache.own, self._cache.shared, len(strands)
        for strand in strands:
            strand.length += 1
        state = (own.version, shared.version, count)
        if state == self._state:
            self._lengths += 1
        else:
            self._state = state
            self._lengths = np.array([strand.length for strand in strands], dtype=np.int32)
            self._prefix = np.array([s.prefix.length if s.prefix is not None else 0 for s in strands], dtype=np.int32)
            self._starts = np.array([strand.start for strand in strands], dtype=np.int64)
            order, starts = _in_order(own, count)
            begins, blocks = _prefixes(strands)
            self._own.hold(order.astype(np.int32))
            self._shared.hold(np.array(blocks, dtype=np.int32))
            self._first = np.stack([starts[:-1], np.array(begins, dtype=np.int64)]).astype(np.int32)
        rows = rows or rounded(count)
        table = np.zeros((4, rows), dtype=np.int32)
        table[:2, :count], table[2, :count], table[3, :count] = self._first, self._lengths, self._prefix
        self._table = self._rows.hold(table.reshape(-1)).view(4, rows)
        return self._starts + self._lengths - 1

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `Decoding.attend`."""
        from headway.model.cuda import blocks

        rows, pools = len(q), (self._cache.own, self._cache.shared)
        own, shared = (
            (blocks.Table(steady.tensor, self._table[i, :rows], self._table[2 + i, :rows]), pool.keys[layer], pool.values[layer])
            for i, (steady, pool) in enumerate(zip((self._own, self._shared), pools, strict=True))
        )
        return blocks.attend(q, k, v, own, shared, self._scale, self._windows[layer])


def _in_order(own: Pool, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks of the `count` sequences end to end, each one's in order, and where each one's begin: int64 [n], [count + 1]."""
    reader = own.reader[: own.top]
    order = np.lexsort((own.place[: own.top], reader))
    order = order[reader[order] >= 0]
    return order, _starts(np.bincount(reader[order], minlength=count))


def _prefixes(strands: Sequence[Strand]) -> tuple[list[int], list[int]]:
    """Where each strand's prefix begins among the blocks of all prefixes, each of which is there once; and these blocks."""
    begins: dict[Strand, int] = {}
    blocks: list[int] = []
    for strand in strands:
        if strand.prefix is not None and strand.prefix not in begins:
            begins[strand.prefix] = len(blocks)
            blocks += strand.prefix.blocks
    return [begins[strand.prefix] if strand.prefix is not None else 0 for strand in strands], blocks


def decoding(cache: BlockCache, device: torch.device) -> Decoding | CompiledDecoding | CudaDecoding:
    """The fastest that there is for this cache on this machine."""
    config, compiled = cache.config, None
    if config.head_dim <= MOST_DIM and config.heads <= MOST_GROUP * config.kv_heads:
        if device.type == "cuda" and cuda.is_there():
            return CudaDecoding(cache, device)
        if device.type == "cpu" and cache.own.keys[0].dtype == torch.float32:
            compiled = kernel()
    return Decoding(cache, device) if compiled is None else CompiledDecoding(cache, compiled)


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
