"""Keys and values of the tokens in flight, in blocks: memory grows with the tokens there are, not with what each might become.

    pool:    keys   [layers][blocks, kv_heads, head_dim, BLOCK]        block 0 | block 1 | ...
             values [layers][blocks, kv_heads, BLOCK, head_dim]        so that both products of attention run along memory
    strand:  the tokens of one sequence = the blocks of its prefix, if it shares one, then its own

Three pools: `own`, whose blocks have one reader each, `shared`, for prompts that several samples begin with, and `kept`, for what
nobody reads now (`keeping`). Blocks in use are kept at the front of a pool, so that a step can read them where they lie. It does
not know what a sequence is for, nor how attention is computed over the blocks (`paged`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from headway.errors import EngineError
from headway.model.config import DecoderConfig

BLOCK = 32  # positions a block
_MOST_BYTES = 2 << 30  # of keys and values, unless the caller says otherwise
_BYTES_A_WEIGHT = 18  # on a card: float32 weight, gradient and two moments, and a bfloat16 copy
_LONGEST_AT_ONCE = 8  # sequences of the greatest length that fit in any case


def bytes_per_position(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers."""
    return 2 * config.layers * config.kv_heads * config.head_dim * dtype.itemsize


def card_bytes(device: torch.device) -> int:
    """All memory of a CUDA card, 0 of another device."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def default_positions(config: DecoderConfig, longest: int, dtype: torch.dtype, card: int = 0) -> int:
    """How many positions a cache may come to hold: a function of model, longest request and machine, never of what is free.

    `card`: the bytes of the CUDA card, 0 without one. Of a card it is half of what training such a model leaves.
    """
    most = max(_MOST_BYTES, (card - _BYTES_A_WEIGHT * config.num_parameters) // 2)
    return max(_LONGEST_AT_ONCE * (longest + 2 * BLOCK), most // bytes_per_position(config, dtype))


def blocks_of(tokens: int) -> int:
    """Blocks that hold this many tokens."""
    return -(-tokens // BLOCK)


@dataclass(slots=True, eq=False)
class Strand:
    """The cached tokens of one sequence, or of a prompt that several share.

    Example: 40 tokens behind a prefix of 70: ``start=70``, ``length=40``, two blocks of 32, the second with 8 tokens in it.

    Token i of it stands at position start + i, in ``blocks[i // BLOCK]`` at i % BLOCK. `slot` is its row in the decode batch,
    or -1.
    """

    pool: Pool
    prefix: Strand | None = None
    start: int = 0
    length: int = 0
    blocks: list[int] = field(default_factory=list[int])
    slot: int = -1
    readers: int = 0  # strands that have this one as their prefix

    @property
    def end(self) -> int:
        """The position of the next token."""
        return self.start + self.length

    @property
    def room(self) -> int:
        """Tokens that its blocks can still take."""
        return len(self.blocks) * BLOCK - self.length

    def enter(self, slot: int) -> None:
        """Become row `slot` of the decode batch; -1: leave it."""
        self.slot = slot
        self.pool.reader[self.blocks] = slot
        self.pool.version += 1


class Pool:
    """Blocks of memory. `reader`, `place` and `first` [blocks] say whose each is, which of its owner's it is, and at which
    position it begins; `mask` [blocks, BLOCK] is 0 where a token is stored and -inf elsewhere. `version` changes as they do,
    `moves` as keys and values come to lie elsewhere. At most `most` blocks.
    """

    def __init__(self, config: DecoderConfig, most: int, dtype: torch.dtype, device: torch.device):
        value, key = (config.kv_heads, BLOCK, config.head_dim), (config.kv_heads, config.head_dim, BLOCK)
        self._dtype, self._device, self._most = dtype, device, most
        self.keys = [torch.empty((0, *key), dtype=dtype, device=device) for _ in range(config.layers)]
        self.values = [torch.empty((0, *value), dtype=dtype, device=device) for _ in range(config.layers)]
        self.reader = np.full(0, -1, dtype=np.int64)
        self.place = np.zeros(0, dtype=np.int64)
        self.first = np.zeros(0, dtype=np.int64)
        self.mask = np.zeros((0, BLOCK), dtype=np.float32)
        self._owners: list[Strand | None] = []
        self._free: list[int] = []
        self.used = self.version = self.moves = 0
        self.top = 0  # one more than the highest block in use, which is what a step reads

    @property
    def size(self) -> int:
        """Blocks that have memory."""
        return len(self._owners)

    def take(self, strand: Strand, count: int, limit: int) -> None:
        """Give a strand `count` more blocks, the lowest that are free. Memory may grow to `limit` blocks."""
        if count > len(self._free):
            more = self.size // (8 if self._device.type == "cpu" else 4)  # elsewhere it is copied, and a recorded step is lost
            self._resize(min(max(self.used + count, self.size + more, 8), limit))
        for _ in range(count):
            block = heapq.heappop(self._free)
            self._owners[block] = strand
            self.reader[block], self.place[block] = strand.slot, len(strand.blocks)
            self.first[block] = strand.start + len(strand.blocks) * BLOCK
            self.mask[block] = -np.inf
            strand.blocks.append(block)
            self.top = max(self.top, block + 1)
        self.used += count
        self.version += 1

    def give(self, strand: Strand) -> None:
        """Take back all blocks of a strand."""
        for block in strand.blocks:
            self._owners[block] = None
            heapq.heappush(self._free, block)
        self.reader[strand.blocks] = -1
        self.used -= len(strand.blocks)
        strand.blocks, strand.length, strand.slot = [], 0, -1
        while self.top and self._owners[self.top - 1] is None:
            self.top -= 1
        self.version += 1

    def compact(self, most_gaps: float = 0.125) -> None:
        """Move the highest blocks into the gaps, where the gaps are more than this share of what a step reads."""
        if self.top - self.used <= self.top * most_gaps:
            return
        source = [block for block in range(self.used, self.top) if self._owners[block] is not None]
        target = [block for block in range(self.used) if self._owners[block] is None]
        for layers in (self.keys, self.values):
            for layer in layers:
                layer[target] = layer[source]
        for old, new in zip(source, target, strict=True):
            strand = self._owners[old]
            assert strand is not None, "a block in use has an owner"
            strand.blocks[int(self.place[old])] = new
            self._owners[old], self._owners[new] = None, strand
        for column in (self.reader, self.place, self.first, self.mask):
            column[target] = column[source]
        self.reader[source] = -1
        self._free = list(range(self.used, self.size))
        self.top = self.used
        self.version += 1

    def shrink(self) -> None:
        """Give back the memory that no block needs."""
        self.compact(0.0)
        if self.size > self.top:
            self._resize(self.top)

    def _resize(self, size: int) -> None:
        """Memory for `size` blocks: zeros, for what is not yet written is multiplied by 0, and must be a number.

        On the CPU all that may ever be needed is reserved at once, which costs nothing until it is written to; elsewhere
        a layer at a time is copied, so that the old and the new never stand side by side whole.
        """
        old, kept = self.size, min(self.size, size)
        for layers in (self.keys, self.values):
            for number, before in enumerate(layers):
                if len(before) < size or size < old:
                    room = self._most if self._device.type == "cpu" else size
                    layers[number] = torch.empty((room, *before.shape[1:]), dtype=self._dtype, device=self._device)
                    layers[number][:kept] = before[:kept]
                layers[number][kept:size].zero_()
        more = max(0, size - old)
        self.reader = np.concatenate([self.reader[:kept], np.full(more, -1, dtype=np.int64)])
        self.place = np.concatenate([self.place[:kept], np.zeros(more, dtype=np.int64)])
        self.first = np.concatenate([self.first[:kept], np.zeros(more, dtype=np.int64)])
        self.mask = np.concatenate([self.mask[:kept], np.zeros((more, BLOCK), dtype=np.float32)])
        self._owners = self._owners[:kept] + [None] * more
        self._free = [block for block in self._free if block < kept] + list(range(kept, size))
        heapq.heapify(self._free)
        self.version += 1
        self.moves += 1


class BlockCache:
    """The strands in flight. It holds at most `positions` tokens' worth of blocks, and takes memory as it comes to need it."""

    def __init__(self, config: DecoderConfig, positions: int, dtype: torch.dtype, device: torch.device):
        self.config = config
        self.most = positions // BLOCK
        self.own, self.shared, self.kept = self.pools = tuple(Pool(config, self.most, dtype, device) for _ in range(3))
        self._block_bytes = BLOCK * bytes_per_position(config, dtype)

    @property
    def free(self) -> int:
        """Blocks that can still be taken."""
        return self.most - sum(pool.used for pool in self.pools)

    @property
    def bytes(self) -> int:
        """Memory of keys and values, used or not."""
        return sum(pool.size for pool in self.pools) * self._block_bytes

    def open(self, prefix: Strand | None = None, start: int = 0, is_shared: bool = False) -> Strand:
        """An empty strand, behind a prefix of `start` tokens if it has one. `is_shared`: it is to be a prefix itself."""
        if prefix is not None:
            prefix.readers += 1
        return Strand(self.shared if is_shared else self.own, prefix, start)

    def extend(self, strand: Strand, tokens: int) -> bool:
        """Make room for so many more tokens; False, and nothing happens, where the cache is full."""
        missing = blocks_of(strand.length + tokens) - len(strand.blocks)
        if missing > self.free:
            return False
        if missing > 0:
            pool, others = strand.pool, [pool for pool in self.pools if pool is not strand.pool]
            if max(pool.size, pool.used + missing) + sum(other.size for other in others) > self.most:
                for other in others:
                    other.shrink()
            pool.take(strand, missing, self.most - sum(other.size for other in others))
        return True

    def close(self, strand: Strand) -> Strand | None:
        """Forget a strand; the prefix too, once it has no reader: it is returned then."""
        strand.pool.give(strand)
        prefix, strand.prefix = strand.prefix, None
        if prefix is None:
            return None
        prefix.readers -= 1
        if prefix.readers:
            return None
        self.close(prefix)
        return prefix

    def fork(self, strand: Strand) -> Strand:
        """Another strand with the same prefix and copies of the same tokens. Their room must be there."""
        twin = self.open(strand.prefix, strand.start, strand.pool is self.shared)
        if strand.length and not self.extend(twin, strand.length):
            raise EngineError(f"the cache has no room for a copy of {strand.length} tokens")
        self.copy(strand, twin, strand.length)
        return twin

    def copy(self, source: Strand, target: Strand, count: int) -> None:
        """Copy the first `count` tokens of a strand into an empty one, maybe of another pool, whose room is there."""
        self.append(target, count)
        many = blocks_of(count)
        both = (source.pool.keys, target.pool.keys), (source.pool.values, target.pool.values)
        for layer_from, layer_to in (pair for one in both for pair in zip(*one, strict=True)):
            layer_to[target.blocks[:many]] = layer_from[source.blocks[:many]]

    def append(self, strand: Strand, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Count `count` new tokens as stored; (block, place within it) of each, int64 [count]. Their room must be there."""
        if strand.room < count:
            raise EngineError(f"a strand has room for {strand.room} tokens, not {count}")
        index = np.arange(strand.length, strand.length + count)
        blocks, places = np.array(strand.blocks, dtype=np.int64)[index // BLOCK], index % BLOCK
        strand.pool.mask[blocks, places] = 0
        strand.length += count
        return blocks, places

    def history(self, layer: int, strand: Strand) -> tuple[Tensor, Tensor]:
        """All keys and values of a strand, prefix and all, as [tokens, kv_heads, head_dim]: copies."""
        parts = [s for s in (strand.prefix, strand) if s is not None and s.length]
        keys = [s.pool.keys[layer][s.blocks].permute(0, 3, 1, 2).flatten(0, 1)[: s.length] for s in parts]
        values = [s.pool.values[layer][s.blocks].permute(0, 2, 1, 3).flatten(0, 1)[: s.length] for s in parts]
        return torch.cat(keys), torch.cat(values)
