"""Beam search against brute force, against a plain search by whole forward passes, and against transformers."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import both

from headway.engine.beam import Beam, beam_search, beam_searches
from headway.engine.engine import Engine
from headway.errors import EngineError
from headway.model.attention import lay_out
from headway.model.config import DecoderConfig
from headway.model.head import next_logits
from headway.model.transformer import Decoder, initialise
from headway.types import Request


def model(vocabulary: int = 5, seed: int = 0, sharpness: float = 2.0) -> Decoder:
    made = initialise(DecoderConfig(vocabulary, 16, 2, 2, 1, 8, 24, max_positions=80), seed)
    for weight in made.parameters():
        weight.data.mul_(sharpness)
    return made


@torch.no_grad()
def next_logprobs(decoder: Decoder, ids: tuple[int, ...]) -> list[float]:
    hidden = decoder(torch.tensor(ids), lay_out([len(ids)]))[-1:]
    return next_logits(hidden, decoder.output_weight).log_softmax(-1)[0].tolist()


def plain_search(decoder, prompt, width, max_tokens, stops, penalty, count) -> list[Beam]:
    """The same search without a cache, and without an early end: every step to the last."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: list[Beam] = []
    for length in range(1, max_tokens + 1):
        found = []
        for ids, total in live:
            found += [(total + lp, (*ids, token)) for token, lp in enumerate(next_logprobs(decoder, prompt + ids))]
        found.sort(key=lambda one: -one[0])
        for total, ids in found[:width]:
            if ids[-1] in stops or length == max_tokens:
                finished.append(Beam(ids, total, total / length**penalty))
        if width == 1 and finished:
            break
        live = [(ids, total) for total, ids in found if ids[-1] not in stops][:width]
    return sorted(finished, key=lambda one: -one.score)[:count]


def assert_same(found: list[Beam], expected: list[Beam]) -> None:
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    for a, b in zip(found, expected, strict=True):
        assert (a.logprob, a.score) == pytest.approx((b.logprob, b.score), abs=1e-4)


def test_a_beam_that_holds_everything_finds_the_best_of_all() -> None:
    decoder, prompt, stops, most = model(4), (1, 2), (3,), 4
    sums: dict[tuple[int, ...], float] = {(): 0.0}
    everything: dict[tuple[int, ...], float] = {}
    while sums:
        before, total = sums.popitem()
        for token, lp in enumerate(next_logprobs(decoder, prompt + before)):
            ids = (*before, token)
            (everything if token in stops or len(ids) == most else sums)[ids] = total + lp
    assert len(everything) == 121  # 1 + 3 + 9 + 27 * 4
    for penalty in (-1.0, 0.0, 0.5, 1.0, 2.0):
        scored = [Beam(ids, total, total / len(ids) ** penalty) for ids, total in everything.items()]
        expected = sorted(scored, key=lambda one: -one.score)
        found = beam_search(decoder, prompt, 121, most, stops, penalty, 121)
        assert_same(found[:20], expected[:20])
        assert {one.token_ids for one in found} == everything.keys()


@pytest.mark.parametrize("seed", range(4))
def test_a_narrow_beam_is_the_plain_search(seed: int) -> None:
    decoder = model(12, seed)
    settings = itertools.product((1, 2, 3, 5), (-1.0, 0.0, 1.0, 2.0), ((), (3,), (3, 7)))
    for number, (width, penalty, stops) in enumerate(settings):
        if number % 4 == seed:  # each is tried with one of the models
            count = min(width, 1 + number % 3)
            expected = plain_search(decoder, (5, 6, 5), width, 7, stops, penalty, count)
            assert_same(beam_search(decoder, (5, 6, 5), width, 7, stops, penalty, count), expected)


def test_width_one_is_greedy() -> None:
    decoder = model(40)
    for start in range(12):
        [[greedy]] = Engine(decoder, (3, 7)).generate([Request((start, 5), (0,), 40, temperature=0.0)])
        [beam] = beam_search(decoder, (start, 5), 1, 40, (3, 7))
        assert beam.token_ids == greedy.token_ids
        assert beam.logprob == pytest.approx(sum(greedy.logprobs), abs=1e-3)
        assert beam.score == pytest.approx(beam.logprob / len(greedy.token_ids))


def test_a_search_ends_when_nothing_can_win_any_more() -> None:
    """Without a penalty the worst kept bounds what may follow soon; a penalty that favours length keeps the search going."""
    decoder, steps = model(12), []
    decoder.norm.register_forward_hook(lambda *_: steps.append(1))
    taken = {}
    for penalty in (0.0, 1.0):
        steps.clear()
        beam_search(decoder, (1, 2), 4, 60, (3, 7), penalty)
        taken[penalty] = len(steps)
    assert taken[0.0] < taken[1.0] <= 60


def test_prompts_together_are_each_alone() -> None:
    decoder = model(12)
    prompts = [(1,), (2, 3, 4, 5, 6, 7, 8), (9, 9), (2, 3)]
    together = beam_searches(decoder, prompts, 3, 9, (3,), 0.7, 3)
    for prompt, found in zip(prompts, together, strict=True):
        assert_same(found, beam_search(decoder, prompt, 3, 9, (3,), 0.7, 3))
    assert beam_searches(decoder, [], 3, 9, (3,)) == []
    assert len({len(found[0].token_ids) for found in together}) > 1  # their searches end at different times


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_transformers_finds_the_same(penalty: float, tmp_path: Path) -> None:
    theirs, ours = both("llama-untied", 0, tmp_path)
    generator: Any = theirs
    for start in range(3):
        prompt = torch.tensor([[start + 1, 7, 9]])
        stop = beam_search(ours, prompt[0].tolist(), 3, 4, ())[0].token_ids[2]  # a token that a beam comes upon
        found = beam_search(ours, prompt[0].tolist(), 4, 8, (stop,), penalty, 4)
        out = generator.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=stop,
            length_penalty=penalty,
            early_stopping="never",
            return_dict_in_generate=True,
            output_scores=True,
        )
        for beam, ids, score in zip(found, out.sequences[:, 3:].tolist(), out.sequences_scores.tolist(), strict=True):
            size = len(beam.token_ids)
            assert ids[:size] == list(beam.token_ids)
            assert set(ids[size:]) <= {stop}
            assert beam.score == pytest.approx(score, abs=1e-4)


def test_impossible_tokens_are_no_beams() -> None:
    decoder = model(5)
    beams = beam_search(decoder, (1,), 5, 1, (), count=5)
    assert len(beams) == 5
    assert math.fsum(math.exp(beam.logprob) for beam in beams) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prompt_ids": ()}, "prompt 0 should hold token ids from 0 to 4"),
        ({"prompt_ids": (5,)}, "prompt 0 should hold token ids from 0 to 4"),
        ({"width": 0}, "width 0"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"count": 3}, "count 3 should be from 1 to the width 2"),
        ({"length_penalty": math.inf}, "length_penalty inf should be from -20 to 20"),
        ({"max_tokens": 80}, "exceed the model's 80 positions"),
    ],
)
def test_impossible_searches_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        beam_search(**({"model": model(), "prompt_ids": (1,), "width": 2, "max_tokens": 3, "stop_ids": (3,)} | settings))
