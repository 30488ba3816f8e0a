r"""A question's characters and LaTeX in plain text: symbols, fractions, tables, places in a row, units of time.

    \frac{1}{2} \le x^{2}     ->  1/2 <= x ^ 2                        | 5 | 7 |   5 & 7 \\ \hline   ->  5  7
    0.\overline{7}   0.777...  ->  7/9                                a_4   4th                    ->  orde (a place, no number)
    half an hour   0.5 hours    ->  30 minutes                         $\log_264$                  ->  log _ 2 64

This file does not know words, sentences, nor what a question is.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_CHARACTERS = {
    "’": "'", "‘": "'", "`": "'", "“": '"', "”": '"', "−": "-", "–": "-", "—": " - ", "×": "*", "·": "*", "⋅": "*",
    "÷": "/", "∶": ":",
    "≤": "<=", "≥": ">=", "≠": "!=", "≡": " \\equiv ", "°": " \\circ ", "√": " \\sqrt ", "∞": " \\infty ", "…": "...",
    "½": " 1/2", "¼": " 1/4",
    "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "⅕": " 1/5", "⅛": " 1/8", "。": ". ", "、": ", ", "，": ", ",
    "¿": " ", "¡": " ", "\xa0": " ",
    "~": " ",
    "π": " \\pi ", "θ": " \\theta ", "α": " \\alpha ", "β": " \\beta ", "∑": " \\sum ", "∫": " \\int ", "∠": " \\angle ",
    "△": " \\triangle ",
    "⌈": " \\lceil ", "⌉": " \\rceil ", "⌊": " \\lfloor ", "⌋": " \\rfloor ",
    "∈": " \\in ", "⊥": " \\perp ", "∥": " \\parallel ", "€": "$", "£": "$",
    "¢": " cents",
}  # fmt: skip
_TABLE = str.maketrans(_CHARACTERS)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
_RAISED = re.compile(f"[{_SUPERSCRIPTS}]+")
_LOWERED = str.maketrans(_SUPERSCRIPTS, "0123456789+-n")
_SUBSCRIPTS = re.compile("[₀-₉]+")
_TEX = (
    (re.compile(r"\\log_(\d)(?=\d)"), r"\\log _ \1 "),  # TeX lowers one digit: \log_264
    (re.compile(r"\\hline|\\multicolumn\s*\{\d+\}\s*\{[^{}]*\}|\\cline\s*\{[^{}]*\}"), " "),
    (re.compile(r"(?<=\d),\\!(?=\d)"), ","), (re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))"), ","),  # 400\,000
    (re.compile(r"\$(\d{1,3})((?: \d{3})+)(?!\d)"), lambda found: found[1] + found[2].replace(" ", ",")),  # $400 000
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"), (re.compile(r"\\[\[\]()]"), " "),
    (re.compile(r"\$(\d[\d.,/]*)\$"), r"\1"), (re.compile(r"\$\s*\\?%"), "%"),
    (re.compile(r"\\sqrt\s*\{(\d+)\}(?=\s*/)"), r"\\sqrt (\1)"),  # \sqrt{845}/9 is no root of 845/9
    (re.compile(r"(\\sqrt|\^|_)\s*\{([^{}]*)\}"), r"\1 \2 "),
    (re.compile(r"\\(?:left|right|bigg?l?|bigg?r?|Bigg?[lr]?|displaystyle|quad|qquad|limits|middle"
                r"|ldots|cdots|dots|dotsm|dotsb|cdotp)(?![a-zA-Z])|\\[,;:!]|\\ "), " "),
    (re.compile(r"\^\s*\\circ(?![a-z])"), r" \\circ "),
    (re.compile(r"\\(?:text|textbf|textit|mbox|mathrm|mathbf|operatorname|overline|mathcal|boldsymbol|emph"
                r"|textrm|underline)\*?\s*(?=\{)"), " "),
    (re.compile(r"\\(?:begin|end)\s*\{[a-zA-Z]+\*?\}(?:\[[tbc]\])?(?:\{[lcr|]+\})?"), " "),
    (re.compile(r"\\(?:leq|leqslant|le)(?![a-zA-Z])"), "<="), (re.compile(r"\\(?:geq|geqslant|ge)(?![a-zA-Z])"), ">="),
    (re.compile(r"\\(?:neq|ne)(?![a-zA-Z])"), "!="), (re.compile(r"\\(?:cdot|times|ast)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])"), "/"), (re.compile(r"\\(?:lt)(?![a-zA-Z])"), "<"), (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\(?:pmod|bmod|mod)(?![a-zA-Z])"), " mod "), (re.compile(r"\\%"), "%"),
    (re.compile(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"(\$\s*\d*\.\d\d) cents?\b"), r"\1"),  # "$0.50 cents"
    (re.compile(r"\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}"), r" \\frac \1/\2 "), (re.compile(r"\\[$]"), " "),
    (re.compile(r"\\mid(?![a-zA-Z])|\\vert(?![a-zA-Z])|\\[lr]vert(?![a-zA-Z])"), "|"),
    (re.compile(r"\\degree(?![a-zA-Z])"), r"\\circ"),
)  # fmt: skip
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_BRACKETED = re.compile(r"\(\s*(\d{1,9})\s*\)/\(\s*(\d{1,9})\s*\)")  # (1)/(2), as scripts write \frac{1}{2}
_UNIT_POWER = re.compile(
    r"\b(cm|mm|km|in|ft|yd|mi|inch(?:es)?|feet|foot|yards?|(?:centi|milli|kilo)?met(?:er|re)s?|miles?|units?)[.}\s]*\^\s*\{?\s*[23]\b\s*\}?",
    re.IGNORECASE,
)
_TRANSPOSED = re.compile(r"([)}\]])\s*\^\s*\{?\s*(?:T\b|\\top\b|\\intercal\b)\s*\}?")  # (1, 2)^T, the column written in a line
_HOURS = re.compile(
    r"(?<![\d/])(?<!\d )(?:0?\.5|0?\.25|0?\.75|[13]/[24])(?: of an| an)? hours?\b(?! (?:and|long))", re.IGNORECASE
)
_TIME = re.compile(r"\b(half|(?:a |one )?quarter|three[- ]quarters)(?: of)?[ -](?:an |a |one )?hour\b", re.IGNORECASE)
_DOTS = re.compile(r"\.{3,}")
_TITLE = re.compile(r"\b(mr|mrs|ms|dr|st)\.", re.IGNORECASE)  # no end of a sentence
_PER_HOUR = re.compile(r"(?<![a-z])mph\b", re.IGNORECASE)
_DECADE = re.compile(r"\b(a|one|the|per|each|every)\s+decade\b", re.IGNORECASE)
_ORDINAL = re.compile(r"(?<![/\d.])(\d+)(?:\s*\^?\s*\{?\s*(?:\\text\w*\s*)?\{?\s*(?:st|nd|rd|th)\b\s*\}?\s*\}?)")
_FIRST = {"1": "first", "2": "second"}
_LETTERS = str.maketrans("0123456789", "abcdefghij")  # a place is no number
_PLACE = re.compile("ord[a-j]+")  # "orde" is the fourth

_SUBSCRIPT = re.compile(r"(?<![\w\\])([A-Za-z])_\{?(\d{1,3})\}?(?![\d_^])")  # the fourth of a_1, a_2, ..., but no base, no \log_2
_LISTED = re.compile(  # a_1, a_2, a_3, ...
    r"(?<![\w\\])([A-Za-z])_\{?1\}?\s{0,3}(?:,\s{0,3}\1_\{?\d\}?\s{0,3})+,?\s{0,3}(?=\\[lc]?dots|\.\.\.)"
)
_OVERLINED = re.compile(r"(?<![\d.])(\d{0,6})\.(\d{0,6})\\overline\s*\{(\d{1,9})\}")
_REPEATED = re.compile(r"(?<![\d.])(\d{0,6})\.(\d{0,3}?)(\d{1,6}?)\3+\s*(?:\.{3}|\\[lc]?dots)")
_RULE = re.compile(r"^[ \t]*\|[-:| \t]+$", re.MULTILINE)  # |---|---|
_ROW = re.compile(r"^[ \t]*\|.*\|.*$", re.MULTILINE)


def plain_characters(text: str) -> str:
    """A text in ASCII as far as it goes, raised and lowered digits as TeX writes them."""
    text = text.translate(_TABLE)
    if text.isascii():
        return text
    text = _RAISED.sub(lambda found: "^{" + found.group().translate(_LOWERED) + "}", text)
    text = _SUBSCRIPTS.sub(lambda found: "_" + unicodedata.normalize("NFKC", found.group()), text)
    return unicodedata.normalize("NFKC", text)


def without_markup(text: str) -> str:
    """A text in plain characters without its LaTeX and the lines of its tables.

    >>> without_markup(r"Is $a_4 \\le 0.\\overline{7}$?").split()
    ['Is', '$a_', 'orde', '<=', '7/9', '$?']
    """
    if "\\overline" in text or "..." in text or "dots" in text:
        text = _REPEATED.sub(_repeating, _OVERLINED.sub(_repeating, text))
        text = _LISTED.sub(r"\1_1 ", text)
    text = _DOTS.sub(" ", text)
    if "|" in text:
        text = _ROW.sub(lambda found: found.group().replace("|", "  "), _RULE.sub(" ", text))
    if "\\begin{" in text and ("{cases}" in text or "{align" in text or "{tabular}" in text):
        text = text.replace("&", " ")
    if "_" in text:
        text = _SUBSCRIPT.sub(lambda found: f"{found[1]}_ {place(found[2])} ", text)
    if "\\" in text or "$" in text:
        for pattern, replacement in _TEX:
            text = pattern.sub(replacement, text)
    for _ in range(3):  # symbolic fractions, from the inside out; those of whole numbers are read as numbers
        text, changed = _FRACTION.subn(r" (\1) / (\2) ", text) if "\\frac" in text else (text, 0)
        if not changed:
            break
    if ")/(" in text:
        text = _BRACKETED.sub(r" \1/\2 ", text)
    if "^" in text:
        text = _TRANSPOSED.sub(r"\1", _UNIT_POWER.sub(r"\1 ", text))
    text = _HOURS.sub(_minutes, _TIME.sub(_minutes, text)) if "hour" in text else text
    text = _PER_HOUR.sub(" miles per hour", _TITLE.sub(r"\1", text))
    text = _DECADE.sub(r"\1 10 years", text)
    return _ORDINAL.sub(_ordinal, text)


def place(digits: str) -> str:
    """A place in a row, which is no number; 0, 1 and 2 are left as they are.

    >>> place("4"), place("2")
    ('orde', '2')
    """
    return digits if digits in ("0", "1", "2") else "ord" + digits.translate(_LETTERS)


def _ordinal(found: re.Match[str]) -> str:
    return f" {_FIRST.get(found[1]) or place(found[1])} "


def is_place(token: str) -> bool:
    """Is a word what `place` writes?"""
    return _PLACE.fullmatch(token) is not None


def _repeating(found: re.Match[str]) -> str:
    """A repeating decimal as a fraction: 0.1\\overline{6} is (16 - 1)/90."""
    whole, start, period = found[1] or "0", found[2], found[3]
    over = (10 ** len(period) - 1) * 10 ** len(start)
    value = Fraction(int(whole + start + period) - int(whole + start), over)
    return f" {value} "


def _minutes(found: re.Match[str]) -> str:
    said = found.group().lower()
    is_half = said.startswith("half") or ".5" in said or "/2" in said
    return f"{30 if is_half else 45 if said[0] == 't' or '.75' in said or said.startswith('3/') else 15} minutes"
