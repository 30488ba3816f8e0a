r"""Are two questions one problem in other words? A score of what they share, and what speaks against it.

    1. numbers    the values that must agree (reading.keys) agree, and no other value stands on one side against
                  another on the other
    2. score      2 * shared weight / weight of both, over word stems (1; everyday words 0.5; names 0.25), numbers (1 to 2.5) and
                  symbols of formulas (0.5, variables by the order in which they appear)
    3. evidence   the shared weight itself: two short everyday questions with equal small numbers are no proof
    4. conflicts  a formula that differs in an operator; opposite words in the same place ("minimum"/"maximum", "more"/"fewer");
                  two numbers that have changed places; a question that asks for another quantity of the same story

Two questions are the same problem when 1 holds, score and evidence reach the thresholds, and there is no conflict. The verdict
depends on nothing but the two texts. It cannot follow a rewriting that computes (90 minutes as an hour and a half), nor another
language.

This file does not know which questions are worth comparing (`clean` does), nor any reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher, get_close_matches
from fractions import Fraction
from itertools import pairwise, takewhile

from headway.problems.numerals import value_of
from headway.problems.opposites import OPPOSABLE, Asked, asked_otherwise, opposed, qualified
from headway.problems.reading import IRREGULAR, OPERATORS, STOP, Reading, stem

SCORE = 0.5  # of the weight of both sides
WORDS = 0.25  # of the weight of the words alone, unless symbols of formulas are most of what is shared
EVIDENCE = 5.0  # shared weight
CLEAR = 0.8  # score from which on LITTLE evidence is enough
LITTLE = 3.0
_BY_ANSWERS = {0: (SCORE, EVIDENCE), 1: (0.5, 4.5), -1: (0.85, 8.0)}  # references unknown, equal, different
SAME_SENTENCE = 0.75  # of the words of two sentences in order, from which on they are one sentence
SAME_ORDER = 0.9  # from which on its numbers must stand in the same order, too
SKELETON = 0.65  # of all words in order: a text with the same numbers in the same order has other names and things only
NEARLY = 0.6  # difflib's ratio from which on two formulas are one with changes
LONG_FORMULA = 6  # symbols: shorter ones may be said in words
IDENTICAL = 0.97  # of the words in order, from which on the numbers must stand in the same order
LIKE = 0.86  # difflib's ratio from which on a word is another one misspelt
VERBATIM = 0.85  # of the words in order, from which on a text is the same but for single words

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
    formulas), what is known of the `answers`, the share of `words`, and the `conflicts` ("numbers: 5 | 7", ...) that outweigh it.

    `is_same` says whether they are one problem. `shared_numbers` and `shared_words` are what was found on both sides.
    """

    score: float
    evidence: float
    words: float
    symbols: float
    answers: int
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
        score, evidence = _BY_ANSWERS[self.answers]
        enough = self.evidence >= (min(LITTLE, evidence) if self.score >= CLEAR and self.answers >= 0 else evidence)
        if self.skeleton:
            return True
        return enough and self.score >= score and (self.words >= WORDS or self.symbols >= 0.25 * self.evidence)


