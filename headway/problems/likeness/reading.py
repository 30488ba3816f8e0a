r"""A question as the comparison of two questions sees it: numbers by value, formulas as symbols, words by their stem.

    "1. Jean has 30 lollipops. She eats $\frac12$ of them. Give your answer as an integer."
    tokens   has? no: dressing, numbering, the wish for a format and stop words are gone
             jean #30 lollipop | eat #1/2
    keys     ("1/2 30",)        the values without 0, 1, 2, which every rewriting adds and drops ("one", "both", "squared")

Formulas lose their LaTeX: `\le` `<=` and `≤` are one symbol, as are `x^2` and `x²`; braces, dollars and parentheses go.
Drawings ([asy]), answer choices "(A) 3 (B) 4" and instructions ("Express your answer as ...") are no part of the question,
unless nothing else is left.

This file does not know how two readings are compared (`same` does).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from headway.problems.likeness.dressing import without_choices, without_label
from headway.problems.likeness.markup import is_place, place, plain_characters, without_markup
from headway.problems.likeness.numerals import NUMBER, incidental, merge, value_of

LONGEST = 8_000  # characters of a question that are read: enough for any, and a bound on the work
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.DOTALL)
WORDED = 3  # small numbers in words of which each may be left out
_DRAWN = re.compile(r'label\([^;]*?"([^"]*)"')
_INSTRUCTION = re.compile(
    r"(?:please |kindly |now |and |you (?:should|must) )*(?:(?:give|express|enter|write|provide|present|state|report|put"
    r"|box|round|leave|submit|output|return|show)\b"
    r".{0,60}\b(?:answers?|results?|solution|work|steps?|response)\b"
    r"|(?:solve|answer|work out|consider|read|complete) (?:this|the following|the|following)\b[\w ,'-]{0,50}\b(?:problem"
    r"|question|exercise|task|puzzle)s?\b"
    r"|(?:the |your )?(?:final )?(?:answer|result) (?:should|must|is to|needs? to|can|will)\b|round (?:to|off|your)\b"
    r"|(?:here is|here's|below is) (?:a|the|another)\b[\w ,'-]{0,40}\b(?:problem|question|exercise|puzzle)\b"
    r"|(?:please )?(?:reason|think|explain|show|justify|let's think|solve (?:it|this)|take a deep breath)\b.{0,60}(?:step"
    r"|reasoning|carefully|work|detail)|hint\b|note that you\b)",
    re.IGNORECASE,
)
_BASE_ASKED = re.compile(r"\bbase\b|\bmod", re.IGNORECASE)  # an instruction that changes the answer
_HYPHEN = re.compile(
    r"(?<=[A-Za-z]{2})-(?=[A-Za-z]{2})|(?<=\d)-(?=[A-Za-z]{3}|by\b)|(?<=\bby)-(?=\d)|(?<=\b[A-Za-z])-(?=[a-z]{3})"
)  # not a minus
_PREFIX = re.compile(r"\b(anti|co|counter|multi|non|over|pre|re|semi|un|under)-(?=[a-z]{3})", re.IGNORECASE)  # one word
_ENDING = re.compile(
    r"(?<=[.?!])[\"')\]$]*\s+|(?<=[?])|\n\s*\n|(?<=[a-z)]):\s+(?=[A-Z\d(\[«#*])|\s+(?=(?:Let's think|Please reason) step)"
)
_TOKEN = re.compile(rf"{NUMBER}|[^\W\d_]+(?:'[^\W\d_]+)*|\\[a-zA-Z]+|\\\\|<=|>=|!=|\*\*|[^\s]")
_LETTER = re.compile(r"(?<![\w'’])[b-z](?![\w'])")  # a variable that stands alone
_PLACES_WORDS = """
    third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
"""
_PLACES = {word: place(str(3 + i)) for i, word in enumerate(_PLACES_WORDS.split())}
_FUNCTIONS_WORDS = """
    sin cos tan arcsin arccos arctan log ln sqrt frac pi degree cot sec csc sum binom lfloor rfloor lceil rceil prod
