"""Metrics against numbers worked out by hand, against scipy, and in repeated experiments."""

import math

import numpy as np
import pytest
from scipy import stats

from headway.errors import DataError
from headway.evaluate.metrics import (
    accuracy,
    best_of_k,
    majority_at_k,
    mean_pass_at_k,
    paired_test,
    pass_at_k,
    pooled_paired_test,
    rates,
    sign_flip_p,
    smallest_visible_difference,
    tally,
)
from headway.types import Outcome


def test_unverifiable_leaves_the_denominator():
    judged = [
        ("p", Outcome.CORRECT),
        ("p", Outcome.UNVERIFIABLE),
        ("p", Outcome.WRONG),
        ("q", Outcome.NO_ANSWER),
        ("r", Outcome.UNVERIFIABLE),
    ]
    counts = tally(judged)
    assert counts == {"p": (1, 2), "q": (0, 1)}
    assert rates(counts) == {"p": 0.5, "q": 0.0}


@pytest.mark.parametrize(
    ("n", "c", "k", "by_hand"),
    [
        (4, 1, 1, 1 / 4),
        (4, 2, 2, 5 / 6),  # 1 - C(2,2)/C(4,2) = 1 - 1/6
        (5, 2, 3, 9 / 10),  # 1 - C(3,3)/C(5,3) = 1 - 1/10
        (5, 3, 3, 1.0),  # only two wrong: three draws must hold a right one
        (4, 0, 4, 0.0),
        (10, 10, 1, 1.0),
    ],
)
def test_pass_at_k_by_hand(n, c, k, by_hand):
    assert pass_at_k(n, c, k) == pytest.approx(by_hand, abs=1e-15)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one():
    from itertools import combinations

    for c in range(7):
        solved = [any(i < c for i in subset) for subset in combinations(range(6), 3)]
        assert pass_at_k(6, c, 3) == pytest.approx(sum(solved) / len(solved))


def test_pass_at_1_is_accuracy_and_pass_at_k_rises_with_k():
    counts = {"a": (1, 4), "b": (4, 4), "c": (0, 4)}
    assert mean_pass_at_k(counts, 1) == pytest.approx(5 / 12)
    values = [mean_pass_at_k(counts, k) for k in (1, 2, 3, 4)]
    assert values == sorted(values)
    assert values[3] == pytest.approx(2 / 3)  # two of the three problems have a correct sample


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0), (0, 0, 1)])
def test_pass_at_k_refuses_what_it_cannot_know(n, c, k):
    with pytest.raises(DataError, match="pass@"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answers", "correct", "by_hand"),
    [
        (["7", "7", "8", "9"], [True, True, False, False], 1.0),
        (["8", "7", "8", "9"], [False, True, False, False], 0.0),
        (["7", "8"], [True, False], 0.5),  # a tie of two, one right
        (["7", "8", "9"], [True, False, False], 1 / 3),  # a tie of three
        (["", "", "", "7"], [False, False, False, True], 1.0),  # no answer, no vote
        (["", ""], [False, False], 0.0),
        ([" 7", "7 ", "8"], [True, True, False], 1.0),
    ],
)
def test_majority_by_hand(answers, correct, by_hand):
    assert majority_at_k(answers, correct) == pytest.approx(by_hand)
    assert majority_at_k(answers[::-1], correct[::-1]) == pytest.approx(by_hand)


def test_majority_needs_a_verdict_for_each_answer():
    with pytest.raises(DataError, match="2 answers but 1"):
        majority_at_k(["1", "2"], [True])


def test_accuracy_interval_by_hand():
    # rates 0, 1/2, 1/2, 1: mean 1/2, sample variance (1/4 + 0 + 0 + 1/4) / 3 = 1/6, error sqrt(1/6/4) = 0.204124
    # t_0.975 with 3 degrees is 3.182446: 0.5 +- 0.649614 leaves [0, 1], so Wilson with
    # weight = t^2 SE^2 / (1/2 * 1/2) = 10.127963 * 0.0416667 * 4 = 1.687994; by symmetry the centre stays at 1/2
    # reach = sqrt(1.687994/4 + 1.687994^2/4) / 2.687994 = sqrt(0.421998 + 0.712331) / 2.687994 = 0.396225
    found = accuracy([0, 1, 1, 2], 2)
    assert (found.mean, found.num_problems, found.samples_per_problem) == (0.5, 4, 2.0)
    assert found.low == pytest.approx(0.5 - 0.396225, abs=1e-5)
    assert found.high == pytest.approx(0.5 + 0.396225, abs=1e-5)


def test_accuracy_inside_is_the_t_interval_of_scipy():
    counts = np.random.default_rng(0).binomial(4, 0.6, size=50)
    values = counts / 4
    low, high = stats.t.interval(0.95, 49, loc=values.mean(), scale=stats.sem(values))
    found = accuracy(counts.tolist(), 4)
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))


