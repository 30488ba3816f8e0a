"""Noise by key and the draw: SplitMix64 against published numbers, distributions against chi-square."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from headway.engine.sampling import draw, sample_key, uniforms

DRAWS = 100_000
PROBS = [0.15, 0.5, 0.05, 0.3]


def noise(count: int, *coordinates: object) -> Tensor:
    keys = np.full(count, sample_key(0, *coordinates), dtype=np.uint64)
    return torch.from_numpy(uniforms(keys, np.arange(count, dtype=np.int64)))


def rows(probs: list[float], count: int) -> Tensor:
    return torch.tensor(probs).log().expand(count, -1)


def constant(value: float, count: int) -> Tensor:
    return torch.full((count,), value)


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
    tokens, logprobs = draw(rows(PROBS, 7), u, constant(1.0, 7))
    assert tokens.tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert logprobs.exp().tolist() == pytest.approx([PROBS[t] for t in tokens.tolist()])


def test_greedy_takes_the_likeliest_and_reports_temperature_one() -> None:
    tokens, logprobs = draw(rows(PROBS, 3), noise(3), torch.tensor([0.0, 0.0, 1.0]))
    assert tokens.tolist()[:2] == [1, 1]
    assert logprobs.exp().tolist()[:2] == pytest.approx([0.5, 0.5])


def test_greedy_ignores_top_p() -> None:
    tokens, logprobs = draw(rows(PROBS, 1), noise(1), constant(0.0, 1), constant(0.1, 1))
    assert tokens.tolist() == [1]
    assert logprobs.exp().tolist() == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, None, PROBS),
        (1.0, 1.0, PROBS),
        # sorted 0.5, 0.3, 0.15, 0.05: 0.5 alone reaches 0.5
        (1.0, 0.4, [0.0, 1.0, 0.0, 0.0]),
        # 0.5 + 0.3 reaches 0.7; renormalised by 0.8
        (1.0, 0.7, [0, 0.625, 0, 0.375]),
        # 0.5 + 0.3 + 0.15 reaches 0.9; by 0.95
        (1.0, 0.9, [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
        # temperature 1/2 squares: 0.0225, 0.25, 0.0025, 0.09, sum 0.365
        (0.5, None, [0.0225 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365]),
        # then 0.25 + 0.09 is 93 % and reaches 0.9; by 0.34
        (0.5, 0.9, [0, 0.25 / 0.34, 0, 0.09 / 0.34]),
    ],
)
def test_draws_follow_the_distribution(temperature: float, top_p: float | None, expected: list[float]) -> None:
    cut = None if top_p is None else constant(top_p, DRAWS)
    u = noise(DRAWS, temperature, top_p)
    tokens, logprobs = draw(rows(PROBS, DRAWS), u, constant(temperature, DRAWS), cut)
    counts = np.bincount(tokens.numpy(), minlength=4)
    possible = np.array(expected) > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert stats.chisquare(counts[possible], DRAWS * np.array(expected)[possible]).pvalue > 1e-4
    torch.testing.assert_close(logprobs.exp(), torch.tensor(expected)[tokens], rtol=1e-5, atol=1e-6)


def test_rows_are_drawn_as_if_alone() -> None:
    """Mixed temperatures and top-p in one batch: each row gives what it gives by itself."""
    generator = torch.Generator().manual_seed(0)
    logits, u = 3 * torch.randn(40, 50, generator=generator), noise(40, "mixed")
    temperature = torch.tensor([0.0, 0.5, 1.0, 1.5]).repeat(10)
    top_p = torch.tensor([1.0, 0.9, 0.3, 1.0, 0.7]).repeat(8)
    tokens, logprobs = draw(logits, u, temperature, top_p)
    for i in range(40):
        cut = top_p[i : i + 1] if top_p[i] < 1 else None
        token, logprob = draw(logits[i : i + 1], u[i : i + 1], temperature[i : i + 1], cut)
        assert token.item() == tokens[i].item()
        torch.testing.assert_close(logprob[0], logprobs[i])


def test_top_p_of_a_large_vocabulary_is_that_of_the_whole_sort() -> None:
    """Sharp rows end within the likeliest 256 of 5,003 tokens, flat ones go beyond, equal ones tie across that border."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([4.0, 0.3, 0.0]).repeat(20)[:, None]
    logits, u = scale * torch.randn(60, 5003, generator=generator), noise(60, "large")
    temperature, top_p = constant(1.0, 60), torch.tensor([0.95, 0.5]).repeat(30)
    tokens, logprobs = draw(logits, u, temperature, top_p)
    for i in range(60):
        order = sorted(range(5003), key=lambda t, i=i: (-logits[i, t].item(), t))
        probs = logits[i].softmax(-1)[order]
        last = int((probs.cumsum(-1) - probs < top_p[i]).sum())  # tokens in the smallest set that reaches top_p
        cumulative = probs[:last].double().cumsum(-1)
        place = int(torch.searchsorted(cumulative, u[i] * cumulative[-1], right=True))
        assert tokens[i].item() == order[place]
        assert logprobs[i].item() == pytest.approx(math.log(probs[place] / cumulative[-1]), abs=1e-4)


def test_what_cannot_happen_is_never_drawn() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]]).expand(DRAWS, -1)
    tokens, _ = draw(logits, noise(DRAWS, "impossible"), constant(1.0, DRAWS))
    assert set(tokens.tolist()) == {1, 3}
    edges = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert set(draw(logits[:3], edges, constant(1.0, 3))[0].tolist()) <= {1, 3}


def test_equal_probabilities_under_top_p_keep_the_first() -> None:
    # four times 1/4, top_p 0.5: the stable order keeps tokens 0 and 1
    tokens, logprobs = draw(torch.zeros(DRAWS, 4), noise(DRAWS, "ties"), constant(1.0, DRAWS), constant(0.5, DRAWS))
    assert set(tokens.tolist()) == {0, 1}
    assert logprobs.exp().tolist()[0] == pytest.approx(0.5)