"""
_FUNCTIONS = frozenset(_FUNCTIONS_WORDS.split())
_PLAIN_FUNCTIONS_WORDS = """
    sin cos tan arcsin arccos arctan log ln sqrt gcd lcm mod pi cot sec csc
"""
_PLAIN_FUNCTIONS = frozenset(_PLAIN_FUNCTIONS_WORDS.split())
_SYNTAX = {"**": "^", "\\sqrt": "sqrt", "\\pi": "pi", "\\circ": "degree", "degrees": "degree", "\\to": "to", "\\equiv": "="}
_GREEK_WORDS = """
    alpha beta gamma delta epsilon theta lambda mu omega phi psi rho sigma tau zeta eta kappa xi varphi varepsilon ell
"""
_GREEK = frozenset(_GREEK_WORDS.split())
_UNITS_WORDS = """
    cm mm km kg mg ml ft lb oz mi hr kmh mph lbs hrs min sec gb mb tv pj cd cds dvd dvds dj am pm
"""
_UNITS = frozenset(_UNITS_WORDS.split())
_GONE = frozenset(["‑", "{", "}", "(", ")", "$", ",", ".", ";", ":", "?", "!", '"', "'", "_", "#", "\\\\", "@", "\\"])
OPERATORS = frozenset(["+", "-", "*", "/", "^", "=", "<", ">", "<=", ">=", "!=", "|", "[", "]", "%", "&"])

_RELATIONS = frozenset(["=", "<", ">", "<=", ">="])

_STOP_WORDS = """
    a an the and or of to in on at by for with from as is are was were be been being am i it its it's this that these
    those he she they them his her him their theirs we our us you your there here who whom whose which what when where
    while how do does did done doing have has had having will would can could should may might must shall if then than so
    also too just only some any each every all both one ones into onto out up down off over about per such s t not no nor
    but let given suppose assume find calculate compute determine evaluate solve value number many much total altogether
    amount following express answer form get gets got going goes go make makes made take takes took want wants wanted
    decide decides decided need needs needed time times more less fewer now still after before during per same other
    another already next own owns owned exactly currently altogether combined together overall mr mrs ms dr
