r"""The numbers of a question by their value, however they are written.

    1,000   1000   $1000   one thousand   a thousand            -> 1000
    0.5   .5   1/2   \frac12   \frac{1}{2}   half   50%   50 percent   fifty percent     -> 1/2
    two and a half   2 1/2   2\frac12   2.5                      -> 5/2
    a minute and a half   two miles and a half                -> 3/2 minute, 5/2 mile
    25 cents   0.25   one point two five (5/4)               -> 1/4, 1/4, 5/4
    3 dozen   twice   thrice   8:30   two-thirds   20/3 cubed    -> 36, 2, 3, 17/2, 2/3, 20/3 ^ 3

`merge` turns the tokens of a question into the same tokens with each number as one "#value" token. What is ambiguous in words
is left a word: "second", "third" (a place), "quarters" (coins), "a" (not one). Values are exact fractions; signs are operators,
not parts of numbers. This file does not know what a question is, nor which numbers matter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import takewhile

LONGEST = 40  # digits: longer numerals are kept as text, so that nothing generated can make the arithmetic slow

_UNITS_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
"""
_UNITS = _UNITS_WORDS.split()
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_TIMES = {"twice": 2, "double": 2, "doubled": 2, "doubles": 2, "thrice": 3, "triple": 3, "tripled": 3, "triples": 3}
_TIMES |= {"quadruple": 4, "quadrupled": 4, "half": Fraction(1, 2), "halved": Fraction(1, 2), "halves": Fraction(1, 2)}
_AND_A_HALF = (["and", "a", "half"], ["and", "one", "half"])
_POWERS = {"squared": "#2", "cubed": "#3"}
_PARTS = ["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"]
_PART = {word: 3 + i for i, word in enumerate(_PARTS)} | {"quarter": 4, "hundredth": 100}
_PART |= {word + "s": value for word, value in _PART.items()}
# "a third of", not "a third box"
_AFTER_PART = frozenset(["of", "as", "the", "less", "more", "his", "her", "their", "its", "that", "this", "what"])
_QUARTERED = frozenset(["pound", "mile", "hour", "cup", "inch", "foot", "acre", "gallon", "ounce", "yard", "teaspoon", "full"])
_DASH = ("-", "\u2011")
_PERCENT = frozenset(("%", "\\%", "percent", "percentage"))
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)")
_DIGITS = re.compile(r"\d|\.\d")
NUMBER = r"\d{1,2}:[0-5]\d(?!\d)|\d+(?:,\d{3}(?!\d))*(?:\.\d+)?|\.\d+"  # how a tokenizer finds numerals


@lru_cache(maxsize=1 << 16)
def value_of(token: str) -> Fraction | None:
    """The value of a "#..." token, None for any other.

    >>> value_of("#1/2")
    Fraction(1, 2)
    """
    return Fraction(token[1:]) if token[0] == "#" and len(token) > 1 and token[1].isdecimal() else None


def incidental(tokens: Sequence[str]) -> set[int]:
    """Where in the tokens of `merge` a number stands that a rewriting need not say: inside a listing that counts up
    (1, 2, 3, ..., 10), a small exponent ("the cube of"), the 90 degrees of a right angle.

    >>> sorted(incidental(["#1", ",", "#2", ",", ",", "#9", "and", "#10", "of", "#3"]))
    [2, 5]
    """
    numbers = sum(token[0] == "#" for token in tokens)
    if numbers < 3 and "^" not in tokens and "#90" not in tokens:
        return set()
    found = {i for i, token in enumerate(tokens) if token == "#3" and i and tokens[i - 1] == "^"}
    found |= {
        i for i, token in enumerate(tokens) if token == "#90" and any("deg" in t or "circ" in t for t in tokens[i + 1 : i + 3])
    }
    if numbers < 3 or "," not in tokens:
        return found
    listed: list[int] = []
    is_dotted = False
    commas = 0
    for i, token in enumerate((*tokens, "")):
        if token and token[0] == "#" and (not listed or commas):
            is_dotted |= commas > 1
            listed.append(i)
            commas = 0
        elif token in (",", "and", "or") and listed:
            commas += 1 if token == "," or not commas else 0
        else:
            values = [value_of(tokens[j]) or Fraction(0) for j in listed]
            if len(listed) > 2 and (is_dotted or values == [values[0] + k for k in range(len(values))]):
                found |= {*listed[1:-1]}
            listed, is_dotted, commas = ([i], False, 0) if token and token[0] == "#" else ([], False, 0)
    return found


