"""Words that make another problem of the same text: opposites in one place, qualifiers, and words that have changed places.

    "the minimum value"  | "the maximum value"         opposed(...)
    "in how many ways"   | "in how many distinct ways" qualified(...)

The tables hold words whose exchange changes what is asked; within a group the words of one line mean the same. They are closed
lists of English words: what they do not know, they do not object to, but for contraries by a prefix (`morphology`). This file
does not know numbers or formulas (`conflict` compares those) nor which part of a text asks (`asking` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from headway.problems.likeness.morphology import contrary
from headway.problems.likeness.reading import STOP, stem

SAME_PLACE = 4  # words: longer replaced passages are rewritten, so opposite words in them prove nothing
FEW_CHANGES = 2  # places in which a text that was changed in earnest differs; a rewritten one has more

_FIRM = """
    minimum minimal least smallest lowest fewest min shortest | maximum maximal greatest largest highest most biggest
        max longest;
    even | odd;
    acute | obtuse;
    area areas | perimeter perimeters circumference circumferences | volume volumes;
    sine sin | cosine cos | tangent tan;
    median | mode;
    prime | composite;
    increasing | decreasing;
    clockwise | counterclockwise anticlockwise;
    gcd | lcm;
    quotient | remainder;
    rows | columns;
    horizontal | vertical;
    surface | volume;
    pentagon pentagonal | hexagon hexagonal | heptagon heptagonal | octagon octagonal | nonagon | decagon | dodecagon;
    tetrahedron | octahedron | icosahedron | dodecahedron;
"""
_IN_PLACE = """
    more greater older taller longer heavier higher larger bigger faster further | less fewer younger shorter lighter
        lower smaller slower;
    increase increased increases add added adds raise raised gain gained up | decrease decreased decreases reduce
        reduced drop dropped cut cuts down;
    gained gain gains added adds add joined | lost loses lose removed removes remove deleted gave left;
    earn earned earns received receive receives gets got finds found | spent spend spends gave give gives sold lost loses lose;
    bought buys buy | gave give gives sold sells sell lost loses lose;
    plus | minus | times | divided;
    sum | difference | product | quotient;
    smaller smallest least minimum minimal lowest | larger largest greatest maximum maximal highest;
    first | second | third | last | fourth;
    before | after;
    left remaining | total | sold | used;
    radius | diameter | height | width | length | base | side | perimeter | area | volume;
    mean average | median | mode | range;
    profit | cost price | revenue | loss;
    discount | tax | tip;
    minute minutes | hour hours | day days | week weeks | month months | year years | second seconds;
    inch inches | feet foot | yard yards;
    positive | negative | nonnegative | nonpositive;
    square squared | cube cubed;
    factor factors divisor divisors | multiple multiples;
    rational | irrational;
    real | imaginary;
    inside | outside;
    with | without;
    squares | cubes;
    union | intersection;
    equal | unequal;
    always | never;
    won wins win | lost loses lose;
    twice double doubled | half halved | thrice triple tripled;
    arithmetic | geometric;
    row | column;
    centroid | orthocenter | circumcenter | incenter;
    rotation | reflection;
    hypotenuse | leg;
    fewer less | as;
    original originally before | discounted reduced final after;
    divides | multiplies;
    later after late | earlier before ago early ahead;
    full filled | empty;
    average mean | total sum altogether;
    above over exceeds | below under;
    top upper | middle | bottom lower;
    north | south | east | west;
    am | pm;
    daily | weekly | monthly | yearly annually annual | hourly;
    weekday weekdays | weekend weekends;
    begin begins began begun start starts started | end ends ended finish finished;
    arrive arrives arrived enter enters entered joined join | leave leaves left depart departs departed exit quit;
    deposit deposits deposited | withdraw withdraws withdrew;
    borrow borrows borrowed | lend lends lent repaid;
    buy buys bought made makes got receives received | eaten eats ate eat used uses broke threw;
    correct correctly right | incorrect incorrectly wrong;
    true | false;
    heads | tails;
    inner | outer;
    closest nearest | farthest furthest;
    once | twice;
    only | all;
"""
_SAME = """
    begin start; finish end complete; buy purchase get; sell market; pay spend cost charge; earn make receive get; have own
    possess hold keep; need require; leave remain rest; give hand donate; big large; little small; child kid; student
    pupil; teacher instructor; money cash; total overall whole entire full; different distinct; find determine compute
    calculate evaluate; eat consume; use utilize employ; collect gather pick; friend pal; store shop; house home; work job;
    number count quantity amount; show display; answer solution result; likely probable; chance probability; equal same
    identical; percent percentage; fast quick; average mean; travel go drive walk; carry bring; produce make; finally end;
    far distance; long time duration; old age; heavy weigh; tall height; altogether all
"""
_QUALIFIED = """not isn't aren't don't doesn't | without | except other-than | distinct different |
repeat repeats repeated repeatable |
reflection reflections | rotation
    rotations | replacement | consecutive | prime primes | even | odd | negative | nonnegative | unless | ago | but |
