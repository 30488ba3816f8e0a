r"""Are two answers the same mathematics? The fast path: exact, in-process, bounded, without a computer algebra system.

    same_answer("1/2", r"\frac{2}{4}")  -->  Comparison(True, "equal")        an exact fraction on both sides
    same_answer("42", "42 or 43")       -->  Comparison(False, "counts_differ")
    same_answer("42", r"\int_0^1 x")    -->  Comparison(None, "unread")        the slow path must tell

Conventions: 10% equals 10 and 0.1 (the reason says which); unreduced fractions are equal; tuples are ordered, bare
lists are multisets, a set is no tuple; a missing unit is fine, a contradicting one is not; a decimal reference is
matched within half a unit of its last place, any other reference exactly.

It does not know where an answer came from, and does not extract.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from headway.verify import numbers
from headway.verify.expression import Tree
from headway.verify.notation import plain, squeezed
from headway.verify.roots import have_different_roots
from headway.verify.shape import MAX_ANSWER, Items, Matrix, Opaque, Relation, Shape, Value, Words, quick_number, read

FLOAT_DIGITS = 10  # a decimal with this many significant digits is a printed float, and may be rounded

_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")
_LETTER = re.compile(r"\(? ?(?:\\text ?\{ ?)?\(? ?([A-Ja-j]) ?\)? ?\}? ?\)?[.:]?")
_LABELLED = re.compile(r"\(?([A-J]) ?[).:] ?[^).: ].*")
_DECIMAL_COMMA = re.compile(r"([+-]?[0-9]+),([0-9]+)")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two answers are the same (None: the fast path cannot tell), and a short code of why."""

    same: bool | None
    reason: str


def same_answer(reference: str, answer: str) -> Comparison:
    """Whether `answer` is the same mathematics as `reference`, as far as the fast path can tell. Never raises."""
    if _INTEGER.fullmatch(reference) and _INTEGER.fullmatch(answer):
        return _EQUAL if reference == answer else _DIFFER
    if reference == answer:
        return Comparison(bool(answer.strip()), "identical" if answer.strip() else "empty")
    if not answer.strip():
        return Comparison(False, "empty")
    try:
        return _compare_texts(reference, answer)
    except (RecursionError, OverflowError, ZeroDivisionError):
        return Comparison(None, "too_deep")


_EQUAL, _DIFFER = Comparison(True, "equal"), Comparison(False, "numbers_differ")


def _compare_texts(reference: str, answer: str) -> Comparison:
    left = quick_number(reference)
    if left is not None:
        right = quick_number(answer)
        if right is not None:
            return compare_values(left, right)
    left, right = read(reference), read(answer)
    if isinstance(left, Value) and isinstance(right, Value):
        return compare_values(left, right)
    if len(reference) < MAX_ANSWER > len(answer) and squeezed(reference) == squeezed(answer):
        return Comparison(True, "identical")
    comma = _decimal_comma(reference, left, right) or _decimal_comma(answer, right, left)
    if comma is not None:
        return comma
    letter = _choice(reference, answer)
    return letter if letter is not None else compare(left, right)


def _choice(reference: str, answer: str) -> Comparison | None:
    """Option letters: (C), C, c and \\text{(C)} are one, where the reference is a capital letter."""
    left = _LETTER.fullmatch(plain(reference))
    if left is None or not left.group(1).isupper():
        return None
    right = _LETTER.fullmatch(plain(answer)) or _LABELLED.fullmatch(plain(answer))
    if right is None:
        return None
    same = left.group(1) == right.group(1).upper()
    return Comparison(same, "choice" if same else "choices_differ")


def _decimal_comma(text: str, shape: Shape, other: Shape) -> Comparison | None:
    """1,22 beside a single number is the decimal 1.22 of other languages, else a list."""
    match = _DECIMAL_COMMA.fullmatch(text.strip(" $")) if isinstance(shape, Items) and isinstance(other, Value) else None
    if match is None:
        return None
    value = quick_number(f"{match.group(1)}.{match.group(2)}")
    assert value is not None
    assert isinstance(other, Value)
    same = other.exact == value.exact
    return Comparison(same, "decimal_comma" if same else "numbers_differ")


