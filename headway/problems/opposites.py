r"""Words that make another problem of the same text: opposites in one place, and questions that ask for another quantity.

    "the minimum value"  | "the maximum value"         opposed(...)
    "How many apples are left?" | "How many apples were sold?"         asked_otherwise(...)

The tables hold words whose exchange changes what is asked; within a group the words of one line mean the same. They are closed lists of
English words: what they do not know, they do not object to. This file does not know numbers or formulas (`same` compares those).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

SAME_PLACE = 4  # words: longer replaced passages are rewritten, so opposite words in them prove nothing

_FIRM = """
    minimum minimal least smallest lowest fewest min shortest | maximum maximal greatest largest highest most biggest max longest
    even | odd
    acute | obtuse
    area areas | perimeter perimeters | volume volumes | circumference circumferences
    sine sin | cosine cos | tangent tan
    median | mode
    prime | composite
    increasing | decreasing
    clockwise | counterclockwise anticlockwise
    gcd | lcm
    quotient | remainder
    rows | columns
    horizontal | vertical
    surface | volume
"""
_IN_PLACE = """
    more greater older taller longer heavier higher larger bigger faster further | less fewer younger shorter lighter lower smaller slower
    increase increased increases add added adds raise raised gain gained up | decrease decreased decreases reduce reduced drop dropped down
    earn earned earns received receive receives gets got finds found bought buys buy | spent spend spends gave give gives sold lost loses lose
    plus | minus | times | divided
    sum | difference | product | quotient
    smaller smallest least minimum minimal lowest | larger largest greatest maximum maximal highest
    first | second | third | last | fourth
    before | after
    left remaining | total | sold | used
    radius | diameter | height | width | length | base | side | perimeter | area | volume
    mean average | median | mode | range
    profit | cost | revenue | price | loss
    discount | tax | tip
    minute minutes | hour hours | day days | week weeks | month months | year years | second seconds
    inch inches | feet foot | yard yards
    positive | negative | nonnegative | nonpositive
    square squared | cube cubed
    factor factors divisor divisors | multiple multiples
    rational | irrational
    inside | outside
    with | without
    squares | cubes
    union | intersection
    equal | unequal
    always | never
    won wins win | lost loses lose
    twice double doubled | half halved | thrice triple tripled
    arithmetic | geometric
    row | column
    centroid | orthocenter | circumcenter | incenter
    rotation | reflection
    hypotenuse | leg
    divides | multiplies
"""
_KINDS = """
    length: minute minutes | hour hours | days day | week weeks | month months | years year
    size: area | perimeter | volume | circumference | radius | diameter | width wide | height tall high
    share: left remain remains remaining unused leftover still | total altogether combined together sum overall | exceed exceeds outnumber than difference differ
    money: profit | spend spent cost costs pay paid price bill | earn earned revenue earnings receive
    statistic: mean average | median | mode
"""


def _groups(text: str) -> list[list[frozenset[str]]]:
    return [[frozenset(member.split()) for member in line.split("|")] for line in text.strip().splitlines()]


_FIRM_GROUPS = _groups(_FIRM)
_PLACE_GROUPS = _groups(_FIRM) + _groups(_IN_PLACE)
_KIND_GROUPS = _groups("\n".join(line.split(":")[1] for line in _KINDS.strip().splitlines()))
_CAN_OPPOSE = frozenset(word for group in _PLACE_GROUPS for member in group for word in member)


def opposed(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Opposite words of two texts (sequences of lower-case words): "minimum | maximum"; [] where there are none.

    Firm groups count wherever the words stand, if each side has one member and lacks the other; the rest only where one word
    replaces the other in otherwise equal surroundings.

    >>> opposed("find the minimum of the sum".split(), "find the maximum of the sum".split())
    ['opposites: minimum | maximum']
    """
    found = _exchanged(set(a), set(b), _FIRM_GROUPS)
    if found:
        return [found]
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "replace" and j - i <= SAME_PLACE and m - k <= SAME_PLACE:
            found = _exchanged(set(a[i:j]), set(b[k:m]), _PLACE_GROUPS)
            if found:
                return [found]
    return []


def _exchanged(a: set[str], b: set[str], groups: Sequence[Sequence[frozenset[str]]]) -> str:
    """The first group of which `a` has one member and `b` another, and neither has the other's."""
    for group in groups:
        for x in group:
            for y in group:
                if x is not y and x & a and y & b and not (y & a) and not (x & b):
                    return f"opposites: {min(x & a)} | {min(y & b)}"
    return ""


def asked_otherwise(
    asked_a: Sequence[str], asked_b: Sequence[str], rest_a: set[str], rest_b: set[str], minor: frozenset[str], kinds_a: set[str], kinds_b: set[str]
) -> str:
    """Do two questions about one story ask for different things? "" if not, else which.

    `asked` are the stems of the question itself, `rest` those of everything before it, `minor` stems that decide nothing (names apart),
    `kinds` the question's words as they stand. Three signs: another kind of quantity; each asks for a thing that both stories know
    and the other does not ask for; the story is word for word the same and the questions share next to nothing.
    """
    kind = _exchanged_kinds(kinds_a, kinds_b)
    if kind:
        return f"asked: {kind}"
    only_a, only_b = set(asked_a) - set(asked_b), set(asked_b) - set(asked_a)
    known_a = sorted(word for word in only_a - minor if word in rest_b and word in rest_a)
    known_b = sorted(word for word in only_b - minor if word in rest_a and word in rest_b)
    if known_a and known_b:
        return f"asked: {' '.join(known_a[:3])} | {' '.join(known_b[:3])}"
    size = len(rest_a) + len(rest_b)
    if size and 2 * len(rest_a & rest_b) >= 0.95 * size:
        shared = 2 * len(set(asked_a) & set(asked_b))
        total = len(set(asked_a)) + len(set(asked_b))
        if (total and shared < 0.5 * total) or known_a or known_b:
            return f"asked: {' '.join(sorted(only_a)[:4])} | {' '.join(sorted(only_b)[:4])}"
    return ""


def _exchanged_kinds(a: set[str], b: set[str]) -> str:
    for group in _KIND_GROUPS:
        in_a = [member for member in group if member & a]
        in_b = [member for member in group if member & b]
        if in_a and in_b and not any(member in in_b for member in in_a):
            return f"{min(in_a[0] & a)} | {min(in_b[0] & b)}"
    return ""
