r"""What kind of thing an answer is: a value, a word, a list, a tuple, a set, an interval, a matrix, a relation.

    "x = -5,\ p = \frac{14}{3}"  -->  Items("", (Relation("=", x, Value(-5)), Relation("=", p, Value(14/3))), "")

It does not compare anything (`equal` does) and does not evaluate more than one number at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from headway.verify import numbers
from headway.verify.expression import Tree, Unreadable, parse
from headway.verify.notation import enclosed, plain, split
from headway.verify.units import PERCENT, is_measured, split_unit

MAX_ANSWER = 8_000  # characters of an answer that is looked into
MAX_ITEMS = 64


@dataclass(frozen=True, slots=True)
class Value:
    """One expression. `exact` is its rational value or None; `decimals` its written decimal places or None."""

    text: str
    tree: Tree
    exact: Fraction | None
    decimals: int | None = None
    percent: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """Plain words: `east`, `the empty set`."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list: bare ("" and ""), a tuple, an interval or a set, by its brackets. A union is open with "cup"."""

    opener: str
    items: tuple["Shape", ...]
    closer: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of cells, all of one length."""

    rows: tuple[tuple["Shape", ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """left op right; `is_named` where the left side is only a name for the right one (`x = 5`, `f(x) = …`)."""

    operator: str
    left: "Shape"
    right: "Shape"
    name: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Opaque:
    """What none of our rules reads."""

    text: str


Shape = Value | Words | Items | Matrix | Relation | Opaque

_PLAIN_NUMBER = re.compile(r"([+-]?) ?([0-9]{1,400}|[0-9]{1,3}(?:,[0-9]{3}){1,100})?(?:\.([0-9]{0,400}))?")
_PLAIN_FRACTION = re.compile(
    r"([+-]?) ?(?:\\frac *\{([+-]?[0-9]{1,400})\} *\{([0-9]{1,400})\}|([0-9]{1,400}) ?/ ?([0-9]{1,400}))"
)
_MATRIX = re.compile(r"\\begin ?\{([pb]?matrix|array|smallmatrix)\}(?:\{[lcr| ]*\})?(.*)\\end ?\{\1\}", re.DOTALL)
_NAME_PART = r"(?:\\?[A-Za-z]+(?: ?_ ?(?:\{[^{}]{1,24}\}|\\?[A-Za-z0-9]+))?'*(?:\([A-Za-z0-9, ]{1,24}\)|\{\([A-Za-z]\)\})?)"
_NAME = re.compile(rf"\(? ?{_NAME_PART}(?: ?[,:] ?{_NAME_PART}){{0,8}} ?\)?")
_RELATIONS = frozenset({"=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\approx"})
_FLIPPED = {">": "<", "\\ge": "\\le"}
_WORD_TEXT = re.compile(r"[A-Za-zÀ-ɏ]+(?:[ '’.\-]{1,2}[A-Za-zÀ-ɏ]+)*\.?|[^\x00-ɏ]+")
_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_FUNCTION_WORDS = re.compile(
    r"\\?(?:sqrt|sin|cos|tan|sec|csc|cot|log|ln|exp|pi|abs|Abs|arc\w+|asin|acos|atan|floor|ceil|infinity|infty|oo|theta|alpha|beta)"
)


@lru_cache(maxsize=8_192)
def read(text: str) -> Shape:
    """The shape of an answer as written. Cached, because a problem's reference is read once for each rollout."""
    if len(text) > MAX_ANSWER:
        return Opaque(text)
    return _shape(plain(text), 0)


def is_readable(shape: Shape) -> bool:
    """Whether our rules read all of it: no part of `shape` is opaque."""
    if isinstance(shape, Opaque):
        return False
    if isinstance(shape, Items):
        return all(is_readable(item) for item in shape.items)
    if isinstance(shape, Matrix):
        return all(is_readable(cell) for row in shape.rows for cell in row)
    if isinstance(shape, Relation):
        return is_readable(shape.right) and (bool(shape.name) or is_readable(shape.left))
    return True