def merge(tokens: Sequence[str]) -> list[str]:
    r"""The tokens with every number as one "#value" token.

    >>> merge(["two", "-", "thirds", "of", "\\frac", "{", "1", "}", "{", "2", "}", "and", "50", "percent"])
    ['#2/3', 'of', '#1/2', 'and', '#1/2']
    """
    out: list[str] = []
    tokens = [*tokens]
    i = 0
    while i < (size := len(tokens)):
        token = tokens[i]
        if _DIGITS.match(token):
            value, i = _numeral(tokens, i)
        elif token == "two" and i and tokens[i - 1] == "no":  # "no two share", "no one shares"
            value, i = Fraction(1), i + 1
        elif token in _SMALL or token in _LARGE or token in _TIMES or token in ("dozen", "dozens"):
            value, i = _words(tokens, i)
        elif token == "\\frac":
            value, i = _tex_fraction(tokens, i)
        elif token in _POWERS:
            out += ["^", _POWERS[token]]
            i += 1
            continue
        elif token in ("a", "an") and i + 1 < size and (tokens[i + 1] in _LARGE or _is_part(tokens, i + 1)):
            value, i = _words(tokens, i)
        elif token in ("a", "an") and tokens[i + 2 : i + 5] in _AND_A_HALF:  # "a minute and a half"
            value, i = Fraction(1), i + 1
        else:
            value, i = None, i
        if value is None:
            out.append(tokens[i])
            i += 1
        else:
            value, i = _scaled(value, tokens, i)
            out.append(f"#{value}")
    return out


def _scaled(value: Fraction, tokens: list[str], i: int) -> tuple[Fraction, int]:
    """A value with what multiplies it behind: percent, dozen, million, a mixed number's half, also behind its unit."""
    size = len(tokens)
    if tokens[i : i + 3] in _AND_A_HALF and value.denominator == 1:
        value, i = value + Fraction(1, 2), i + 3
    elif tokens[i + 1 : i + 4] in _AND_A_HALF and value.denominator == 1 and tokens[i].isalpha():
        del tokens[i + 1 : i + 4]
        value += Fraction(1, 2)
    elif tokens[i : i + 2] == ["and", "\\frac"] or (i < size and tokens[i] == "\\frac" and value.denominator == 1):
        part, after = _tex_fraction(tokens, i + (tokens[i] == "and"))
        if part is not None and part < 1:
            value, i = value + part, after
    if i < size and tokens[i] in _PERCENT:
        return value / 100, i + 1
    if i + 1 < size and tokens[i] == "per" and tokens[i + 1] == "cent":
        return value / 100, i + 2
    if i < size and tokens[i] in ("dozen", "dozens"):
        return value * 12, i + 1
    dash = i < size and tokens[i] in _DASH
    if tokens[i + dash : i + dash + 1] in (["cent"], ["cents"], ["¢"]):
        return value / 100, i
    if i < size and tokens[i] in _LARGE:
        return value * _LARGE[tokens[i]], i + 1
    return value, i


def _numeral(tokens: Sequence[str], i: int) -> tuple[Fraction | None, int]:
    """A number in digits: 12, 1,080.5, 8:30, 3/4, 3 1/2."""
    token = tokens[i]
    if len(token) > LONGEST:
        return None, i
    clock = _CLOCK.fullmatch(token)
    if clock:
        return Fraction(clock[1]) + Fraction(int(clock[2]), 60), i + 1
    is_base = i > 0 and tokens[i - 1] == "_"  # 413_5 / 2_5
    value, i = Fraction(token.replace(",", "")), i + 1
    over = 0 if is_base else _over(tokens, i)
    if over and value.denominator == 1:
        return value / over, i + 2
    if value.denominator == 1 and 0 < value < 20 and _is_part(tokens, i, is_plural=True) and tokens[i][-1] == "s":  # 2 thirds
        return value / _PART[tokens[i]], i + 1
    if value.denominator == 1 and i < len(tokens) and tokens[i].isdecimal() and len(tokens[i]) <= LONGEST:
        over = _over(tokens, i + 1)
        if over and int(tokens[i]) < over:  # 3 1/2
            return value + Fraction(int(tokens[i]), over), i + 3
    return value, i


def _over(tokens: Sequence[str], i: int) -> int:
    """The whole number behind a "/" at `i`, 0 where there is none."""
    if i + 1 < len(tokens) and tokens[i] == "/" and tokens[i + 1].isdecimal() and len(tokens[i + 1]) <= LONGEST:
        return int(tokens[i + 1]) if tokens[i + 2 : i + 3] != ["^"] else 0  # 1/2^m is no half
    return 0