def test_more_samples_of_the_same_problems_do_not_shrink_the_interval():
    # each problem always right or always wrong: 100 samples of it say no more than one
    few, many = accuracy([1, 0] * 10, 1), accuracy([100, 0] * 10, 100)
    assert (few.low, few.high) == pytest.approx((many.low, many.high))


def test_accuracy_without_spread_is_the_rule_of_three():
    # none right of 100: the upper end is 1 - 0.05^(1/100) = 0.029513
    nothing, everything = accuracy([0] * 100, 4), accuracy([4] * 100, 4)
    assert (nothing.low, nothing.high) == (0.0, pytest.approx(0.029513, abs=1e-6))
    assert (everything.low, everything.high) == (pytest.approx(1 - 0.029513, abs=1e-6), 1.0)
    alone = accuracy([1], 1)
    assert (alone.low, alone.high) == (pytest.approx(0.05), 1.0)


def test_accuracy_near_the_edge_stays_inside_and_keeps_a_margin():
    found = accuracy([4] * 99 + [3], 4)
    assert found.low < found.mean < found.high <= 1.0
    assert found.high > 0.998


def test_accuracy_with_uneven_samples_weighs_problems_equally():
    found = accuracy([1, 1], [1, 4])
    assert found.mean == pytest.approx((1 + 0.25) / 2)
    assert found.samples_per_problem == 2.5


@pytest.mark.parametrize(("counts", "samples"), [([], 4), ([5], 4), ([-1], 4), ([0], 0), ([1, 1], [1])])
def test_accuracy_refuses_impossible_counts(counts, samples):
    with pytest.raises(DataError, match="accuracy"):
        accuracy(counts, samples)


@pytest.mark.parametrize("mean", [0.05, 0.5, 0.9])
def test_the_interval_covers_the_truth_in_about_95_of_100_experiments(mean):
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(600):
        difficulty = random.beta(mean * 2, (1 - mean) * 2, size=60)
        found = accuracy(random.binomial(4, difficulty).tolist(), 4)
        covered += found.low <= mean <= found.high
    assert 0.92 <= covered / 600 <= 0.99  # three standard deviations of 600 draws are 0.027


def test_paired_by_hand():
    # differences 1, 0, 1/2: mean 1/2, sample variance 1/4, error 1/2/sqrt(3) = 0.288675, t = 1.732051
    # with 2 degrees P(|T| > t) = 1 - t / sqrt(2 + t^2) = 1 - 1.732051/2.236068 = 0.225403
    found = paired_test({"p": 1.0, "q": 0.5, "r": 1.0}, {"p": 0.0, "q": 0.5, "r": 0.5})
    assert found.difference == pytest.approx(0.5)
    assert found.p == pytest.approx(0.225403, abs=1e-6)
    assert found.low == pytest.approx(0.5 - 4.302653 * 0.288675, abs=1e-5)
    assert found.high == 1.0  # 0.5 + 1.2421 is cut at the largest possible difference
    assert (found.num_problems, found.num_pairs, found.left_out) == (3, 3, 0)


def test_paired_is_scipys():
    random = np.random.default_rng(2)
    a, b = random.integers(0, 5, 80) / 4, random.integers(0, 5, 80) / 4
    found = paired_test({str(i): v for i, v in enumerate(a)}, {str(i): v for i, v in enumerate(b)})
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((theirs.pvalue, interval.low, interval.high))


def test_paired_is_antisymmetric_and_ignores_order():
    a, b = {"x": 0.75, "y": 0.5, "z": 0.0}, {"z": 0.25, "y": 0.0, "x": 0.5}
    one, other = paired_test(a, b), paired_test(b, a)
    assert one.difference == pytest.approx(-other.difference)
    assert one.p == pytest.approx(other.p)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_paired_without_any_difference_says_p_1():
    same = {str(i): 0.5 for i in range(100)}
    found = paired_test(same, same)
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.high == pytest.approx(0.029513, abs=1e-6)  # the rule of three again
    assert found.low == pytest.approx(-found.high)


def test_constant_differences_do_not_claim_certainty():
    # three problems, each better by 1/2: of the 8 sign patterns two are as extreme, so p = 1/4
    found = paired_test({"a": 0.5, "b": 1.0, "c": 0.5}, {"a": 0.0, "b": 0.5, "c": 0.0})
    assert found.p == pytest.approx(0.25)
    # floating-point noise in the rates is not variance: 0.3 - 0.2 != 0.2 - 0.1 in binary
    noisy = paired_test({"a": 0.2, "b": 0.3, "c": 0.9}, {"a": 0.1, "b": 0.2, "c": 0.8})
    assert noisy.p == pytest.approx(0.25)


def test_one_problem_decides_nothing():
    found = paired_test({"a": 1.0}, {"a": 0.0})
    assert found.p == 1.0
    assert found.low < 0.1
    assert math.isnan(found.smallest_visible)


