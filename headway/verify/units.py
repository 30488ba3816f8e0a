r"""What may surround a number in an answer: currency, percent, degrees, units. Splits them off and gives each one name.

    "\dollar 18.90" --> ("18.90", "dollar")    "864 \text{ inches}^2" --> ("864", "square inch")    "10%" --> ("10", "percent")

A missing unit is fine and a contradicting one is not, so only the names matter; nothing is converted.
It does not know numbers. It reads text in plain notation (`notation.plain`).
"""

from __future__ import annotations

import re

PERCENT = "percent"
MAX_LENGTH = 200  # an answer with a unit is short; this also bounds every regular expression here

_CURRENCY = re.compile(r"([+-]?) ?(?:\\dollar|[€£¥₹]|\\pounds|\\euro|USD|US) ?([+-]?)(?=[0-9.])")
_CURRENCY_TAIL = re.compile(r"(.*[0-9]) ?(?:\\dollar|[€£¥₹])")
_DEGREE = re.compile(r" ?\^ ?(?:\{ ?\\circ ?\}|\\circ(?![a-zA-Z]))(?: ?[CF](?![a-zA-Z]))?\Z")
_IN_TEXT = re.compile(r"(.*[0-9A-Za-z})!]) ?\\text ?\{([^{}=]*)\}(?: ?\^ ?\{?([23])\}?| ?\\text ?\{[^{}]*\})?")
_IN_WORDS = re.compile(r"(.*[0-9})])( ?)([A-Za-z][A-Za-z/ .]*)(?:\^ ?\{?([23])\}?)?")
_FOREIGN = re.compile(r"([+-]?[0-9.,/]+) ?([^\x00-\x7f]+)")
_MEASURED = re.compile(
    r"(?:\\dollar|[€£¥₹]|[+-]| )*[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?:%| ?\^ ?\{?\\circ\}?| ?\\dollar"
    r"| ?(?:\\text ?\{)?[A-Za-z ]+(?:\^ ?\{?[23])?\}?)?"
)
_NO_UNIT = re.compile(
    "sqrt|sin|cos|tan|sec|csc|cot|log|exp|abs|floor|ceil|infinity|infty|theta|alpha|beta|gamma|delta|lambda|sigma|omega"
    "|asin|acos|atan|arcsin|arccos|arctan|sinh|cosh|tanh"
)
_KNOWN = re.compile(
    "degrees?|dollars?|cents?|bucks?|euros?|pounds?|percent|percentage|hours?|hrs?|minutes?|mins?|seconds?|secs?|days?|weeks?"
    "|months?|years?|yrs?|miles?|mph|kmh|km/h|m/s|feet|foot|ft|inch|inches|yards?|meters?|metres?|centimeters?|millimeters?"
    "|kilometers?|cm|mm|km|kg|mg|kilograms?|grams?|liters?|litres?|ml|gallons?|ounces?|oz|lbs?|units?|square|sq|cubic"
    "|radians?|rad|people|ways?|sets?|box|boxes|pages?|cups?|tons?|per|of",
    re.IGNORECASE,
)
_SYNONYMS: dict[str, str] = {
    "cm": "centimeter", "mm": "millimeter", "km": "kilometer", "m": "meter", "metre": "meter", "litre": "liter",
    "l": "liter", "ml": "milliliter", "kg": "kilogram", "g": "gram", "mg": "milligram", "lb": "pound", "oz": "ounce",
    "ft": "foot", "feet": "foot", "in": "inch", "inche": "inch", "hr": "hour", "h": "hour", "min": "minute",
    "sec": "second", "s": "second", "yr": "year", "rad": "radian", "buck": "dollar", "sq": "square", "mi": "mile",
    "people": "person", "percentage": "percent", "unit": "", "ways": "", "way": "", "time": "",
}  # fmt: skip


def is_measured(text: str) -> bool:
    """Whether `text` is one number with thousands separators and something around it, and no list."""
    return len(text) <= MAX_LENGTH and bool(_MEASURED.fullmatch(text))


def split_unit(text: str) -> tuple[str, str]:
    r"""(the rest, the unit's name or "").

    >>> split_unit("5 hours"), split_unit(r"5.4 \text{ cents}"), split_unit("x+1")
    (('5', 'hour'), ('5.4', 'cent'), ('x+1', ''))
    """
    if len(text) > MAX_LENGTH:
        return text, ""
    money = _CURRENCY.match(text)
    if money:
        return (money.group(1) or money.group(2)) + text[money.end() :], "dollar"
    money = _CURRENCY_TAIL.fullmatch(text)
    if money:
        return money.group(1), "dollar"
    if text.endswith("%"):
        return text[:-1].strip(), PERCENT
    degree = _DEGREE.search(text)
    if degree:
        return text[: degree.start()], "degree"
    inside = _IN_TEXT.fullmatch(text)
    if inside:
        return inside.group(1).strip(), _name(inside.group(2), inside.group(3))
    words = _IN_WORDS.fullmatch(text)
    if words and all(_is_unit(word) for word in words.group(3).replace(".", " ").split()):
        return words.group(1).strip(), _name(words.group(3), words.group(4))
    foreign = _FOREIGN.fullmatch(text)
    return (foreign.group(1), foreign.group(2)) if foreign else (text, "")


def _is_unit(word: str) -> bool:
    """A known unit, or any longer lower-case word that is no mathematics (apples)."""
    return bool(_KNOWN.fullmatch(word)) or (len(word) > 3 and word.islower() and not _NO_UNIT.fullmatch(word))


def _name(words: str, power: str | None) -> str:
    """One name for all spellings of a unit: `sq. cm`, `centimeters^2`."""
    names: list[str] = []
    for word in re.findall("[a-z/]+", words.lower()):
        keep = word in _SYNONYMS or len(word) < 3 or word.endswith("ss")
        singular: str = word if keep else word.removesuffix("s")
        names.append(_SYNONYMS.get(singular, singular))
    kind = {"2": "square ", "3": "cubic "}.get(power or "", "")
    return (kind + " ".join(name for name in names if name)).strip()
