"""One answer out of n samples of a problem: the one that most gave, or that of the best sample.

    extracted answers --equal by the verifier--> candidates --count--> majority
    scores, or log-probs --------------------------------------------> best of n

Two answers are one candidate where the verifier's rules (`verify.equal`) call each the same as the other, in both directions, so
that a rounded decimal is no bridge between two values; what the rules leave to algebra are two. It does not know who sampled.

Majority@k of n samples is exact: over all C(n, k) choices of k of them, counted by candidate. For each highest count m, candidate
by candidate, it counts the choices in which none has more votes than m and t have exactly m, and the share of those t that is
right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from headway.errors import DataError
from headway.verify.equal import same_answer


@dataclass(frozen=True, slots=True)
class Vote:
    """What the majority says: the answer as most of its voters wrote it, its votes, all votes, and whether another has as many.

    Example: ``Vote(answer="1/2", votes=3, voters=4, is_tied=False)`` of "1/2", "0.5", "1/2", "2"
    """

    answer: str
    votes: int
    voters: int
    is_tied: bool


def are_equal(a: str, b: str) -> bool:
    """Whether the verifier's rules call each of two answers the same as the other.

    >>> are_equal("0.5", r"\\frac{1}{2}"), are_equal("0.33", "1/3")
    (True, False)
    """
    return a == b or (same_answer(a, b).same is True and same_answer(b, a).same is True)


def candidates(answers: Sequence[str], same: Callable[[str, str], bool] = are_equal) -> list[str]:
    """Each answer as its candidate is written by most (of equally frequent spellings the first by text); "" where there is none.

    Answers that a chain of equal ones connects are one candidate, so their order is no matter. `same` should be symmetric.

    >>> candidates(["1/2", "0.5", "1/2", "", "3"])
    ['1/2', '1/2', '1/2', '', '3']
    """
    spellings = Counter(answer.strip() for answer in answers if answer.strip())
    found: list[list[str]] = []
    for spelling in spellings:
        connected = [one for one in found if any(same(other, spelling) for other in one)]
        found = [one for one in found if one not in connected]
        found.append([spelling, *(other for one in connected for other in one)])
    written = {spelling: min(one, key=lambda s: (-spellings[s], s)) for one in found for spelling in one}
    return [written.get(answer.strip(), "") for answer in answers]


def majority_vote(answers: Sequence[str], same: Callable[[str, str], bool] = are_equal) -> Vote | None:
    """The candidate with most votes, of equals the one first given; None without any answer."""
    votes = Counter(one for one in candidates(answers, same) if one)
    if not votes:
        return None
    (best, most), *others = votes.most_common()
    return Vote(best, most, votes.total(), any(count == most for _, count in others))


def expected_majority_at_k(answers: Sequence[str], correct: Sequence[bool], k: int) -> float:
    """The expected majority@k of k samples drawn without replacement from these n: unbiased for k fresh samples. Exact.

    As in `metrics.majority_at_k` a tie counts by its expected value, "" has no vote, and no vote at all is 0. `answers` are told
    apart by their text: give `candidates(answers)`. DataError unless 1 <= k <= n and there is one `correct` for each answer.

    >>> expected_majority_at_k(["7", "7", "8"], [True, True, False], 2)  # 7 7, 7 8 and 7 8
    0.6666666666666666
    """
    if len(answers) != len(correct) or not 1 <= k <= len(answers):
        raise DataError(f"majority@{k}: {len(answers)} answers and {len(correct)} verdicts; it needs as many, and 1 <= k <= n")
    votes = Counter(answers)
    silent = votes.pop("", 0)
    right = Counter(answer for answer, good in zip(answers, correct, strict=True) if answer and good)
    scale = math.lcm(*votes.values())
    sizes = [(size, right[answer] * (scale // size)) for answer, size in votes.items()]  # (votes, scale times the share right)
    value = sum((_share_right(sizes, silent, k, most) for most in range(1, max(votes.values(), default=0) + 1)), Fraction(0))
    return float(value / (scale * math.comb(len(answers), k)))


def _share_right(sizes: Sequence[tuple[int, int]], silent: int, k: int, most: int) -> Fraction:
    """Summed over the choices of k whose highest count is `most`: the mean share right of the candidates that have it."""
    ways = {
        (0, 0): (1, 0)
    }  # (samples chosen, candidates at `most`): choices, and the shares of those candidates summed over them
    for size, share in sizes:
        grown: dict[tuple[int, int], tuple[int, int]] = {}
        for (chosen, tied), (count, shares) in ways.items():
            for more in range(min(size, most, k - chosen) + 1):
                times, is_at = math.comb(size, more), more == most
                key = (chosen + more, tied + is_at)
                before = grown.get(key, (0, 0))
                grown[key] = (before[0] + times * count, before[1] + times * (shares + share * count * is_at))
        ways = grown
    return sum(
        (
            Fraction(shares * math.comb(silent, k - chosen), tied)
            for (chosen, tied), (_, shares) in ways.items()
            if tied and k - chosen <= silent
        ),
        Fraction(0),
    )


def best_of(scores: Sequence[float]) -> int:
    """The index of the highest score, of equals the first. DataError without scores, or where one is not a number.

    >>> best_of([0.2, 0.7, 0.7])
    1
    """
    if not scores or any(math.isnan(score) for score in scores):
        raise DataError("best of n needs at least one score, and numbers alone")
    return max(range(len(scores)), key=lambda i: scores[i])


def likeliest_of(logprobs: Sequence[Sequence[float]], by: Literal["mean", "sum"] = "mean") -> int:
    """The index of the sample that its own sampler found likeliest, by the mean or the sum of its tokens' log-probs.

    The sum favours short samples; the mean does not. DataError without samples, or where one has no tokens.
    """
    if not logprobs or not all(logprobs):
        raise DataError("best of n by log-probs needs at least one sample, and a token in each")
    return best_of([math.fsum(one) / (len(one) if by == "mean" else 1) for one in logprobs])
