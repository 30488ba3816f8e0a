"""Rewards to advantages, and the plain numbers of RL: by hand."""

import math
from collections import Counter

import pytest

from headway.train.advantages import annealed, group_advantages, length_variation, overlong_penalty, rebalance

T, F = True, False


def test_mixed_group() -> None:
    # mean -0.5, deviations 1.5 and -0.5 (three times), population variance (2.25 + 3 x 0.25) / 4 = 0.75
    std = math.sqrt(0.75)
    assert group_advantages([1, -1, -1, -1]) == pytest.approx([1.5 / std, -0.5 / std, -0.5 / std, -0.5 / std])
    assert group_advantages([1, -1, -1, -1], scale_by_std=False) == [1.5, -0.5, -0.5, -0.5]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("rewards", [[1.0] * 4, [-1.0] * 4, [0.3], [0.1 + 0.2, 0.3]])
def test_all_right_all_wrong_and_alone_are_exactly_zero(rewards: list[float], scale: bool) -> None:
    assert group_advantages(rewards, scale) == [0.0] * len(rewards)


def test_advantages_sum_to_zero_with_population_variance_one() -> None:
    found = group_advantages([1.0, 0.7, -1.0, -1.9, 1.0])
    assert sum(found) == pytest.approx(0.0, abs=1e-12)
    assert sum(a * a for a in found) / 5 == pytest.approx(1.0)


def test_rebalance_keeps_every_correct_response_and_as_many_wrong_ones() -> None:
    correct = [F, T, F, F, T, F, F]
    drawn = Counter(i for seed in range(400) for i in rebalance(correct, seed))
    for seed in range(20):
        kept = rebalance(correct, seed)
        assert {1, 4} <= set(kept)
        assert len(kept) == 4
        assert kept == sorted(kept)
        assert kept == rebalance(correct, seed)
    assert all(110 < drawn[i] < 210 for i in (0, 2, 3, 5, 6))  # 2 of 5 wrong ones: 160 of 400 each, sd 10


@pytest.mark.parametrize(
    ("correct", "kept"),
    [
        ([F, F, F], []),  # nothing to hold against
        ([T, T, T], [0, 1, 2]),
        ([T, T, F], [0, 1, 2]),  # correct ones in excess all stay
        ([T, F], [0, 1]),
        ([], []),
    ],
)
def test_rebalance_at_its_ends(correct: list[bool], kept: list[int]) -> None:
    assert rebalance(correct, seed=3) == kept


@pytest.mark.parametrize(
    ("tokens", "penalty"),
    [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (101, -1.0), (500, -1.0)],
)
def test_overlong_penalty(tokens: int, penalty: float) -> None:
    assert overlong_penalty(tokens, max_tokens=100, cache=20) == pytest.approx(penalty)


@pytest.mark.parametrize(
    ("step", "temperature"),
    [(0, 1.0), (1, 0.92), (4, 0.68), (5, 0.6), (6, 0.6), (9, 0.6)],  # 0.4 over the first 5 of 10 steps
)
def test_annealed(step: int, temperature: float) -> None:
    assert annealed(1.0, 0.6, 0.5, step, 10) == pytest.approx(temperature)


def test_annealed_without_a_first_part_is_the_end_and_over_all_of_it_never_quite() -> None:
    assert [annealed(1.0, 0.6, 0.0, step, 10) for step in (0, 9)] == [0.6, 0.6]
    assert annealed(1.0, 0.6, 1.0, 9, 10) == pytest.approx(0.64)
    assert [annealed(0.7, 0.7, 0.5, step, 10) for step in (0, 3, 9)] == pytest.approx([0.7] * 3)


@pytest.mark.parametrize(
    ("lengths", "variation"),
    [([10, 30], 0.5), ([7, 7, 7], 0.0), ([5], 0.0), ([0, 0], 0.0), ([2, 4, 6], math.sqrt(8 / 3) / 4)],
)
def test_length_variation(lengths: list[int], variation: float) -> None:
    assert length_variation(lengths) == pytest.approx(variation)