def test_problems_of_one_side_only_are_left_out_and_counted():
    found = paired_test({"a": 1.0, "b": 0.0, "only-a": 1.0}, {"a": 0.0, "b": 0.0, "only-b": 1.0, "more": 0.0})
    assert (found.num_problems, found.left_out) == (2, 3)
    with pytest.raises(DataError, match="share none"):
        paired_test({"a": 1.0}, {"b": 1.0})
    with pytest.raises(DataError, match="share none"):
        pooled_paired_test([({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}), ({"a": 1.0}, {"b": 1.0})])


def test_pooling_the_same_problems_is_the_paired_test_on_means_over_seeds():
    random = np.random.default_rng(3)
    a, b = random.random((3, 40)), random.random((3, 40))
    strata = [({str(i): x for i, x in enumerate(ra)}, {str(i): x for i, x in enumerate(rb)}) for ra, rb in zip(a, b)]  # noqa: B905
    found = pooled_paired_test(strata)
    theirs = stats.ttest_rel(a.mean(0), b.mean(0))
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.difference == pytest.approx((a - b).mean())
    assert (found.num_problems, found.num_pairs) == (40, 120)


def test_pooling_different_problems_is_stratified():
    # seed 0: differences 1, 0 (mean 1/2, pulls +-1/8); seed 1: 1/2, 0 (mean 1/4, pulls +-1/16); D = 3/8
    # SE^2 = 4/3 (2/64 + 2/256) = 4/3 * 10/256 = 0.0520833
    found = pooled_paired_test([({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}), ({"c": 0.5, "d": 0.0}, {"c": 0.0, "d": 0.0})])
    assert found.difference == pytest.approx(0.375)
    assert found.standard_error == pytest.approx(math.sqrt(0.0520833), abs=1e-6)
    assert found.num_problems == 4


def test_a_seed_with_more_problems_does_not_count_more():
    big = ({str(i): 1.0 for i in range(9)}, {str(i): 0.0 for i in range(9)})
    small = ({"x": 0.0}, {"x": 0.0})
    assert pooled_paired_test([big, small]).difference == pytest.approx(0.5)


def test_alike_models_are_called_different_in_about_5_of_100_experiments():
    random = np.random.default_rng(4)
    found = 0
    for _ in range(500):
        difficulty = random.beta(1, 1, size=80)
        strata = []
        for _seed in range(3):  # the same problems under three seeds
            a, b = random.binomial(4, difficulty) / 4, random.binomial(4, difficulty) / 4
            strata.append(({str(i): x for i, x in enumerate(a)}, {str(i): x for i, x in enumerate(b)}))
        found += pooled_paired_test(strata).p < 0.05
    assert 0.02 <= found / 500 <= 0.08  # three standard deviations of 500 draws are 0.029


def test_sign_flip_by_hand_and_beside_the_t_test():
    assert sign_flip_p([0.5, 0.5, 0.5]) == 0.25
    assert sign_flip_p([1.0, -1.0]) == 1.0  # sums 0, 2, -2, 0: all are at least as far from zero as 0
    assert sign_flip_p([0.0, 0.0]) == 1.0
    # [3, 1]: sums 4, 2, -2, -4 against 4: two of four
    assert sign_flip_p([3.0, 1.0]) == 0.5
    values = np.random.default_rng(5).normal(0.05, 0.3, size=120)
    assert sign_flip_p(values.tolist()) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.015)
    assert sign_flip_p(values.tolist(), seed=1) == sign_flip_p(values.tolist(), seed=1)
    assert sign_flip_p([1.0] * 60, draws=999) == pytest.approx(1 / 1000)  # never 0


def test_sign_flip_needs_a_difference():
    with pytest.raises(DataError, match="at least one"):
        sign_flip_p([])


def test_smallest_visible_difference_by_hand_and_by_experiment():
    # t with 100 degrees: t_0.975 = 1.983972, t_0.8 = 0.845230; their sum times 0.02 is 0.056584
    visible = smallest_visible_difference(0.02, 101)
    assert visible == pytest.approx(0.056584, abs=1e-6)
    random = np.random.default_rng(6)
    draws = random.normal(visible, 0.02 * math.sqrt(101), size=(400, 101))
    assert 0.74 <= np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) <= 0.86


@pytest.mark.parametrize(
    ("scores", "correct", "by_hand"),
    [
        ([-0.2, -0.1], [True, False], 0.0),
        ([-0.2, -0.1], [False, True], 1.0),
        ([-1.0, -1.0, -2.0], [True, False, True], 0.5),
        ([], [], 0.0),
    ],
)
def test_best_of_k_by_hand(scores, correct, by_hand):
    assert best_of_k(scores, correct) == by_hand


def test_best_of_k_needs_a_verdict_a_score():
    with pytest.raises(DataError, match="2 scores but 1 verdicts"):
        best_of_k([0.1, 0.2], [True])
