"""Prompts that begin alike are computed once, and say what they would say anyway."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_engine import model

from headway.engine.cache import BLOCK, BlockCache, bytes_per_position
from headway.engine.engine import Engine, Session
from headway.engine.keeping import Keeping
from headway.engine.sampling import sample_key
from headway.errors import EngineError
from headway.model.config import DecoderConfig
from headway.model.products import pack, unpack
from headway.model.transformer import Decoder, initialise
from headway.types import Completion, Request

STOP = [39]
CPU = torch.device("cpu")


def ids(count: int, seed: int) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(chance.randrange(39) for _ in range(count))


def told(session: Session, requests: list[Request], first: int = 0) -> list[list[Completion]]:
    """All of them, handed in at once."""
    with torch.inference_mode():
        for number, request in enumerate(requests, first):
            session.add(number, request)
        while session.step():
            pass
        found = {(number, index): completion for number, index, completion in session.collect()}
    for number in range(first, first + len(requests)):
        session.forget(number)
    return [[found[number, i] for i in range(len(request.keys))] for number, request in enumerate(requests, first)]


def assert_equal(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    for one, other in zip(found, expected, strict=True):
        for completion, wanted in zip(one, other, strict=True):
            assert completion.token_ids == wanted.token_ids
            assert np.abs(np.array(completion.logprobs) - np.array(wanted.logprobs)).max() < 1e-4


@pytest.mark.parametrize("windows", [(0, 0), (9, 0)])
def test_a_conversation_computes_its_new_tokens_alone(windows):
    decoder = initialise(replace(model().config, windows=windows), 3)
    session, prompt = Engine(decoder, STOP).session(1, lambda _: None, keeps=True), ids(40, 0)
    reused = 0
    for turn in range(5):
        request = Request(prompt, (sample_key(0, turn),), 12)
        before = session.counts.prompt_tokens
        found = told(session, [request], turn)
        assert_equal(found, Engine(decoder, STOP).generate([request]))
        computed = session.counts.prompt_tokens - before
        assert computed == (10 if turn else 40)  # the question, and the answer's last token: nothing was drawn after it
        reused += len(prompt) - computed
        prompt = prompt + found[0][0].token_ids + ids(9, turn + 1)
    assert session.counts.reused_tokens == reused > 4 * 32


def test_prompts_of_one_burst_that_begin_alike_wait_for_the_first():
    decoder, system = model(), ids(70, 0)
    requests = [Request(system + ids(5, n), tuple(sample_key(n, i) for i in range(1 + n % 3)), 20) for n in range(1, 8)]
    requests.append(Request(ids(50, 99), (5,), 20))  # another beginning
    session = Engine(decoder, STOP).session(16, lambda _: None, keeps=True)
    assert_equal(told(session, requests), Engine(decoder, STOP).generate(requests))
    assert session.counts.prompt_tokens == 75 + 6 * 5 + 50
    plain = Engine(decoder, STOP).session(16, lambda _: None)
    assert_equal(told(plain, requests), Engine(decoder, STOP).generate(requests))
    assert (plain.counts.prompt_tokens, plain.counts.reused_tokens) == (7 * 75 + 50, 0)


def test_what_is_kept_makes_way_and_no_sample_changes():
    decoder, chance = model(), random.Random(4)
    requests = [
        Request(ids(64, n % 3) + ids(chance.randrange(1, 60), n), tuple(sample_key(n, i) for i in range(1 + n % 2)), 60)
        for n in range(16)
    ]
    engine = Engine(decoder, STOP, positions=16 * BLOCK)
    expected = Engine(decoder, STOP).generate(requests)
    session = engine.session(6, lambda _: None, keeps=True)
    for start in range(0, 16, 4):
        assert_equal(told(session, requests[start : start + 4], start), expected[start : start + 4])
    assert session.counts.reused_tokens > 0
    assert session.counts.preemptions > 0
    assert session.counts.cache_bytes <= 16 * BLOCK * bytes_per_position(decoder.config, torch.float32)


def test_other_weights_use_nothing_of_the_old_ones():
    decoder = model()
    engine = Engine(decoder, STOP)
    session, request = engine.session(8, lambda _: None, keeps=True), Request(ids(60, 1), tuple(range(6)), 40)
    told(session, [request])
    assert session.is_packed == can_pack(decoder)
    with torch.no_grad():
        decoder.embedding.weight.add_(0.5 * torch.randn(40, 24, generator=torch.Generator().manual_seed(0)))
    found = told(session, [replace(request, max_tokens=10)], 1)
    assert (session.counts.reused_tokens, session.is_packed) == (0, False)
    assert_equal(found, Engine(decoder, STOP).generate([replace(request, max_tokens=10)]))
    told(session, [request], 2)
    assert session.counts.reused_tokens == 59
    session.close()
    assert not any(getattr(weight, "packed", None) for weight in decoder.matrices)
    told(session, [request], 3)
    assert session.counts.reused_tokens == 59  # a closed one keeps nothing, and still answers
    with pytest.raises(EngineError, match="mixes versions"):
        engine.session(1, lambda _: None, mixes_versions=True, keeps=True)


def can_pack(decoder: Decoder) -> bool:
    pack(decoder.matrices, 8)
    has = any(getattr(weight, "packed", None) for weight in decoder.matrices)
    unpack(decoder.matrices)
    return has


def test_the_longest_beginning_is_found_and_the_oldest_goes_first():
    cache = BlockCache(DecoderConfig(40, 24, 2, 4, 2, 6, 32), 18 * BLOCK, torch.float32, CPU)
    keeping = Keeping(cache)

    def keep(tokens: tuple[int, ...]) -> None:
        strand = cache.open()
        assert cache.extend(strand, len(tokens))
        cache.append(strand, len(tokens))
        keeping.keep(tokens, strand)
        cache.close(strand)

    base = tuple(range(100))
    keep(base[:64])
    keep(base[:40] + (7,) * 24)
    assert len(keeping) == 2
    strand, count = keeping.find(base[:50])
    assert (count, strand.length) == (49, 64)  # never the whole prompt
    assert keeping.find(base[:33])[1] == 32
    assert keeping.find(base[:32]) == (None, 0)
    assert keeping.find((1, *base)) == (None, 0)
    assert keeping.find((*base[:64], 1))[1] == 64  # used last, so it goes last
    keep(base[:70])  # goes on from the first: that one is no more
    assert len(keeping) == 2
    assert keeping.find(base)[1] == 70
    assert cache.kept.used == 5
    assert keeping.free(15)  # 13 are: the one with the sevens goes
    assert (len(keeping), keeping.find(base)[1], cache.kept.used) == (1, 70, 3)
    assert not keeping.free(19)
    assert len(keeping) == 1
    keeping.clear()
    assert (len(keeping), cache.free) == (0, 18)
