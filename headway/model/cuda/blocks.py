"""Attention of one new token a sequence over a cache's blocks where they lie: flash decoding, on a CUDA card.

    store       the new token's key and value go to own position length - 1
    attend      a program a (row, kv head, split): its share of the tiles, first the prefix's, then the sequence's own;
                tile after tile   m' = max(m, s),  o = o 2^(m - m') + 2^(s - m') V,  l = l 2^(m - m') + sum 2^(s - m'),
                s = scale log2(e) q K, for all query heads of the kv head at once
    combine     out = sum 2^(m_i - max m) o_i / sum 2^(m_i - max m) l_i over the splits, where there are several

keys [blocks, kv_heads, d, BLOCK], values [blocks, kv_heads, BLOCK, d]. Launches depend on shapes alone; lengths, block numbers
and how a sequence is split are read on the card, so that a captured CUDA graph serves as long as batch and memory stay. No tile
mixes pools, and an empty pool is never read. To be imported only where Triton is. This file does not know what a sequence is, nor
who gives blocks out.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple, no_type_check

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from headway.model.cuda import jit, launch

_MOST_SPLITS = 32
_PROGRAMS = 2  # a multiprocessor, before sequences are split no further
_SMALL_TILE, _TILE_BYTES = 8 << 10, 16 << 10  # of keys: up to the first three are in flight, up to the second two
_FEWEST_ROWS = 16  # of a product on the card
_LOG2_E = 1.4426950408889634


class Table(NamedTuple):
    """The blocks of a batch's sequences in one pool: int32 `blocks` [n] end to end, `first` [B] where each sequence's begin among
    them, `lengths` [B] in tokens."""

    blocks: Tensor
    first: Tensor
    lengths: Tensor


Pool = tuple[Table, Tensor, Tensor]  # with keys and values


@jit
@no_type_check
def _store(
    k, v, k_stride, v_stride, blocks, first, lengths, keys, values,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    last = tl.load(lengths + row) - 1
    if last >= 0:
        block = tl.load(blocks + tl.load(first + row) + last // BLOCK).to(tl.int64)
        start = (block * KV_HEADS + head) * DIM * BLOCK
        place = last % BLOCK
        at = tl.arange(0, PADDED)
        inside = at < DIM
        key = tl.load(k + row * k_stride + head * DIM + at, mask=inside, other=0.0)
        value = tl.load(v + row * v_stride + head * DIM + at, mask=inside, other=0.0)
        tl.store(keys + start + at * BLOCK + place, key.to(keys.dtype.element_ty), mask=inside)
        tl.store(values + start + place * DIM + at, value.to(values.dtype.element_ty), mask=inside)


@jit
@no_type_check
def _take(
    asked, most, total, found, tile, blocks, keys, values, head, oldest, length, scale,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Take one tile of a pool into the running (most, total, found); `oldest` and `length` bound what is seen of the pool."""
    at = tile * TILE + tl.arange(0, TILE)
    seen = (at >= oldest) & (at < length)
    # whole blocks of keys are read: a mask that changes inside a block would make every number a load of its own
    is_block = at // BLOCK * BLOCK < length
    block = tl.load(blocks + at // BLOCK, mask=is_block, other=0).to(tl.int64)
    start = (block * KV_HEADS + head) * DIM * BLOCK
    dims = tl.arange(0, PADDED)
    key_at = tl.max_contiguous(tl.multiple_of(start + at % BLOCK, BLOCK), BLOCK)
    is_key = (dims < DIM)[:, None] & is_block[None, :]
    key = tl.load(keys + key_at[None, :] + dims[:, None] * BLOCK, mask=is_key, other=0.0)
    scores = tl.dot(asked, key, input_precision="ieee") * scale
    scores = tl.where(seen[None, :], scores, float("-inf"))
    highest = tl.maximum(most, tl.max(scores, axis=1))
    safe = tl.where(highest == float("-inf"), 0.0, highest)  # -inf - -inf is no number
    weights = tl.exp2(scores - safe[:, None])
    fade = tl.exp2(most - safe)
    value_at = (start + at % BLOCK * DIM)[:, None] + dims[None, :]
    value = tl.load(values + value_at, mask=seen[:, None] & (dims < DIM)[None, :], other=0.0)
    total = total * fade + tl.sum(weights, axis=1)
    found = found * fade[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    return highest, total, found


@jit
@no_type_check
def _attend(
    q, q_stride, out, part_sums, part_found, scale,
    own_blocks, own_first, own_lengths, own_keys, own_values,
    shared_blocks, shared_first, shared_lengths, shared_keys, shared_values,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    own = tl.load(own_lengths + row)
    before = tl.load(shared_lengths + row)
    oldest = 0  # the first position that is seen
    if WINDOW > 0:
        oldest = tl.maximum(before + own - WINDOW, 0)
    own_oldest = tl.maximum(oldest - before, 0)
    skipped, own_skipped = oldest // TILE, own_oldest // TILE
    shared_tiles = tl.maximum((before + TILE - 1) // TILE - skipped, 0)
    own_tiles = (own + TILE - 1) // TILE - own_skipped
    shared_tiles = tl.where(own > 0, shared_tiles, 0)  # a row of padding sees nothing
    tiles = shared_tiles + own_tiles
    share = (tiles + SPLITS - 1) // SPLITS
    begin = tl.minimum(split * share, tiles)
    end = tl.minimum(begin + share, tiles)

    group, dims = tl.arange(0, ROWS), tl.arange(0, PADDED)
    is_asked = (group < GROUP)[:, None] & (dims < DIM)[None, :]
    q_at = row * q_stride + (head * GROUP + group)[:, None] * DIM + dims[None, :]
    asked = tl.load(q + q_at, mask=is_asked, other=0.0).to(own_keys.dtype.element_ty)
    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    found = tl.full([ROWS, PADDED], 0.0, tl.float32)
    blocks = shared_blocks + tl.load(shared_first + row)
    for tile in range(tl.minimum(begin, shared_tiles), tl.minimum(end, shared_tiles)):
        most, total, found = _take(
            asked, most, total, found, skipped + tile, blocks, shared_keys, shared_values, head, oldest, before, scale,
            KV_HEADS, DIM, PADDED, BLOCK, TILE,
        )  # fmt: skip
    blocks = own_blocks + tl.load(own_first + row)
    for tile in range(tl.maximum(begin - shared_tiles, 0), tl.maximum(end - shared_tiles, 0)):
        most, total, found = _take(
            asked, most, total, found, own_skipped + tile, blocks, own_keys, own_values, head, own_oldest, own, scale,
            KV_HEADS, DIM, PADDED, BLOCK, TILE,
        )  # fmt: skip

    to = (row * KV_HEADS + head) * GROUP + group  # the query head among all rows'
    if SPLITS == 1:
        found = found / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(out + to[:, None] * DIM + dims[None, :], found.to(out.dtype.element_ty), mask=is_asked)
    else:
        part = to * SPLITS + split
        tl.store(part_sums + part * 2, most, mask=group < GROUP)
        tl.store(part_sums + part * 2 + 1, total, mask=group < GROUP)
        if end > begin:
            tl.store(part_found + part[:, None] * DIM + dims[None, :], found, mask=is_asked)


@jit
@no_type_check
def _combine(
    out, part_sums, part_found, DIM: tl.constexpr, PADDED: tl.constexpr, SPLITS: tl.constexpr, PADDED_SPLITS: tl.constexpr
):
    head = tl.program_id(0).to(tl.int64)
    splits, dims = tl.arange(0, PADDED_SPLITS), tl.arange(0, PADDED)
    part = head * SPLITS + splits
    most = tl.load(part_sums + part * 2, mask=splits < SPLITS, other=float("-inf"))
    total = tl.load(part_sums + part * 2 + 1, mask=splits < SPLITS, other=0.0)
    highest = tl.max(most, axis=0)
    weight = tl.exp2(most - tl.where(highest == float("-inf"), 0.0, highest))
    is_found = (total > 0)[:, None] & (dims < DIM)[None, :]  # a split without a tile has written nothing
    found = tl.load(part_found + part[:, None] * DIM + dims[None, :], mask=is_found, other=0.0)
    whole = tl.sum(weight * total, axis=0)
    result = tl.sum(found * weight[:, None], axis=0) / tl.where(whole > 0, whole, 1.0)
    tl.store(out + head * DIM + dims, result.to(out.dtype.element_ty), mask=dims < DIM)


def attend(q: Tensor, k: Tensor, v: Tensor, own: Pool, shared: Pool, scale: float, window: int, *, splits: int = 0) -> Tensor:
    """Store k and v [B, kv_heads, d] and attend with q [B, heads, d] -> [B, heads, d], of q's type.

    `own` and `shared` are (table, keys, values). `own` lengths count the new token; 0: the row is padding, for which nothing is
    stored and zeros come out. `shared` ones are the prefix's; 0: there is none, and the pool may be empty. A sequence's positions
    begin in its prefix and go on in its own. `window` 0: everything is seen, else so many last positions. `splits`: programs a
    row and kv head, 0: by the number of rows.
    """
    batch, heads, dim = q.shape
    kv_heads, (table, keys, values), (shared_table, shared_keys, shared_values) = k.shape[1], own, shared
    block, padded = keys.shape[3], max(_FEWEST_ROWS, triton.next_power_of_2(dim))
    assert keys.shape[1:] == (kv_heads, dim, block), "keys [blocks, kv_heads, d, BLOCK]"
    assert values.shape[1:] == (kv_heads, block, dim), "values [blocks, kv_heads, BLOCK, d]"
    assert {t.dtype for t in (values, shared_keys, shared_values)} == {keys.dtype}, "both pools hold one type"
    assert all(t.dtype == torch.int32 and t.is_contiguous() for t in (*table, *shared_table)), "tables are of int32"
    assert len(table.lengths) == len(shared_table.lengths) == batch, "a row a sequence"
    q, k, v = (x if x.stride()[1:] == (dim, 1) else x.contiguous() for x in (q, k, v))
    out = torch.empty((batch, heads, dim), dtype=q.dtype, device=q.device)
    if not batch:
        return out
    sizes = {"DIM": dim, "PADDED": padded}
    _store[(batch, kv_heads)](
        k, v, k.stride(0), v.stride(0), *table, keys, values, KV_HEADS=kv_heads, BLOCK=block, **sizes, **launch(1)
    )
    splits = splits or _splits(batch * kv_heads, q.device)
    sums = out if splits == 1 else torch.empty((batch, heads, splits, 2), dtype=torch.float32, device=q.device)
    found = out if splits == 1 else torch.empty((batch, heads, splits, dim), dtype=torch.float32, device=q.device)
    tile = 2 * block if 2 * block * padded * keys.itemsize <= _TILE_BYTES else block
    tile_bytes, group = tile * padded * keys.itemsize, heads // kv_heads
    _attend[(batch, kv_heads, splits)](
        q, q.stride(0), out, sums, found, scale * _LOG2_E, *table, keys, values, *shared_table, shared_keys, shared_values,
        KV_HEADS=kv_heads, GROUP=group, ROWS=max(_FEWEST_ROWS, triton.next_power_of_2(group)), BLOCK=block, TILE=tile,
        WINDOW=window, SPLITS=splits, **sizes,
        **launch(4, 3 if tile_bytes <= _SMALL_TILE else 2 if tile_bytes <= _TILE_BYTES else 1, fuses=True),
    )  # fmt: skip
    if splits > 1:
        _combine[(batch * heads,)](
            out, sums, found, SPLITS=splits, PADDED_SPLITS=triton.next_power_of_2(splits), **sizes, **launch(2, fuses=True)
        )
    return out


def _splits(programs: int, device: torch.device) -> int:
    """Splits of each sequence, for so many programs without: a power of two, from shapes and the card alone."""
    if device.type != "cuda":
        return 1
    most = min(_MOST_SPLITS, _PROGRAMS * _multiprocessors(device) // programs)
    return 1 << max(0, most.bit_length() - 1)  # each number is compiled for itself


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
