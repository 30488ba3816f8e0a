r"""Are two questions one problem in other words? A score of what they share, and what speaks against it.

    1. numbers    the values that must agree (reading.key) agree, and no other value stands on one side against another on the other
    2. score      2 * shared weight / weight of both,  over word stems (1; everyday words 0.5; names 0.25), numbers (1.5 each) and
                  symbols of formulas (0.5, variables by the order in which they appear)
    3. evidence   the shared weight itself: two short everyday questions with equal small numbers are no proof
    4. conflicts  a formula that differs in an operator; opposite words in the same place ("minimum"/"maximum", "more"/"fewer");
                  two numbers that have changed places; a question that asks for another quantity of the same story

Two questions are the same problem when 1 holds, score and evidence reach the thresholds, and there is no conflict. The verdict depends on
nothing but the two texts. It cannot follow a rewriting that computes (90 minutes as an hour and a half), nor another language.

This file does not know which questions are worth comparing (`clean` does), nor any reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fractions import Fraction

from headway.problems.numerals import value_of
from headway.problems.opposites import asked_otherwise, opposed
from headway.problems.reading import OPERATORS, Reading

SCORE = 0.5  # of the weight of both sides
WORDS = 0.25  # of the weight of the words alone, where there are words
EVIDENCE = 5.0  # shared weight

_EVERYDAY = frozenset(
    """day cost buy hour money week left leav year spend minut pay sell remain second long friend rest month new work stor school eat peopl person start use
    dollar giv mil earn averag pound student old box pric car book end run class hous receiv foot feet sav piec put add trip away shop
    collect back pair equal different worth read inch squar pag full set weigh cent percentag group siz item people bring only find
    positiv integ sum real point function equation express fraction common simplest enter term possibl numb valu answer""".split()
)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two questions are: `score` in [0, 1], the shared weight, and the `conflicts` ("numbers: 5 | 7", ...) that outweigh it.

    `is_same` says whether they are one problem. `shared_numbers` and `shared_words` are what was found on both sides.
    """

    score: float
    evidence: float
    words: float
    conflicts: tuple[str, ...]
    shared_numbers: tuple[str, ...]
    shared_words: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """One problem in other words?"""
        return not self.conflicts and self.score >= SCORE and self.evidence >= EVIDENCE and self.words >= WORDS


def compare(a: Reading, b: Reading) -> Likeness:
    """The likeness of two questions; symmetric in what it decides. Conflicts are only looked for where the score would suffice."""
    names = a.names | b.names
    words_a, words_b = _words(a), _words(b)
    common = sorted(words_a & words_b)
    shared = 2 * sum(_weight(word, names) for word in common)
    both = sum(_weight(word, names) for word in (*words_a, *words_b))
    words = shared / both if both else 1.0
    numbers_a, numbers_b = _numbers(a), _numbers(b)
    for one, many in (((numbers_a & numbers_b), 2), (numbers_a, 0), (numbers_b, 0)):
        shared += many * 1.5 * len(one)
        both += (many == 0) * 1.5 * len(one)
    symbols_a, symbols_b = _formula_counts(a), _formula_counts(b)
    agreeing = (symbols_a & symbols_b).total()
    shared += agreeing
    both += 0.5 * (symbols_a.total() + symbols_b.total())
    score = shared / both if both else 0.0
    numbers = tuple(str(value) for value in sorted(numbers_a & numbers_b))
    conflicts: tuple[str, ...] = ()
    if score >= SCORE and shared / 2 >= EVIDENCE and words >= WORDS:
        conflicts = tuple(_conflicts(a, b))
    return Likeness(score, shared / 2, words, conflicts, numbers, tuple(common))


def _words(reading: Reading) -> set[str]:
    return {token for token in reading.tokens if token[0].isalpha()}


def _numbers(reading: Reading) -> set[Fraction]:
    return {value for token in reading.tokens if (value := value_of(token)) is not None}


def _weight(word: str, names: frozenset[str]) -> float:
    return 0.25 if word in names else 0.5 if word in _EVERYDAY else 1.0


def _is_symbol(token: str) -> bool:
    return token[0] == "~" or token in OPERATORS


def _formula_counts(reading: Reading) -> Counter[str]:
    """How often each operator and each variable (by its order of appearance) stands there."""
    names: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for token in reading.tokens:
        if token[0] == "~":
            counts[names.setdefault(token, f"~{len(names)}")] += 1
        elif token in OPERATORS:
            counts[token] += 1
    return counts


# -- what speaks against it ---------------------------------------------------------------------------------------------


def _conflicts(a: Reading, b: Reading) -> list[str]:
    found = [_number_conflict(a, b), _place_conflict(a, b), *_formula_conflicts(a, b), *opposed(a.words, b.words), _asked_conflict(a, b)]
    return [conflict for conflict in found if conflict]


