r"""Rewrites of mathematics questions that keep the problem, and near rewrites that make it another one. For `decontamination.py`.

    keeping:  names, objects, synonyms, numbers in words, numbers in another notation, LaTeX as plain text, plain as
              LaTeX, renamed variables, the question first, sentences reordered, sentences split or joined, the form of the
              question, passive voice, a prefix, a suffix, numbering, punctuation, typos
    changing: one number, two numbers exchanged, a word of comparison or direction, a sign

Every rewrite takes (text, chance) and gives a text, or None where it finds nothing to do.
"""

import random
import re
from collections.abc import Callable

Rewrite = Callable[[str, random.Random], str | None]

_NAMES_WORDS = """
    Priya Omar Ingrid Tomasz Keiko Fatima Diego Solveig Kwame Lucia Bram Nadia Yusuf Greta Anouk Pavel Zainab Mateo Elif
    Rohan
"""
NAMES = _NAMES_WORDS.split()
_TITLES_WORDS = """
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August September
    October November December
"""
TITLES = _TITLES_WORDS.split()
_NO_NAMES_WORDS = """
    How What When Where Which Who The They There Then This That These Each Every After Before And But Find Solve
"""
_NO_NAMES = _NO_NAMES_WORDS.split()
_OBJECTS_WORDS = """
    apple=pear apples=pears orange=plum oranges=plums book=magazine books=magazines egg=bun eggs=buns cookie=muffin
    cookies=muffins marble=bead marbles=beads pencil=crayon pencils=crayons ball=frisbee balls=frisbees card=stamp
    cards=stamps car=van cars=vans dog=goat dogs=goats cat=rabbit cats=rabbits cake=pie cakes=pies pizza=lasagna
    pizzas=lasagnas flower=shrub flowers=shrubs shirt=scarf shirts=scarves toy=puzzle toys=puzzles game=film games=films
    movie=play movies=plays sticker=badge stickers=badges balloon=kite balloons=kites candy=toffee candies=toffees
    bottle=jar bottles=jars bird=squirrel birds=squirrels fish=turtle chair=stool chairs=stools peach=mango
    peaches=mangoes banana=melon bananas=melons cupcake=scone cupcakes=scones rose=tulip roses=tulips jacket=coat
    jackets=coats chicken=duck chickens=ducks cow=horse cows=horses bus=tram phone=tablet phones=tablets coffee=tea
    bread=cheese store=market
"""
OBJECTS = dict(
    pair.split("=") for pair in _OBJECTS_WORDS.split()
)  # fmt: skip
_SYNONYMS_WORDS = """
    bought=purchased buys=purchases buy=purchase sold=marketed gave=handed gives=hands received=obtained receives=obtains
    wants=wishes needs=requires large=big small=little began=started begins=starts ate=consumed eats=consumes eat=consume
    friends=pals kids=children children=kids house=home picks=collects picked=collected makes=produces made=produced
    finds=discovers found=discovered walked=strolled walks=strolls runs=jogs ran=jogged total=overall whole=entire
    purchase=buy students=pupils pupils=students teacher=instructor money=cash cost=price costs=sells-for spends=pays-out
    each=every remaining=leftover currently=presently decides=chooses decided=chose collected=gathered finished=completed
    finishes=completes trip=journey road=street garden=yard store=shop shop=store job=occupation earns=is-paid
    earned=was-paid plans=intends planned=intended uses=employs used=employed different=distinct positive=positive
    distinct=different find=determine compute=calculate evaluate=compute determine=find simplify=reduce satisfies=fulfils
    satisfy=fulfil such=such denote=stand-for contains=holds contain=hold additional=further identical=equal
    gather=collect watched=viewed baked=prepared bakes=prepares brought=carried brings=carries divided=shared arrived=came
    leaves=departs left=remaining also=additionally then=afterwards because=since afternoon=post-noon lives=resides
    travels=goes weighs=has-a-weight-of grown=developed quickly=fast
"""
SYNONYMS = dict(
    pair.split("=") for pair in _SYNONYMS_WORDS.split()
)  # fmt: skip
PREFIXES = (
    "Solve the following problem: ",
    "Answer the following math question. ",
    "Please solve this problem step by step.\n\n",
    "Question: ",
    "Here is a math problem. ",
    "Read the problem below carefully and reason step by step. ",
    "Consider the following problem. ",
    "Q: ",
    "**Problem** ",
)
SUFFIXES = (
    " Give your answer as a single number.",
    " Please reason step by step, and put your final answer within \\boxed{}.",
    " Show your work.",
    "\n\nExpress your answer in simplest form.",
    " Write only the final answer.",
    " The answer should be exact.",
    "\nAnswer:",
    " Let's think step by step.",
    " Round your answer to two decimal places if necessary.",
)
LABELS = ("1. ", "(a) ", "Problem 7. ", "Exercise 3.2: ", "12) ", "Question 4: ", "[5 points] ", "ii. ", "Task 9 - ", "b) ")
_UNITS_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
"""
UNITS = _UNITS_WORDS.split()
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_PLAIN_NUMBER = re.compile(r"(?<![\w.,/^{\\$:-])\d{1,3}(?![\w/^}\\%:]|[.,]\d)")


def in_words(value: int) -> str:
    """A number below 1000 in words."""
    if value < 20:
        return UNITS[value]
    if value < 100:
        return TENS[value // 10 - 2] + (f"-{UNITS[value % 10]}" if value % 10 else "")
    rest = f" and {in_words(value % 100)}" if value % 100 else ""
    return f"{UNITS[value // 100]} hundred{rest}"


def is_formal(text: str) -> bool:
    """Has it formulas?"""
    return bool(re.search(r"\$[^$\d\s][^$]*\$|\$\d[^$\s]*\$|\\\(|\\\[|\\[a-z]{2}", text))


def names(text: str, chance: random.Random) -> str | None:
    found = [
        n for n in dict.fromkeys(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", text)) if n not in TITLES and n not in _NO_NAMES
    ]
    if not found or is_formal(text):
        return None
    new = dict(zip(found, chance.sample([n for n in NAMES if n not in text], len(found)), strict=True)) if len(found) < 15 else {}
    return re.sub(r"\b[A-Z][a-z]{2,}\b", lambda m: new.get(m[0], m[0]), text) if new else None


def objects(text: str, chance: random.Random) -> str | None:
    def other(m: re.Match[str]) -> str:
        new = OBJECTS[m[0].lower()]
        return new.capitalize() if m[0][0].isupper() else new

    pattern = re.compile(r"\b(?:" + "|".join(OBJECTS) + r")\b", re.IGNORECASE)
    return None if is_formal(text) or not pattern.search(text) else pattern.sub(other, text)


def synonyms(text: str, chance: random.Random) -> str | None:
    def other(m: re.Match[str]) -> str:
        new = SYNONYMS[m[0].lower()].replace("-", " ")
        return new.capitalize() if m[0][0].isupper() else new

    pattern = re.compile(r"(?<![\\\w])(?:" + "|".join(SYNONYMS) + r")\b(?![^$]*\\end)", re.IGNORECASE)
    new = pattern.sub(lambda m: other(m) if chance.random() < 0.7 else m[0], text)
    return new if new != text else None


def numbers_in_words(text: str, chance: random.Random) -> str | None:
    if is_formal(text):
        return None
    new = _PLAIN_NUMBER.sub(lambda m: in_words(int(m[0])), text)
    return new if new != text else None


def words_in_numbers(text: str, chance: random.Random) -> str | None:
    new = re.sub(
        r"(?<!-)(?<!and )\b(?:" + "|".join(UNITS[2:]) + r")\b(?!-| hundred| thousand| million| and a half)",
        lambda m: str(UNITS.index(m[0])),
        text,
    )
    return new if new != text else None


def number_notation(text: str, chance: random.Random) -> str | None:
    if is_formal(text):
        return None
    new = (
        re.sub(r"(\d),(\d{3})(?!\d)", r"\1\2", text)
        if re.search(r"\d,\d{3}", text)
        else re.sub(r"(?<![\d.])(\d{1,3})(\d{3})(?![\d])", r"\1,\2", text)
    )
    new = re.sub(r"(\d+)\s?%", r"\1 percent", new)
    new = re.sub(r"(?<![\d/])1/2(?![\d/])", chance.choice(["0.5", "one-half", r"$\\frac{1}{2}$", "½"]), new)
    new = re.sub(r"(?<![\d/])1/4(?![\d/])", chance.choice(["0.25", "one-fourth", r"$\\frac14$"]), new)
    new = re.sub(r"(?<![\d/])(\d)/(\d)(?![\d/])", r"$\\frac{\1}{\2}$", new)
    new = (
        re.sub(
            r"\$(\d[\d,.]*\d|\d)(?![\d$])(?!\s*(?:million|thousand))", chance.choice([r"\1 dollars", r"\\$\1", r"USD \1"]), new
        )
        if "$\\" not in new
        else new
    )
    return new if new != text else None


def plain_text(text: str, chance: random.Random) -> str | None:
    if "\\begin" in text or "[asy]" in text or not is_formal(text):
        return None
    new = re.sub(r"(\d)(\\[dt]?frac)", r"\1 \2", re.sub(r"\\(?:left|right|displaystyle|,|!|;)(?![a-zA-Z])", "", text))
    for _ in range(3):
        new = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", lambda m: f"{_bracket(m[1])}/{_bracket(m[2])}", new)
        new = re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"√(\1)", new)
        new = re.sub(r"\^\{([^{}]{1,20})\}", lambda m: "^" + _bracket(m[1]), new)
        new = re.sub(r"_\{([^{}]{1,20})\}", r"_\1", new)
    raised = chance.random() < 0.5
    new = re.sub(r"\^([23])(?!\d)", lambda m: "²³"[int(m[1]) - 2], new) if raised else new
    for tex, plain in (
        (r"\leq", "≤"),
        (r"\le", "≤"),
        (r"\geq", "≥"),
        (r"\ge", "≥"),
        (r"\neq", "≠"),
        (r"\cdot", "*"),
        (r"\times", "×"),
        (r"\pi", "π"),
        (r"\circ", "°"),
        (r"\dots", "..."),
        (r"\ldots", "..."),
        (r"\cdots", "..."),
        (r"\theta", "θ"),
        (r"\div", "÷"),
    ):
        new = re.sub(re.escape(tex) + r"(?![a-zA-Z])", plain, new)
    new = re.sub(r"\^°", "°", re.sub(r"\\(?:\(|\)|\[|\])|\$+", " ", new))
    return new if new != text else None


def _bracket(text: str) -> str:
    return text if re.fullmatch(r"\w+|\w", text) else f"({text})"


def as_latex(text: str, chance: random.Random) -> str | None:
    if "$" in text or "\\" in text or "√" in text:
        return None
    new = re.sub(r"(?<![\w.,/:-])(\d+(?:\.\d+)?)(?![\w/:-]|[.,]\d)", r"$\1$", text)
    return new if new != text else None


def variables(text: str, chance: random.Random) -> str | None:
    if not is_formal(text) or "[asy]" in text:
        return None
    spans = re.compile(r"\$[^$]+\$|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL)
    letter = re.compile(r"(?<![\\a-zA-Z])[a-z](?![a-zA-Z])")
    used = [v for v in dict.fromkeys(v for m in spans.finditer(text) for v in letter.findall(m[0])) if v not in "ei"]
    free = [v for v in "uvwtrsqkmnphxyz" if v not in used]
    if not used or len(used) > len(free):
        return None
    new = dict(zip(used, chance.sample(free, len(used)), strict=True))
    return spans.sub(lambda m: letter.sub(lambda v: new.get(v[0], v[0]), m[0]), text)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!])(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)\s+(?=[A-Z])", text.strip())


def question_first(text: str, chance: random.Random) -> str | None:
    parts = _sentences(text)
    if len(parts) < 2 or not parts[-1].endswith("?") or is_formal(text):
        return None
    return " ".join([parts[-1], *parts[:-1]])


def reordered(text: str, chance: random.Random) -> str | None:
    parts = _sentences(text)
    places = [
        i
        for i in range(len(parts) - 2)
        if not re.match(r"(?:He|She|They|It|His|Her|Then|After|This|That|The next|On the|If)\b", parts[i + 1])
    ]
    if not places or is_formal(text):
        return None
    i = chance.choice(places)
    return " ".join([*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]])


def split_or_joined(text: str, chance: random.Random) -> str | None:
    if is_formal(text):
        return None
    new = (
        re.sub(r", and (?=(?:he|she|they|it|then|each|the)\b)", ". Also, ", text, count=1)
        if ", and " in text
        else re.sub(r"(?<!Mr)(?<!Mrs)(?<!Ms)(?<!Dr)\. ([A-Z])", r"; \1", text, count=1)
    )
    return new if new != text else None


def question_form(text: str, chance: random.Random) -> str | None:
    for pattern, new in (
        (r"How many ([\w' -]+?) (?:does|do|did) (\w+) (\w+)\b([^?]*)\?", r"Determine how many \1 \2 \3\4."),
        (r"How (many|much) ([^?]*)\?", r"Calculate how \1 \2."), (r"What (?:is|was) the ([^?]*)\?", r"Determine the \1."),
        (r"Find the ([^.]*)\.\s*$", r"What is the \1?"), (r"Compute ([^.]*)\.\s*$", r"What is the value of \1?"),
        (r"Simplify ([^.]*)\.\s*$", r"What is \1 in simplest form?"),
    ):  # fmt: skip
        if re.search(pattern, text):
            return re.sub(pattern, new, text, count=1)
    return None


def passive(text: str, chance: random.Random) -> str | None:
    verbs = "bought|baked|sold|collected|caught|picked|planted|ordered|received|made"
    pattern = rf"\b([A-Z][a-z]+) ({verbs}) (\d+ \w+(?: \w+)?)(?=[.,]| and| for| at| from)"
    new = re.sub(pattern, r"\3 were \2 by \1", text, count=1)
    return new if new != text else None


def prefix(text: str, chance: random.Random) -> str | None:
    return chance.choice(PREFIXES) + text


def suffix(text: str, chance: random.Random) -> str | None:
    return text + chance.choice(SUFFIXES)


def label(text: str, chance: random.Random) -> str | None:
    return chance.choice(LABELS) + text


def punctuation(text: str, chance: random.Random) -> str | None:
    if chance.random() < 0.5:
        return text.replace("?", "？").replace(", ", "，").replace("'", "’")
    return re.sub(r" ", lambda m: chance.choice([" ", " ", "  ", "\n", "\u00a0"]), text)


_NO_TYPOS = {
    *UNITS,
    *TENS,
    "third",
    "fourth",
    "fifth",
    "twice",
    "thrice",
    "double",
    "triple",
    "there",
    "quarter",
    "dozen",
    "hundred",
    "thousand",
    "minimum",
    "maximum",
}


def typos(text: str, chance: random.Random) -> str | None:
    words = [m for m in re.finditer(r"(?<![\\\w$^{])[a-z]{5,}\b", text) if m[0] not in _NO_TYPOS]
    if len(words) < 4:
        return None
    for m in sorted(chance.sample(words, 2), key=lambda m: -m.start()):
        i = m.start() + chance.randrange(1, len(m[0]) - 2)
        text = text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text


# in the order in which they are applied: numbering stands in front of a text whatever was done to it
KEEPING: dict[str, Rewrite] = {
    "names": names,
    "objects": objects,
    "synonyms": synonyms,
    "numbers in words": numbers_in_words,
    "words in numbers": words_in_numbers,
    "number notation": number_notation,
    "plain text": plain_text,
    "as LaTeX": as_latex,
    "variables": variables,
    "question first": question_first,
    "reordered": reordered,
    "split or joined": split_or_joined,
    "question form": question_form,
    "passive": passive,
    "typos": typos,
    "suffix": suffix,
    "label": label,
    "prefix": prefix,
    "punctuation": punctuation,
}

# -- another problem ------------------------------------------------------------------------------------------------------

_OPPOSITES_WORDS = """
    more=fewer fewer=more less=more twice=thrice half=twice increases=decreases increased=decreased minimum=maximum
    maximum=minimum least=greatest greatest=least smallest=largest largest=smallest sum=product product=sum older=younger
    younger=older even=odd odd=even area=perimeter perimeter=area before=after after=before gained=lost lost=gained
    bought=sold earns=spends radius=diameter diameter=radius first=second positive=negative plus=minus minus=plus
    double=half taller=shorter heavier=lighter longer=shorter cheaper=dearer saves=spends added=removed gave=received
    week=month month=year hours=minutes minutes=hours