def compare(left: Shape, right: Shape) -> Comparison:
    """The comparison of a reference's shape with an answer's shape."""
    if isinstance(left, Opaque) or isinstance(right, Opaque):
        if isinstance(left, Opaque) and isinstance(right, Opaque) and left.text.split() == right.text.split():
            return Comparison(True, "identical")
        return Comparison(None, "unread")
    if isinstance(left, Relation) or isinstance(right, Relation):
        return _compare_relations(left, right)
    if isinstance(left, Items) or isinstance(right, Items):
        return _compare_items(left, right)
    if isinstance(left, Value) and isinstance(right, Value):
        return compare_values(left, right)
    if isinstance(left, Words) and isinstance(right, Words):
        same = _folded(left.text) == _folded(right.text)
        return Comparison(same, "same_words" if same else "words_differ")
    if isinstance(left, Matrix) and isinstance(right, Matrix):
        if len(left.rows) != len(right.rows) or len(left.rows[0]) != len(right.rows[0]):
            return Comparison(False, "counts_differ")
        cells = [pair for rows in zip(left.rows, right.rows, strict=True) for pair in zip(*rows, strict=True)]
        return _all([compare(a, b) for a, b in cells])
    return Comparison(False, "kinds_differ")


def _folded(text: str) -> str:
    folded = re.sub(r"[\s.'’\-]+", " ", text.casefold()).strip()
    return folded.removeprefix("the ").removeprefix("a ").removeprefix("an ")


def compare_values(left: Value, right: Value) -> Comparison:
    """Two single values: units first, then numbers as fractions, then expressions at the sample points."""
    if left.unit and right.unit and left.unit != right.unit:
        return Comparison(False, "units_differ")
    a, b = left.exact, right.exact
    if a is not None and b is not None:
        return _compare_numbers(left, right, a, b)
    if left.percent != right.percent:
        return Comparison(None, "percent")
    if left.decimals is not None and a is not None and not numbers.variables(right.tree):
        value = numbers.sample(right.tree, 0)
        if value is None or abs(value.imag) > 1e-12:
            return Comparison(None, "unread") if value is None else _DIFFER
        close = abs(Fraction(value.real) - a) <= Fraction(1, 2 * 10**left.decimals)
        return Comparison(True, "rounded") if close else _DIFFER
    same = numbers.same_value(left.tree, right.tree)
    if same is None:
        return Comparison(None, "undecided")
    return Comparison(same, "equal" if same else "values_differ")


def _compare_numbers(left: Value, right: Value, a: Fraction, b: Fraction) -> Comparison:
    if left.percent != right.percent:
        if a == b:
            return Comparison(True, "percent_as_number")
        same = a == b / 100 if right.percent else a / 100 == b
        return Comparison(same, "percent_as_share" if same else "numbers_differ")
    if a == b:
        return _EQUAL
    if left.decimals and a.denominator > 1 and 2 * abs(a - b) * 10**left.decimals <= 1:
        return Comparison(True, "rounded")
    if right.decimals and _digits(right) >= FLOAT_DIGITS and left.decimals is None:
        same = a.denominator > 1 and abs(a - b) * 10**right.decimals <= 1
        return Comparison(same, "rounded" if same else "numbers_differ")
    return _DIFFER


def _digits(value: Value) -> int:
    return len(re.sub(r"[^0-9]", "", value.text).lstrip("0"))


def _compare_items(left: Shape, right: Shape) -> Comparison:
    """Lists, tuples, sets, intervals, unions, ratios, chained inequalities."""
    if not isinstance(left, Items) or not isinstance(right, Items):
        single, listed = (left, right) if isinstance(right, Items) else (right, left)
        assert isinstance(listed, Items)
        if len(listed.items) == 1 and listed.opener in ("\\{", ""):
            return compare(single, listed.items[0])
        if isinstance(single, Matrix) and listed.opener == "(":
            return Comparison(None, "kinds_differ")  # a vector written as a tuple?
        if left is single and not listed.opener and all(compare(single, item).same for item in listed.items):
            return Comparison(True, "repeated")  # one answer in several forms
        return Comparison(False, "kinds_differ" if listed.opener else "counts_differ")
    if left.opener == right.opener and left.closer == right.closer and left.opener not in ("", "\\{", "cup"):
        return _in_order(left.items, right.items)
    kinds = {left.opener, right.opener}
    if kinds <= {"", "\\{"} or kinds == {"cup"}:
        if "\\{" in kinds:
            return _in_any_order(_distinct(left.items), _distinct(right.items))
        return _in_any_order(left.items, right.items)
    if "" in kinds and kinds <= {"", "(", "["} and left.closer + right.closer in (")", "]"):
        return _in_order(left.items, right.items)
    if kinds <= {"(", "[", "\\{"}:
        return Comparison(False, "brackets_differ")
    return Comparison(None, "kinds_differ")


