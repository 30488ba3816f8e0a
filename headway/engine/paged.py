"""Attention over the cache's blocks where they lie: every block is read once a step, whoever reads it.

    scores[block] = q[readers of block] K[block]^T      one batched product over all blocks of a pool
    weights       = softmax over a sequence's blocks    scores gathered as [sequence, head, block, BLOCK], and back
    out[sequence] = sum over its blocks of weights[block] V[block]

That is flash decoding (Dao et al. 2023) with one split a block, written in whole-tensor operations: nothing is padded but the end
of a sequence's last block, and no key is copied. A prompt that several samples share is multiplied with all their queries
at once. `Decoding` is a step of one new token a sequence, `Filling` is prompts or pieces of them. Neither knows what is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headway.engine.cache import BLOCK, BlockCache, Pool, Strand
from headway.model.attention import attend, lay_out
from headway.model.kernel import MOST_DIM, MOST_GROUP, Blocks, Kernel, kernel

_WITHIN = np.arange(BLOCK)


@dataclass(slots=True)
class _Plan:
    """The index tensors of a step, int64, good as long as no block and no sequence comes, goes or moves.

    With n own blocks, m shared ones of up to r readers, and g = heads / kv_heads: the scores are (n + m r) kv_heads g rows of
    BLOCK, the partial sums (n + m r) kv_heads rows of g head_dim.
    """

    reader: Tensor  # [n]: the sequence of each own block, 0 for gaps
    readers: Tensor  # [m, r]: the sequences of each shared block, 0 for none
    scores: Tensor  # [rows of scores + 1, BLOCK], made anew in each layer; the last row is -inf
    gathered: Tensor  # the row of scores of each (sequence, head, block of the longest sequence)
    rows: Tensor  # and back: where each row of scores stands among those; 0 for gaps
    bags: Tensor  # the partial sums of each (sequence, kv head), end to end
    starts: Tensor  # where each of these begins
    width: int  # blocks of the longest sequence


class Decoding:
    """One decode step after another over a changing batch of strands: `begin`, then `attend` in each layer. In PyTorch alone."""

    def __init__(self, cache: BlockCache, device: torch.device):
        self._cache, self._device, config = cache, device, cache.config
        self._heads, self._kv, self._scale = config.heads, config.kv_heads, config.attention_scale
        self._group = config.heads // config.kv_heads
        self._windows = config.windows
        self._state = (-1, -1, -1)
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, strands: Sequence[Strand]) -> np.ndarray:
        """Count one new token for each strand, whose room must be there and whose slot is its place here; their positions [B]."""
        own = self._cache.own
        blocks, places, positions = _advance(own, strands)
        self._write = self._send(blocks), self._send(places)
        state = (own.version, self._cache.shared.version, len(strands))
        if state != self._state:
            self._state = state
            self._plan = self._make_plan(strands)
        self._masks = {window: self._mask(window, positions) for window in set(self._windows)}
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store one key and value a sequence and attend: q [B, heads, d], k and v [B, kv_heads, d] -> [B, heads, d]."""
        batch, heads, dim = q.shape
        plan, own, shared = self._plan, self._cache.own, self._cache.shared
        keys, values = own.keys[layer], own.values[layer]
        blocks, places = self._write
        keys[blocks, :, :, places] = k.to(keys.dtype)
        values[blocks, :, places] = v.to(values.dtype)
        q = q.to(keys.dtype)
        mask, shared_mask = self._masks[self._windows[layer]]
        count, many = len(plan.reader), len(plan.readers)
        own_rows = count * heads
        asked = q.reshape(batch, heads * dim).index_select(0, plan.reader).view(-1, self._group, dim)
        scores = plan.scores[:own_rows].view(-1, self._group, BLOCK)
        torch.baddbmm(mask, asked, keys[:count].flatten(0, 1), alpha=self._scale, out=scores)
        if many:
            asked = q.view(batch, self._kv, self._group, dim)[plan.readers].transpose(1, 2).reshape(many * self._kv, -1, dim)
            read = shared.keys[layer][:many].flatten(0, 1)
            scores = plan.scores[own_rows:-1].view(len(read), -1, BLOCK)
            torch.baddbmm(shared_mask, asked, read, alpha=self._scale, out=scores)
        weights = plan.scores.index_select(0, plan.gathered).view(-1, plan.width * BLOCK).softmax(-1, dtype=torch.float32)
        weights = weights.view(-1, BLOCK).index_select(0, plan.rows).to(values.dtype)
        parts = torch.bmm(weights[:own_rows].view(-1, self._group, BLOCK), values[:count].flatten(0, 1)).view(
            -1, self._group * dim
        )
        if many:
            read = shared.values[layer][:many].flatten(0, 1)
            more = torch.bmm(weights[own_rows:].view(len(read), -1, BLOCK), read)
            parts = torch.cat((parts, more.view(-1, self._group * dim)))
        return _sums(parts, plan.bags, plan.starts).view(batch, heads, dim).to(q.dtype)

    def _make_plan(self, strands: Sequence[Strand]) -> _Plan:
        own, batch = self._cache.own, len(strands)
        reader = own.reader[: own.top]
        before = np.array([len(s.prefix.blocks) if s.prefix is not None else 0 for s in strands], dtype=np.int64)
        is_read = reader >= 0
        place = np.where(is_read, own.place[: own.top] + before[reader], 0)
        readers = self._readers(strands)
        shared_place = np.broadcast_to(self._cache.shared.place[: len(readers), None], readers.shape)
        width = int(max(place.max(initial=0), shared_place.max(initial=0))) + 1
        heads = np.arange(self._heads)
        where = (np.where(is_read, reader, batch)[:, None] * self._heads + heads) * width + place[:, None]
        # a shared block's scores lie as (kv head, reader, head of the group)
        to = np.where(readers >= 0, readers, batch)[:, None, :, None] * self._heads
        shared_where = (to + heads.reshape(self._kv, 1, self._group)) * width + shared_place[:, None, :, None]
        rows = np.concatenate([where.reshape(-1), shared_where.reshape(-1)])
        gathered = np.full((batch + 1) * self._heads * width, len(rows), dtype=np.int64)  # the last sequence is for gaps
        gathered[rows] = np.arange(len(rows))
        whole = batch * self._heads * width
        scores = torch.full((len(rows) + 1, BLOCK), -torch.inf, dtype=own.keys[0].dtype, device=self._device)
        bags, starts = self._bags(reader, place, readers, shared_place, batch)
        return _Plan(
            self._send(np.where(is_read, reader, 0)),
            self._send(np.where(readers >= 0, readers, 0)),
            scores,
            self._send(gathered[:whole]),
            self._send(np.where(rows < whole, rows, 0)),
            self._send(bags),
            self._send(starts),
            width,
        )

    def _readers(self, strands: Sequence[Strand]) -> np.ndarray:
        """The sequences that read each shared block, [m, r], -1 for none; no rows where nothing is shared."""
        by_prefix: dict[Strand, list[int]] = {}
        for slot, strand in enumerate(strands):
            if strand.prefix is not None:
                by_prefix.setdefault(strand.prefix, []).append(slot)
        if not by_prefix:
            return np.full((0, 0), -1, dtype=np.int64)
        readers = np.full((self._cache.shared.top, max(map(len, by_prefix.values()))), -1, dtype=np.int64)
        for prefix, slots in by_prefix.items():
            readers[prefix.blocks, : len(slots)] = slots
        return readers

    def _bags(
        self, reader: np.ndarray, place: np.ndarray, readers: np.ndarray, shared_place: np.ndarray, batch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of partial sums of each (sequence, kv head), in the order of the sequence's blocks; where each bag begins."""
        kv = np.arange(self._kv)
        blocks, each = readers.shape
        row = np.arange(len(reader))[:, None] * self._kv + kv
        shared_row = (np.arange(blocks)[:, None, None] * self._kv + kv) * each + np.arange(each)[None, :, None]
        row = np.concatenate([row, len(reader) * self._kv + shared_row.reshape(blocks * each, self._kv)])
        owner, order = np.concatenate([reader, readers.reshape(-1)]), np.concatenate([place, shared_place.reshape(-1)])
        sorted_ = np.lexsort((order, owner))
        sorted_ = sorted_[owner[sorted_] >= 0]
        counts = np.bincount(owner[sorted_], minlength=batch)
        # now by (sequence, block); turn each sequence's [blocks, kv] into [kv, blocks]
        flat, bag = row[sorted_], owner[sorted_][:, None] * self._kv + kv
        ordered = flat.reshape(-1)[np.argsort(bag.reshape(-1), kind="stable")]
        lengths = np.repeat(counts, self._kv)
        return ordered, np.cumsum(lengths) - lengths

    def _mask(self, window: int, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """What is added to the scores of own blocks [n kv, 1, BLOCK] and of shared ones [m kv, 1 or r g, BLOCK]."""
        own, shared, plan = self._cache.own, self._cache.shared, self._plan
        blocks = len(plan.readers)
        mask, shared_mask = own.mask[: own.top, None], shared.mask[:blocks, None]
        if window:
            seen = positions[plan.reader.numpy(force=True)] - window
            mask = np.where((own.first[: own.top, None] + _WITHIN <= seen[:, None])[:, None], np.float32(-np.inf), mask)
            seen = positions[plan.readers.numpy(force=True)] - window
            is_past = shared.first[:blocks, None, None] + _WITHIN <= seen[:, :, None]
            shared_mask = np.where(is_past, np.float32(-np.inf), shared_mask).repeat(self._group, axis=1)
        dtype = own.keys[0].dtype
        return self._send(mask.repeat(self._kv, axis=0)).to(dtype), self._send(shared_mask.repeat(self._kv, axis=0)).to(dtype)

    def _send(self, array: np.ndarray) -> Tensor:
        is_kept = self._device.type == "cuda"  # it copies the array aside first; MPS would read memory that may be gone
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device, non_blocking=is_kept)


class CompiledDecoding:
    """The same as `Decoding`, by `c/blocks.c`: float32 on a CPU with a C compiler."""

    def __init__(self, cache: BlockCache, compiled: Kernel):
        self._cache, self._kernel = cache, compiled
        self._scale, self._windows = cache.config.attention_scale, cache.config.windows
        self._state = (-1, -1, -1)

    def begin(self, strands: Sequence[Strand]) -> np.ndarray:
        """As `Decoding.begin`."""
        own, shared = self._cache.own, self._cache.shared
        *_, positions = _advance(own, strands)
        state = (own.version, shared.version, len(strands))
        if state == self._state:
            self._own.lengths[:] += 1
            return positions
        self._state = state
        reader = own.reader[: own.top]
        order = np.lexsort((own.place[: own.top], reader))
        order = order[reader[order] >= 0]
        lengths = np.fromiter((s.length for s in strands), np.int64, len(strands))
        self._own = Blocks(order, _starts(np.bincount(reader[order], minlength=len(strands))), lengths)
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


def decoding(cache: BlockCache, device: torch.device) -> Decoding | CompiledDecoding:
    """The fastest that there is for this cache on this machine."""
    config, compiled = cache.config, None
    if device.type == "cpu" and cache.own.keys[0].dtype == torch.float32:
        compiled = kernel()
    if compiled is None or config.head_dim > MOST_DIM or config.heads > MOST_GROUP * config.kv_heads:
        return Decoding(cache, device)
    return CompiledDecoding(cache, compiled)


def _advance(own: Pool, strands: Sequence[Strand]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count one new token for each strand: its block, its place in it, and its position, int64 [B] each."""
    blocks = np.fromiter((s.blocks[s.length // BLOCK] for s in strands), np.int64, len(strands))
    places = np.fromiter((s.length % BLOCK for s in strands), np.int64, len(strands))
    positions = np.fromiter((s.start + s.length for s in strands), np.int64, len(strands))
    for strand in strands:
        strand.length += 1
    own.mask[blocks, places] = 0
    return blocks, places, positions


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


class Filling:
    """Prompts, or pieces of them, on their way into the cache: the attention of one forward pass.

    `pieces` are (strand, new tokens), whose room must be there. Their tokens lie end to end in the order of `pieces`, in which
    those that begin at position 0 stand first.
    """

    def __init__(self, cache: BlockCache, pieces: Sequence[tuple[Strand, int]], device: torch.device):
        self._cache, self._pieces, self._config = cache, pieces, cache.config
        begun = [strand.end for strand, _ in pieces]
        self._fresh = sum(position == 0 for position in begun)
        assert all(position == 0 for position in begun[: self._fresh]), "pieces that begin at 0 stand first"
        counts = [count for _, count in pieces]
        self._ends = np.cumsum(counts)
        self.positions = torch.from_numpy(np.concatenate([np.arange(a, a + n) for a, n in zip(begun, counts, strict=True)])).to(
            device
        )
        self.last = torch.from_numpy(self._ends - 1).to(device)
        places = [cache.append(strand, count) for strand, count in pieces]
        self._writes = []
        for pool in (cache.own, cache.shared):
            chosen = [i for i, (strand, _) in enumerate(pieces) if strand.pool is pool]
            if chosen:
                tokens = np.concatenate([np.arange(self._ends[i] - counts[i], self._ends[i]) for i in chosen])
                blocks, within = (np.concatenate([places[i][part] for i in chosen]) for part in (0, 1))
                sent = [torch.from_numpy(a).to(device) for a in (tokens, blocks, within)]
                self._writes.append((pool, *sent))
        self._layout = lay_out(counts[: self._fresh], device) if self._fresh else None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the pieces' keys and values and attend: q [T, heads, d], k and v [T, kv_heads, d] -> [T, heads, d]."""
        for pool, tokens, blocks, within in self._writes:
            pool.keys[layer][blocks, :, :, within] = k[tokens].to(pool.keys[layer].dtype)
            pool.values[layer][blocks, :, within] = v[tokens].to(pool.values[layer].dtype)
        done: list[Tensor] = []
        if self._layout is not None:
            end = int(self._ends[self._fresh - 1])
            done.append(
                attend(q[:end], k[:end], v[:end], self._layout, self._config.windows[layer], self._config.attention_scale)
            )
        for (strand, count), end in list(zip(self._pieces, self._ends.tolist(), strict=True))[self._fresh :]:
            done.append(self._continue(layer, strand, q[end - count : end]))
        return torch.cat(done) if len(done) > 1 else done[0]

    def _continue(self, layer: int, strand: Strand, q: Tensor) -> Tensor:
        """Attention of a piece to all that its strand holds up to each of its tokens."""
        keys, values = self._cache.history(layer, strand)
        window = self._config.windows[layer] or len(keys)
        seen = torch.arange(len(keys), device=q.device)
        at = seen[len(keys) - len(q) :, None]
        allowed = (seen <= at) & (seen > at - window)
        query, keys, values = (x.transpose(0, 1)[None] for x in (q.to(keys.dtype), keys, values))
        is_grouped = query.shape[1] != keys.shape[1]
        out = F.scaled_dot_product_attention(
            query, keys, values, allowed, scale=self._config.attention_scale, enable_gqa=is_grouped
        )
        return out[0].transpose(0, 1).to(q.dtype)


def _sums(rows: Tensor, bags: Tensor, starts: Tensor) -> Tensor:
    """The sums of bags of rows: rows [n, d], bags int64 [k], starts int64 [b] -> float32 [b, d]. In a fixed order."""
    if rows.device.type in ("cpu", "cuda"):
        return F.embedding_bag(bags, rows.float(), starts, mode="sum")
    counts = torch.diff(starts, append=torch.tensor([len(bags)], device=starts.device))
    bag = torch.repeat_interleave(torch.arange(len(starts), device=starts.device), counts)
    return torch.zeros(len(starts), rows.shape[1], device=rows.device).index_add_(0, bag, rows[bags].float())
