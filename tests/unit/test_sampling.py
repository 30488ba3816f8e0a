"""Noise by key and the draw: SplitMix64 as published, distributions against chi-square, options against transformers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from headway.engine.sampling import Drawn, Options, draw, inverse_cdf, sample_key, uniforms
from headway.engine.truncation import Cut, draw_kept
from headway.types import Request

DRAWS = 100_000
PROBS = [0.15, 0.5, 0.05, 0.3]


def noise(count: int, *coordinates: object) -> Tensor:
    keys = np.full(count, sample_key(0, *coordinates), dtype=np.uint64)
    return torch.from_numpy(uniforms(keys, np.arange(count, dtype=np.int64)))


def rows(probs: list[float], count: int) -> Tensor:
    return torch.tensor(probs).log().expand(count, -1)


def asked(**settings: Any) -> Request:
    return Request((0,), (0,), 1, **settings)


def drawn(logits: Tensor, u: Tensor, *requests: Request) -> Drawn:
    """One draw a row, by the requests in turn."""
    options = Options.of([(requests[i % len(requests)], ()) for i in range(len(logits))], logits.shape[-1])
    return draw(logits, u, options)


def test_uniforms_are_the_published_splitmix64() -> None:
    # The first numbers of SplitMix64 from seed 1234567, as its test vector is published
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = uniforms(np.full(5, 1234567, dtype=np.uint64), np.arange(5, dtype=np.int64))
    assert found.tolist() == [(number >> 11) / 2**53 for number in published]


def test_uniforms_wrap_around_and_stay_below_one() -> None:
    found = uniforms(np.array([2**64 - 1, 0], dtype=np.uint64), np.array([0, 2**40], dtype=np.int64))
    assert ((found >= 0) & (found < 1)).all()


def test_uniforms_are_uniform_along_positions_and_along_keys() -> None:
    count = 100_000
    along_positions = noise(count, "positions").numpy()
    keys = np.array([sample_key(7, "problem", index) for index in range(count)], dtype=np.uint64)
    along_keys = uniforms(keys, np.zeros(count, dtype=np.int64))
    for u in (along_positions, along_keys):
        assert stats.chisquare(np.histogram(u, bins=100, range=(0, 1))[0]).pvalue > 1e-4
        assert abs(u.mean() - 0.5) < 5 * math.sqrt(1 / 12 / count)  # five standard errors
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 5 / math.sqrt(count)
    neighbours = uniforms(keys, np.ones(count, dtype=np.int64))
    assert abs(np.corrcoef(along_keys, neighbours)[0, 1]) < 5 / math.sqrt(count)


def test_sample_keys_differ_where_coordinates_do() -> None:
    keys = [sample_key(0, "a", 1), sample_key(1, "a", 1), sample_key(0, "b", 1), sample_key(0, "a", 2), sample_key(0, "a1")]
    assert len(set(keys)) == 5
    assert sample_key(0, "a", 1) == sample_key(0, "a", 1)
    assert all(0 <= key < 2**64 for key in keys)


def test_draw_by_hand() -> None:
    # cumulative 0.15, 0.65, 0.70, 1: u = 0.1 -> 0, 0.2 -> 1, 0.64 -> 1, 0.66 -> 2, 0.71 -> 3, almost 1 -> 3
    u = torch.tensor([0.0, 0.1, 0.2, 0.64, 0.66, 0.71, 1 - 2**-53], dtype=torch.float64)
    tokens, logprobs, entropies = drawn(rows(PROBS, 7), u, asked())
    assert tokens.tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert logprobs.exp().tolist() == pytest.approx([PROBS[t] for t in tokens.tolist()])
    assert entropies is None


def test_greedy_takes_the_likeliest_and_reports_temperature_one() -> None:
    for requests in ([asked(temperature=0.0)], [asked(temperature=0.0), asked(temperature=0.0, top_p=0.1, top_k=2), asked()]):
        tokens, logprobs, _ = drawn(rows(PROBS, 3), noise(3), *requests)
        assert tokens.tolist()[:2] == [1, 1]
        assert logprobs.exp().tolist()[:2] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("vocabulary", [40, 1024, 1030])
def test_greedy_takes_the_first_of_equals(vocabulary: int) -> None:
    logits = torch.zeros(3, vocabulary)
    logits[1, 17] = logits[1, 30] = 1.0
    logits[2, vocabulary - 1] = 1.0
    assert drawn(logits, noise(3), asked(temperature=0.0)).tokens.tolist() == [0, 17, vocabulary - 1]


CASES: list[tuple[dict[str, Any], list[float]]] = [
    ({}, PROBS),
    # temperature 1/2 squares: 0.0225, 0.25, 0.0025, 0.09, sum 0.365
    ({"temperature": 0.5}, [0.0225 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365]),
    # sorted 0.5, 0.3, 0.15, 0.05: 0.5 alone reaches 0.4; 0.5 + 0.3 reaches 0.7; with 0.15 it is 0.95
    ({"top_p": 0.4}, [0, 1, 0, 0]),
    ({"top_p": 0.7}, [0, 0.625, 0, 0.375]),
    ({"top_p": 0.9}, [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
    # squared, 0.25 + 0.09 is 93 % and reaches 0.9
    ({"temperature": 0.5, "top_p": 0.9}, [0, 0.25 / 0.34, 0, 0.09 / 0.34]),
    ({"top_k": 1}, [0, 1, 0, 0]),
    ({"top_k": 3}, [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
    ({"top_k": 100}, PROBS),
    # at least 0.2 * 0.5 = 0.1; at least 0.4 * 0.5 = 0.2
    ({"min_p": 0.2}, [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
    ({"min_p": 0.4}, [0, 0.625, 0, 0.375]),
    # of the 0.95 that top-k leaves, 0.5 + 0.3 is 84.2 %: it reaches 0.83, which is more than 0.8 of the whole
    ({"top_k": 3, "top_p": 0.83}, [0, 0.625, 0, 0.375]),
    ({"top_p": 0.83}, [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
    ({"top_p": 0.9, "min_p": 0.4}, [0, 0.625, 0, 0.375]),
    ({"top_k": 3, "top_p": 0.9, "min_p": 0.2}, [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
    # with temperature 1/2: 0.09 / 0.25 = 0.36, 0.0225 / 0.25 = 0.09
    ({"temperature": 0.5, "top_k": 3, "min_p": 0.3}, [0, 0.25 / 0.34, 0, 0.09 / 0.34]),
]


@pytest.mark.parametrize(("settings", "expected"), CASES)
def test_draws_follow_the_distribution(settings: dict[str, Any], expected: list[float]) -> None:
    tokens, logprobs, entropies = drawn(rows(PROBS, DRAWS), noise(DRAWS, *settings), asked(**settings, wants_entropies=True))
    counts = np.bincount(tokens.numpy(), minlength=4)
    possible = np.array(expected) > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert stats.chisquare(counts[possible], DRAWS * np.array(expected)[possible]).pvalue > 1e-3
    torch.testing.assert_close(logprobs.exp(), torch.tensor(expected, dtype=torch.float32)[tokens], rtol=1e-5, atol=1e-6)
    entropy = -sum(p * math.log(p) for p in expected if p)
    assert entropies is not None
    assert (entropies - entropy).abs().max() < 1e-5


def test_a_large_vocabulary_is_drawn_by_its_distribution() -> None:
    """Two levels of the inverse CDF, and truncation within blocks, on 3,000 tokens: chi-square over 50 classes of tokens."""
    probs = torch.rand(3000, generator=torch.Generator().manual_seed(0)).pow(3)
    probs /= probs.sum()
    logits = probs.log().expand(500, -1)
    for settings in ({}, {"top_k": 40}, {"top_p": 0.6}, {"min_p": 0.5}):
        u = noise(5_000, "large", *settings)
        tokens = torch.cat([drawn(logits, part, asked(**settings)).tokens for part in u.split(500)])
        order = probs.argsort(descending=True)
        expected = torch.zeros(3000, dtype=torch.float64)
        if "top_k" in settings:
            kept = order[:40]
        elif "top_p" in settings:
            kept = order[: int((probs[order].double().cumsum(-1) - probs[order] < 0.6).sum())]
        else:
            kept = (probs >= settings.get("min_p", 0.0) * probs.max()).nonzero().squeeze(-1)
        expected[kept] = probs[kept].double() / probs[kept].double().sum()
        assert set(tokens.tolist()) <= set(kept.tolist())
        classes = torch.arange(3000) % 50
        counts = torch.bincount(classes[tokens], minlength=50).numpy()
        shares = torch.zeros(50, dtype=torch.float64).index_add_(0, classes, expected).numpy()
        assert stats.chisquare(counts[shares > 0], len(u) * shares[shares > 0]).pvalue > 1e-3


MIXED = [
    {"temperature": 0.0}, {"temperature": 0.5}, {}, {"temperature": 1.5, "top_p": 0.9}, {"top_p": 0.3}, {"top_k": 5},
    {"top_k": 40, "top_p": 0.8, "temperature": 0.7}, {"min_p": 0.1}, {"repetition_penalty": 1.5}, {"anneal": (0.2, 4)},
    {"temperature": 0.0, "repetition_penalty": 2.0, "top_k": 7}, {"anneal": (0.0, 3), "top_p": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("vocabulary", [50, 1024, 5003])
def test_rows_are_drawn_as_if_alone(vocabulary: int) -> None:
    """Any sub-batch, in any order: every row gives the very same bits, over several draws, cached options or new ones."""
    generator = torch.Generator().manual_seed(0)
    requests = [asked(**one, wants_entropies=True) for one in MIXED]
    logits = torch.tensor([4.0, 1.0, 0.2, 8.0]).repeat(3)[:, None] * torch.randn(5, 12, vocabulary, generator=generator)
    u = noise(60, "mixed").view(5, 12)
    tokens: list[list[int]] = [[] for _ in requests]
    options = Options.of([(request, ()) for request in requests], vocabulary)
    for step in range(5):
        together = draw(logits[step], u[step], options)
        for _ in range(4):
            size = int(torch.randint(1, 12, (), generator=generator))
            some = torch.randperm(12, generator=generator)[:size].tolist()
            part = Options.of([(requests[i], tokens[i]) for i in some], vocabulary)
            found = draw(logits[step, some], u[step, some], part)
            assert found.tokens.tolist() == together.tokens[some].tolist()
            assert found.logprobs.tolist() == together.logprobs[some].tolist()
            assert found.entropies is not None
            assert together.entropies is not None
            torch.testing.assert_close(found.entropies, together.entropies[some], rtol=1e-6, atol=1e-6)
        for one, token in zip(tokens, together.tokens.tolist(), strict=True):
            one.append(token)


@pytest.mark.parametrize("vocabulary", [300, 5003])
@pytest.mark.parametrize(
    "settings", [{"top_p": 0.95}, {"top_k": 30}, {"min_p": 0.05}, {"top_k": 100, "top_p": 0.7, "min_p": 0.02}]
)
def test_the_kept_set_is_that_of_transformers(vocabulary: int, settings: dict[str, Any]) -> None:
    """Sharp rows end within the first blocks looked at, flat ones go to the whole sort. All of the kept set, none beyond it."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.tensor([5.0, 2.0, 0.3, 9.0]).repeat(3)[:, None]
    logits = scale * torch.randn(12, vocabulary, generator=generator)
    scores: Any = logits
    none: Any = torch.zeros(12, 0, dtype=torch.int64)
    for name, warper in (("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper)):
        scores = warper(settings[name])(none, scores) if name in settings else scores
    expected = scores.softmax(-1).double()
    steps = (torch.arange(40, dtype=torch.float64) + 0.5) / 40
    for row in range(12):
        found = drawn(logits[row].expand(40, -1), steps, asked(**settings))
        order = expected[row].argsort(descending=True, stable=True)
        cumulative = expected[row][order].cumsum(-1)
        wanted = order[torch.searchsorted(cumulative, steps * cumulative[-1], right=True)]
        assert found.tokens.tolist() == wanted.tolist()
        torch.testing.assert_close(found.logprobs.exp().double(), expected[row][wanted], rtol=1e-5, atol=1e-7)


def test_penalties_are_those_of_transformers() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(4, 200, generator=generator)
    prompts = [(3, 3, 7), (1,), (9, 8, 7, 6), tuple(range(100))]
    settings = [(1, 1.2), (0, 3.0), (0.7, 1.0), (1, 0.8)]
    requests = [Request(p, (0,), 1, temperature=t, repetition_penalty=r) for p, (t, r) in zip(prompts, settings, strict=True)]
    options = Options.of([(request, ()) for request in requests], 200)
    tokens: list[list[int]] = [[] for _ in requests]
    for step in range(70):  # beyond the room that the lists of seen tokens have at first
        u = noise(4, "penalty", step)
        found = draw(logits, u, options)
        for i, request in enumerate(requests):
            seen: Any = torch.tensor([[*request.prompt_ids, *tokens[i]]])
            scores = RepetitionPenaltyLogitsProcessor(request.repetition_penalty)(seen, logits[i : i + 1].clone())
            probs = (scores / (request.temperature or 1)).softmax(-1)
            token = int(scores.argmax()) if request.temperature == 0 else int(inverse_cdf(probs, u[i : i + 1])[0])
            assert int(found.tokens[i]) == token
            assert float(found.logprobs[i]) == pytest.approx(math.log(probs[0, token]), abs=1e-5)
            tokens[i].append(token)


def test_a_temperature_follows_its_schedule() -> None:
    # 2 -> 0.5 over 3 new tokens: 2, 1.5, 1, then 0.5 for good
    options = Options.of([(asked(temperature=2.0, anneal=(0.5, 3)), ()), (asked(temperature=1.0), ())], 4)
    logits = rows(PROBS, 2)
    for temperature in (2, 1.5, 1, 0.5, 0.5):
        tokens, logprobs, _ = draw(logits, noise(2, temperature), options)
        for row, own in enumerate((temperature, 1.0)):
            expected = (logits[row] / own).log_softmax(-1)[tokens[row]]
            assert float(logprobs[row]) == pytest.approx(float(expected), abs=1e-6)
    joined = Options.of([(asked(temperature=2.0, anneal=(0.5, 3)), (1, 1))], 4)  # two tokens were drawn before
    tokens, logprobs, _ = draw(rows(PROBS, 1), noise(1), joined)
    assert logprobs.exp().tolist() == pytest.approx([PROBS[int(tokens)]])


def test_entropies_of_greedy_rows_are_of_temperature_one() -> None:
    entropy = -sum(p * math.log(p) for p in PROBS)
    greedy = asked(temperature=0.0, top_k=1, wants_entropies=True)
    for requests in ([greedy], [greedy, asked(temperature=0.0)], [greedy, asked(top_k=1)]):
        found = drawn(rows(PROBS, 2), noise(2), *requests).entropies
        assert found is not None
        assert float(found[0]) == pytest.approx(entropy, abs=1e-6)
    impossible = torch.tensor([[0.0, float("-inf"), 0.0]])
    assert drawn(impossible, noise(1), asked(wants_entropies=True)).entropies.tolist() == pytest.approx([math.log(2)])  # type: ignore


def test_what_cannot_happen_is_never_drawn() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]]).expand(5000, -1)
    edges = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    for request in (asked(), asked(top_p=0.99), asked(top_k=2), asked(min_p=0.5), asked(top_k=4)):
        assert set(drawn(logits, noise(5000, "impossible"), request).tokens.tolist()) == {1, 3}
        assert set(drawn(logits[:3], edges, request).tokens.tolist()) <= {1, 3}


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 1000, 8192, 9000])
def test_the_inverse_cdf_in_two_levels_is_that_in_one(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    probs = (torch.randn(50, vocabulary, generator=generator) * 3).softmax(-1)
    probs[:, torch.rand(vocabulary, generator=generator) < 0.3] = 0.0
    probs[:, vocabulary // 2] += 0.01
    u = noise(50, vocabulary)
    tokens, chosen = inverse_cdf(probs, u)
    cumulative = probs.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
    assert tokens.tolist() == expected.tolist()
    assert chosen.tolist() == probs.gather(1, expected[:, None]).squeeze(-1).tolist()
    for edge in (0.0, 1 - 2**-53):
        assert (inverse_cdf(probs, torch.full((50,), edge, dtype=torch.float64))[1] > 0).all()


@pytest.mark.parametrize("vocabulary", [4, 600, 5000])
def test_equals_at_the_border_go_by_token(vocabulary: int) -> None:
    # all equal: half of the mass, or half of the tokens, are the first ones
    half = vocabulary // 2
    for request in (asked(top_p=(half - 0.5) / vocabulary), asked(top_k=half)):
        tokens, logprobs, _ = drawn(torch.zeros(300, vocabulary), noise(300, "ties"), request)
        assert int(tokens.max()) < half
        assert logprobs.exp().tolist() == pytest.approx([1 / half] * 300, rel=1e-4)
    # one above, then equals: top-k 3 keeps the first two of them, min-p all
    logits = torch.zeros(300, vocabulary)
    logits[:, 2] = 1.0
    assert set(drawn(logits, noise(300, "k"), asked(top_k=3)).tokens.tolist()) == {0, 1, 2}
    assert len(set(drawn(logits, noise(300, "min"), asked(min_p=0.3)).tokens.tolist())) >= min(vocabulary, 50)


def test_a_row_that_is_looked_at_twice_is_drawn_the_same() -> None:
    """Among 5,000 tokens a flat row goes through every level; the levels themselves agree where a set ends within the first."""
    generator = torch.Generator().manual_seed(3)
    probs = torch.cat([3 * torch.randn(6, 5000, generator=generator), torch.randn(6, 5000, generator=generator) / 9]).softmax(-1)
    u = noise(12, "levels")
    cut = Cut(None, torch.full((12, 1), 0.5, dtype=torch.float64), None, 0)
    by_levels, whole = draw_kept(probs, u, cut), draw_kept(probs, u, Cut(None, cut.top_p, None, 4999))
    assert by_levels.tokens.tolist() == whole.tokens.tolist()
    assert by_levels.probs.tolist() == whole.probs.tolist()
