r"""Words that make another problem of the same text: opposites in one place, and questions that ask for another quantity.

    "the minimum value"  | "the maximum value"         opposed(...)
    "How many apples are left?" | "How many apples were sold?"         asked_otherwise(...)

The tables hold words whose exchange changes what is asked; within a group the words of one line mean the same. They are closed
lists of English words: what they do not know, they do not object to. This file does not know numbers or formulas (`same`
compares those).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from headway.problems.reading import STOP, stem

SAME_PLACE = 4  # words: longer replaced passages are rewritten, so opposite words in them prove nothing
ONE_STORY = 0.8  # of the words of two stories together, from which on "left" against "in all" is a difference
FEW_CHANGES = 2  # places in which a text that was changed in earnest differs; a rewritten one has more
SAME_STORY = 0.9  # of two stories' words in order, from which on nothing but the question was changed
BEGINNING = 3  # stems of a question that name what it is about

_FIRM = """
    minimum minimal least smallest lowest fewest min shortest | maximum maximal greatest largest highest most biggest
        max longest;
    even | odd;
    acute | obtuse;
    area areas | perimeter perimeters | volume volumes | circumference circumferences;
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
        reduced drop dropped down;
    gained gain gains added adds add joined | lost loses lose removed removes remove deleted gave left;
    earn earned earns received receive receives gets got finds found bought buys buy | spent spend spends gave give
        gives sold lost loses lose;
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
_QUALIFIED = """not isn't aren't don't doesn't | without | except other-than | distinct different |
repeat repeats repeated repeatable |
reflection reflections | rotation
    rotations | replacement | consecutive | prime primes | even | odd | negative | nonnegative | unless | ago | but"""
_KINDS = """
    length: minute minutes | hour hours | days day | week weeks | month months | years year;
    size: area | perimeter | volume | circumference | radius | diameter | width wide | height tall high;
    share: left remain remains remaining unused leftover still | total altogether combined together sum overall in-all |
        exceed exceeds outnumber than difference differ;
    money: profit | spend spent cost costs pay paid price bill | earn earned revenue earnings receive;
    statistic: mean average | median | mode;
"""


def _groups(text: str) -> list[list[frozenset[str]]]:
    return [[frozenset(member.split()) for member in line.split("|")] for line in text.split(";") if line.strip()]


_FIRM_GROUPS = _groups(_FIRM)
_PLACE_GROUPS = _groups(_FIRM) + _groups(_IN_PLACE)
_KIND_GROUPS = _groups(";".join(line.split(":")[1] for line in _KINDS.split(";") if line.strip()))
OPPOSABLE = frozenset(word for group in _PLACE_GROUPS for member in group for word in member)  # never one another misspelt
_QUALIFIERS = [frozenset(member.split()) for member in _QUALIFIED.split("|")]
_LOOSE = frozenset(word for member in _KIND_GROUPS[2] for word in member)
_ONE_SIDED = _groups(
    "left remain remains remaining unused leftover | exceed exceeds outnumber than difference differ more further additional"
    " extra"
)[0]
_MINOR_WORDS = """
    minut hour day week month year dollar cent money inch foot pound mile ounc number amount long far
"""
_MINOR = frozenset(_MINOR_WORDS.split())
_PRONOUNS = frozenset(["he", "she", "they", "it", "his", "her", "their"])


def opposed(a: Sequence[str], b: Sequence[str], in_order: bool = True) -> list[str]:
    """Opposite words of two texts (sequences of lower-case words): "minimum | maximum"; [] where there are none.

    Firm groups count wherever the words stand, if each side has one member and lacks the other; the rest only where one word
    replaces the other in otherwise equal surroundings; where the two are not `in_order`, only if one side has more of
    them, since sentences move.

    >>> opposed("find the minimum of the sum".split(), "find the maximum of the sum".split())
    ['opposites: minimum | maximum']
    """
    found = _exchanged(set(a), set(b), _FIRM_GROUPS)
    if found:
        return [found]
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "replace" and j - i <= SAME_PLACE and m - k <= SAME_PLACE:
            one, other = set(a[i:j]), set(b[k:m])
            found = _exchanged(one, other, _FIRM_GROUPS)
            if not in_order:
                one, other = ({word for word in words if a.count(word) != b.count(word)} for words in (one, other))
            found = found or _exchanged(one, other, _PLACE_GROUPS)
            if found:
                return [found]
    return []


