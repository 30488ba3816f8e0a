r"""Are two questions one problem in other words? A score of what they share, and what speaks against it.

    1. numbers    the values that must agree (reading.keys) agree, or one side has one more
    2. score      2 * shared weight / weight of both, over word stems (1; everyday words 0.5; names 0.25), numbers (1 to 2.5) and
                  symbols of formulas (0.5, variables by the order in which they appear); where that is nearly enough, also
                  words of one form (`morphology.akin`)
    3. evidence   the shared weight itself, with NAME for each shared name: two short everyday questions with equal small numbers
                  are no proof
    4. conflicts  what speaks against it (`conflict`): another number, sign, opposite, place, or question

Two questions are the same problem when score, evidence and the share of the words reach one of the bars, and there is no
conflict. The verdict depends on nothing but the two texts. It cannot follow a rewriting that computes (90 minutes as an hour and
a half), nor another language.

This file does not know which questions are worth comparing (`clean` does), nor any reference.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from difflib import SequenceMatcher, get_close_matches
from fractions import Fraction
from itertools import pairwise

from headway.problems.likeness.conflict import COMMON, conflicts
from headway.problems.likeness.morphology import akin
from headway.problems.likeness.opposites import OPPOSABLE
from headway.problems.likeness.reading import IRREGULAR, Reading, numbers_of, renamed, stem

# what is enough: (score, evidence, share of the words). The surer a pair is by one, the less is asked of the others.
ENOUGH = ((0.5, 5.0, 0.25), (0.6, 4.0, 0.35), (0.7, 6.0, 0.15), (0.8, 3.0, 0.25))
MANY_NUMBERS = (0.5, 8.0, 0.12)  # where NUMBERS or more stand in the same order on both sides
NUMBERS = 4
EQUAL_REFERENCES = ((0.5, 4.5, 0.25),)
OTHER_REFERENCES = ((0.85, 8.0, 0.25),)
NO_NUMBERS = ((0.5, 8.0, 0.4), (0.7, 4.0, 0.6), (0.6, 5.0, 0.25), (0.8, 3.0, 0.25))  # where no number is shared, or one small one
RARE = (0.7, 3.5, 0.4)  # where they share a number that few questions have
RARE_NUMBERS = (0.65, 7.0, 0.0)  # where they share FEW of these
FEW = 3
ONE_NUMBER_MORE = ((0.6, 8.0, 0.35),)  # where one side has a number more
NAME = 0.75  # further evidence of each shared name
SKELETON = 0.65  # of all words in order: a text with the same numbers in the same order has other names and things only
NEARLY = 0.35  # score from which on words are also compared by their form (`morphology.akin`)
LOWEST = 0.5  # score of any bar
LIKE = 0.86  # difflib's ratio from which on a word is another one misspelt

_EVERYDAY_WORDS = """
    day cost buy hour money week left leav year spend minut pay sell remain second long friend rest month new work stor
    school eat peopl person start use dollar giv mil earn averag pound student old box pric car book end run class hous
    receiv foot feet sav piec put add trip away shop collect back pair equal different worth read inch squar pag full set
    weigh cent percentag group siz item people bring only find first last previous positiv integ sum real point function
    equation express fraction common simplest enter term possibl numb valu answer
"""
_EVERYDAY = frozenset(_EVERYDAY_WORDS.split())


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two questions are: `score` in [0, 1], the shared weight (`evidence`, of it `symbols` in
    formulas), the `bars` of which one must be reached, the share of `words`, and the `conflicts`
    ("numbers: 5 | 7", ...) that outweigh it.

    `is_same` says whether they are one problem. `shared_numbers` and `shared_words` are what was found on both sides.
    """

    score: float
    evidence: float
    words: float
    symbols: float
    bars: tuple[tuple[float, float, float], ...]
    conflicts: tuple[str, ...]
    shared_numbers: tuple[str, ...]
    shared_words: tuple[str, ...]
    skeleton: bool = False

    @property
    def is_same(self) -> bool:
        """One problem in other words?"""
        return self.is_close and not self.conflicts

    @property
    def is_close(self) -> bool:
        """Would it be, without conflicts?"""
        return self.skeleton or any(
            self.score >= score and self.evidence >= evidence and (self.words >= words or self.symbols >= 0.25 * self.evidence)
            for score, evidence, words in self.bars
        )


