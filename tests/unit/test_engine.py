"""The engine against a naive loop without cache or batch, and its promises: order and slots change nothing."""

import os
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from headway.engine import engine as engine_module
from headway.engine.cache import bytes_per_position
from headway.engine.engine import Engine, InFlight
from headway.engine.generation import Generation
from headway.engine.sampling import Options, draw, sample_key, uniforms
from headway.errors import EngineError
from headway.model.attention import lay_out
from headway.model.config import DecoderConfig
from headway.model.head import next_logits, token_logprobs
from headway.model.transformer import Decoder, initialise
from headway.types import Completion, Request, StopReason

STOP = (3, 7)
MANY = int(os.environ.get("HEADWAY_REQUESTS", "12"))  # 1000 takes half an hour
SHAPES = [(4, 4), (4, 2), (3, 1)]  # heads, kv_heads


def model(heads: int = 4, kv_heads: int = 2, seed: int = 0) -> Decoder:
    config = DecoderConfig(40, 24, 2, heads, kv_heads, 6, 32, qkv_bias=True, tied=kv_heads == 2, max_positions=200)
    made = initialise(config, seed)
    for weight in made.parameters():
        weight.data.mul_(1.2)  # far from uniform
    return made


def random_requests(seed: int, count: int = 9) -> list[Request]:
    chance = random.Random(seed)
    return [
        Request(
            prompt_ids=tuple(chance.randrange(40) for _ in range(chance.randrange(1, 20))),
            keys=tuple(sample_key(seed, number, index) for index in range(chance.randrange(1, 5))),
            max_tokens=chance.choice([1, 5, 40, 90]),  # 90 and a prompt cross the 64 positions that the cache grows by
            temperature=1.0,
        )
        for number in range(count)
    ]


@torch.no_grad()
def naive(decoder: Decoder, request: Request, key: int, stop: tuple[int, ...] = STOP) -> Completion:
    """One sample by the whole forward pass for every token."""
    tokens: list[int] = []
    logprobs: list[float] = []
    entropies: list[float] = []
    while len(tokens) < request.max_tokens and not (tokens and tokens[-1] in stop):
        ids = torch.tensor([*request.prompt_ids, *tokens])
        logits = next_logits(decoder(ids, lay_out([len(ids)]))[-1:], decoder.output_weight)
        u = uniforms(np.array([key], dtype=np.uint64), np.array([len(tokens)], dtype=np.int64))
        drawn = draw(logits, torch.from_numpy(u), Options.of([(request, tokens)], decoder.config.vocab_size))
        tokens.append(int(drawn.tokens))
        logprobs.append(float(drawn.logprobs))
        entropies += [] if drawn.entropies is None else drawn.entropies.tolist()
    reason = StopReason.STOP if tokens[-1] in stop else StopReason.LENGTH
    return Completion(tuple(tokens), tuple(logprobs), reason, tuple(entropies))


