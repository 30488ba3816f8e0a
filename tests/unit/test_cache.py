"""Blocks of keys and values: who has which, what a step reads, and that nothing is lost when they move."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from headway.engine.cache import BLOCK, BlockCache, Strand, blocks_of, bytes_per_position, card_bytes, default_positions
from headway.engine.paged import Decoding, Filling
from headway.engine.tabled import CompiledDecoding
from headway.errors import EngineError
from headway.model.config import DecoderConfig
from headway.model.kernel import kernel

CPU = torch.device("cpu")


def cache(positions: int = 4096, windows: tuple[int, ...] = (0, 0), kv_heads: int = 2) -> BlockCache:
    config = DecoderConfig(40, 24, 2, 4, kv_heads, 6, 32, windows=windows, max_positions=4096)
    return BlockCache(config, positions, torch.float32, CPU)


def test_memory_is_that_of_the_tokens() -> None:
    made = cache()
    assert (
        bytes_per_position(made.config, torch.float32) == 2 * 2 * 2 * 6 * 4
    )  # keys and values, layers, kv heads, dimensions, bytes
    strands = [made.open() for _ in range(10)]
    for strand in strands:
        assert made.extend(strand, 100)  # 4 blocks of 32
    assert made.own.used == 40
    assert made.bytes <= 1.3 * 40 * BLOCK * bytes_per_position(made.config, torch.float32)


def test_a_full_cache_says_so_and_stays_as_it_was() -> None:
    made = cache(positions=5 * BLOCK)
    first, second = made.open(), made.open()
    assert made.extend(first, 3 * BLOCK)
    assert not made.extend(second, 2 * BLOCK + 1)
    assert (made.free, second.blocks) == (2, [])
    assert made.extend(second, 2 * BLOCK)
    assert made.free == 0
    made.close(first)
    assert made.free == 3


def test_a_token_needs_room() -> None:
    made = cache()
    strand = made.open()
    assert made.extend(strand, 3)
    made.append(strand, BLOCK)
    with pytest.raises(EngineError, match="room for 0 tokens, not 1"):
        made.append(strand, 1)


def test_the_last_reader_takes_the_prefix_with_it() -> None:
    made = cache()
    prompt = made.open(is_shared=True)
    assert made.extend(prompt, 70)
    one, two = made.open(prompt, 70), made.open(prompt, 70)
    assert (made.shared.used, prompt.readers) == (3, 2)
    assert made.close(one) is None
    assert made.close(two) is prompt
    assert made.shared.used == made.own.used == 0


def test_blocks_move_into_gaps_with_what_they_hold() -> None:
    made = cache()
    strands = [made.open() for _ in range(8)]
    for number, strand in enumerate(strands):
        assert made.extend(strand, 2 * BLOCK)
        strand.enter(number)
        for layer in (0, 1):
            made.own.keys[layer][strand.blocks] = number + 10 * layer
            made.own.values[layer][strand.blocks] = -number
    for number in (0, 2, 3, 6):
        made.close(strands[number])
    assert made.own.top == 16
    made.own.compact()
    assert (made.own.top, made.own.used) == (8, 8)
    for number in (1, 4, 5, 7):
        assert max(strands[number].blocks) < 8
        assert made.own.keys[1][strands[number].blocks].unique().tolist() == [number + 10]
        assert made.own.values[0][strands[number].blocks].unique().tolist() == [-number]
        assert made.own.reader[strands[number].blocks].tolist() == [number, number]
        assert made.own.place[strands[number].blocks].tolist() == [0, 1]
    again = made.open()
    assert made.extend(again, BLOCK)
    assert again.blocks == [8]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("windows", [(0, 0), (40, 0), (7, 100)])
def test_attention_over_blocks_is_attention(kv_heads: int, windows: tuple[int, int], compiled: bool) -> None:
    """Prompts in pieces, shared and own, then single tokens, with gaps between the blocks: against one whole attention."""
    torch.manual_seed(0)
    made, heads, dim = cache(windows=windows, kv_heads=kv_heads), 4, 6
    found_kernel = kernel() if compiled else None
    if compiled and found_kernel is None:
        pytest.skip("there is no C compiler")
    decoding = CompiledDecoding(made, found_kernel) if found_kernel is not None else Decoding(made, CPU)
    known: dict[Strand, tuple[torch.Tensor, torch.Tensor]] = {}

    def whole(strand: Strand, layer: int, q: torch.Tensor) -> torch.Tensor:
        parts = [known[s] for s in (strand.prefix, strand) if s is not None and s in known]
        k, v = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        seen = torch.arange(len(k))
        at = torch.arange(len(k) - len(q), len(k))[:, None]
        mask = (seen <= at) & (seen > at - (windows[layer] or len(k)))
        query, keys, values = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(query, keys, values, mask, enable_gqa=True)[0].transpose(0, 1)

    def fresh(count: int) -> list[torch.Tensor]:
        return [torch.randn(count, h, dim) for h in (heads, kv_heads, kv_heads)]

    def fill(pieces: list[tuple[Strand, int]]) -> None:
        for strand, count in pieces:
            assert made.extend(strand, count)
        filling = Filling(made, pieces, CPU)
        q, k, v = fresh(sum(count for _, count in pieces))
        starts = np.cumsum([0, *(count for _, count in pieces)])
        for (strand, _), a, b in zip(pieces, starts, starts[1:], strict=False):
            old = known.get(strand, (k[:0], v[:0]))
            known[strand] = (torch.cat((old[0], k[a:b])), torch.cat((old[1], v[a:b])))
        for layer in (0, 1):
            found = filling.attend(layer, q, k, v)
            for (strand, _), a, b in zip(pieces, starts, starts[1:], strict=False):
                torch.testing.assert_close(found[a:b], whole(strand, layer, q[a:b]), atol=1e-5, rtol=0)

    gap, alone, prompt = made.open(), made.open(), made.open(is_shared=True)
    fill([(gap, 80), (alone, 33), (prompt, 50)])
    fill([(alone, 20), (prompt, 21)])
    made.close(gap)
    sharers = [made.open(prompt, 71) for _ in range(3)]
    fill([(sharers[2], 5)])  # one comes with tokens of its own
    batch = [sharers[0], alone, sharers[1], sharers[2]]
    for slot, strand in enumerate(batch):
        strand.enter(slot)
    for _ in range(40):  # across a block's end
        for strand in batch:
            assert strand.room or made.extend(strand, 1)
        positions = decoding.begin(batch)
        assert positions.tolist() == [s.end - 1 for s in batch]
        q, k, v = fresh(len(batch))
        for row, strand in enumerate(batch):
            old = known.get(strand, (k[:0], v[:0]))
            known[strand] = (torch.cat((old[0], k[row : row + 1])), torch.cat((old[1], v[row : row + 1])))
        for layer in (0, 1):
            found = decoding.attend(layer, q, k, v)
            expected = torch.cat([whole(strand, layer, q[row : row + 1]) for row, strand in enumerate(batch)])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_blocks_are_counted_up() -> None:
    assert [blocks_of(n) for n in (0, 1, BLOCK, BLOCK + 1)] == [0, 1, 1, 2]


def test_the_kernel_leaves_the_process_as_it_was() -> None:
    if kernel() is None:
        pytest.skip("there is no C compiler")
    assert 5e-324 > 0  # tiny numbers are still numbers
    assert float(np.float32(1e-40) * np.float32(1)) > 0


def test_a_card_gives_half_of_what_training_leaves() -> None:
    config = DecoderConfig(1000, 64, 2, 4, 2, 16, 96)
    a_position = 2 * 2 * 2 * 16 * 2  # keys and values of 2 layers, 2 heads of 16, 2 bytes
    spare = 80_000_000_000 - 18 * config.num_parameters
    assert default_positions(config, 100, torch.bfloat16, 80_000_000_000) == spare // 2 // a_position
    assert default_positions(config, 100, torch.bfloat16) == (2 << 30) // a_position
    assert default_positions(config, 100, torch.bfloat16, 1_000_000) == (2 << 30) // a_position  # a card that is too small
    assert default_positions(config, 10_000_000, torch.bfloat16) == 8 * (10_000_000 + 64)
    assert card_bytes(torch.device("cpu")) == 0
