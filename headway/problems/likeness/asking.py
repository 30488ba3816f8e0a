"""Do two questions ask the same of one story?

    "How many apples are left?"          | "How many apples were sold?"             another quantity
    "How many did Ann sell?"             | "How many did they sell together?"       one person, or all of them
    "What is the difference?"            | "What do both cost?"                     a difference, or none
    "How much did he pay?"               | "How much did he save?"                  the same story word for word: any other thing

The closer the stories, the less is needed, as everywhere in `conflict`, which calls this file. It does not know numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from headway.problems.likeness.morphology import akin
from headway.problems.likeness.opposites import groups, kinds_of, same_meaning
from headway.problems.likeness.reading import stem

ONE_STORY = 0.8  # of the words of two stories together, from which on "left" against "in all" is a difference
SAME_STORY = 0.9  # of two stories' words in order, from which on nothing but the question was changed
IDENTICAL = 0.97  # from which on any other content word of the question was meant
STORY = 3  # stems of a story that can be called the same
BEGINNING = 3  # stems of a question that name what it is about

_KINDS = """
    length: minute minutes | hour hours | days day | week weeks | month months | years year;
    size: area | perimeter circumference | volume | radius | diameter | width wide | height tall high;
    share: left remain remains remaining unused leftover still | total altogether combined together sum overall in-all |
        exceed exceeds outnumber than difference differ;
    money: profit | spend spent cost costs pay paid price bill | earn earned revenue earnings receive;
    statistic: mean average | median | mode;
    time: now currently today presently nowadays | then originally initially ago before;
"""
_KIND_GROUPS = groups(";".join(line.split(":")[1] for line in _KINDS.split(";") if line.strip()))
_TIME = frozenset(word for member in _KIND_GROUPS[0] for word in member)
_BEFORE_UNIT = frozenset(["many", "of", "more", "fewer", "less", "additional", "extra", "full", "what", "which", "total"])
_TIME_STEMS = frozenset(map(stem, _TIME)) | {"time", "second"}
_LOOSE = frozenset(word for i in (2, 5) for member in _KIND_GROUPS[i] for word in member)
_ONE_SIDED = groups(
    "left remain remains remaining unused leftover | exceed exceeds outnumber than difference differ more further additional"
    " extra"
)[0]
_MINOR_WORDS = """
    minut hour day week month year dollar cent money inch foot pound mile ounc number amount long far either
"""
_MINOR = frozenset(_MINOR_WORDS.split())
_CALENDAR_WORDS = """
    monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september
    october november december
"""
_CALENDAR = frozenset(map(stem, _CALENDAR_WORDS.split()))
_PRONOUNS = frozenset(["he", "she", "they", "it", "his", "her", "their"])
_ONE = frozenset(["he", "she", "his", "her"])
_ALL = frozenset(["both", "together", "combined", "altogether"])
_SUM = frozenset(["total", "altogether", "combined", "together", "sum", "in-all"])
_DIFFERENCE = frozenset(["difference", "differ", "exceed", "exceeds", "outnumber", "outnumbers"])
_DIFFERENCE_WORDS = """
    more fewer less greater larger smaller bigger longer shorter taller higher lower faster slower older younger heavier
    lighter further farther extra additional increase decrease change gain loss left over short excess surplus ahead
    behind beyond than by-how by-what
"""
_MONEY_WORDS = """
    money spend spends spent pay pays paid cost costs charge charged price worth earn earns earned owe owes profit revenue
    dollar dollars cent cents
"""
_MONEY = frozenset(_MONEY_WORDS.split())
_CASH = frozenset(["dollar", "cent", "money", "dollars", "cents"])
_RATIO = frozenset(["percent", "percentage", "percentages", "fraction", "ratio", "proportion", "probability", "likely", "chance"])
_MAYBE_DIFFERENCE = _DIFFERENCE | frozenset(_DIFFERENCE_WORDS.split())


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question asks, and the story it asks it of: `words` as they stand, `stems` in order, the `names` among the stems,
    the `variables` asked for, the `head` (the two stems behind "how many"), and the stems and variables (`letters`) of the
    `story` before; `neighbours` are the pairs of neighbouring tokens of the whole text, and `measured` the stems behind a number
    in the question ("an 8 hour day" asks for no hours)."""

    words: tuple[str, ...]
    stems: tuple[str, ...]
    names: frozenset[str]
    variables: frozenset[str]
    head: tuple[str, ...]
    story: frozenset[str]
    letters: frozenset[str]
    neighbours: frozenset[tuple[str, str]]
    measured: frozenset[str]