def _words(tokens: Sequence[str], i: int) -> tuple[Fraction | None, int]:
    """A number in words: twenty-five, three hundred and five, two-thirds, a dozen, twice."""
    token, size = tokens[i], len(tokens)
    if token in _TIMES:
        return Fraction(_TIMES[token]), i + 1
    if token in ("dozen", "dozens"):
        return Fraction(1), i
    total, current, start = 0, 0, i
    last = 0  # the size of the word before: a tens word may be followed by a unit, a unit by none
    while i < size:
        word = tokens[i]
        if word in ("a", "an") and i == start:
            current, last = 1, 1
        elif word in _SMALL and (last == 0 or last >= 100 or (last >= 20 and _SMALL[word] < 10)):
            current += _SMALL[word]
            last = _SMALL[word] if _SMALL[word] >= 20 else 1
        elif word in _LARGE and not (i > start and last == 0):
            large = _LARGE[word]
            if large == 100:
                current = max(current, 1) * 100
            else:
                total, current = total + max(current, 1) * large, 0
            last = large
        elif not _joins(tokens, i, last):
            break
        i += 1
    value = Fraction(total + current)
    if i + 1 < size and tokens[i] == "point" and _SMALL.get(tokens[i + 1], 10) < 10:
        digits = list(takewhile(lambda word: _SMALL.get(word, 10) < 10, tokens[i + 1 : i + 9]))
        whole = "".join(str(_SMALL[word]) for word in digits)
        return value + Fraction(int(whole), 10 ** len(whole)), i + 1 + len(digits)
    dash = i < size and tokens[i] in _DASH
    is_one = i == start + 1 and token == "one" and i + dash < size and tokens[i + dash] in _PART  # "one fourth and"
    if (is_one or _is_part(tokens, i + dash, is_plural=value > 1)) and 0 < value < 20:
        return value / _PART[tokens[i + dash]], i + dash + 1
    if i < size and i + 1 < size and dash and tokens[i + 1] in ("half", "halves"):
        return value / 2, i + 2
    return value, i


def _joins(tokens: Sequence[str], i: int, last: int) -> bool:
    """Is the word at `i` the dash of "twenty-five" or the "and" of "two hundred and five", after a word of size `last`?"""
    if i + 1 >= len(tokens) or tokens[i + 1] not in _SMALL:
        return False
    if tokens[i] in _DASH:
        return 20 <= last < 100
    return tokens[i] == "and" and last >= 100 and tokens[i + 2 : i + 3] != ["hundred"]


def _is_part(tokens: Sequence[str], i: int, is_plural: bool = False) -> bool:
    """Does "third", "quarters", ... at `i` mean a part? "a third of", "one-third the", "two-thirds", "three quarters of"."""
    if i >= len(tokens) or tokens[i] not in _PART:
        return False
    if is_plural and tokens[i][-1] == "s" and tokens[i] != "quarters":
        return True
    after = i + 1 + (tokens[i + 1 : i + 2] == ["\u2011"])
    if tokens[i] == "quarter" and after < len(tokens) and tokens[after] in _QUARTERED:  # "a quarter pound", "one quarter-mile"
        return True
    return i + 1 < len(tokens) and tokens[i + 1] in _AFTER_PART


def _tex_fraction(tokens: Sequence[str], i: int) -> tuple[Fraction | None, int]:
    r"""The value of \frac with two whole numbers: \frac{1}{2}, \frac12, \frac1{20}; None where anything else stands there."""
    if tokens[i + 2 : i + 3] == ["/"] and tokens[i + 1].isdecimal() and len(tokens[i + 1]) <= LONGEST and _over(tokens, i + 2):
        return Fraction(int(tokens[i + 1]), _over(tokens, i + 2)), i + 4  # \frac 1/2, as `reading` writes \frac{1}{2}
    parts: list[int] = []
    j = i + 1
    pending = ""
    while len(parts) < 2:
        if pending:  # the second digit of \frac12
            parts.append(int(pending[0]))
            if len(pending) > 1:
                return None, i
            break
        if (
            tokens[j : j + 1] == ["{"]
            and tokens[j + 2 : j + 3] == ["}"]
            and tokens[j + 1].isdecimal()
            and len(tokens[j + 1]) <= LONGEST
        ):
            parts.append(int(tokens[j + 1]))
            j += 3
        elif j < len(tokens) and tokens[j].isdecimal() and len(tokens[j]) <= 2:
            parts.append(int(tokens[j][0]))
            pending = tokens[j][1:]
            j += 1
        else:
            return None, i
    return (Fraction(parts[0], parts[1]), j) if parts[1] else (None, i)
