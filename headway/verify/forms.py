r"""How an answer was read, as one line: what a verdict shows beside the text, so that a person sees why two are (not) equal.

    "\frac{2}{4}" -> "1/2"     "50\%" -> "50%"     "x = 3" -> "x = 3"     "(1,\ 0.5)" -> "(1, 1/2)"     "\text{east}" -> "east"

Rational values come in lowest terms, everything else in plain notation; what no rule reads is marked by "?". Different forms may
still be equal answers, by the rules (`equal`) or by algebra (`slow`): this file decides nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import gcd

from headway.verify.shape import Items, Matrix, Opaque, Relation, Shape, Value, Words, read

_PLAIN = re.compile(
    r"(-?)(?:([0-9]{1,40})(?:\.([0-9]{1,40}))?|\\[dt]?frac\{([0-9]{1,40})\}\{(0*[1-9][0-9]{0,40})\}|([0-9]{1,40})/(0*[1-9][0-9]{0,40}))"
)
_LONGEST = 200  # characters of a form
_MOST_BITS = 640  # of a number that is written out: some 190 digits


@lru_cache(maxsize=65_536)
def form(answer: str) -> str:
    r"""The form of an answer as written; "" for none.

    >>> form(r"\dfrac{6}{4}"), form("2x+1 "), form("")
    ('3/2', '2x+1', '')
    """
    plain = _PLAIN.fullmatch(answer)
    text = _form(read(answer)) if plain is None else _lowest(*plain.groups(""))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _lowest(sign: str, whole: str, decimals: str, *fraction: str) -> str:
    """An integer, decimal or fraction in lowest terms, from its written parts: most answers are one, and this is quick."""
    top, bottom, flat_top, flat_bottom = fraction
    above, below = (int(whole + decimals), 10 ** len(decimals)) if whole else (int(top or flat_top), int(bottom or flat_bottom))
    common = gcd(above, below)
    sign = sign if above else ""
    return f"{sign}{above // common}" if below == common else f"{sign}{above // common}/{below // common}"


def _form(shape: Shape) -> str:
    match shape:
        case Value() if shape.exact is None or max(map(int.bit_length, shape.exact.as_integer_ratio())) > _MOST_BITS:
            return shape.text + (f" {shape.unit}" if shape.unit and shape.unit not in shape.text else "")
        case Value():
            unit = f" {shape.unit}" if shape.unit else ""
            return f"{shape.exact}{'%' if shape.percent else ''}{unit}"
        case Words():
            return shape.text
        case Items():
            if shape.opener == "cup":
                return " ∪ ".join(_form(item) for item in shape.items)
            opener, closer = shape.opener.removeprefix("\\"), shape.closer.removeprefix("\\")
            return opener + ", ".join(_form(item) for item in shape.items) + closer
        case Matrix():
            return "[" + ", ".join("[" + ", ".join(_form(cell) for cell in row) + "]" for row in shape.rows) + "]"
        case Relation():
            return f"{_form(shape.left) if not shape.name else shape.name} {shape.operator} {_form(shape.right)}"
        case Opaque():
            return f"? {shape.text}" if shape.text else ""