def asked_otherwise(a: Asked, b: Asked, story: float) -> str:
    """Do two questions about one story ask for different things? "" if not, else which.

    `story` is the share of the two stories' words that stand in the same order. Signs: another kind of quantity; another thing
    counted that both stories know; another variable; another person; in a story that was hardly rewritten also another thing
    that both stories know. Where the story is word for word the same, also: hardly a word shared, a comparison or a rest on one
    side only, a name on one side only, or a small difference by a word that the story knows.
    """
    kinds_a, kinds_b = kinds_of(a.words), kinds_of(b.words)
    kind = _exchanged_kinds(kinds_a - _TIME, kinds_b - _TIME)
    units_a, units_b = _units(a), _units(b)
    kind = kind or _exchanged_kinds(units_a[0], units_b[0]) or _exchanged_kinds(units_a[1], units_b[1])
    for sought, others, head in ((units_a[0], units_b[0], b.head), (units_b[0], units_a[0], a.head)):
        if sought and not others and head and not {*head} & _TIME_STEMS:
            return f"asked: {min(sought)} | {head[0]}"
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
    other = _other_share(a, b, alike)
    if not other and story >= SAME_STORY:
        other = _differs_in_one_story(a, b)
    if not other and story >= IDENTICAL and min(len(a.story), len(b.story)) >= STORY:
        other = _differs_in_a_word(a, b) or _differs_in_the_head(a, b)
    if not other and not a.story and not b.story:
        other = _differs_in_one_place(a, b)
    return other


def _units(asked: Asked) -> tuple[set[str], set[str]]:
    """The units of time that are asked for ("how many days", "in minutes"), and all others ("each day", "in a week"); none
    behind a number ("an 8 hour day")."""
    units = [(word, unit) for word, unit in pairwise(asked.words) if unit in _TIME and stem(unit) not in asked.measured]
    sought = {unit for word, unit in units if word in _BEFORE_UNIT or (word == "in" and unit[-1] == "s")}
    return sought, {unit for _, unit in units} - sought


def _other_share(a: Asked, b: Asked, alike: float) -> str:
    """One person's share against that of all, or a difference against a sum or a plain quantity."""
    kinds_a, kinds_b = kinds_of(a.words), kinds_of(b.words)
    for one, kinds, other, others in ((a, kinds_a, b, kinds_b), (b, kinds_b, a, kinds_a)):
        is_one = (
            len({*one.stems} & one.names) == 1 and not _ALL & kinds and {*one.stems} & one.names <= {*other.story, *other.stems}
        )
        is_all = _ALL & others and not _ONE & others and not {*one.stems} & one.names & {*other.stems}
        if is_one and is_all and len((one.names & {*one.story, *one.stems}) & {*other.story, *other.stems}) > 1:
            return "asked: one | all"
        if (
            ("how", "much") in pairwise(one.words)
            and _MONEY & kinds
            and not _MONEY & others
            and other.head
            and not _CASH & {*other.head}
        ):
            return f"asked: money | {other.head[0]}"
        if _RATIO & kinds and not _RATIO & others and _is_count(other) and not _is_count(one):
            return "asked: a share | a number"
        if (
            (_DIFFERENCE & kinds or ("than" in kinds and _compares(one.words)))
            and not _MAYBE_DIFFERENCE & others
            and (_SUM & others or alike >= ONE_STORY)
        ):
            return "asked: a difference | none"
    return ""


def _is_count(asked: Asked) -> bool:
    return ("how", "many") in pairwise(asked.words)


def _compares(words: tuple[str, ...]) -> bool:
    """Is it "how many more", "how much older"?"""
    return any(one in ("many", "much") and other in _MAYBE_DIFFERENCE for one, other in pairwise(words))


def _differs_in_a_word(a: Asked, b: Asked) -> str:
    """A content word of either question, no name, that has no counterpart in the other, where nothing else was changed."""
    ignored = (a.names | b.names | _MINOR) - _CALENDAR
    only_a, only_b = (
        [word for word in dict.fromkeys(one.stems) if word not in other.stems and word not in ignored]
        for one, other in ((a, b), (b, a))
    )
    for word in list(only_a):
        match = next((other for other in only_b if akin(word, other) or same_meaning(word, other)), None)
        if match:
            only_a.remove(word)
            only_b.remove(match)
    return f"asked: {only_a[0]} | {only_b[0]}" if only_a and only_b else ""


def _differs_in_the_head(a: Asked, b: Asked) -> str:
    """Another thing counted, where nothing else was changed."""
    if not a.head or not b.head or {*a.head} & {*b.head} or {*a.head, *b.head} & (a.names | b.names | _MINOR):
        return ""
    known = any(akin(x, y) or same_meaning(x, y) for x in a.head for y in b.head)
    return "" if known or _is_compound(a, b) else f"asked: {a.head[0]} | {b.head[0]}"


def _differs_in_one_place(a: Asked, b: Asked) -> str:
    """Without a story, where all is asked: one word in the place of another, all the rest in its place."""
    pairs = [(one, other) for one, other in zip(a.stems, b.stems, strict=False) if one != other]
    if len(a.stems) != len(b.stems) or len(pairs) != 1 or len(a.stems) < STORY or {*pairs[0]} & (a.names | b.names):
        return ""
    return "" if akin(*pairs[0]) or same_meaning(*pairs[0]) else f"asked: {' | '.join(pairs[0])}"


def _is_compound(a: Asked, b: Asked) -> bool:
    """Do the two things counted stand side by side in one of the texts, so that they are one thing?"""
    return any({(x, y), (y, x)} & (a.neighbours | b.neighbours) for x in a.head for y in b.head)


def _differs_in_one_story(a: Asked, b: Asked) -> str:
    """`asked_otherwise` where the stories are word for word the same."""
    shared, total = 2 * len({*a.stems} & {*b.stems}), len({*a.stems}) + len({*b.stems})
    kinds_a, kinds_b = kinds_of(a.words), kinds_of(b.words)
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
