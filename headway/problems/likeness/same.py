r"""Are two questions one problem in other words? A score of what they share and lack, and what speaks against it.

    score = 1 / (1 + exp(-(BIAS + sum of WEIGHTS * traits)))

    traits   words      shared | on one side only | the share of the shorter question's
             numbers    shared | on one side only | 0, 1, 2 on one side only | one beyond LARGE shared | all in the same order
             formulas   the share of pairs of neighbouring symbols | pairs on one side only
             names      shared

Amounts count as log(1 + weight): word stems weigh 1, everyday words 1/2, names 1/4; a synonym (`vocabulary`) or a word of one
form (`morphology.akin`) SYNONYM of that; numbers 1 to 2.5 (0, 1, 2: 0.3); pairs of symbols 1, with variables by the order in
which they appear. The weights were fitted once, by logistic regression, to tell rewritings of evaluation questions (by hand,
by a script, by a language model) from different questions with the same numbers; they are constants since.

Two questions are the same problem when the score reaches ENOUGH and nothing speaks against it (`conflict`): another number,
sign, opposite, place, or question. The verdict depends on nothing but the two texts. It cannot follow a rewriting that computes
(90 minutes as an hour and a half), nor another language.

This file does not know which questions are worth comparing (`overlap` does), nor any reference.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fractions import Fraction
from itertools import pairwise
from math import exp, log1p
from typing import NamedTuple

from headway.problems.likeness.conflict import COMMON, conflicts
from headway.problems.likeness.morphology import akin
from headway.problems.likeness.opposites import OPPOSABLE
from headway.problems.likeness.reading import IRREGULAR, Reading, numbers_apart, renamed, stem
from headway.problems.likeness.vocabulary import EVERYDAY, synonymous

ENOUGH = 0.2  # score: a training question that is lost costs little, an evaluation question that is learnt much
EQUAL_REFERENCES = 0.15
OTHER_REFERENCES = 0.99
SYNONYM = 0.7  # of a word's weight
LARGE = 100  # a number beyond it is no coincidence
NAMES = 3  # that count
LIKE = 0.86  # difflib's ratio from which on a word is another one misspelt


class Traits(NamedTuple):
    """What a pair has in common and what not: "missing" is on one side only, `contained` the share of the shorter one's words."""

    contained: float
    words: float
    words_missing: float
    numbers: float
    numbers_missing: float
    symbols_share: float
    symbols_missing: float
    in_order: float
    names: float
    large: float
    small_missing: float