def compare(a: Reading, b: Reading, answers: int = 0) -> Likeness:
    """The likeness of two questions. Conflicts are only looked for where the score would suffice.

    `answers` says what is known of the two references: 1 equal, -1 different, 0 nothing. Equal ones lower the thresholds a
    little, different ones raise them, since a copied problem may carry a wrong reference; neither decides.
    """
    names = a.names | b.names
    words_a, words_b = _words(a), _words(b)
    if len(words_a & words_b) >= 0.4 * min(len(words_a), len(words_b)) and (misspelt := _misspelt(a, b)):
        stems = {stem(wrong): stem(right) for wrong, right in misspelt.items()}
        words = tuple(misspelt.get(word, word) for word in b.words)
        asked = tuple(misspelt.get(word, word) for word in b.asked)
        b = replace(b, tokens=tuple(stems.get(token, token) for token in b.tokens), words=words, asked=asked)
        words_b = _words(b)
    common = sorted(words_a & words_b)
    shared = 2 * sum(_weight(word, names) for word in common)
    both = sum(_weight(word, names) for word in (*words_a, *words_b))
    words = shared / both if both else 1.0
    numbers_a, numbers_b = _numbers(a), _numbers(b)
    shared += 2 * sum(map(_number_weight, numbers_a & numbers_b))
    both += sum(map(_number_weight, numbers_a)) + sum(map(_number_weight, numbers_b))
    symbols_a, symbols_b = formula_pairs(a), formula_pairs(b)
    agreeing = (symbols_a & symbols_b).total()
    shared += agreeing
    both += 0.5 * (symbols_a.total() + symbols_b.total())
    score = shared / both if both else 0.0
    numbers = tuple(str(value) for value in sorted(numbers_a & numbers_b))
    found = Likeness(score, shared / 2, words, agreeing / 2, answers, (), numbers, tuple(common))
    if not found.is_close and _is_skeleton(a, b, found):
        found = replace(found, skeleton=True)
    if not found.is_close:
        return found
    return replace(found, conflicts=conflicts(a, b))


def _is_skeleton(a: Reading, b: Reading, found: Likeness) -> bool:
    """The same numbers in the same order in nearly the same words in the same order: names and things may differ."""
    numbers_a, numbers_b = ([token for token in one.tokens if token[0] == "#"] for one in (a, b))
    if a.tokens == b.tokens and a.tokens:
        return True
    if (
        found.score < 0.5
        or numbers_a != numbers_b
        or len(numbers_a) < 2
        or min(len(a.words), len(b.words)) < 12
        or found.answers < 0
    ):
        return False
    return SequenceMatcher(None, a.words, b.words, autojunk=False).ratio() >= SKELETON


def _misspelt(a: Reading, b: Reading) -> dict[str, str]:
    """Words of `b` that are a word of `a` with two letters exchanged, or one too many or too few, each with that word."""
    known = {word for word in a.words if len(word) > 3}
    found: dict[str, str] = {}
    for word in sorted({word for word in b.words if len(word) > 3} - known - OPPOSABLE - IRREGULAR):
        near = [other for other in known if abs(len(other) - len(word)) <= 1 and len({*other} ^ {*word}) <= 1]
        matches = sorted(other for other in near if sorted(other) == sorted(word)) or get_close_matches(
            word, sorted(near), 1, LIKE
        )
        if matches and stem(matches[0]) != stem(word):
            found[word] = matches[0]
    return found


def _words(reading: Reading) -> set[str]:
    return {token for token in reading.tokens if token[0].isalpha()}


def _numbers(reading: Reading) -> set[Fraction]:
    return {value for token in reading.tokens if (value := value_of(token)) is not None}


def _weight(word: str, names: frozenset[str]) -> float:
    return 0.25 if word in names else 0.5 if word in _EVERYDAY else 1.0


def _number_weight(value: Fraction) -> float:
    """How much a shared number tells: 7 little, 57/160 much."""
    size = max(value.numerator, value.denominator)
    return 2.5 if value.denominator > 1 else 1.0 if size <= 10 else 1.5 if size <= 100 else 2.5


def _is_symbol(token: str) -> bool:
    return token[0] == "~" or token in OPERATORS


def formula_pairs(reading: Reading) -> Counter[tuple[str, str]]:
    """How often each pair of neighbouring symbols stands in the formulas, variables by their order of appearance in each."""
    return Counter(pair for chunk in _chunks(reading) for pair in pairwise(("", *_renamed(chunk))))


# -- what speaks against it ---------------------------------------------------------------------------------------------


