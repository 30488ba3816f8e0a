"""Votes by equal answers, majority@k against all subsets, and the best of n."""

import itertools
import random

import pytest

from headway.errors import DataError
from headway.evaluate.metrics import majority_at_k
from headway.evaluate.voting import (
    Vote,
    are_equal,
    best_of,
    candidates,
    expected_majority_at_k,
    likeliest_of,
    majority_vote,
)


def test_equal_answers_vote_together_however_they_are_written():
    answers = ["0.5", r"\frac{1}{2}", "3", "3", r"\frac{2}{4}", "3", "", "1/2"]
    assert majority_vote(answers) == Vote("0.5", 4, 7, False)  # four spellings of a half, three 3
    assert majority_vote(["3", "4", "4.0", "3"]) == Vote("3", 2, 4, True)
    assert majority_vote(["", "  "]) is None
    assert candidates(["2", " 2 ", "x"]) == ["2", "2", "x"]


def test_the_order_of_the_answers_makes_no_candidate():
    answers = ["1/3", "0.33", "0.3333", "33%", "50%", "0.5", "50", r"\text{(C)}", "C", "1,000", "1000", "7", "x+1", "1+x"]
    expected = dict(zip(answers, candidates(answers), strict=True))
    assert expected["1000"] == expected["1,000"]
    assert expected["C"] == expected[r"\text{(C)}"]
    assert expected["1/3"] != expected["0.33"]  # right for a reference 0.33, but no more the same than 0.334 is
    for seed in range(20):
        shuffled = random.Random(seed).sample(answers, len(answers))
        assert dict(zip(shuffled, candidates(shuffled), strict=True)) == expected


def test_a_chain_is_one_candidate():
    def near(a: str, b: str) -> bool:
        return abs(int(a) - int(b)) <= 1

    assert candidates(["1", "3", "9", "2"], near) == ["1", "1", "9", "1"]  # 2 joins what were two
    assert all(are_equal(a, b) == are_equal(b, a) for a, b in itertools.permutations(["0.33", "1/3", "2", "2.0", "x=2"], 2))


@pytest.mark.parametrize("seed", range(12))
def test_majority_at_k_is_the_mean_over_all_choices(seed):
    chance = random.Random(seed)
    answers = [chance.choice(["", "1", "2", "3", "4"][: 2 + seed % 4]) for _ in range(8)]
    correct = [
        answer == "1" or (answer == "2" and chance.random() < 0.5) for answer in answers
    ]  # a candidate may be of both kinds
    for k in range(1, 9):
        choices = list(itertools.combinations(range(8), k))
        each = [majority_at_k([answers[i] for i in one], [correct[i] for i in one]) for one in choices]
        assert expected_majority_at_k(answers, correct, k) == pytest.approx(sum(each) / len(choices), abs=1e-12)


def test_majority_at_k_by_hand():
    answers, correct = ["7", "7", "7", "8", "8", ""], [True] * 3 + [False] * 3
    assert expected_majority_at_k(answers, correct, 1) == pytest.approx(3 / 6)  # pass@1
    # of 20 triples: 7 alone or twice wins in 1 + 3 * 2 + 3 * 1 = 10; 7 8 - ties in 3 * 2 = 6; 8 8 x: 4 wrong
    assert expected_majority_at_k(answers, correct, 3) == pytest.approx((10 + 6 / 2) / 20)
    assert expected_majority_at_k(["", ""], [False, False], 2) == 0
    many = [str(i % 25) for i in range(200)] + ["0"] * 56
    assert 0.99 < expected_majority_at_k(many, [one == "0" for one in many], 64) <= 1
    for k in (0, 7):
        with pytest.raises(DataError, match="1 <= k <= n"):
            expected_majority_at_k(answers, correct, k)
    with pytest.raises(DataError, match="2 answers and 1 verdicts"):
        expected_majority_at_k(["1", "2"], [True], 1)


def test_best_of_n():
    assert best_of([0.1, 3.0, 3.0, -1.0]) == 1
    short, long = [-1.0, -1.0], [-0.6, -0.6, -0.6, -0.6]
    assert likeliest_of([short, long]) == 1  # -1 against -0.6 a token
    assert likeliest_of([short, long], by="sum") == 0  # -2 against -2.4
    for scores in ([], [1.0, float("nan")]):
        with pytest.raises(DataError, match="at least one score"):
            best_of(scores)
    with pytest.raises(DataError, match="a token in each"):
        likeliest_of([short, []])