def _number_conflict(a: Reading, b: Reading) -> str:
    """A value that only one side has, against one that only the other has."""
    only_a, only_b = _numbers(a) - _numbers(b), _numbers(b) - _numbers(a)
    only_a, only_b = only_a - {Fraction(1), Fraction(0)}, only_b - {Fraction(1), Fraction(0)}
    return f"numbers: {_list(only_a)} | {_list(only_b)}" if only_a and only_b else ""


def _list(values: set[Fraction]) -> str:
    return ", ".join(str(value) for value in sorted(values))


def _contexts(reading: Reading) -> dict[str, set[str]]:
    """Each number with the words around it: the two before and three after in its sentence."""
    found: dict[str, set[str]] = {}
    start = 0
    for end in reading.ends:
        sentence = reading.tokens[start:end]
        start = end
        for i, token in enumerate(sentence):
            if token[0] == "#":
                near = (*sentence[max(0, i - 1) : i], *sentence[i + 1 : i + 3])
                found.setdefault(token, set()).update(word for word in near if word[0].isalpha())
    return found


def _place_conflict(a: Reading, b: Reading) -> str:
    """Two numbers whose surroundings have changed places."""
    one, other = _contexts(a), _contexts(b)
    values = sorted(one.keys() & other.keys())
    for i, x in enumerate(values):
        for y in values[i + 1 :]:
            kept = len(one[x] & other[x]) + len(one[y] & other[y])
            changed = min(len((one[x] - one[y]) & (other[y] - other[x])), len((one[y] - one[x]) & (other[x] - other[y])))
            own = min(len((one[x] - one[y]) & (other[x] - other[y])), len((one[y] - one[x]) & (other[y] - other[x])))
            if changed > own and changed:
                return f"places: {x[1:]} and {y[1:]} ({kept} words stay)"
    return ""


def _chunks(reading: Reading) -> list[tuple[str, ...]]:
    """The formulas: runs of numbers, variables, operators and functions in one sentence with an operator or two symbols or more."""
    found: list[tuple[str, ...]] = []
    start = 0
    for end in reading.ends:
        chunk: list[str] = []
        for token in (*reading.tokens[start:end], ""):
            if token and (token[0] in "#~" or token in OPERATORS or token in _FUNCTIONS):
                chunk.append(token)
                continue
            if len(chunk) > 1 and any(_is_symbol(one) for one in chunk):
                found.append(tuple(chunk))
            chunk = []
        start = end
    return found


_FUNCTIONS = frozenset("sin cos tan log ln sqrt frac pi degree cot sec csc sum binom lfloor rfloor prod".split())


def _renamed(chunk: Sequence[str]) -> tuple[str, ...]:
    """A formula with its variables numbered in order, without what is written or left out at will."""
    names: dict[str, str] = {}
    kept = (token for token in chunk if token not in ("*", "frac", "/"))
    return tuple(names.setdefault(token, f"~{len(names)}") if token[0] == "~" else token for token in kept)


def _formula_conflicts(a: Reading, b: Reading) -> list[str]:
    """Formulas of both sides that are nearly, but not quite, the same."""
    left, right = [_renamed(chunk) for chunk in _chunks(a)], [_renamed(chunk) for chunk in _chunks(b)]
    for chunk in list(left):
        if chunk in right:
            left.remove(chunk)
            right.remove(chunk)
    whole_left, whole_right = [token for chunk in left for token in chunk], [token for chunk in right for token in chunk]
    if not whole_left or not whole_right:
        return []
    found: list[str] = []
    for chunk in left:
        best = max(right, key=lambda one: SequenceMatcher(None, chunk, one, autojunk=False).ratio(), default=())
        matcher = SequenceMatcher(None, chunk, best, autojunk=False)
        if matcher.ratio() < 0.6:
            continue
        for kind, i, j, k, m in matcher.get_opcodes():
            ours, theirs = chunk[i:j], best[k:m]
            inside = 0 < i and j < len(chunk) and 0 < k and m < len(best)
            signs = {*ours, *theirs} & {"+", "-", "^", "sin", "cos", "tan", "sqrt", "<", ">", "<=", ">="}
            if kind == "replace" and signs or kind in ("insert", "delete") and inside and signs:
                found.append(f"formulas: {' '.join(ours)} | {' '.join(theirs)}")
    return found[:1]


def _asked_conflict(a: Reading, b: Reading) -> str:
    """Two questions about one story that ask for different things."""
    minor = _EVERYDAY
    rest_a, rest_b = _words_of(a.tokens[: a.asked_at]), _words_of(b.tokens[: b.asked_at])
    asked_a, asked_b = sorted(_words_of(a.tokens[a.asked_at :])), sorted(_words_of(b.tokens[b.asked_at :]))
    return asked_otherwise(asked_a, asked_b, rest_a, rest_b, minor, set(a.asked), set(b.asked))


def _words_of(tokens: Sequence[str]) -> set[str]:
    return {token for token in tokens if token[0].isalpha()}