BIAS = -6.42
WEIGHTS = Traits(
    contained=2.50,
    words=4.55,
    words_missing=-1.56,
    numbers=2.71,
    numbers_missing=-1.59,
    symbols_share=6.45,
    symbols_missing=-0.42,
    in_order=0.67,
    names=0.52,
    large=2.81,
    small_missing=-1.46,
)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two questions are: `score` in [0, 1], what it must reach (`enough`), and the `conflicts` ("numbers: 5 | 7", ...)
    that outweigh it.

    `is_same` says whether they are one problem. `shared_numbers` and `shared_words` are what was found on both sides.
    """

    score: float
    enough: float
    conflicts: tuple[str, ...]
    shared_numbers: tuple[str, ...]
    shared_words: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """One problem in other words?"""
        return self.is_close and not self.conflicts

    @property
    def is_close(self) -> bool:
        """Would it be, without conflicts?"""
        return self.score >= self.enough


def compare(a: Reading, b: Reading, answers: int = 0) -> Likeness:
    """The likeness of two questions. Conflicts are only looked for where the score would suffice.

    `answers` says what is known of the two references: 1 equal, -1 different, 0 nothing. Equal ones lower the threshold a
    little, different ones raise it, since a copied problem may carry a wrong reference; neither decides.
    """
    enough = EQUAL_REFERENCES if answers > 0 else OTHER_REFERENCES if answers < 0 else ENOUGH
    words_a, words_b = _words(a), _words(b)
    if len(words_a & words_b) >= 0.4 * min(len(words_a), len(words_b)):
        a = _corrected(a, b)
        b = _corrected(b, a)
        words_a, words_b = _words(a), _words(b)
    common, one, other = words_a & words_b, words_a - words_b, words_b - words_a
    names = a.names | b.names
    weight = sum(_weight(word, names) for word in common)
    rest_a, rest_b = (sum(_weight(word, names) for word in side) for side in (one, other))
    traits = _traits(a, b, len(common & names))
    score = _score(traits, weight, rest_a, rest_b, SYNONYM * min(rest_a, rest_b))
    if score >= enough:  # it can be reached at all, if every word has a synonym
        score = _score(traits, weight, rest_a, rest_b, SYNONYM * _related(one, other, names))
    numbers = tuple(str(value) for value in sorted(numbers_apart(a, b)[0]))
    found = Likeness(score, enough, (), numbers, tuple(sorted(common)))
    return replace(found, conflicts=conflicts(a, b)) if found.is_close else found


def _traits(a: Reading, b: Reading, names: int) -> Traits:
    """The traits of a pair, but for its words."""
    shared, only_a, only_b = numbers_apart(a, b)
    missing = only_a | only_b
    small = {value for value in missing if value in (0, 1, 2)}
    in_order, others = ([token for token in one.tokens if token[0] == "#" and token not in COMMON] for one in (a, b))
    symbols_a, symbols_b = formula_pairs(a), formula_pairs(b)
    agreeing, symbols = (symbols_a & symbols_b).total(), symbols_a.total() + symbols_b.total()
    return Traits(
        contained=0.0,
        words=0.0,
        words_missing=0.0,
        numbers=log1p(sum(map(_number_weight, shared))),
        numbers_missing=log1p(sum(map(_number_weight, missing - small))),
        symbols_share=2 * agreeing / (symbols or 1),
        symbols_missing=log1p(symbols - 2 * agreeing),
        in_order=log1p(len({*in_order})) if in_order == others else 0.0,
        names=min(names, NAMES),
        large=float(any(max(value.numerator, value.denominator) > LARGE for value in shared)),
        small_missing=len(small),
    )


def _score(traits: Traits, shared: float, rest_a: float, rest_b: float, related: float) -> float:
    """The score of traits with the weight of the shared words, of those on one side, and of related ones among these."""
    same, shorter = shared + related, min(rest_a, rest_b) + shared
    traits = traits._replace(
        contained=same / max(shorter, 0.5), words=log1p(same), words_missing=log1p(rest_a + rest_b - 2 * related)
    )
    return 1 / (1 + exp(-BIAS - sum(weight * trait for weight, trait in zip(WEIGHTS, traits, strict=True))))


def _corrected(reading: Reading, other: Reading) -> Reading:
    """A reading with the words that are a word of `other` misspelt: two letters exchanged, one too many or too few."""
    mine = {word for word in reading.words if len(word) > 3} - {*other.words} - OPPOSABLE - IRREGULAR
    known = {word for word in other.words if len(word) > 3} if mine else set[str]()
    found: dict[str, str] = {}
    for word in sorted(mine):
        near = [other for other in known if abs(len(other) - len(word)) <= 1 and len({*other} ^ {*word}) <= 1]
        matches = sorted(other for other in near if sorted(other) == sorted(word)) or get_close_matches(
            word, sorted(near), 1, LIKE
        )
        if matches and stem(matches[0]) != stem(word):
            found[word] = matches[0]
    if not found:
        return reading
    stems = {stem(wrong): stem(right) for wrong, right in found.items()}
    tokens = tuple(stems.get(token, token) for token in reading.tokens)
    words, asked = (tuple(found.get(word, word) for word in part) for part in (reading.words, reading.asked))
    return replace(reading, tokens=tokens, words=words, asked=asked)


def _related(one: set[str], other: set[str], names: frozenset[str]) -> float:
    """The weight of the words of `one` with a synonym or a word of one form in `other`; every word is used once."""
    found = 0.0
    free = sorted(other)
    for word in sorted(one):
        match = next((second for second in free if synonymous(word, second)), None)
        match = match or next((second for second in free if akin(word, second)), None)
        if match:
            free.remove(match)
            found += min(_weight(word, names), _weight(match, names))
    return found


def _words(reading: Reading) -> set[str]:
    return {token for token in reading.tokens if token[0].isalpha()}


def _weight(word: str, names: frozenset[str]) -> float:
    return 0.25 if word in names else 0.5 if word in EVERYDAY else 1.0


def _number_weight(value: Fraction) -> float:
    """How much a shared number tells: 7 little, 57/160 much."""
    size = max(value.numerator, value.denominator)
    return 0.3 if value in (0, 1, 2) else 2.5 if value.denominator > 1 else 1.0 if size <= 10 else 1.5 if size <= 100 else 2.5


def formula_pairs(reading: Reading) -> Counter[tuple[str, str]]:
    """How often each pair of neighbouring symbols stands in the formulas, variables by their order of appearance in each."""
    return Counter(pair for chunk in reading.formulas for pair in pairwise(("", *renamed(chunk))))