"""
STOP = frozenset(_STOP_WORDS.split())

_IRREGULAR = """buy bought, sell sold, give gave given, pay paid, eat ate eaten, spend spent, take took taken, find found, lose
lost, build built,
    leave left leaves, catch caught, bring brought, grow grew grown, write wrote written, read reads, run ran, make made, keep
    kept,
    drive drove driven, drink drank drunk, go went gone, begin began begun, send sent, hold held, throw threw thrown, see saw
    seen,
    child children, person people persons, man men, woman women, foot feet ft, inch inches, box boxes, minute minutes mins,
    mph mph, hour hours hr hrs, second seconds secs, week weeks wk wks, year years yr yrs, pound pounds lb lbs, ounce ounces
    oz, mile miles mi, yard yards yd yds, gallon gallons gal, gram grams, kilogram kilograms kg kgs, meter meters metre metres,
    kilometer kilometers kilometre kilometres km, centimeter centimeters centimetre centimetres cm, liter liters litre litres"""
_BASE = {form: forms.split()[0] for forms in _IRREGULAR.split(",") for form in forms.split()}
IRREGULAR = frozenset(_BASE)  # words whose forms are known


@dataclass(frozen=True, slots=True)
class Reading:
    """`tokens` of all sentences in order ("#1/2" a number, "~x" a variable, "~+" an operator, words as stems), `ends` (how
    many tokens each sentence closes with), `keys` (the sorted values that must agree: all; those that count no company;
    without small numbers in words, or one of these; without incidental ones; with drawn ones; one must be the other
    side's, too), `names` (stems that look like proper names), and `words`, the words as they stand in order. `asked` are
    the words of the question itself, whose tokens begin at `asked_at`; `formulas` are the runs of numbers, variables,
    operators and functions between words; `drawn` the numbers that a drawing shows, which a rewriting may tell."""

    tokens: tuple[str, ...]
    ends: tuple[int, ...]
    keys: tuple[str, ...]
    names: frozenset[str]
    words: tuple[str, ...]
    asked: tuple[str, ...]
    asked_at: int
    formulas: tuple[tuple[str, ...], ...]
    drawn: frozenset[Fraction] = frozenset()


def read_question(question: str) -> Reading:
    """What a question says, without how it is dressed."""
    tokens: list[str] = []
    ends: list[int] = []
    names: set[str] = set()
    words: list[str] = []
    every: set[Fraction] = set()
    hard: set[Fraction] = set()
    firm: set[Fraction] = set()
    core: set[Fraction] = set()
    formulas: list[tuple[str, ...]] = []
    asked_at, asked_from = 0, 0
    parts = _asked_last(sentences(question))
    letters = {letter for part in parts for letter in _LETTER.findall(part)}
    for sentence in parts:
        asked_at, asked_from = len(tokens), len(words)
        raw = _TOKEN.findall(sentence)
        _collect_names(raw, names)
        lower = [token if token[0] != "\\" and len(token) == 1 else token.lower() for token in raw]
        if lower[:1] == ["A"] and len(lower) > 1 and lower[1].isalpha() and len(lower[1]) > 1:  # "A third of"
            lower[0] = "a"
        numbered = merge(lower)
        unsaid = incidental(numbered)
        for i, token in enumerate(numbered):
            value = value_of(token)
            if value is not None and value not in (0, 1, 2):
                every.add(value)
                core |= set() if i in unsaid else {value}
                if not _counts_company(numbered, i, value):
                    hard.add(value)
                    if value > 12 or value.denominator > 1 or str(value) in lower:
                        firm.add(value)
        words += [token.lower().removesuffix("'s") for token in lower if token[0].isalpha() and len(token) > 1]
        said = _symbols(_told(numbered), letters)
        tokens += [token for token in said if token]
        formulas += _formulas(said)
        ends.append(len(tokens))
    drawn = _drawn(question)
    sets = [every, hard, firm, core, firm & core, every | drawn, *(every - {value} for value in sorted(every - firm)[:WORDED])]
    keys = tuple(dict.fromkeys(" ".join(map(str, sorted(values))) for values in sets))
    asked = tuple(words[asked_from:])
    return Reading(tuple(tokens), tuple(ends), keys, frozenset(names), tuple(words), asked, asked_at, tuple(formulas), drawn)


def _drawn(question: str) -> frozenset[Fraction]:
    r"""The numbers in the labels of a question's drawings, but 0, 1 and 2.

    >>> [*map(str, _drawn('[asy] label("$124$",(2,3),SW); draw((0,0)--(10,0)); [/asy]'))]
    ['124']
    """
    if "[asy]" not in question:
        return frozenset()
    labels = [text for drawing in _DRAWING.findall(question[:LONGEST]) for text in _DRAWN.findall(drawing)]
    tokens = [token for text in labels for token in merge(_TOKEN.findall(without_markup(text.replace("^", " "))))]
    values = {value_of(token) for token in tokens}
    return frozenset(value for value in values if value is not None and value > 2)


def _asked_last(parts: list[str]) -> list[str]:
    """The same text with the clause that asks as its last part: "If he has 3, how many are left?" is two."""
    if not parts:
        return []
    best = next((i for i in range(len(parts) - 1, -1, -1) if "?" in parts[i]), None)
    if best is None:
        best = next((i for i in range(len(parts) - 1, -1, -1) if _ASKING.search(parts[i])), len(parts) - 1)
    text = parts[best]
    found = list(_ASKING.finditer(text))
    start = found[0].start() if found else 0
    condition = _CONDITION.search(text, start + 1)
    end = condition.start() if condition and condition.start() - start > 15 else len(text)
    pieces = [*parts[:best], text[:start], text[end:], *parts[best + 1 :], text[start:end]]
    return [piece for piece in pieces if piece.strip()]


_ASKING = re.compile(
    r"\b(?:by how|for how|in how|after how|how|what|find|calculate|compute|determine|evaluate|simplify|express|convert"
    r"|count)\b|\A\s*(?:who|which|where)\b|\b(?:at|in|for|of|on) which\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(r"\b(?:if|given that|assuming|suppose|provided)\b", re.IGNORECASE)


def sentences(question: str) -> list[str]:
    """The sentences of a question in plain characters, without drawings, choices, numbering and instructions."""
    text = plain_characters(question[:LONGEST])
    if "[asy]" in text:
        text = _DRAWING.sub(" ", text)
    text = without_choices(text)
    text = _HYPHEN.sub("\u2011", _PREFIX.sub(r"\1", without_markup(without_label(text) or text)))
    parts = [" ".join(part.split()) for part in _ENDING.split(text) if part.strip()]
    asked = [part for part in parts if not _INSTRUCTION.match(part.strip(" *(")) or _BASE_ASKED.search(part)] or parts
    if not asked:
        return []
    return [part for part in (without_label(part + " ").strip() for part in asked) if part] or asked


def stem(word: str) -> str:
    """A word without its commonest endings: crude, but the same for both sides.

    >>> [stem(word) for word in ("cookies", "baking", "bakes", "baked", "bought")]
    ['cooky', 'bak', 'bak', 'bak', 'buy']
    """
    word = word.removesuffix("'s")
    if word in _BASE:
        word = _BASE[word]
    size = len(word)
    if size > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if size > 5 and word.endswith("ing"):
        word = word[:-3]
    elif size > 4 and word.endswith(("ed", "es")):
        word = word[:-2]
    elif size > 3 and word[-1] == "s" and word[-2] not in "su":
        word = word[:-1]
    if len(word) > 3 and word[-1] == "e":
        word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word


_OPERATOR_WORDS = {"plus": "+", "minus": "-", "equals": "=", "times": "*", "multiplied": "*", "divided": "/"}


def _told(tokens: list[str]) -> list[str]:
    """The tokens with formulas that are told in words as symbols: "7 times x", "the square root of 53"."""
    out: list[str] = []
    for i, token in enumerate(tokens):
        before, after = tokens[i - 1] if i else "", tokens[i + 1] if i + 1 < len(tokens) else ""
        if token in _OPERATOR_WORDS and (after == "by" or len(after) == 1 or after[:1] in ("#", "\\")):
            out.append(_OPERATOR_WORDS[token] if before[:1] == "#" or len(before) == 1 else token)
        elif token == "root" and before == "square":
            out[-1] = "sqrt"
        else:
            out.append(token)
    return out


def _symbols(tokens: list[str], letters: set[str]) -> list[str]:
    """What is compared of a sentence's tokens, with "" for each stop word and between two equations. `letters` are variables
    of the text, whose products ("xyz") are none of its words."""
    out: list[str] = []
    depth = related = 0
    last = len(tokens) - 1
    for i, token in enumerate(tokens):
        if token[0] == "#" and len(token) > 1:
            out.append(token)
            continue
        token = _SYNTAX.get(token, token)
        depth += (token == "(") - (token == ")")
        if token in _GONE:
            if token in ",;" and related and depth <= 0:
                out.append("")
                related = 0
            continue
        before, after = tokens[i - 1] if i else "", tokens[i + 1] if i < last else ""
        if token in OPERATORS:
            related += token in _RELATIONS
            if not (token in "-/" and _is_word(before) and _is_word(after)):
                out.append(token)
        elif len(token) == 1:
            if token.isalpha() and (token not in "aAI" or _is_letter(before, after)):
                out.append("~" + token)
        elif token[0] == "\\":
            out.append(("~" if token[1:].lower() in _GREEK else "") + token[1:].lower())
        elif len(token) < 4 and (before in _ARITHMETIC or after in _ARITHMETIC) and token.isalpha() and token not in _NO_PRODUCT:
            out += ["~" + letter for letter in token]  # 2ab + 3
        elif len(token) < 4 and token not in STOP and letters.issuperset(token):
            out += ["~" + letter for letter in token]  # xyz, where x, y and z were named
        elif token not in STOP:
            out.append(_PLACES.get(token) or (token if is_place(token) else stem(token)))
        else:
            out.append("")
    return out


def _formulas(said: Sequence[str]) -> list[tuple[str, ...]]:
    """The runs of two or more numbers, variables, operators and functions, one of which is no number or function."""
    found: list[tuple[str, ...]] = []
    chunk: list[str] = []
    for token in (*said, ""):
        is_index = bool(chunk) and chunk[-1][0] == "~" and is_place(token)  # x_{531}
        if token and (token[0] in "#~" or is_index or token in OPERATORS or token in _FUNCTIONS):
            chunk.append(token)
            continue
        if len(chunk) > 1 and any(one[0] == "~" or one in OPERATORS for one in chunk):
            found.append(tuple(chunk))
        chunk = []
    return found


def renamed(formula: Sequence[str]) -> tuple[str, ...]:
    """A formula with its variables numbered in order, without what is written or left out at will."""
    names: dict[str, str] = {}
    kept = (token for token in formula if token not in ("*", "frac"))
    return tuple(names.setdefault(token, f"~{len(names)}") if token[0] == "~" else token for token in kept)


def numbers_of(reading: Reading) -> set[Fraction]:
    """The values of all numbers of a question."""
    return {value for token in reading.tokens if (value := value_of(token)) is not None}


def numbers_apart(a: Reading, b: Reading) -> tuple[set[Fraction], set[Fraction], set[Fraction]]:
    """The numbers that two questions share, those of `a` alone and those of `b` alone. What is drawn on one side may be told on
    the other or left out; where both have a drawing, they are compared."""
    told_a, told_b = numbers_of(a), numbers_of(b)
    if a.drawn and b.drawn:
        told_a, told_b = told_a | a.drawn, told_b | b.drawn
    shared = (told_a & (told_b | b.drawn)) | (told_b & a.drawn)
    return shared, told_a - shared, told_b - shared


_ARITHMETIC = ("+", "-", "=", "^")
_NO_PRODUCT = STOP | _PLAIN_FUNCTIONS | _UNITS | {"sum", "arc", "max", "min"}


def _is_word(token: str) -> bool:
    return len(token) > 1 and token[0].isalpha() and token not in _PLAIN_FUNCTIONS


def _is_formula(token: str) -> bool:
    return bool(token) and (token in OPERATORS or token in "{}()_$,=" or token[0] in "#\\")


def _is_letter(before: str, after: str) -> bool:
    """Is an "a" between two tokens a variable? Not in "half a pound"."""
    return _is_formula(after) or (_is_formula(before) and not (before[0] == "#" and _is_word(after)))


def _collect_names(raw: list[str], names: set[str]) -> None:
    """Add the stems of capitalised words, except stop words, and of points and lines ("ABC")."""
    for token in raw:
        if 1 < len(token) < 5 and token.isupper() and token.lower() not in _UNITS:
            names.add(stem(token.lower()))
        if len(token) > 1 and token[0].isupper() and token[1:].islower():
            lower = token.lower()
            if lower.removesuffix("'s") not in STOP:
                names.add(stem(lower))


def _counts_company(numbered: list[str], i: int, value: Fraction) -> bool:
    """Is it "all three", "the four of them": a count of what was named, which a rewriting adds or drops?"""
    return i > 0 and value <= 5 and numbered[i - 1] in ("all", "the", "these", "those")
