"""From graded samples to numbers with error bars: accuracy, pass@k, majority@k, and the paired test.

    samples of one problem --> its rate --> mean over problems +- interval        (problems are the sampling unit)
    rates of A and of B on the same problems --> mean difference +- interval, p   (paired; problems are the unit)

The k samples of a problem are not k independent pieces of evidence, so every standard error here is taken over
problems, never over samples. Source: Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640), sections 2 to 4:
standard errors over questions, clustering, paired differences, smallest effect that can be seen.

A sample that the verifier could not judge (UNVERIFIABLE) counts neither for nor against the model: it leaves the
denominator. A truncated sample or one without an answer counts as not correct.

This file does not know the store, a run's folder, or how anything was sampled. It knows lists of numbers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from headway.errors import DataError
from headway.types import Outcome

LEVEL = 0.95  # of every interval
_FLAT = 1e-12  # a spread below this is rounding, not variance


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with its 95 % interval.

    Example: ``Estimate(mean=0.5, low=0.31, high=0.69, num_problems=20, samples_per_problem=4.0)``

    `samples_per_problem` is the mean number of samples that were judged (whole when none was UNVERIFIABLE).
    """

    mean: float
    low: float
    high: float
    num_problems: int
    samples_per_problem: float


@dataclass(frozen=True, slots=True)
class Paired:
    """The mean difference A - B over the problems that both answered, with its 95 % interval and two-sided p.

    Example: ``Paired(difference=0.12, low=0.05, high=0.19, p=0.001, num_problems=400, num_pairs=400, left_out=0,
    standard_error=0.036)``

    `num_problems` counts distinct problems, `num_pairs` the (stratum, problem) pairs, `left_out` the (stratum, problem)
    rates that had no partner. `standard_error` is that of `difference`; NaN with a single problem.
    """

    difference: float
    low: float
    high: float
    p: float
    num_problems: int
    num_pairs: int
    left_out: int
    standard_error: float

    @property
    def smallest_visible(self) -> float:
        """The true difference that this comparison would have found at p < 0.05 in 80 % of repetitions."""
        return smallest_visible_difference(self.standard_error, self.num_problems)


def tally(judged: Iterable[tuple[str, Outcome]]) -> dict[str, tuple[int, int]]:
    """Count each problem's samples: problem id -> (correct, judged). UNVERIFIABLE samples are in neither number.

    A problem all of whose samples are UNVERIFIABLE is absent. Ids keep the order in which they first appear.

    >>> tally([("p", Outcome.CORRECT), ("p", Outcome.NO_ANSWER), ("q", Outcome.UNVERIFIABLE)])
    {'p': (1, 2)}
    """
    counts: dict[str, tuple[int, int]] = {}
    for problem_id, outcome in judged:
        if outcome is Outcome.UNVERIFIABLE:
            continue
        correct, seen = counts.get(problem_id, (0, 0))
        counts[problem_id] = (correct + (outcome is Outcome.CORRECT), seen + 1)
    return counts


