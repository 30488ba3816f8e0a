"""Small charts as inline SVG text: the staircase, a metric's curve, a funnel's bar. No script, no library.

    staircase(rows)    columns in percent of the width, so its text keeps its size at any width
    curve(series)      320 x 170 units, for a card in a grid; values read out while hovering, by CSS alone
    bars(bins)         320 x 128 units: a histogram for a card
    funnel(funnel)     one bar: kept, then what was dropped, largest first

Colours come from classes of page.css (light and dark, and safe for colour-blind eyes); shape or text always says the
same as colour. Everything foreign is escaped. This file does not know where numbers come from.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from headway.report.markup import amount, escape, p_value, percent, points
from headway.report.tables import StageRow
from headway.types import Funnel

_HEIGHT = 330  # of the staircase's plot, in pixels
_DRAWN = 300  # points of a curve at most; beyond, each bucket keeps its lowest and highest
_READ_OUT = 40  # places where hovering reads a value
_SMOOTH_FROM = 40  # points from which a curve gets a moving mean


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart. Example: ``Series("loss", (1, 2, 3), (2.1, 1.9, 1.8))``; xs ascending, as long as ys."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`.

    >>> ticks(0.0, 0.93)
    [0.0, 0.5, 1.0]
    >>> ticks(3, 3)
    [2.6, 2.8, 3.0, 3.2, 3.4]
    """
    if high <= low:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step))) + 1
    return [round(number * step, digits) for number in range(first, last + 1)]


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of the `width` values around each one; fewer at the ends, never shifted. width: odd.

    >>> moving_mean([0.0, 3.0, 6.0], 3)
    [1.5, 3.0, 4.5]
    """
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    reach, last = width // 2, len(values)
    bounds = [(max(0, i - reach), min(last, i + reach + 1)) for i in range(last)]
    return [(sums[end] - sums[start]) / (end - start) for start, end in bounds]


def staircase(rows: Sequence[StageRow]) -> str:
    """The accuracy of each stage as a step with its 95 % interval as a band, and the change with its p."""
    top = next(level for level in (0.1, 0.25, 0.5, 1.0) if level >= max(min(1.0, row.ci_high) for row in rows))
    spoken = "; ".join(f"{row.stage} {percent(row.accuracy)}" for row in rows)
    parts = [
        f'<svg class="stairs" role="img" aria-label="Accuracy by stage: {escape(spoken)}" height="{_HEIGHT + 52}" width="100%">'
    ]
    for quarter in range(5):
        y = _y(top * quarter / 4, top)
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y:g}" y2="{y:g}"/>')
        parts.append(f'<text class="tick" x="-8" y="{y + 4:g}" text-anchor="end">{100 * top * quarter / 4:g}</text>')
    width = 100 / len(rows)
    for place, row in enumerate(rows):
        parts.append(_stair(row, rows[place - 1] if place else None, place * width, width, top))
    return "".join(parts) + "</svg>"


def _y(share: float, top: float) -> float:
    """From the upper edge in pixels; 30 above the plot are for the label."""
    return 30 + (_HEIGHT - 30) * (1 - share / top)


def _stair(row: StageRow, previous: StageRow | None, left: float, width: float, top: float) -> str:
    """One column: the fill, the interval's band, the tread, the riser from the stage before, and the labels."""
    y, low, high = _y(row.accuracy, top), _y(row.ci_low, top), _y(row.ci_high, top)
    middle, right = left + width / 2, left + width
    hint = f"{row.stage}: {percent(row.accuracy)}, 95 % interval {percent(row.ci_low)} to {percent(row.ci_high)}"
    parts = [
        f"<g><title>{escape(hint)}</title>",
        f'<rect class="under" x="{left:.3f}%" width="{width:.3f}%" y="{y:.1f}" height="{_HEIGHT - y:.1f}"/>',
        f'<rect class="band" x="{left:.3f}%" width="{width:.3f}%" y="{high:.1f}" height="{max(1.0, low - high):.1f}"/>',
        f'<line class="tread" x1="{left:.3f}%" x2="{right:.3f}%" y1="{y:.1f}" y2="{y:.1f}"/>',
    ]
    if previous is not None:
        before = _y(previous.accuracy, top)
        parts.append(f'<line class="riser" x1="{left:.3f}%" x2="{left:.3f}%" y1="{before:.1f}" y2="{y:.1f}"/>')
    parts.append(_label(middle, high - 9, "value", percent(row.accuracy)))
    if previous is not None:
        inside = low + 48 <= _HEIGHT
        at = low + 22 if inside else high - 42
        mark = {"better": " up", "worse": " down"}.get(row.claim, "")
        parts.append(_label(middle, at, f"change{mark}", points(row.difference_vs_previous)))
        if row.p_vs_previous is not None:
            parts.append(_label(middle, at + 15 if inside else at + 14, "quiet", p_value(row.p_vs_previous)))
    parts.append(_label(middle, _HEIGHT + 22, "stage", row.stage))
    if row.train_tokens:
        parts.append(_label(middle, _HEIGHT + 39, "quiet cost", f"{amount(row.train_tokens)} tokens"))
    return "".join(parts) + "</g>"


