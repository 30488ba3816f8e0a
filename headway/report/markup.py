"""How values become text: numbers in words people read, and foreign text made harmless for HTML and for a terminal.

Problem texts, rollouts and names come from data sets and models, so they may hold markup, control characters or
anything else. Everything that the page or the terminal shows of them passes through `escape` or `clean`.

This file does not know what the numbers mean or where they are shown.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

# C0 and C1 controls without tab and newline, lone surrogates, and what turns the direction of the text around it.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def clean(value: object) -> str:
    """Text with newlines and tabs but no other control character: each becomes a visible ``\\x1b``-like form.

    >>> clean("a" + chr(27) + "[31mb")
    'a\\\\x1b[31mb'
    """
    text = str(value).replace("\r\n", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def escape(value: object) -> str:
    """`clean` text for HTML, inside an element or a quoted attribute.

    >>> escape('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(clean(value), quote=True)


def percent(share: float | None, digits: int = 1) -> str:
    """A share as percent: 0.8731 -> "87.3 %"; None -> "-"."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, with its sign: 0.12 -> "+12.0"."""
    if difference is None or math.isnan(difference):
        return "-"
    shown = f"{100 * difference:+.1f}".replace("-", "\u2212")
    return "0.0" if shown[1:] == "0.0" else shown


def p_value(p: float | None) -> str:
    """A p-value to write down: "p < 0.001", "p = 0.012", "p = 0.43"; None -> "-"."""
    if p is None or math.isnan(p):
        return "-"
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def amount(value: float | None) -> str:
    """A number in at most four digits: 1234 -> "1,234", 3_200_000 -> "3.2 M", 0.01234 -> "0.01234", 5e-7 -> "5e-7"."""
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scaled = value / {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}[unit]
            return f"{scaled:.3g} {unit}"
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.3g}".partition("e")[::2] if size < 1e-4 else (f"{value:.3g}", "")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """A time in its two largest units: 133 -> "2 min 13 s", 0.4 -> "0.4 s"."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, below, below_name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{whole} s"


def clock(seconds: float | None) -> str:
    """A time as on a clock: 133 -> "2:13", 3700 -> "1:01:40"."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(num_bytes: float | None) -> str:
    """Memory in binary units: 3 * 2**30 -> "3.0 GiB"."""
    if num_bytes is None or not math.isfinite(num_bytes):
        return "-"
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} B"


def listed(names: list[str]) -> str:
    """Names as people list them: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def table(kind: str, heads: Sequence[str], body: Sequence[tuple[str, list[str]]]) -> str:
    """A table for the page whose rows start with a name, which is escaped; `heads` and cells (`<td>...</td>`) are HTML."""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>' for name, cells in body)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'
