"""Are two answers the same mathematics? The exact fast path (first version: literal text and rational numbers)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}")
_RATIO = re.compile(r"([+-]?[0-9]{1,300})/([0-9]{1,300})|([+-]?[0-9]{0,300}\.[0-9]{1,300})")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two answers are the same (None: the fast path cannot tell), and a short code of why."""

    same: bool | None
    reason: str


def _number(text: str) -> Fraction | None:
    if _INTEGER.fullmatch(text):
        return Fraction(int(text))
    match = _RATIO.fullmatch(text)
    if match is None:
        return None
    if match.group(3):
        return Fraction(match.group(3)) if match.group(3).strip("+-.") else None
    return Fraction(int(match.group(1)), int(match.group(2))) if int(match.group(2)) else None


def same_answer(reference: str, answer: str) -> Comparison:
    """Whether `answer` is `reference`."""
    reference, answer = (text.strip().replace("$", "").replace(",", "") for text in (reference, answer))
    if reference == answer:
        return Comparison(True, "identical")
    left, right = _number(reference), _number(answer)
    if left is not None and right is not None:
        return Comparison(left == right, "numbers_equal" if left == right else "numbers_differ")
    return Comparison(None, "undecided")
