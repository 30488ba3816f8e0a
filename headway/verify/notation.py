r"""Many ways to write an answer, one notation: LaTeX spelling, Unicode symbols and layout are made plain.

    "$\dfrac12\,\text{cm}$"  -->  "\frac12 \text{cm}"        "−3½"  -->  "-3\frac{1}{2}"

It does not know what an answer means, only how it is spelt. Everything here is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata

_SYMBOLS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("×✕⨯", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u200e\u200f\u00ad", ""),
    "÷": r"\div ", "π": r"\pi ", "𝜋": r"\pi ", "∞": r"\infty ", "°": r"^\circ ",
    "º": r"^\circ ", "±": r"\pm ", "∓": r"\mp ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "√": r"\surd ", "∛": r"\cubicroot ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
    "δ": r"\delta ", "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ",
    "τ": r"\tau ", "φ": r"\phi ", "ω": r"\omega ", "Δ": r"\Delta ", "Ω": r"\Omega ", "′": "'", "’": "'", "∘": r"\circ ",
    "，": ",", "；": ";", "：": ":", "。": ".", "（": "(", "）": ")", "％": "%", "⁄": "/", "∕": "/",
}  # fmt: skip
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_TABLE = str.maketrans(_SYMBOLS)

_ROOT = re.compile(r"\\(surd|cubicroot) *(?:([0-9.]+|[A-Za-z])|\(([^()]*)\)|(?=\{))")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_DOUBLED = re.compile(r"\\\\(?=(?:[dtc]?frac|sqrt|left|right|text|mathrm|pi|cdot|times|boxed|circ|pm|infty)(?![a-zA-Z]))")
_LAYOUT = re.compile(
    r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|biggl?|biggr?|Biggl?|Biggr?|displaystyle|textstyle|limits|nolimits"
    r"|mathopen|mathclose|middle|strut)(?![a-zA-Z])\.?(?=\s*(?:[()\[\]{}|.\\/]|$|[^a-zA-Z]|[a-zA-Z]))"
)
_GROUPED = re.compile(r"(?<=[0-9])(?:,\s*\\!\s*|\\!\s*,|\{,\}(?:\\!)?\s*|\\[,; ]\s*(?=[0-9]{3}(?![0-9])))(?=[0-9])")
_SPACES = re.compile(r"(?<!\\)\\[,!;:> ]|\\(?:quad|qquad|hspace\*?\{[^{}]*\}|thinspace|enspace|hfill)(?![a-zA-Z])|[~\s]+")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_WRAPPED = re.compile(r"\\(?:mathrm|mathbf|mathit|mathsf|boldsymbol|bm|mathbb|mathcal|operatorname\*?|rm|bf)\s*\{([^{}]*)\}")
_TEXT = re.compile(r"\\(?:textbf|textrm|textit|textsf|textnormal|mbox|hbox|emph|underline)\s*\{")
_RENAMED = re.compile(
    r"\\(?:(leq|leqslant|geq|geqslant|neq|gt|lt|lbrace|rbrace|lbrack|rbrack|varnothing|degree|colon|land|lor|percent"
    r"|ldots|dots|cdots|equal|simeq|thickapprox|vert|lvert|rvert))(?![a-zA-Z])"
)
_NEW_NAMES = {
    "leq": r"\le ", "leqslant": r"\le ", "geq": r"\ge ", "geqslant": r"\ge ", "neq": r"\ne ", "gt": ">", "lt": "<",
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "varnothing": r"\emptyset ", "degree": r"^\circ ",
    "colon": ":", "land": " and ", "lor": " or ", "percent": "%", "ldots": r"\dots ", "dots": r"\dots ",
    "cdots": r"\dots ", "equal": "=", "simeq": r"\approx ", "thickapprox": r"\approx ",
    "vert": "|", "lvert": "|", "rvert": "|",
}  # fmt: skip
_SET = re.compile(r"(?:(?<=[\s(,])|^)\{([^{}]*)\}")
_END_TOKEN = re.compile(r"<\|[a-z_]{2,20}\|>|</s>")
_MIXED = re.compile(r"(?<![0-9.A-Za-z}^_])([0-9]+) +([0-9]+)/([0-9]+)(?![0-9.])")


def plain(text: str) -> str:
    """`text` in the one notation: no dollar signs, no spacing commands, no alternative spellings, single spaces."""
    if not text.isascii():
        text = _unicode(text)
    if "\\" in text or "{,}" in text:
        text = _latex(_GROUPED.sub("", text))
    text = text.replace("$", " ").replace("**", "^").replace(">=", "\\ge ").replace("<=", "\\le ")
    if "<|" in text or "</s>" in text:
        text = _END_TOKEN.sub("", text)
    if text.startswith(("`", "_", '"', "'")) or text.endswith(("`", "_", '"')):
        text = text.strip("`_\"'")
    text = _SPACES.sub(" ", text).strip()
    if "/" in text and " " in text:
        text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    while text and text[-1] in ".,;:" and not text.endswith("\\;"):
        text = text[:-1].rstrip()
    return text[:-1].rstrip() if text.endswith("\\") else text


def _unicode(text: str) -> str:
    text = _RAISED.sub(lambda match: "^{" + match.group().translate(_SUPERSCRIPT) + "}", text)
    text = _LOWERED.sub(lambda match: "_{" + match.group().translate(_SUBSCRIPT) + "}", text)
    text = text.translate(_TABLE)
    text = _ROOT.sub(
        lambda match: (
            ("\\sqrt" if match.group(1) == "surd" else "\\sqrt[3]")
            + ("{" + (match.group(2) or match.group(3)) + "}" if match.group(2) or match.group(3) else "")
        ),
        text,
    )
    if text.isascii():
        return text
    pieces: list[str] = []
    for character in text:
        if character.isascii():
            pieces.append(character)
        elif character.isdecimal():
            pieces.append(str(unicodedata.decimal(character)))
        else:
            folded = unicodedata.normalize("NFKC", character)
            top, slash, bottom = folded.partition("⁄")
            pieces.append(f"\\frac{{{top}}}{{{bottom}}}" if slash and top and bottom else folded)
    return "".join(pieces)


def _latex(text: str) -> str:
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(lambda _: "\\", text)
    text = text.replace("\\$", "\\dollar ").replace("\\%", "%").replace("\\_", "_").replace("\\&", "&")
    text = _LAYOUT.sub("", text)
    text = _FRACTION.sub(lambda _: "\\frac", text)
    text = _TEXT.sub(lambda _: "\\text{", text)
    for _ in range(3):
        unwrapped = _WRAPPED.sub(r"\1", text)
        if unwrapped == text:
            break
        text = unwrapped
    text = _RENAMED.sub(lambda match: _NEW_NAMES[match.group(1)], text)
    return _SET.sub(r"\{\1\}", text) if "\\cap" in text or "\\cup" in text or "\\setminus" in text else text


_BOUNDS = re.compile(r"(\\(?:int|sum|prod)) ?\^ ?(\{[^{}]*\}|[0-9A-Za-z]) ?_ ?(\{[^{}]*\}|[0-9A-Za-z])")
_NEEDLESS = re.compile(r"(?<=[_^])\{([0-9A-Za-z+*-])\}")


def squeezed(text: str) -> str:
    """`text` in plain notation without spaces, the limits of sums in one order: equal spelling is an equal answer."""
    text = _BOUNDS.sub(r"\1_\3^\2", plain(text)) if "\\" in text else plain(text)
    return _NEEDLESS.sub(r"\1", "".join(text.split()))


_OPENING, _CLOSING = "([{", ")]}"
_TOKEN = re.compile(r"\\begin|\\end|\\[a-zA-Z]+|\\.|[()\[\]{}]|,|;|=|<|>|:|\b(?:and|or)\b|[^\\()\[\]{},;=<>:]", re.DOTALL)


def split(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]]:
    """The pieces of `text` between top-level separators, and the separators found.

    >>> split("(1,2), 3", frozenset(","))
    (['(1,2)', ' 3'], [','])

    Brackets of any kind may close each other ([0,1) is an interval); environments count as brackets. Unbalanced text
    has no top level below its start, and comes back whole.
    """
    pieces: list[str] = []
    found: list[str] = []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        piece = token.group()
        if piece in _OPENING or piece in ("\\{", "\\begin", "\\lfloor", "\\lceil"):
            depth += 1
        elif piece in _CLOSING or piece in ("\\}", "\\end", "\\rfloor", "\\rceil"):
            depth -= 1
            if depth < 0:
                return [text], []
        elif depth == 0 and piece in separators:
            pieces.append(text[start : token.start()])
            found.append(piece)
            start = token.end()
    if depth:
        return [text], []
    pieces.append(text[start:])
    return pieces, found


def enclosed(text: str) -> tuple[str, str, str] | None:
    r"""(opener, inside, closer) where one pair of brackets holds all of `text`, else None.

    >>> enclosed("[0,1)"), enclosed("(x)(y)")
    (('[', '0,1', ')'), None)
    """
    width = 2 if text.startswith("\\{") else 1
    if len(text) < 2 or not (width == 2 or text[0] in _OPENING):
        return None
    depth = 0
    for token in _TOKEN.finditer(text):
        piece = token.group()
        if piece in _OPENING or piece == "\\{":
            depth += 1
        elif piece in _CLOSING or piece == "\\}":
            depth -= 1
            if depth == 0:
                if token.end() != len(text):
                    return None
                return text[:width], text[width : token.start()], piece
    return None