def _label(x: float, y: float, kind: str, text: str) -> str:
    return f'<text class="{kind}" x="{x:.3f}%" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'


def curve(series: Sequence[Series]) -> str:
    """One chart with one to three lines over the same steps. Long ones are drawn pale, with a moving mean on top."""
    left, right, upper, lower = 44.0, 312.0, 14.0, 144.0
    low = min(min(line.ys) for line in series)
    high = max(max(line.ys) for line in series)
    if 0 <= low < 0.35 * high:
        low = 0.0
    levels = ticks(low, high, 3)
    first, last = min(line.xs[0] for line in series), max(line.xs[-1] for line in series)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        return left + (right - left) * across, lower - (lower - upper) * (y - levels[0]) / (levels[-1] - levels[0])

    names = " and ".join(line.name for line in series)
    spoken = f"{escape(names)} over {len(series[0].xs)} steps"
    parts = [f'<svg class="curve" viewBox="0 0 320 170" role="img" aria-label="{spoken}">']
    for level in levels:
        _, y = place(first, level)
        parts.append(f'<line class="grid" x1="{left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6:g}" y="{y + 3.5:.1f}" text-anchor="end">{amount(level)}</text>')
    for x, anchor in ((first, "start"), (last, "end")) if last > first else ((first, "middle"),):
        parts.append(f'<text class="tick" x="{place(x, levels[0])[0]:.1f}" y="162" text-anchor="{anchor}">{amount(x)}</text>')
    for number, line in enumerate(series):
        parts += _lines(line, f"s{number}", place)
    parts.append(_read_outs(series, place, (left, right, upper, lower)))
    return "".join(parts) + "</svg>"


def _lines(line: Series, kind: str, place) -> list[str]:
    """The drawn line of one series: raw, and above it the moving mean where there are many points."""
    if len(line.xs) == 1:
        x, y = place(line.xs[0], line.ys[0])
        return [f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>']
    width = smoothing(line.ys)
    smooth = width > 1
    drawn = [_path(_thin(line), f"line {kind}" + (" raw" if smooth else ""), place)]
    if smooth:
        mean = tuple(moving_mean(line.ys, width))
        drawn.append(_path(_thin(Series(line.name, line.xs, mean)), f"line {kind}", place))
    return drawn


def smoothing(values: Sequence[float]) -> int:
    """The moving mean's width for a curve: about a twentieth of its points, odd; 1 where it is short or not noisy.

    Noisy: half of the points stand off the middle of their neighbours by more than 1 % of the curve's range.
    """
    spread = max(values) - min(values)
    if len(values) < _SMOOTH_FROM or not spread:
        return 1
    off = sorted(abs(b - (a + c) / 2) for a, b, c in zip(values, values[1:], values[2:], strict=False))
    return len(values) // 20 // 2 * 2 + 1 if off[len(off) // 2] > 0.01 * spread else 1


def _path(points_: list[tuple[float, float]], kind: str, place) -> str:
    spots = (place(x, y) for x, y in points_)
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in spots)}"/>'


def _thin(line: Series) -> list[tuple[float, float]]:
    """At most about `_DRAWN` points: of each bucket its lowest and highest in their order, so that no spike is lost."""
    points_ = list(zip(line.xs, line.ys, strict=True))
    if len(points_) <= _DRAWN:
        return points_
    width = math.ceil(2 * len(points_) / _DRAWN)
    kept: list[tuple[float, float]] = [points_[0]]
    for start in range(1, len(points_) - 1, width):
        bucket = points_[start : min(start + width, len(points_) - 1)]
        kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return [*kept, points_[-1]]