def rates(counts: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Each problem's share of correct samples, from `tally`."""
    return {problem_id: correct / seen for problem_id, (correct, seen) in counts.items()}


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k samples drawn without replacement from n, of which c are correct, hold a correct one.

    1 - C(n-c, k) / C(n, k): unbiased for the chance that k fresh samples hold a correct one (Chen et al. 2021,
    "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, equation 1). Raises DataError unless
    0 <= c <= n and 1 <= k <= n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise DataError(f"pass@{k} of {n} samples, {c} correct: it needs 1 <= k <= samples and 0 <= correct <= samples")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mean_pass_at_k(counts: Mapping[str, tuple[int, int]], k: int) -> float:
    """pass@k averaged over problems, from `tally`. Problems with fewer than k judged samples raise DataError."""
    return float(np.mean([pass_at_k(n, c, k) for c, n in _some(counts, "pass@k").values()]))


def majority_at_k(answers: Sequence[str], correct: Sequence[bool]) -> float:
    """Is the answer that most of one problem's k samples gave a correct one? In [0, 1]; between the two at a tie.

    Samples vote with the extracted answer's text; "" (no answer) has no vote. Where several answers tie, the result is
    its expected value when one of them is drawn at random, so it does not depend on the samples' order. Without any
    vote it is 0. Answers are grouped as text: two spellings of one number are two candidates (Wang et al. 2022,
    "Self-Consistency", arXiv 2203.11171).

    >>> majority_at_k(["7", "7", "8", ""], [True, True, False, False])
    1.0
    >>> majority_at_k(["7", "8"], [True, False])
    0.5
    """
    if len(answers) != len(correct):
        raise DataError(f"majority@k: {len(answers)} answers but {len(correct)} verdicts")
    votes: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for answer, is_correct in zip(answers, correct, strict=True):
        if answer.strip():
            votes[answer.strip()] += 1
            right[answer.strip()] += bool(is_correct)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    return sum(right[answer] / most for answer in winners) / len(winners)


def best_of_k(scores: Sequence[float], correct: Sequence[bool]) -> float:
    """Is the sample with the highest of one problem's k scores a correct one? In [0, 1]; the share of correct ones at a tie.

    A score is what a verifier-free choice goes by: a sample's mean log-prob, a reward model's number. No samples: 0.

    >>> best_of_k([-0.2, -0.1, -0.9], [True, False, True])
    0.0
    """
    if len(scores) != len(correct):
        raise DataError(f"best@k: {len(scores)} scores but {len(correct)} verdicts")
    best = [bool(is_correct) for score, is_correct in zip(scores, correct, strict=True) if score == max(scores)]
    return sum(best) / len(best) if best else 0.0


def accuracy(counts: Sequence[int], samples: int | Sequence[int]) -> Estimate:
    """Mean accuracy over problems with its 95 % interval; problems are the sampling unit.

    counts: correct samples of each problem; samples: how many were judged, one number or one a problem.
    The interval is Student's t on the per-problem rates (sample standard deviation, n - 1 degrees). Where that would
    leave [0, 1] it is Wilson's, with the effective size mean (1 - mean) / standard error^2 and the same t quantile.
    Where all rates are equal there is no spread to go by: then the rule of three, see `_flat_interval`.
    Raises DataError without a problem, without a sample, or with more correct than judged.

    >>> accuracy([4, 4, 0, 0], 4).mean
    0.5
    """
    judged = [samples] * len(counts) if isinstance(samples, int) else list(samples)
    if not counts or len(judged) != len(counts):
        raise DataError(f"accuracy of {len(counts)} problems with {len(judged)} sample counts: it needs one count each")
    if any(n < 1 or not 0 <= c <= n for c, n in zip(counts, judged, strict=True)):
        raise DataError("accuracy: every problem needs at least one judged sample and 0 <= correct <= judged")
    values = np.asarray(counts, dtype=np.float64) / np.asarray(judged, dtype=np.float64)
    mean = float(values.mean())
    low, high = _rate_interval(values)
    return Estimate(mean, low, high, len(values), float(np.mean(judged)))


def paired_test(a: Mapping[str, float], b: Mapping[str, float]) -> Paired:
    """Is A better than B on the same problems? Paired t-test on the per-problem differences a - b, two-sided.

    a, b: problem id -> rate. Problems that only one side has are left out, and counted; DataError when none is shared.
    All differences equal to zero: p = 1. All equal but not zero: the t statistic is infinite and would claim certainty
    even for two problems, so p is that of the exact sign-flip test, 2^(1-n). One problem: p = 1.

    >>> round(paired_test({"p": 1.0, "q": 0.5, "r": 1.0}, {"p": 0.0, "q": 0.5, "r": 0.5}).difference, 3)
    0.5
    """
    return pooled_paired_test([(a, b)])


def pooled_paired_test(strata: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Paired:
    """The paired test pooled over seeds: each stratum is one seed's (rates of A, rates of B).

    The unit is a (seed, problem) pair; seeds are strata of equal weight w = 1/S, so that a seed with more problems does
    not count more::

        D   = sum_s w mean_p(d_sp)                    d_sp = a_sp - b_sp
        u_p = sum_s w (d_sp - mean_p(d_sp)) / n_s     a problem's pull on D, over all seeds that asked it
        SE^2 = G / (G - 1) sum_p u_p^2                t = D / SE with G - 1 degrees, G = distinct problems

    The same problem asked under several seeds is one cluster (Miller 2024, section 2.2): its differences are alike, and
    counting them as independent would make p too small. With one seed this is exactly the paired t-test; with the same
    problems under all seeds it is the paired t-test on the means over seeds; with different ones, the stratified test.
    It speaks about these seeds' models; whether a further seed would agree is for the seeds' own differences to show.
    """
    differences = [{p: a[p] - b[p] for p in a if p in b} for a, b in strata]
    if not differences or not all(differences):
        raise DataError("a paired test needs problems that both sides answered; these share none")
    left_out = sum(len(a) + len(b) - 2 * len(d) for (a, b), d in zip(strata, differences, strict=True))
    means = [math.fsum(d.values()) / len(d) for d in differences]
    mean = math.fsum(means) / len(means)
    pulls: defaultdict[str, float] = defaultdict(float)
    for stratum, centre in zip(differences, means, strict=True):
        for problem_id, value in stratum.items():
            pulls[problem_id] += (value - centre) / (len(stratum) * len(strata))
    size, pairs = len(pulls), sum(map(len, differences))
    if size == 1:
        low, high = _flat_interval(mean, 1, -1.0)
        return Paired(mean, low, high, 1.0, 1, pairs, left_out, math.nan)
    error = math.sqrt(size / (size - 1) * math.fsum(pull * pull for pull in pulls.values()))
    if error < _FLAT:
        low, high = _flat_interval(mean, size, -1.0)
        p = 1.0 if abs(mean) < _FLAT else 2.0 ** (1 - size)
        return Paired(mean, low, high, p, size, pairs, left_out, 0.0)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, size - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, size - 1))
    return Paired(mean, max(-1.0, mean - reach), min(1.0, mean + reach), p, size, pairs, left_out, error)


def sign_flip_p(differences: Sequence[float], draws: int = 20_000, seed: int = 0) -> float:
    """The two-sided p of the paired difference without assuming a distribution: a check on `paired_test`.

    If A and B were alike, each difference could as well have the other sign. p is the share of sign patterns whose mean
    is at least as far from zero: all 2^n of them when they are at most `draws`, otherwise `draws` random ones with the
    observed pattern counted in, (hits + 1) / (draws + 1), so that p is never 0. Reproducible from `seed`.

    >>> sign_flip_p([0.5, 0.5, 0.5])
    0.25
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        raise DataError("a sign-flip test needs at least one difference")
    observed = abs(values.sum()) - _FLAT * len(values)
    if len(values) <= 24 and 2 ** len(values) <= draws:
        bits = np.arange(2 ** len(values))[:, None] >> np.arange(len(values))
        sums = (1.0 - 2.0 * (bits & 1)) @ values
        return float(np.mean(np.abs(sums) >= observed))
    random, hits, block = np.random.default_rng(seed), 0, 1_000
    for start in range(0, draws, block):
        signs = 1.0 - 2.0 * random.integers(0, 2, size=(min(block, draws - start), len(values)), dtype=np.int8)
        hits += int(np.sum(np.abs(signs @ values) >= observed))
    return (hits + 1) / (draws + 1)


def smallest_visible_difference(standard_error: float, num_problems: int, power: float = 0.8) -> float:
    """The true difference that a two-sided test at 5 % finds with chance `power`: (t_0.975 + t_power) x standard error.

    Miller 2024, section 5 (with t for z: the sample is finite). NaN for fewer than two problems.
    """
    if num_problems < 2 or math.isnan(standard_error):
        return math.nan
    quantile = stats.t.ppf([(1 + LEVEL) / 2, power], num_problems - 1)
    return float(quantile.sum() * standard_error)


def _rate_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of rates in [0, 1], values (n,)."""
    size, mean = len(values), float(values.mean())
    error = float(values.std(ddof=1) / math.sqrt(size)) if size > 1 else 0.0
    if error < _FLAT:
        return _flat_interval(mean, size, 0.0)
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, size - 1))
    low, high = mean - quantile * error, mean + quantile * error
    if low >= 0.0 and high <= 1.0:
        return low, high
    weight = quantile**2 * error**2 / (mean * (1 - mean))  # quantile^2 / effective size
    centre = (mean + weight / 2) / (1 + weight)
    reach = math.sqrt(mean * (1 - mean) * weight + weight**2 / 4) / (1 + weight)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def _flat_interval(value: float, size: int, floor: float) -> tuple[float, float]:
    """The 95 % interval of a mean in [floor, 1] when all `size` problems showed the same `value`: the rule of three.

    Had more than q = 1 - 0.05^(1/size) (about 3/size) of all problems another value, seeing none of them among `size`
    would have a chance under 5 %. So at most a share q deviates, each at most to an end of the range.
    """
    share = 1 - (1 - LEVEL) ** (1 / size)
    return value - share * (value - floor), value + share * (1.0 - value)


def _some(counts: Mapping[str, tuple[int, int]], what: str) -> Mapping[str, tuple[int, int]]:
    if not counts:
        raise DataError(f"{what} needs at least one problem")
    return counts