def compare(a: Reading, b: Reading, answers: int = 0) -> Likeness:
    """The likeness of two questions. Conflicts are only looked for where the score would suffice.

    `answers` says what is known of the two references: 1 equal, -1 different, 0 nothing. Equal ones lower the thresholds a
    little, different ones raise them, since a copied problem may carry a wrong reference; neither decides.
    """
    names = a.names | b.names
    words_a, words_b = _words(a), _words(b)
    if len(words_a & words_b) >= 0.4 * min(len(words_a), len(words_b)):
        a = _corrected(a, b)
        b = _corrected(b, a)
        words_a, words_b = _words(a), _words(b)
    common = sorted(words_a & words_b)
    shared = 2 * sum(_weight(word, names) for word in common)
    both = all_words = sum(_weight(word, names) for word in (*words_a, *words_b))
    words = shared / both if both else 1.0
    numbers_a, numbers_b = numbers_of(a), numbers_of(b)
    shared += 2 * sum(map(_number_weight, numbers_a & numbers_b))
    both += sum(map(_number_weight, numbers_a)) + sum(map(_number_weight, numbers_b))
    symbols_a, symbols_b = formula_pairs(a), formula_pairs(b)
    agreeing = (symbols_a & symbols_b).total()
    shared += agreeing
    both += 0.5 * (symbols_a.total() + symbols_b.total())
    score = shared / both if both else 0.0
    numbers = tuple(str(value) for value in sorted(numbers_a & numbers_b))
    evidence = shared / 2 + NAME * len({*common} & names)
    found = Likeness(score, evidence, words, agreeing / 2, _bars(a, b, answers), (), numbers, tuple(common))
    one, other = words_a - words_b, words_b - words_a
    if not found.is_close and score >= NEARLY and score + 2 * min(len(one), len(other)) / max(both, 1.0) >= LOWEST:
        related = sum(_weight(word, names) for word in _related(one, other))
        score, words, evidence = score + 2 * related / both, words + 2 * related / max(all_words, 1.0), evidence + related
        found = replace(found, score=score, words=words, evidence=evidence)
    if not found.is_close and answers >= 0 and _is_skeleton(a, b, found):
        found = replace(found, skeleton=True)
    if not found.is_close:
        return found
    return replace(found, conflicts=conflicts(a, b))


def _bars(a: Reading, b: Reading, answers: int) -> tuple[tuple[float, float, float], ...]:
    """What this pair must reach: one of these (score, evidence, share of words)."""
    if answers < 0:
        return OTHER_REFERENCES
    if not {*a.keys} & {*b.keys}:
        return ONE_NUMBER_MORE
    shared = [value for value in numbers_of(a) & numbers_of(b) if value > 2 or value.denominator > 1]
    if sum(map(_number_weight, shared)) <= 1:
        return NO_NUMBERS
    in_order, others = ([token for token in one.tokens if token[0] == "#" and token not in COMMON] for one in (a, b))
    many = (MANY_NUMBERS,) if in_order == others and len({*in_order}) >= NUMBERS else ()
    count = sum(max(value.numerator, value.denominator) > 100 for value in shared)
    rare = (RARE, RARE_NUMBERS)[: (count > 0) + (count >= FEW)]
    return (*ENOUGH, *many, *rare, *(EQUAL_REFERENCES if answers > 0 else ()))


def _is_skeleton(a: Reading, b: Reading, found: Likeness) -> bool:
    """The same numbers in the same order in nearly the same words in the same order: names and things may differ."""
    numbers_a, numbers_b = ([token for token in one.tokens if token[0] == "#"] for one in (a, b))
    if a.tokens == b.tokens and a.tokens:
        return True
    if found.score < 0.5 or numbers_a != numbers_b or len(numbers_a) < 2 or min(len(a.words), len(b.words)) < 12:
        return False
    return SequenceMatcher(None, a.words, b.words, autojunk=False).ratio() >= SKELETON


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


def _related(one: set[str], other: set[str]) -> list[str]:
    """For each word of `one` that is akin to a word of `other` the shorter of the two; every word is used once."""
    found: list[str] = []
    free = sorted(other)
    for word in sorted(one):
        match = next((second for second in free if akin(word, second)), None)
        if match:
            free.remove(match)
            found.append(min(word, match, key=len))
    return found


def _words(reading: Reading) -> set[str]:
    return {token for token in reading.tokens if token[0].isalpha()}


def _weight(word: str, names: frozenset[str]) -> float:
    return 0.25 if word in names else 0.5 if word in _EVERYDAY else 1.0


def _number_weight(value: Fraction) -> float:
    """How much a shared number tells: 7 little, 57/160 much."""
    size = max(value.numerator, value.denominator)
    return 2.5 if value.denominator > 1 else 1.0 if size <= 10 else 1.5 if size <= 100 else 2.5


def formula_pairs(reading: Reading) -> Counter[tuple[str, str]]:
    """How often each pair of neighbouring symbols stands in the formulas, variables by their order of appearance in each."""
    return Counter(pair for chunk in reading.formulas for pair in pairwise(("", *renamed(chunk))))