def _read_outs(series: Sequence[Series], place, box: tuple[float, float, float, float]) -> str:
    """Invisible strips that show a guide, a dot and the values while the pointer is over them."""
    left, right, upper, lower = box
    longest = max(series, key=lambda line: len(line.xs))
    count = min(_READ_OUT, len(longest.xs))
    chosen = sorted({round(i * (len(longest.xs) - 1) / max(1, count - 1)) for i in range(count)})
    spots = [longest.xs[i] for i in chosen]
    edges = [place(x, 0)[0] for x in spots]
    bounds = [left, *((a + b) / 2 for a, b in pairwise(edges)), right]
    parts: list[str] = []
    for number, x in enumerate(spots):
        at, texts, dots = edges[number], [], []
        for kind, line in enumerate(series):
            known = bisect_right(line.xs, x) - 1
            if known < 0:
                continue
            value = line.ys[known]
            dots.append(f'<circle class="dot s{kind}" cx="{at:.1f}" cy="{place(x, value)[1]:.1f}" r="3"/>')
            texts.append(amount(value))
        start, width, height = bounds[number], bounds[number + 1] - bounds[number], lower - upper
        text = f"step {amount(x)}: {' / '.join(texts)}"
        parts += [
            f'<g class="pt"><rect class="hit" x="{start:.1f}" y="{upper:g}" width="{width:.1f}" height="{height:g}"/>',
            "<g>",
            f'<line class="guide" x1="{at:.1f}" x2="{at:.1f}" y1="{upper:g}" y2="{lower:g}"/>{"".join(dots)}',
            f'<text class="tip" x="{right:g}" y="10" text-anchor="end">{text}</text></g></g>',
        ]
    return "".join(parts)


def bars(bins: Sequence[tuple[str, int]], spoken: str) -> str:
    """A histogram of (label, count): a bar and its count a bin, labels below where they fit. 320 x 128 units, for a card."""
    left, right, upper, lower = 4.0, 316.0, 18.0, 104.0
    width = (right - left) / max(1, len(bins))
    largest = max((count for _, count in bins), default=0) or 1
    every = math.ceil(len(bins) / 8)  # a label needs about 40 units
    parts = [f'<svg class="bars" viewBox="0 0 320 128" role="img" aria-label="{escape(spoken)}">']
    parts.append(f'<line class="grid" x1="{left:g}" x2="{right:g}" y1="{lower:g}" y2="{lower:g}"/>')
    for number, (label, count) in enumerate(bins):
        middle = left + (number + 0.5) * width
        height = max(1.0, (lower - upper) * count / largest) if count else 0.0
        parts.append(f"<g><title>{escape(label)}: {count:,}</title>")
        broad = min(width - 2, 56.0)
        parts.append(f'<rect x="{middle - broad / 2:.1f}" width="{broad:.1f}" y="{lower - height:.1f}" height="{height:.1f}"/>')
        if count and len(bins) <= 12:
            parts.append(f'<text class="count" x="{middle:.1f}" y="{lower - height - 4:.1f}" text-anchor="middle">')
            parts.append(f"{amount(count)}</text>")
        if number % every == 0:
            parts.append(f'<text class="tick" x="{middle:.1f}" y="{lower + 15:g}" text-anchor="middle">{escape(label)}</text>')
        parts.append("</g>")
    return "".join(parts) + "</svg>"


def funnel(selection: Funnel) -> str:
    """One bar of the funnel's rows: kept first, then each reason to drop, largest first; `page` writes the legend."""
    total = max(1, selection.considered)
    parts = [
        f'<svg class="funnel" role="img" width="100%" height="22" aria-label="kept {selection.kept} of {selection.considered}">'
    ]
    at = 0.0
    for number, (reason, count) in enumerate(funnel_parts(selection)):
        width = 100 * count / total
        kind = "kept" if number == 0 else f"lost l{(number - 1) % 4}"
        parts.append(f'<rect class="{kind}" x="{at:.3f}%" y="0" width="{width:.3f}%" height="22"><title>')
        parts.append(f"{escape(reason)}: {count:,}</title></rect>")
        at += width
    return "".join(parts) + "</svg>"


def funnel_parts(selection: Funnel) -> list[tuple[str, int]]:
    """("kept", n), then the reasons that dropped any row, largest first."""
    dropped = sorted(((reason, n) for reason, n in selection.dropped.items() if n), key=lambda part: (-part[1], part[0]))
    return [("kept", selection.kept), *dropped]