@torch.no_grad()
def naive_logprobs(decoder: Decoder, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """The log-probs of the ids behind a prompt at temperature 1, by one forward pass."""
    hidden = decoder(ids[:-1], lay_out([len(ids) - 1]))[prompt - 1 :]
    return token_logprobs(hidden, decoder.output_weight, ids[prompt:])


def assert_same(found: Completion, expected: Completion) -> None:
    assert found.token_ids == expected.token_ids
    assert found.stop_reason is expected.stop_reason
    assert np.abs(np.array(found.logprobs) - np.array(expected.logprobs)).max() < 1e-4


@pytest.fixture(params=[0, 1, 2])
def ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Draws that the host leaves unread: none on the CPU, where it costs a step, one on CUDA."""
    monkeypatch.setattr(engine_module, "_AHEAD", {"cpu": request.param})
    return int(request.param)


@pytest.mark.parametrize("slots", [1, 3, 64])
@pytest.mark.parametrize(("heads", "kv_heads"), SHAPES)
def test_engine_equals_the_naive_loop(heads: int, kv_heads: int, slots: int, ahead: int) -> None:
    decoder, requests = model(heads, kv_heads), random_requests(heads * 10 + kv_heads)
    results = Engine(decoder, STOP, slots).generate(requests)
    for request, completions in zip(requests, results, strict=True):
        assert len(completions) == len(request.keys)
        for key, completion in zip(request.keys, completions, strict=True):
            assert_same(completion, naive(decoder, request, key))
    reasons = {c.stop_reason for completions in results for c in completions}
    assert reasons == {StopReason.STOP, StopReason.LENGTH}  # the example has both


@pytest.mark.parametrize("seed", range(5))
def test_order_and_slots_change_no_sample(seed: int, ahead: int) -> None:
    decoder, requests = model(), random_requests(seed)
    expected = Engine(decoder, STOP).generate(requests)
    order = random.Random(seed).sample(range(len(requests)), len(requests))
    shuffled = Engine(decoder, STOP, slots=random.Random(seed).randrange(1, 12)).generate([requests[i] for i in order])
    for place, number in enumerate(order):
        for found, wanted in zip(shuffled[place], expected[number], strict=True):
            assert_same(found, wanted)


def test_options_belong_to_the_request(ahead: int) -> None:
    decoder, base = model(), random_requests(1, 9)
    settings = [
        {"temperature": 1.0},
        {"temperature": 0.0},
        {"temperature": 0.6, "top_p": 0.9},
        {"temperature": 1.3, "top_p": 0.5},
        {"top_k": 3},
        {"min_p": 0.2, "wants_entropies": True},
        {"repetition_penalty": 1.3},
        {"temperature": 0.0, "repetition_penalty": 1.3, "wants_entropies": True},
        {"temperature": 1.2, "anneal": (0.3, 20), "top_k": 20, "top_p": 0.9},
    ]
    requests = [replace(r, max_tokens=40, **one) for r, one in zip(base, settings, strict=True)]
    for request, completions in zip(requests, Engine(decoder, STOP, 5).generate(requests), strict=True):
        for key, completion in zip(request.keys, completions, strict=True):
            expected = naive(decoder, request, key)
            assert_same(completion, expected)
            assert len(completion.entropies) == (len(completion.token_ids) if request.wants_entropies else 0)
            assert np.abs(np.array(completion.entropies) - np.array(expected.entropies)).max(initial=0) < 1e-4


def test_recorded_logprobs_are_the_trainers() -> None:
    """Sampler = trainer: one forward of prompt and completion gives every recorded log-prob within 1e-4."""
    decoder = model()
    requests = [replace(r, temperature=0.8) for r in random_requests(2)]
    for request, completions in zip(requests, Engine(decoder, STOP, 4).generate(requests), strict=True):
        for completion in completions:
            ids = torch.tensor([*request.prompt_ids, *completion.token_ids])
            with torch.no_grad():
                hidden = decoder(ids[:-1], lay_out([len(ids) - 1]))[len(request.prompt_ids) - 1 :]
                found = token_logprobs(hidden, decoder.output_weight, torch.tensor(completion.token_ids), 0.8)
            assert (found - torch.tensor(completion.logprobs)).abs().max() < 1e-4


def test_a_completion_ends_with_its_stop_token_and_holds_no_other(ahead: int) -> None:
    requests = [Request((5, 6), tuple(sample_key(0, i) for i in range(50)), 60)]
    [completions] = Engine(model(), STOP).generate(requests)
    for completion in completions:
        assert not set(completion.token_ids[:-1]) & set(STOP)
        assert (completion.token_ids[-1] in STOP) == (completion.stop_reason is StopReason.STOP)
        assert len(completion.token_ids) == len(completion.logprobs) <= 60
        assert completion.stop_reason is StopReason.STOP or len(completion.token_ids) == 60
    assert len({c.token_ids for c in completions}) > 40  # keys differ, so do samples


def test_statistics_count_what_was_done(ahead: int) -> None:
    decoder = model()
    engine = Engine(decoder, STOP)
    requests = random_requests(4)
    results = engine.generate(requests)
    assert engine.statistics.new_tokens == sum(len(c.token_ids) for completions in results for c in completions)
    assert engine.statistics.prompt_tokens == sum(len(r.prompt_ids) for r in requests)  # each prompt computed once
    assert engine.statistics.seconds > 0


def test_no_requests_give_no_completions() -> None:
    assert Engine(model(), STOP).generate([]) == []


def test_new_weights_are_used_at_once() -> None:
    """The engine runs on the trainer's own module: an update between two calls changes the samples."""
    decoder, requests = model(), random_requests(5)
    engine = Engine(decoder, STOP)
    before = engine.generate(requests)
    with torch.no_grad():
        decoder.embedding.weight.add_(0.5 * torch.randn(40, 24, generator=torch.Generator().manual_seed(0)))
    after = engine.generate(requests)
    assert before != after
    assert {c.versions for completions in before for c in completions} == {(0,)}
    assert {c.versions for completions in after for c in completions} == {(1,)}
    assert after == [[replace(c, versions=(1,)) for c in found] for found in Engine(decoder, STOP).generate(requests)]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request((), (1,), 5), "empty prompt"),
        (Request((1,), (), 5), "no sample keys"),
        (Request((1,), (1,), 0), "max_tokens below 1"),
        (Request((1,) * 150, (1,), 51), "exceed the model's 200 positions"),
        (Request((1,), (1,), 5, temperature=-0.1), "request 1: temperature is -0.1"),
        (Request((1,), (1,), 5, temperature=float("nan")), "temperature is nan"),
        (Request((1,), (1,), 5, top_p=0.0), "top_p is 0.0, it should be above 0"),
        (Request((1,), (1,), 5, top_k=-1), "top_k is -1"),
        (Request((1,), (1,), 5, min_p=1.5), "min_p is 1.5"),
        (Request((1,), (1,), 5, repetition_penalty=0.0), "repetition_penalty is 0.0"),
        (Request((1,), (1,), 5, anneal=(0.5, 0)), "anneal is"),
    ],
)
def test_impossible_requests_are_refused(request_: Request, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        Engine(model(), STOP).generate([Request((1,), (1,), 5), request_])


def test_the_longest_possible_request_is_served() -> None:
    [[completion]] = Engine(model(), [39]).generate([Request((1,) * 150, (8,), 50, temperature=0.0)])
    assert len(completion.token_ids) <= 50


def test_an_engine_without_stop_tokens_is_refused() -> None:
    with pytest.raises(EngineError, match="stop token"):
        Engine(model(), [])


@pytest.mark.parametrize("slots", [2, 16])
def test_a_session_takes_requests_as_they_come_and_lets_go_of_them(slots: int, ahead: int) -> None:
    decoder, requests = model(), random_requests(6)
    expected = Engine(decoder, STOP).generate(requests)
    drawn: dict[tuple[int, int], list[int]] = {}

    def watch(sequences: list[InFlight]) -> None:
        for sequence in sequences:
            drawn.setdefault((sequence.request, sequence.index), []).append(sequence.tokens[-1])

    session = Engine(decoder, STOP).session(slots, watch)
    found: dict[tuple[int, int], Completion] = {}
    coming = list(enumerate(requests))
    with torch.inference_mode():
        while session.step() or coming:
            if coming:  # one more joins after every step
                session.add(*coming.pop(0))
            found |= {(number, index): completion for number, index, completion in session.collect()}
    found |= {(number, index): completion for number, index, completion in session.collect()}
    for number, completions in enumerate(expected):
        for index, completion in enumerate(completions):
            assert_same(found[number, index], completion)
            assert tuple(drawn[number, index]) == completion.token_ids
        session.forget(number)
    assert session.collect() == []


def test_a_dropped_sample_ends_soon_and_changes_no_other() -> None:
    decoder = model()
    request = Request((5, 6), tuple(sample_key(3, i) for i in range(6)), 60)
    [expected] = Engine(decoder, [39]).generate([request])
    assert max(len(completion.token_ids) for completion in expected) > 20
    session = Engine(decoder, [39]).session(4, lambda sequences: None)  # two of the six wait
    session.add(0, request)
    with torch.inference_mode():
        session.step()
        session.drop(0, 1)  # it runs
        session.drop(0, 5)  # it waits
        session.drop(9, 0)  # there is none
        while session.step():
            pass
    found = {index: completion for _, index, completion in session.collect()}
    assert (len(found[1].token_ids), found[5].token_ids) == (3, ())  # two of the first step, and one more
    for index in (0, 2, 3, 4):
        assert_same(found[index], expected[index])


@pytest.mark.parametrize("windows", [(0, 0), (9, 0)])
def test_whatever_runs_together_every_sample_is_the_naive_one(windows: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Random orders, batches, lengths, prompt pieces and preemptions, greedy and sampled: the tokens of a whole forward each."""
    chance = random.Random(windows[0])
    decoder = initialise(replace(model().config, windows=windows), 3)
    decoder.load_state_dict(model().state_dict())
    requests = [
        replace(
            request,
            prompt_ids=tuple(chance.randrange(40) for _ in range(chance.choice([1, 5, 33, 64, 80]))),
            max_tokens=chance.choice([1, 6, 40, 90]),
            temperature=chance.choice([0.0, 1.0]),
        )
        for request in random_requests(7, MANY)
    ]
    expected = [[naive(decoder, request, key) for key in request.keys] for request in requests]
    preemptions = 0
    settings = ((3, 0, 7, 1), (40, 1024, 64, 0), (200, 600, 30, 0), (200, 600, 30, 2), (200, 0, 4096, 1))
    for slots, positions, pieces, unread in settings:
        monkeypatch.setattr(engine_module, "_AHEAD", {"cpu": unread})
        order = chance.sample(range(len(requests)), len(requests))
        engine = Engine(decoder, STOP, slots, positions, pieces)
        for number, found in zip(order, engine.generate([requests[i] for i in order]), strict=True):
            for completion, wanted in zip(found, expected[number], strict=True):
                assert_same(completion, wanted)
        preemptions += engine.statistics.preemptions
        assert engine.statistics.cache_bytes <= (positions or 10**6) * bytes_per_position(decoder.config, torch.float32)
    assert preemptions > 0


def test_memory_follows_the_tokens_in_flight() -> None:
    """64 requests of up to 4,096 tokens and a mean of 512 take at most 1.3 times what 64 x 512 need, all in the cache at once:
    their tokens are prompts, but for the last 40.
    """
    decoder = initialise(replace(model().config, max_positions=4200), 0)
    chance = random.Random(0)
    lengths = [chance.choice([128, 256, 512, 512]) for _ in range(57)] + [2048, 2048, 1500, 1024, 1024, 4096]
    lengths.append(64 * 512 - sum(lengths))
    assert 40 < min(lengths) <= max(lengths) == 4096
    most = 0

    def watch(sequences: list[InFlight]) -> None:
        nonlocal most
        most = max(most, len(sequences))
        for sequence in sequences:
            if len(sequence.tokens) == 39:
                session.drop(sequence.request, 0)

    session = Engine(decoder, [40]).session(64, watch)  # an id that is never drawn
    for number, length in enumerate(lengths):
        prompt = tuple(chance.randrange(39) for _ in range(length - 40))
        session.add(number, Request(prompt, (sample_key(0, number),), 4096 - len(prompt)))
    with torch.inference_mode():
        while session.step():
            pass
    assert {len(completion.token_ids) for _, _, completion in session.collect()} == {40}
    assert most == 64
    needed = 64 * 512 * bytes_per_position(decoder.config, torch.float32)
    assert 0.9 * needed < session.counts.cache_bytes <= 1.3 * needed


def test_a_request_that_the_cache_cannot_hold_is_refused() -> None:
    engine = Engine(model(), STOP, positions=96)
    assert len(engine.generate([Request((1,) * 20, (5,), 60)])[0]) == 1
    with pytest.raises(EngineError, match="request 1: 70 prompt tokens and max_tokens 60 do not fit the cache's 96 positions"):
        engine.generate([Request((1,), (5,), 60), Request((1,) * 70, (5,), 60)])


def test_weights_that_change_under_a_sample_are_noticed() -> None:
    decoder = model()
    engine = Engine(decoder, [39])

    def begun(mixes_versions: bool) -> Generation:
        session = engine.session(4, lambda sequences: None, mixes_versions)
        session.add(0, Request((5, 6), (sample_key(3, 0),), 12))
        with torch.inference_mode():
            session.step()
        with torch.no_grad():
            decoder.norm.weight.mul_(1.01)
        return session

    with torch.inference_mode():
        with pytest.raises(EngineError, match="two policies"):
            begun(False).step()
        session = begun(True)
        while session.step():
            pass
    [(_, _, completion)] = session.collect()
    assert len(completion.versions) == 2
    assert completion.versions[1] == completion.versions[0] + 1 == engine.version


def test_a_request_may_have_stops_of_its_own(ahead: int) -> None:
    decoder, engine = model(), Engine(model(), [39], decode=lambda ids: "".join(chr(97 + i % 26) for i in ids))
    keys = tuple(sample_key(1, i) for i in range(20))
    [plain] = Engine(decoder, [39]).generate([Request((5, 6), keys, 60)])
    [by_id] = engine.generate([Request((5, 6), keys, 60, stop_ids=(11, 12))])
    [by_text] = engine.generate([Request((5, 6), keys, 60, stop_strings=("ab", "q"))])
    for whole, short in zip(plain, by_id, strict=True):
        at = next((i for i, token in enumerate(whole.token_ids) if token in (11, 12, 39)), 59)
        assert short.token_ids == whole.token_ids[: at + 1]
    stopped = 0
    for whole, short in zip(plain, by_text, strict=True):
        text = "".join(chr(97 + i % 26) for i in whole.token_ids)
        ends = [text.find(s) + len(s) for s in ("ab", "q") if s in text]
        assert len(short.token_ids) == min(ends, default=len(whole.token_ids))
        assert short.stop_string in (("ab", "q") if ends else ("",))
        assert (short.stop_reason is StopReason.STOP) == bool(ends or short.token_ids[-1] == 39)
        stopped += bool(ends)
    assert stopped > 5
    with pytest.raises(EngineError, match="stop strings"):
        Engine(decoder, STOP).generate([Request((1,), (1,), 5, stop_strings=("x",))])