def conflicts(a: Reading, b: Reading) -> tuple[str, ...]:
    """What makes two alike questions different problems, in words; () where nothing was found."""
    is_verbatim = SequenceMatcher(None, a.words, b.words, autojunk=False).ratio() >= VERBATIM
    found = [_number_conflict(a, b, is_verbatim), _place_conflict(a, b), *_formula_conflicts(a, b), *opposed(a.words, b.words)]
    if is_verbatim:
        found.append(qualified(a.words, b.words))
    found.append(asked_otherwise(_asked(a), _asked(b)))
    return tuple(conflict for conflict in found if conflict)


def _number_conflict(a: Reading, b: Reading, is_verbatim: bool) -> str:
    """A value that only one side has, against one that only the other has; where all words are the same, any difference."""
    ones = {Fraction(0), Fraction(1)}
    only_a, only_b = _numbers(a) - _numbers(b) - ones, _numbers(b) - _numbers(a) - ones
    if (only_a and only_b) or (is_verbatim and (only_a or only_b)):
        return f"numbers: {_list(only_a)} | {_list(only_b)}"
    if is_verbatim:  # one of two equal numbers was changed into another that stands there, too
        count_a, count_b = (Counter(token for token in one.tokens if token[0] == "#") for one in (a, b))
        more_a, more_b = count_a - count_b, count_b - count_a
        if (more_a and more_b) or {*more_a, *more_b} - _COMMON:
            return f"numbers: {' '.join(sorted(more_a))} | {' '.join(sorted(more_b))}"
    return ""


_COMMON = frozenset(["#0", "#1", "#2"])


def _list(values: set[Fraction]) -> str:
    return ", ".join(str(value) for value in sorted(values))


def _contexts(reading: Reading) -> dict[str, set[str]]:
    """Each number with the two words behind it, up to the next number, and the one before that no number has."""
    found: dict[str, set[str]] = {}
    start = 0
    for end in reading.ends:
        sentence = reading.tokens[start:end]
        start = end
        for i, token in enumerate(sentence):
            if token[0] == "#":
                near = list(takewhile(lambda word: word[0].isalpha(), sentence[i + 1 : i + 3]))
                if i and sentence[i - 1][0].isalpha() and not any(one[0] == "#" for one in sentence[max(0, i - 3) : i]):
                    near.append(sentence[i - 1])
                found.setdefault(token, set()).update(near)
    return found


def _place_conflict(a: Reading, b: Reading) -> str:
    """Two numbers whose surroundings have changed places, or a sentence with other numbers of the text."""
    one, other = _contexts(a), _contexts(b)
    values = sorted(one.keys() & other.keys())
    for i, x in enumerate(values):
        for y in values[i + 1 :]:
            changed = min(len((one[x] - one[y]) & (other[y] - other[x])), len((one[y] - one[x]) & (other[x] - other[y])))
            own = min(len((one[x] - one[y]) & (other[x] - other[y])), len((one[y] - one[x]) & (other[y] - other[x])))
            if changed > own:
                return f"places: {x[1:]} and {y[1:]}"
    all_a, all_b = ([token for token in one.tokens if token[0] == "#"] for one in (a, b))
    if all_a == all_b or sorted(all_a) != sorted(all_b):
        return ""
    is_prose = not any(token in OPERATORS for token in a.tokens)
    if is_prose and SequenceMatcher(None, a.words, b.words, autojunk=False).ratio() >= IDENTICAL:
        return f"places: {' '.join(all_a)} | {' '.join(all_b)}"
    theirs = _numbered_sentences(b)
    for words, numbers in _numbered_sentences(a):
        alike = [(SequenceMatcher(None, words, found, autojunk=False).ratio(), values) for found, values in theirs]
        share, values = max(alike, default=(0.0, ()))
        if share < SAME_SENTENCE or any(one == numbers for found, one in alike if found == share):
            continue
        if ({*numbers} - {*values} and {*values} - {*numbers}) or (share >= SAME_ORDER and sorted(values) == sorted(numbers)):
            return f"places: {' '.join(numbers)} | {' '.join(values)}"
    return ""


