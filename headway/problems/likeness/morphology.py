"""How two English words are related by their form: one a part or a derivation of the other, or its contrary by a prefix.

    akin       bookshelf ~ shelf    mathematical ~ mathematics    equally ~ equal    arrangement ~ arrange
    contrary   overstate | understate    increase | decrease    include | exclude    lucky | unlucky    useful | useless

No list of words, only of prefixes: what only looks alike ("contest", "content") is kept apart by length. This file does not know
which words stand where (`same` and `opposites` do).
"""

from __future__ import annotations

from itertools import takewhile

ROOT = 5  # letters that two derivations of one word share in front
PART = 4  # letters of the shorter word of a compound
ENDING = 5  # letters that may differ behind the root
_TURNED = (
    ("over", "under"), ("in", "de"), ("in", "ex"), ("im", "ex"), ("in", "out"), ("up", "down"), ("for", "back"),
    ("pre", "post"), ("max", "min"), ("as", "de"),
)  # fmt: skip
_NEGATED = ("un", "in", "im", "ir", "il", "dis", "non", "mis", "counter", "anti")


def akin(a: str, b: str) -> bool:
    """Is one of two stems a part of the other (a compound), or are both derived from one root?

    >>> akin("bookshelv", "shelf"), akin("probability", "probabl"), akin("contest", "content")
    (True, True, False)
    """
    short, long = (a, b) if len(a) <= len(b) else (b, a)
    if len(short) < PART or (short[:3] != long[:3] and not long.endswith(short[:-1], 0, len(long) - 1)):
        return False  # the commonest case, without further ado
    short, long = (word[:-1] + "f" if word[-1] == "v" else word for word in (short, long))
    if contrary(short, long):
        return False
    if long.startswith(short) or (long.endswith(short) and len(long) - len(short) >= 3):
        return True
    if _compared(short) == _compared(long):
        return True
    a, b = short, long
    root = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    return root > ROOT and len(long) - root <= ENDING


def _compared(word: str) -> str:
    return word.removesuffix("est").removesuffix("er")  # faster ~ fastest


def contrary(a: str, b: str) -> bool:
    """Does a prefix (or "-ful" against "-less") make two words contraries?

    >>> contrary("overstating", "understating"), contrary("clockwise", "counterclockwise"), contrary("book", "shelf")
    (True, True, False)
    """
    for one, other in ((a, b), (b, a)):
        if any(one.startswith(x) and other.startswith(y) and len(one) > len(x) + 2 and one[len(x) :] == other[len(y) :]
               for x, y in _TURNED):  # fmt: skip
            return True
        if len(one) >= PART and other.endswith(one) and other[: -len(one)] in _NEGATED:
            return True
        if one.endswith("ful") and other == one[:-3] + "less":
            return True
    return False
