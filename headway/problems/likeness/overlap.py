"""Which held-out question a training problem repeats: equal, nearly copied, or rewritten; and why.

    heldout --read--> table of (numbers, word) -> which       question --look up--> candidates --compare--> Removal or None

Only questions with the same numbers are candidates (with and without small numbers in words), and of these the CANDIDATES that
share most words and symbols; further as many of those whose numbers are the same but for one that one side has more (FEW_NUMBERS
or more must agree; never by runs). Three rules, in this order:

    equal       the normal forms are the same
    runs        >= 20 words each, the same numbers, the shorter shares >= 60 % of its 8-word runs with the longer, and no conflict
    rewritten   `same.compare` says that they are one problem in other words

A source that is one template around different facts (`templated`) is compared by equality only. This file does not know splits
or files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from headway.problems.likeness.conflict import conflicts
from headway.problems.likeness.reading import Reading, numbers_of, read_question
from headway.problems.likeness.same import compare, formula_pairs
from headway.types import Problem

MIN_WORDS = 20  # shorter questions have too few runs to tell coincidence from copy
RUN = 8  # words in a run
SHARE = 0.6  # of the shorter question's runs
CANDIDATES = 24  # compared in full, a question
LARGE = 60  # sum of the numbers from which on they are enough to look a question up by
FEW_NUMBERS = 3  # must agree where one side has one more


@dataclass(frozen=True, slots=True)
class Removal:
    """Why a problem was removed: itself, the held-out question it repeats, the rule, its score in [0, 1], and what both share.

    Example: ``Removal("9f…", "web", "Ann has 3 …", "c1…", "gsm8k", "Jo has 3 …", "rewritten", 0.81, ("3", "20"), ("apple",
    "shop"))``
    """

    problem_id: str
    source: str
    question: str
    heldout_id: str
    heldout_source: str
    heldout_question: str
    rule: str
    score: float
    numbers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


class HeldoutIndex:
    """The held-out questions, ready to be asked. `normalise` gives the tokens of a question's normal form."""

    def __init__(self, heldout: Sequence[Problem], normalised: Sequence[Sequence[str]], share: float, templated: Collection[str]):
        self._problems = heldout
        self._share = share
        self._templated = templated
        self._equal = {" ".join(words): i for i, words in reversed(list(enumerate(normalised)))}
        self._readings: dict[int, Reading] = {}
        self._features: dict[int, set[str]] = {}
        self._runs: dict[int, set[str]] = {}
        self._where: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self._whole: defaultdict[str, list[int]] = defaultdict(list)  # numbers -> which
        self._without: defaultdict[str, list[int]] = defaultdict(list)  # numbers without one of them -> which
        for i, problem in enumerate(heldout):
            if problem.source in templated:
                continue
            reading = self._readings[i] = read_question(problem.question)
            self._runs[i] = _runs(normalised[i])
            self._features[i] = features = _features(reading)
            for token in features:
                for key in reading.keys:
                    self._where[key, token].append(i)
            if reading.keys[0].count(" ") + 1 >= FEW_NUMBERS:
                self._whole[reading.keys[0]].append(i)
            for key in _without_one(reading):
                self._without[key].append(i)

    def find(self, problem: Problem, words: Sequence[str]) -> Removal | None:
        """The removal of a problem with these normalised words, or None where no held-out question is repeated."""
        equal = self._equal.get(" ".join(words))
        if equal is not None:
            return self._removal(problem, equal, "equal", 1.0)
        return max(self.find_all(problem, words), key=lambda removal: removal.score, default=None)

    def find_all(self, problem: Problem, words: Sequence[str]) -> Iterator[Removal]:
        """A removal for every held-out question that a problem repeats in other words."""
        if problem.source in self._templated:
            return
        reading = read_question(problem.question)
        runs: set[str] | None = None
        for i in self._candidates(reading):
            found = compare(reading, self._readings[i], _answers(problem.reference, self._problems[i].reference))
            if found.is_same:
                yield self._removal(problem, i, "rewritten", found.score, found.shared_numbers, found.shared_words)
                continue
            if not {*reading.keys} & {*self._readings[i].keys}:
                continue
            runs = _runs(words) if runs is None else runs
            share = _shared_runs(runs, self._runs[i])
            if share >= self._share and not found.conflicts and not conflicts(reading, self._readings[i]):
                yield self._removal(problem, i, "runs", share, found.shared_numbers, found.shared_words)

    def _candidates(self, reading: Reading) -> list[int]:
        """The held-out questions with the same numbers that share most words and symbols, best first."""
        counts: Counter[int] = Counter()
        features = _features(reading)
        for token in features:
            counts.update({i for key in reading.keys for i in self._where.get((key, token), ())})
        best = sorted(counts, key=lambda i: (-counts[i], i))[:CANDIDATES]
        more = {i for i in self._without.get(reading.keys[0], ()) if i not in counts}
        more |= {i for key in _without_one(reading) for i in self._whole.get(key, ()) if i not in counts}
        return best + sorted(more, key=lambda i: (-len(features & self._features[i]), i))[:CANDIDATES]

    def _removal(
        self, problem: Problem, i: int, rule: str, score: float, numbers: tuple[str, ...] = (), words: tuple[str, ...] = ()
    ) -> Removal:
        held = self._problems[i]
        return Removal(
            problem.id,
            problem.source,
            problem.question,
            held.id,
            held.source,
            held.question,
            rule,
            round(score, 3),
            numbers,
            words,
        )


def _features(reading: Reading) -> set[str]:
    """What a question is looked up by: its words, the pairs of neighbouring symbols in its formulas, that its numbers tell."""
    found = {token for token in reading.tokens if token[0].isalpha()} | {f"{a} {b}" for a, b in formula_pairs(reading)}
    return found | {"#"} if sum(max(value.numerator, value.denominator) for value in numbers_of(reading)) > LARGE else found


def _without_one(reading: Reading) -> list[str]:
    """The numbers of a question without one of them, each in turn; [] where few would be left."""
    values = reading.keys[0].split(" ")
    return [" ".join(values[:i] + values[i + 1 :]) for i in range(len(values))] if len(values) > FEW_NUMBERS else []


def _runs(tokens: Sequence[str]) -> set[str]:
    """The runs of words of a normalised question; none where it has fewer than MIN_WORDS words."""
    words = [token for token in tokens if token[-1].isalnum()]
    if len(words) < MIN_WORDS:
        return set()
    return {" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


def _shared_runs(a: set[str], b: set[str]) -> float:
    """The share of the shorter question's runs that the longer one has, too."""
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0


def _answers(a: str, b: str) -> int:
    """1 where two references are the same text or number, -1 where they are different numbers, 0 where one cannot tell."""
    if not a or not b:
        return 0
    if a == b:
        return 1
    try:
        return 1 if Fraction(a) == Fraction(b) else -1
    except (ValueError, ZeroDivisionError):
        return 0