def _numbered_sentences(reading: Reading) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The sentences with numbers: their words in order, and their numbers in order."""
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    start = 0
    for end in reading.ends:
        sentence = reading.tokens[start:end]
        start = end
        numbers = tuple(token for token in sentence if token[0] == "#" and token not in ("#0", "#1"))
        words = tuple(token for token in sentence if token[0].isalpha())
        if numbers and len(words) > 1:
            found.append((words, numbers))
    return found


def _chunks(reading: Reading) -> list[tuple[str, ...]]:
    """The formulas: runs of numbers, variables, operators and functions in one sentence, two of them or more."""
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


_SIGNS = frozenset(["+", "-", "^", "/", "sin", "cos", "tan", "sqrt"])
_RELATIONS = frozenset(["<", ">", "<=", ">="])
_FUNCTIONS_WORDS = """
    sin cos tan arcsin arccos arctan log ln sqrt frac pi degree cot sec csc sum binom lfloor rfloor prod
"""
_FUNCTIONS = frozenset(_FUNCTIONS_WORDS.split())


def _renamed(chunk: Sequence[str]) -> tuple[str, ...]:
    """A formula with its variables numbered in order, without what is written or left out at will."""
    names: dict[str, str] = {}
    kept = (token for token in chunk if token not in ("*", "frac"))
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
        moved = next((one for one in right if sorted(one) == sorted(chunk) and {*one} & {"-", "/", "^", "&"}), None)
        if moved:
            found.append(f"formulas: {' '.join(chunk)} | {' '.join(moved)}")
            continue
        best = max(right, key=lambda one: SequenceMatcher(None, chunk, one, autojunk=False).ratio(), default=())
        matcher = SequenceMatcher(None, chunk, best, autojunk=False)
        if matcher.ratio() < NEARLY:
            if min(len(chunk), max(map(len, right))) >= LONG_FORMULA:
                found.append(f"formulas: {' '.join(chunk)} | {' '.join(best)}")
            continue
        for kind, i, j, k, m in matcher.get_opcodes():
            ours, theirs = chunk[i:j], best[k:m]
            inside = i > 0 and j < len(chunk) and k > 0 and m < len(best)
            signs = {*ours, *theirs} & (_SIGNS if kind in ("insert", "delete") else _SIGNS | _RELATIONS)
            changed = kind == "replace" and {t for t in ours if t[0] == "#"} != {t for t in theirs if t[0] == "#"}
            changed = changed and any(t[0] == "#" for t in ours) and any(t[0] == "#" for t in theirs)
            if changed or (signs and (kind == "replace" or (kind != "equal" and inside))):
                found.append(f"formulas: {' '.join(ours)} | {' '.join(theirs)}")
    return found[:1]


def _asked(reading: Reading) -> Asked:
    """The part that asks, and the story before it."""
    at, tokens = reading.asked_at, reading.tokens
    stems = tuple(token for token in tokens[at:] if token[0].isalpha())
    variables = frozenset(token for token in tokens[at:] if token[0] == "~")
    story = frozenset(token for token in tokens[:at] if token[0].isalpha())
    letters = frozenset(token for token in tokens if token[0] == "~")
    return Asked(reading.asked, stems, reading.names, variables, _head(reading.asked), story, letters)


def _head(words: Sequence[str]) -> tuple[str, ...]:
    """The thing that is counted: the stems of the two words behind "how many" or "number of"; () where there is none."""
    for i in range(len(words) - 2):
        if words[i : i + 2] in (("how", "many"), ("number", "of")):
            rest = [word for word in words[i + 2 : i + 6] if word not in _BEFORE_NOUN][:2]
            return tuple(stem(word) for word in takewhile(lambda word: word not in STOP, rest))
    return ()


_BEFORE_NOUN_WORDS = """
    more fewer less total additional different full whole of the such other possible distinct in
"""
_BEFORE_NOUN = frozenset(_BEFORE_NOUN_WORDS.split())
