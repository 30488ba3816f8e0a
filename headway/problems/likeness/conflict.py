r"""What makes two alike questions different problems: numbers, places, formulas, words, and what is asked.

    numbers     a value on one side against another on the other; an ordinal ("eighth term" | "tenth term")
    places      two numbers that have changed places, or stand in a sentence that is otherwise the same
    formulas    an operator, a function or a number that differs in a formula that is otherwise the same
    words       firm opposites (`opposites`); in a text that is otherwise the same, also others in one place, a qualifier on one
                side, and a word in the place of another that the story knows already ("chops down" | "plants")
    asked       another quantity, person or variable asked of the same story

The closer the wording, the less is needed: where everything else was left as it was, a difference was meant; where less than
half of the words stand in the same order, all was said anew, and only a value on each side that the other lacks speaks against
a pair: words, formulas and the places of numbers prove nothing there. This file does not know scores (`same` does).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from fractions import Fraction
from itertools import pairwise, takewhile

from headway.problems.likeness.asking import Asked, asked_otherwise
from headway.problems.likeness.markup import is_place
from headway.problems.likeness.opposites import exchanged_words, opposed, qualified
from headway.problems.likeness.reading import OPERATORS, STOP, Reading, numbers_apart, renamed, stem

NEARLY = 0.6  # difflib's ratio from which on two formulas are one with changes
FEW_CHANGES = 2  # places in which a formula that was copied with a change differs
LONG_FORMULA = 6  # symbols: shorter ones may be said in words
RUN = 5  # symbols
COVERED = 0.5  # of a long formula's runs, from which on it was only cut otherwise
SAME_SENTENCE = 0.75  # of the words of two sentences in order, from which on they are one sentence
SAME_ORDER = 0.9  # from which on its numbers must stand in the same order, too
FEW_WORDS = 3  # prove no order: "gave him half of her $100" is "had $100 and gave him half of it"
IDENTICAL = 0.97  # of the words in order, from which on the numbers must stand in the same order
LITTLE_MOVED = 0.7  # of the words in order, from which on one word in the place of another was put there
OTHER_WORDING = 0.5  # of the words in order: below it, all was said anew, and only other values speak against a pair
ANEW = 0.65  # of the tokens in any order, from which on a moved text says the same anew
VERBATIM = 0.85  # of the words in order, from which on a text is the same but for single words
FORM = ("~0", "/", "~1")  # of an answer, "m/n in lowest terms", which is told in many ways
ONES = frozenset(["#0", "#1"])
COMMON = ONES | {"#2"}  # come and go in every rewriting


def conflicts(a: Reading, b: Reading) -> tuple[str, ...]:
    """What makes two alike questions different problems, in words; () where nothing was found."""
    whole = _in_order(a.words, b.words)
    is_verbatim = whole >= VERBATIM
    is_moved = whole < LITTLE_MOVED
    values = _value_conflict(a, b, is_verbatim, is_moved, whole < OTHER_WORDING)
    if whole < OTHER_WORDING:
        return (values,) if values else ()
    is_anew = is_moved and _shared(a.tokens, b.tokens) >= ANEW
    found = [values or _count_conflict(a, b, is_verbatim, is_moved), _ordinal_conflict(a, b), _place_conflict(a, b, is_anew)]
    found += _formula_conflicts(a, b, is_moved)
    found += opposed(a.words, b.words, is_verbatim)
    if is_verbatim:
        found += [qualified(a.words, b.words), exchanged_words(a.words, b.words), _variable_conflict(a, b)]
        found += [_person_conflict(a.words, b.words), _relation_conflict(a, b)]
    story = _in_order(a.words[: len(a.words) - len(a.asked)], b.words[: len(b.words) - len(b.asked)])
    found.append(asked_otherwise(_asked(a), _asked(b), story))
    return tuple(conflict for conflict in found if conflict)


def _person_conflict(a: Sequence[str], b: Sequence[str]) -> str:
    """A "she" in `a` in the place of a "he" of `b`, of which another has stayed; where a person was renamed, none has."""
    kept: set[int] = set()
    changed: set[int] = set()
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        pairs = zip(a[i:j], b[k:m], strict=True) if kind == "equal" or (kind == "replace" and j - i == m - k) else ()
        for one, other in ((_PERSONS[x], _PERSONS[y]) for x, y in pairs if x in _PERSONS and y in _PERSONS):
            (kept if one == other else changed).add(other)
    return "persons: he | she" if kept & changed else ""


def _relation_conflict(a: Reading, b: Reading) -> str:
    """In nearly the same text, "girls than boys" for "boys than girls", or "more" and "times" come or gone where no word was."""
    thans = [{(x, z) for x, y, z in zip(one, one[1:], one[2:], strict=False) if y == "than"} for one in (a.words, b.words)]
    turned = sorted((x, z) for x, z in thans[0] - thans[1] if (z, x) in thans[1] - thans[0])
    if turned and not {"more", "fewer", "less"} & ({*a.words} ^ {*b.words}):
        return f"turned: {' than '.join(turned[0])}"
    if a.tokens != b.tokens:
        return ""
    counts = [Counter(word for word in one.words if word in _RELATING) for one in (a, b)]
    other = sorted((counts[0] - counts[1]) + (counts[1] - counts[0]))
    return f"relation: {other[0]}" if other else ""


_RELATING = frozenset(["more", "less", "fewer", "times", "all", "other", "another", "not", "off", "than"])
_PERSONS = {"he": 0, "him": 0, "his": 0, "she": 1, "her": 1, "hers": 1}


def _shared(a: Sequence[str], b: Sequence[str]) -> float:
    """The share of the different tokens of both that both have."""
    one, other = {*a}, {*b}
    return 2 * len(one & other) / max(1, len(one) + len(other))


def _in_order(a: Sequence[str], b: Sequence[str]) -> float:
    """The share of two sequences that stands in both in the same order, in [0, 1]; 0 where there is nothing."""
    if not a or not b:
        return 0.0
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


def _ordinal_conflict(a: Reading, b: Reading) -> str:
    """A place in a row that only one side names, against one that only the other names."""
    one, other = ({token for token in reading.tokens if is_place(token)} for reading in (a, b))
    return f"places: {min(one - other)[3:]} | {min(other - one)[3:]}" if one - other and other - one else ""


def _variable_conflict(a: Reading, b: Reading) -> str:
    """A variable in the place of another that has kept its own place elsewhere, in texts that are otherwise the same."""
    if len(a.tokens) != len(b.tokens):
        return ""
    pairs = [*zip(a.tokens, b.tokens, strict=True)]
    changed = [(one, other) for one, other in pairs if one != other]
    kept = {one for one, other in pairs if one == other}
    found = [(one, other) for one, other in changed if one[0] == other[0] == "~" and one in kept and other in kept]
    return f"variables: {found[0][0][1:]} | {found[0][1][1:]}" if found and len(changed) <= FEW_CHANGES else ""


def _value_conflict(a: Reading, b: Reading, is_verbatim: bool, is_moved: bool, is_anew: bool) -> str:
    """A value that only one side has, against one that only the other has; where all words are the same, any difference; where
    all was said anew, not small numbers in words alone."""
    ones = {Fraction(0), Fraction(1)} | ({Fraction(2)} if is_moved else set())
    _, only_a, only_b = numbers_apart(a, b)
    only_a, only_b = only_a - ones, only_b - ones
    if is_anew and _is_unsaid(only_a, a) and _is_unsaid(only_b, b):
        return ""
    if (only_a and only_b) or (is_verbatim and (only_a or only_b)):
        return f"numbers: {_list(only_a)} | {_list(only_b)}"
    return ""


def _is_unsaid(values: set[Fraction], reading: Reading) -> bool:
    """Are they all small numbers in words and the like, which a rewriting need not say?"""
    return {*map(str, values)}.isdisjoint(set[str].intersection(*({*key.split()} for key in reading.keys)))


def _count_conflict(a: Reading, b: Reading, is_verbatim: bool, is_moved: bool) -> str:
    """One of two equal numbers was changed into another: in other words into one that stands there, too, else into any."""
    count_a, count_b = (Counter(token for token in one.tokens if token[0] == "#") for one in (a, b))
    more_a, more_b = count_a - count_b, count_b - count_a
    if is_verbatim and ((more_a and more_b) or {*more_a, *more_b} - COMMON):
        return f"numbers: {' '.join(sorted(more_a))} | {' '.join(sorted(more_b))}"
    is_changed = {*more_a} - COMMON and {*more_b} - COMMON and count_a.total() == count_b.total()
    if is_changed and not is_moved:
        return f"numbers: {' '.join(sorted(more_a))} | {' '.join(sorted(more_b))}"
    known_a, known_b = {*count_a, "#2"} - ONES, {*count_b, "#2"} - ONES
    is_changed = {*more_a} & known_b and {*more_b} & known_a and {*more_a, *more_b} & {*count_a} & {*count_b} - COMMON
    if is_changed and (count_a.total() == count_b.total() or not {*a.keys} & {*b.keys}):
        return f"numbers: {' '.join(sorted(more_a))} | {' '.join(sorted(more_b))}"
    return ""


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


def _place_conflict(a: Reading, b: Reading, is_anew: bool) -> str:
    """Two numbers whose surroundings have changed places, or a sentence with other numbers of the text."""
    one, other = _contexts(a), _contexts(b)
    values = sorted(one.keys() & other.keys())
    for i, x in enumerate(values):
        for y in values[i + 1 :]:
            changed = min(len((one[x] - one[y]) & (other[y] - other[x])), len((one[y] - one[x]) & (other[x] - other[y])))
            own = min(len((one[x] - one[y]) & (other[x] - other[y])), len((one[y] - one[x]) & (other[y] - other[x])))
            if changed > own + is_anew:
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
        is_told = len({*numbers}) > 1 and any({*numbers} == {*one} for _, one in theirs)
        if (not is_told and {*numbers} - {*values} and {*values} - {*numbers}) or (
            share >= SAME_ORDER and len(words) > FEW_WORDS and sorted(values) == sorted(numbers)
        ):
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


_SIGNS = frozenset(["+", "-", "^", "/", "sin", "cos", "tan", "sqrt"])
_RELATIONS = frozenset(["<", ">", "<=", ">="])


def _formula_conflicts(a: Reading, b: Reading, is_moved: bool) -> list[str]:
    """Formulas of both sides that are nearly, but not quite, the same."""
    left, right = [renamed(chunk) for chunk in a.formulas], [renamed(chunk) for chunk in b.formulas]
    left, right = ([chunk for chunk in side if chunk != FORM] for side in (left, right))
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
        if moved and _summands(moved) == _summands(chunk):
            continue
        if moved:
            found.append(f"formulas: {' '.join(chunk)} | {' '.join(moved)}")
            continue
        best = max(right, key=lambda one: SequenceMatcher(None, chunk, one, autojunk=False).ratio(), default=())
        matcher = SequenceMatcher(None, chunk, best, autojunk=False)
        if matcher.ratio() < NEARLY:
            if min(len(chunk), max(map(len, right))) >= LONG_FORMULA and _covered(chunk, right) < COVERED:
                found.append(f"formulas: {' '.join(chunk)} | {' '.join(best)}")
            continue
        changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
        for kind, i, j, k, m in changes:
            ours, theirs = chunk[i:j], best[k:m]
            inside = i > 0 and j < len(chunk) and k > 0 and m < len(best) and len(changes) <= FEW_CHANGES
            signs = {*ours, *theirs} & (_SIGNS if kind in ("insert", "delete") else _SIGNS | _RELATIONS)
            changed = kind == "replace" and {t for t in ours if t[0] == "#"} != {t for t in theirs if t[0] == "#"}
            changed = changed and any(t[0] == "#" for t in ours) and any(t[0] == "#" for t in theirs)
            changed = changed and not (is_moved and {*ours, *theirs} <= {*a.tokens} & {*b.tokens})
            if changed or (signs and (kind == "replace" or inside)):
                found.append(f"formulas: {' '.join(ours)} | {' '.join(theirs)}")
    return found[:1]


def _summands(formula: Sequence[str]) -> list[list[str]]:
    """What stands between the plus signs, in any order."""
    sides = " ".join(formula).split(" = ")
    return sorted(sorted(side.split(" + ")) for side in sides)


def _covered(chunk: Sequence[str], others: Sequence[Sequence[str]]) -> float:
    """The share of a formula's runs of three symbols that stand in any of the others."""
    runs = _runs(chunk)
    return len(runs & {run for other in others for run in _runs(other)}) / max(1, len(runs))


def _runs(formula: Sequence[str]) -> set[tuple[str, ...]]:
    """The runs of symbols, any variable for each."""
    plain = tuple("~" if token[0] == "~" else token for token in formula)
    return {plain[i : i + RUN] for i in range(max(1, len(plain) - RUN + 1))}


def _asked(reading: Reading) -> Asked:
    """The part that asks, and the story before it."""
    at, tokens = reading.asked_at, reading.tokens
    stems = tuple(token for token in tokens[at:] if token[0].isalpha())
    variables = frozenset(token for token in tokens[at:] if token[0] == "~")
    story = frozenset(token for token in tokens[:at] if token[0].isalpha())
    letters = frozenset(token for token in tokens if token[0] == "~")
    neighbours = frozenset(pair for start, end in pairwise((0, *reading.ends)) for pair in pairwise(tokens[start:end]))
    measured = frozenset(unit for number, unit in pairwise(tokens[at:]) if number[0] == "#")
    return Asked(reading.asked, stems, reading.names, variables, _head(reading.asked), story, letters, neighbours, measured)


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