def qualified(a: Sequence[str], b: Sequence[str]) -> str:
    """A qualifier that only one of two otherwise equal texts has ("distinct", "not", "reflection"), "" where there is none."""
    one, other = ({min(member) for member in _QUALIFIERS if member & _kinds(side)} for side in (a, b))
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
            if old and new and {*new}.isdisjoint(old) and {*old} & {*other}:
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


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question asks, and the story it asks it of: `words` as they stand, `stems` in order, the `names` among the stems,
    the `variables` asked for, the `head` (the two stems behind "how many"), and the stems and variables (`letters`) of the
    `story`
    before; `neighbours` are the pairs of neighbouring tokens of the whole text."""

    words: tuple[str, ...]
    stems: tuple[str, ...]
    names: frozenset[str]
    variables: frozenset[str]
    head: tuple[str, ...]
    story: frozenset[str]
    letters: frozenset[str]
    neighbours: frozenset[tuple[str, str]]


def asked_otherwise(a: Asked, b: Asked, story: float) -> str:
    """Do two questions about one story ask for different things? "" if not, else which.

    `story` is the share of the two stories' words that stand in the same order. Signs: another kind of quantity; another thing
    counted that both stories know; another variable; another person; in a story that was hardly rewritten also another thing
    that both stories know. Where the story is word for word the same, also: hardly a word shared, a comparison or a rest on one
    side only, a name on one side only, or a small difference by a word that the story knows.
    """
    kind = _exchanged_kinds(_kinds(a.words), _kinds(b.words))
    alike = 2 * len(a.story & b.story) / max(1, len(a.story) + len(b.story))
    if kind and (alike >= ONE_STORY or not {*kind.split(" | ")} & _LOOSE):
        return f"asked: {kind}"
    is_other_head = a.head and b.head and not {*a.head} & {*b.stems} and not {*b.head} & {*a.stems}
    if is_other_head and _is_compound(a, b):  # "20 pieces of pomelos": how many pieces, how many pomelos
        is_other_head = False
    if is_other_head and {*a.head} & b.story and {*b.head} & a.story:
        return f"asked: {' '.join(a.head)} | {' '.join(b.head)}"
    if a.variables and b.variables and not a.variables & b.variables and a.variables <= b.letters and b.variables <= a.letters:
        return f"asked: {' '.join(sorted(a.variables))} | {' '.join(sorted(b.variables))}"
    for names in (True, False) if story >= ONE_STORY else (True,):
        only_a = [word for word in _known(a, b, names, BEGINNING) if word not in _MINOR]
        only_b = [word for word in _known(b, a, names, BEGINNING) if word not in _MINOR]
        if only_a and only_b:
            return f"asked: {only_a[0]} | {only_b[0]}"
    if story >= SAME_STORY:
        return _differs_in_one_story(a, b)
    return ""


def _is_compound(a: Asked, b: Asked) -> bool:
    """Do the two things counted stand side by side in one of the texts, so that they are one thing?"""
    return any({(x, y), (y, x)} & (a.neighbours | b.neighbours) for x in a.head for y in b.head)


def _differs_in_one_story(a: Asked, b: Asked) -> str:
    """`asked_otherwise` where the stories are word for word the same."""
    shared, total = 2 * len({*a.stems} & {*b.stems}), len({*a.stems}) + len({*b.stems})
    kinds_a, kinds_b = _kinds(a.words), _kinds(b.words)
    known_a, known_b = _known(a, b, None, 99), _known(b, a, None, 99)
    is_one_word = bool((known_a and ({*b.stems} <= {*a.stems} or known_b)) or (known_b and {*a.stems} <= {*b.stems}))
    names = bool({*a.stems} & a.names) != bool({*b.stems} & b.names) and any(w in a.names | b.names for w in known_a + known_b)
    has_pronoun = bool(_PRONOUNS & {*a.words, *b.words})
    ratio = SequenceMatcher(None, a.words, b.words, autojunk=False).ratio()
    other_head = a.head and b.head and not {*a.head} & {*b.head}
    if other_head and a.head[0] in (*b.story, *b.stems) and b.head[0] in (*a.story, *a.stems):
        return f"asked: {' '.join(a.head)} | {' '.join(b.head)}"
    others = any((one & kinds_a and not one & kinds_b) or (one & kinds_b and not one & kinds_a) for one in _ONE_SIDED)
    if (a.stems and b.stems and shared < 0.5 * total) or others or (names and not has_pronoun) or (is_one_word and ratio >= 0.6):
        return f"asked: {' '.join(a.words[:8])} | {' '.join(b.words[:8])}"
    return ""


def _kinds(words: Sequence[str]) -> set[str]:
    """The words of a question, with "in all" and "other than" as one each."""
    return {*words, *(f"{a}-{b}" for a, b in pairwise(words) if (a, b) in (("in", "all"), ("other", "than")))}


def _known(a: Asked, b: Asked, names: bool | None, length: int) -> list[str]:
    """The stems among the first `length` that `a` asks for, `b` does not, and both stories know: names, others or all."""
    return [
        stem
        for stem in a.stems[:length]
        if stem not in b.stems and stem in a.story and stem in b.story and (names is None or (stem in a.names) is names)
    ]


def _exchanged_kinds(a: set[str], b: set[str]) -> str:
    for group in _KIND_GROUPS:
        in_a = [member for member in group if member & a]
        in_b = [member for member in group if member & b]
        if in_a and in_b and not any(member in in_b for member in in_a):
            return f"{min(in_a[0] & a)} | {min(in_b[0] & b)}"
    return ""