exactly | at-most no-more | at-least no-fewer no-less"""


def groups(text: str) -> list[list[frozenset[str]]]:
    """A table: groups of members of words, "a b | c; d | e"."""
    return [[frozenset(member.split()) for member in line.split("|")] for line in text.split(";") if line.strip()]


_FIRM_GROUPS = groups(_FIRM)
_PLACE_GROUPS = groups(_FIRM) + groups(_IN_PLACE)
OPPOSABLE = frozenset(word for group in _PLACE_GROUPS for member in group for word in member)  # never one another misspelt
_QUALIFIERS = [frozenset(member.split()) for member in _QUALIFIED.split("|")]


_MEANINGS = [frozenset(map(stem, member.split())) for member in _SAME.split(";")]
_MEANINGS += [frozenset(map(stem, member)) for group in _PLACE_GROUPS for member in group if len(member) > 1]


def same_meaning(a: str, b: str) -> bool:
    """Are two stems known to mean the same, in one meaning at least?"""
    return any(a in meaning and b in meaning for meaning in _MEANINGS)


def opposed(a: Sequence[str], b: Sequence[str], is_verbatim: bool = True) -> list[str]:
    """Opposite words of two texts (sequences of lower-case words): "minimum | maximum"; [] where there are none.

    Firm groups count wherever the words stand, if each side has one member and lacks the other; the rest only where one word
    replaces the other in a text that is otherwise the same (`is_verbatim`): a rewriting may tell a thing from its other end.

    >>> opposed("find the minimum of the sum".split(), "find the maximum of the sum".split())
    ['opposites: minimum | maximum']
    """
    found = _exchanged(set(a), set(b), _FIRM_GROUPS)
    if found or not is_verbatim:
        return [found] if found else []
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "replace" and j - i <= SAME_PLACE and m - k <= SAME_PLACE:
            one, other = set(a[i:j]), set(b[k:m])
            found = _exchanged(one, other, _PLACE_GROUPS)
            found = found or next((f"contraries: {x} | {y}" for x in one - other for y in other - one if contrary(x, y)), "")
            if found:
                return [found]
    return []


def qualified(a: Sequence[str], b: Sequence[str]) -> str:
    """A qualifier that only one of two otherwise equal texts has ("distinct", "not", "reflection"), "" where there is none."""
    one, other = ({min(member) for member in _QUALIFIERS if member & kinds_of(side)} for side in (a, b))
    only = one ^ other
    return f"qualifier: {min(only)}" if only else ""


def exchanged_words(a: Sequence[str], b: Sequence[str]) -> str:
    """In `a`, a word of `b` that stands in the place of another word of `b`, in two otherwise equal texts; "" if there is none.

    Only where little else was changed and nothing moved. A new word for an old one is a synonym, or another name for a thing;
    one that the old text uses elsewhere is a change of what happens to what.

    >>> exchanged_words("he plants ten trees and plants two trees".split(), "he plants ten trees and cuts two trees".split())
    'exchanged: plant | cut'
    """
    one, other = ([word if word in STOP else stem(word) for word in side] for side in (a, b))
    found: list[tuple[str, str]] = []
    changes = moved = 0
    for kind, i, j, k, m in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "replace" and j - i <= SAME_PLACE and m - k <= SAME_PLACE:
            old, new = [[w for w in part if w not in STOP and len(w) > 2] for part in (one[i:j], other[k:m])]
            changes += bool(old or new)
            if old and new and {*new}.isdisjoint(old) and {*old} & {*other} and not same_meaning(old[0], new[0]):
                found.append((old[0], new[0]))
        elif kind != "equal":
            moved += max(j - i, m - k)
    if not found or changes > FEW_CHANGES or moved > SAME_PLACE:
        return ""
    return f"exchanged: {found[0][0]} | {found[0][1]}"


def _exchanged(a: set[str], b: set[str], groups: Sequence[Sequence[frozenset[str]]]) -> str:
    """The first group of which `a` has one member and `b` another, and neither has the other's."""
    for group in groups:
        for x in group:
            for y in group:
                if x is not y and x & a and y & b and not (y & a) and not (x & b):
                    return f"opposites: {min(x & a)} | {min(y & b)}"
    return ""


def kinds_of(words: Sequence[str]) -> set[str]:
    """The words of a text, and its pairs of words that mean one thing ("in all", "other than", "at most")."""
    words = ["earn" if word in ("pay", "paid") and i and words[i - 1] in _PAID else word for i, word in enumerate(words)]
    return {*words, *(pair for a, b in pairwise(words) if (pair := f"{a}-{b}") in _PAIRS)}


_PAID = frozenset(["her", "his", "their", "my", "your", "is", "are", "was", "were", "be", "been", "get", "gets", "net"])
_PAIRS = frozenset(
    ["in-all", "other-than", "at-most", "at-least", "no-more", "no-fewer", "no-less", "by-how", "by-what", "each-other"]
)