def _all(parts: list[Comparison]) -> Comparison:
    """All parts the same; the first difference decides, then the first doubt."""
    for wanted in (False, None):
        for part in parts:
            if part.same is wanted:
                return part
    rounded = next((part for part in parts if part.reason != "equal"), None)
    return rounded or _EQUAL


def _in_order(left: tuple[Shape, ...], right: tuple[Shape, ...]) -> Comparison:
    if len(left) != len(right):
        return Comparison(False, "counts_differ")
    return _all([compare(a, b) for a, b in zip(left, right, strict=True)])


def _distinct(items: tuple[Shape, ...]) -> tuple[Shape, ...]:
    kept: list[Shape] = []
    for item in items:
        if not any(compare(item, other).same for other in kept):
            kept.append(item)
    return tuple(kept)


def _in_any_order(left: tuple[Shape, ...], right: tuple[Shape, ...]) -> Comparison:
    """As multisets: every item of the one takes an item of the other."""
    if len(left) != len(right):
        return Comparison(False, "counts_differ")
    free = list(right)
    taken: list[Comparison] = []
    doubt = False
    for item in left:
        for index, other in enumerate(free):
            part = compare(item, other)
            if part.same:
                taken.append(part)
                del free[index]
                break
            doubt = doubt or part.same is None
        else:
            return Comparison(None if doubt else False, "items_differ")
    return _all(taken)


def _compare_relations(left: Shape, right: Shape) -> Comparison:
    """Named values, equations (the same up to a factor) and inequalities."""
    if isinstance(left, Relation) and isinstance(right, Relation):
        if left.name and right.name:
            same_name = left.name == right.name
            found = compare(left.right, right.right)
            return found if same_name or found.same is not True else Comparison(False, "names_differ")
        if left.operator == right.operator == "=":
            return _compare_equations(left, right)
        if left.operator != right.operator:
            return Comparison(False, "relations_differ")
        return _compare_inequalities(left, right)
    relation, other = (left, right) if isinstance(left, Relation) else (right, left)
    assert isinstance(relation, Relation)
    if relation.name:
        return compare(relation.right, other) if relation is left else compare(other, relation.right)
    if isinstance(other, Items) and other.opener in ("(", "[", "cup"):
        return Comparison(None, "kinds_differ")
    return Comparison(False, "kinds_differ")


def _difference(relation: Relation) -> Tree | None:
    """The tree of left - right, where both sides are single expressions."""
    shape = read(relation.text.split("=")[0]) if relation.name and "=" in relation.text else relation.left
    if not isinstance(shape, Value) or not isinstance(relation.right, Value):
        return None
    return ("sum", shape.tree, ("neg", relation.right.tree))


def _compare_equations(left: Relation, right: Relation) -> Comparison:
    """f = 0 and c f = 0 are one equation for a constant c; a root of one that is none of the other tells them apart."""
    first, second = _difference(left), _difference(right)
    if first is None or second is None:
        return Comparison(None, "unread")
    factor = _constant_ratio(first, second)
    if factor is not None:
        return _EQUAL
    apart = have_different_roots(first, second)
    return Comparison(False, "values_differ") if apart else Comparison(None, "equations")


def _compare_inequalities(left: Relation, right: Relation) -> Comparison:
    """f < 0 and c f < 0 are one inequality for a constant c > 0; different borders tell them apart."""
    sides = _all([compare(left.left, right.left), compare(left.right, right.right)])
    if sides.same:
        return sides
    first, second = _difference(left), _difference(right)
    if first is None or second is None:
        return Comparison(None, "unread")
    factor = _constant_ratio(first, second)
    if factor is not None:
        same = abs(factor.imag) < 1e-9 and factor.real > 0
        return Comparison(same, "equal" if same else "values_differ")
    apart = have_different_roots(first, second)
    return Comparison(False, "values_differ") if apart else Comparison(None, "inequalities")


def _constant_ratio(first: Tree, second: Tree) -> complex | None:
    """c where first = c * second at every sample point, else None."""
    ratios: list[complex] = []
    for index in range(4):
        a, b = numbers.sample(first, index), numbers.sample(second, index)
        if a is None or b is None or abs(a) < 1e-9 or abs(b) < 1e-9:
            return None
        ratios.append(a / b)
    same = all(abs(ratio - ratios[0]) <= 1e-9 * abs(ratios[0]) for ratio in ratios)
    return ratios[0] if same else None