def quick_number(text: str) -> Value | None:
    """The value of a plain integer, decimal or fraction, without reading it as an expression."""
    match = _PLAIN_NUMBER.fullmatch(text)
    if match and (match.group(2) or match.group(3)):
        sign, whole, decimals = match.groups()
        digits = (whole or "0").replace(",", "")
        value = Fraction(int(digits + (decimals or "")), 10 ** len(decimals or ""))
        value = -value if sign == "-" else value
        return Value(text, ("num", value, "decimal" if decimals else "whole"), value, len(decimals) if decimals else None)
    match = _PLAIN_FRACTION.fullmatch(text)
    if match:
        sign, top, bottom, flat_top, flat_bottom = match.groups()
        below = int(bottom or flat_bottom)
        if below:
            value = Fraction(int(top or flat_top), below)
            value = -value if sign == "-" else value
            return Value(text, ("num", value), value)
    return None


def _shape(text: str, depth: int) -> Shape:
    text = text.strip()
    number = quick_number(text)
    if number is not None:
        return number
    if not text or depth > 8 or "\\dots" in text:
        return Opaque(text)
    if text.startswith("\\text") and _TEXT.fullmatch(text):
        inner = _TEXT.sub(r"\1", text).strip()
        if inner and not _WORD_TEXT.fullmatch(inner):
            return _shape(inner, depth + 1)
    if "," in text and is_measured(text):
        return _value(text.replace(",", ""))
    words = _words(text)
    if words is not None:
        return words
    return (
        _matrix(text, depth)
        or _listed(text, depth)
        or _bracketed(text, depth)
        or _related(text, depth)
        or _both_signs(text, depth)
        or _value(text)
    )


def _words(text: str) -> Words | None:
    unwrapped = _TEXT.sub(r"\1", text).strip() if "\\text" in text else text
    if "\\" in unwrapped or not _WORD_TEXT.fullmatch(unwrapped):
        return None
    if re.search(r"(?:^| )(?:and|or)(?: |$)", unwrapped) and len(unwrapped.split()) < 6:
        return None
    if unwrapped is text:
        runs = re.findall(r"[^\W\d_]+", text)
        shortest = 3 if "-" in text else 2
        is_prose = max(map(len, runs), default=0) > 2 and all(len(run) >= shortest or run in ("a", "A", "I") for run in runs)
        if not is_prose or _FUNCTION_WORDS.fullmatch(text):
            return None
    unwrapped = " ".join(unwrapped.split()).strip(". ")
    return Words(unwrapped) if len(unwrapped) > 1 else None


def _matrix(text: str, depth: int) -> Shape | None:
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match.group(2):
        return None
    rows = [row.split("&") for row in re.split(r"\\\\|\\cr(?![a-z])", match.group(2).replace("\\hline", ""))]
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows or len({len(row) for row in rows}) > 1 or sum(map(len, rows)) > 1_024:
        return Opaque(text)
    return Matrix(tuple(tuple(_shape(cell, depth + 1) for cell in row) for row in rows))


def _listed(text: str, depth: int) -> Shape | None:
    """A bare list: separated by ; or else by commas, "and", "or"; or a union."""
    unwrapped = re.sub(r"\\text ?\{ ?,? ?(and|or|,) ?\}", r" \1 ", text)
    pieces, found = split(unwrapped, frozenset(";"))
    if not found:
        pieces, found = split(unwrapped, frozenset({",", "and", "or"}))
    if found:
        pieces = [piece.strip() for piece in pieces]
        pieces = [piece for piece in pieces if piece]
        if not 2 <= len(pieces) <= MAX_ITEMS:
            return _shape(pieces[0], depth + 1) if len(pieces) == 1 and len(found) == 1 else Opaque(text)
        return Items("", tuple(_shape(piece, depth + 1) for piece in pieces), "", text)
    pieces, found = split(text, frozenset({"\\cup"}))
    if found and len(pieces) <= MAX_ITEMS:
        parts = tuple(_shape(piece, depth + 1) for piece in pieces)
        if all(isinstance(part, Items) and part.opener == "\\{" for part in parts):
            return Items("\\{", tuple(item for part in parts if isinstance(part, Items) for item in part.items), "\\}", text)
        return Items("cup", parts, "cup", text)
    return None