"""
OPPOSITES = dict(
    pair.split("=") for pair in _OPPOSITES_WORDS.split()
)  # fmt: skip
_ANY_NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?![\w]|[.,]\d)")


def body(text: str) -> str:
    """The text without drawings."""
    return re.sub(r"\[asy\].*?\[/asy\]", "", text, flags=re.DOTALL)


def other_number(text: str, chance: random.Random) -> str | None:
    places = [m for m in _ANY_NUMBER.finditer(text) if len(m[0]) < 8]
    if not places or "[asy]" in text:
        return None
    m = chance.choice(places)
    value = int(m[0].replace(",", ""))
    new = chance.choice([v for v in (value + 1, value + 2, value - 1, value * 2, value + 10) if v > 0 and v != value])
    return text[: m.start()] + (f"{new:,}" if "," in m[0] else str(new)) + text[m.end() :]


def exchanged_numbers(text: str, chance: random.Random) -> str | None:
    places = [m for m in _ANY_NUMBER.finditer(text) if m[0] not in ("0", "1")]
    pairs = [(a, b) for a in places for b in places if a.start() < b.start() and a[0] != b[0]]
    if not pairs or is_formal(text) or "[asy]" in text:
        return None
    a, b = chance.choice(pairs)
    return text[: a.start()] + b[0] + text[a.end() : b.start()] + a[0] + text[b.end() :]


def other_word(text: str, chance: random.Random) -> str | None:
    places = list(re.finditer(r"(?<![\\\w])(?:" + "|".join(OPPOSITES) + r")\b", text))
    if not places:
        return None
    m = chance.choice(places)
    return text[: m.start()] + OPPOSITES[m[0]] + text[m.end() :]


def other_sign(text: str, chance: random.Random) -> str | None:
    places = [m for m in re.finditer(r"(?<=[\w})\s])\s*[+-]\s*(?=[\w\\({])", text) if is_formal(text)]
    inside = [
        m for m in places if text[: m.start()].count("$") % 2 or text.rfind("\\[", 0, m.start()) > text.rfind("\\]", 0, m.start())
    ]
    if not inside or "[asy]" in text:
        return None
    m = chance.choice(inside)
    return text[: m.start()] + (" - " if "+" in m[0] else " + ") + text[m.end() :]


CHANGING: dict[str, Rewrite] = {
    "one number": other_number, "two numbers exchanged": exchanged_numbers, "an opposite word": other_word, "a sign": other_sign,
}  # fmt: skip