def _bracketed(text: str, depth: int) -> Shape | None:
    """A tuple, an interval, a set, or a needless pair of brackets around something else."""
    held = enclosed(text)
    if held is None:
        return Items("\\{", (), "\\}") if text in ("\\emptyset", "\\{ \\}") else None
    opener, inside, closer = held
    pieces, found = split(inside, frozenset(";"))
    if not found:
        pieces, found = split(inside, frozenset(","))
    if opener == "{" and closer == "}":
        opener, closer = ("\\{", "\\}") if found else ("", "")
    if not found and inside.strip().startswith("\\begin"):
        return _shape(inside, depth + 1)
    if not found and opener != "\\{":
        return _shape(inside, depth + 1) if (opener, closer) in (("(", ")"), ("", "")) else None
    if opener == "\\{" and not found and (":" in inside or "\\mid" in inside or "|" in inside):
        return Opaque(text)
    if len(pieces) > MAX_ITEMS:
        return Opaque(text)
    pieces = [piece for piece in pieces if piece.strip()] if opener == "\\{" else pieces
    shapes: list[Shape] = []
    for piece in pieces:
        item = _shape(piece, depth + 1)
        if opener == "\\{" and isinstance(item, Items) and not item.opener:
            shapes.extend(item.items)
        else:
            shapes.append(item)
    return Items(opener, tuple(shapes), closer, text)


def _related(text: str, depth: int) -> Shape | None:
    """An equation, a named value, an inequality, or a ratio."""
    pieces, found = split(text.replace("==", "="), _RELATIONS)
    if not found:
        pieces, found = split(text, frozenset(":"))
        if not found or not all(piece.strip() for piece in pieces):
            return None
        return Items(":", tuple(_shape(piece, depth + 1) for piece in pieces), ":", text)
    pieces = [piece.strip() for piece in pieces]
    if not all(pieces) or len(pieces) > 4:
        return Opaque(text)
    named = ""
    if set(found) <= {"=", "\\in", "\\approx"} and _NAME.fullmatch(pieces[0]):
        named = re.sub(r"[\s{}()\\]", "", pieces[0])
        rest = _shape(pieces[-1], depth + 1)
        if len(pieces) > 2 and not _same_numbers([_shape(piece, depth + 1) for piece in pieces[1:]]):
            return Opaque(text)
        return Relation("=", Opaque(pieces[0]), rest, named, text)
    shapes = [_shape(piece, depth + 1) for piece in pieces]
    if set(found) <= {"=", "\\approx"}:
        if _same_numbers(shapes):
            return shapes[-1]
        return Relation("=", shapes[0], shapes[1], "", text) if len(shapes) == 2 else Opaque(text)
    if len(found) == 1:
        flipped = _FLIPPED.get(found[0])
        left, right = (shapes[1], shapes[0]) if flipped else (shapes[0], shapes[1])
        return Relation(flipped or found[0], left, right, "", text)
    if len(found) == 2 and set(found) <= {"<", "\\le"}:
        return Items("<" + found[0], tuple(shapes), found[1], text)
    if len(found) == 2 and set(found) <= {">", "\\ge"}:
        return Items("<" + _FLIPPED[found[1]], tuple(reversed(shapes)), _FLIPPED[found[0]], text)
    return Opaque(text)


def _same_numbers(shapes: list[Shape]) -> bool:
    """Whether all shapes are numbers, and the same one (a chain 3/2 = 1.5)."""
    first = shapes[0]
    return isinstance(first, Value) and all(
        isinstance(shape, Value)
        and not numbers.variables(shape.tree)
        and not numbers.variables(first.tree)
        and numbers.same_value(first.tree, shape.tree)
        for shape in shapes
    )


def _both_signs(text: str, depth: int) -> Shape | None:
    """a \\pm b is the list of a + b and a - b."""
    if text.count("\\pm") + text.count("\\mp") != 1:
        return None
    sign = "\\pm" if "\\pm" in text else "\\mp"
    return Items("", (_shape(text.replace(sign, "+"), depth + 1), _shape(text.replace(sign, "-"), depth + 1)), "", text)


def _value(text: str) -> Shape:
    """One expression with what may surround it: currency, percent, unit."""
    core, unit = split_unit(text)
    percent = unit == PERCENT
    return _read_value(core, text, percent, "" if percent else unit) or _read_value(text, text, False, "") or Opaque(text)


def _read_value(core: str, text: str, percent: bool, unit: str) -> Value | None:
    number = quick_number(core)
    if number is not None:
        return Value(text, number.tree, number.exact, number.decimals, percent, unit)
    core = _TEXT.sub(r" \1 ", core) if "\\text" in core and not re.search(r"\\text ?\{[^{}]{2,}\}", core) else core
    try:
        tree = parse(core)
        return Value(text, tree, numbers.exact(tree), None, percent, unit)
    except (Unreadable, ZeroDivisionError):
        return None
