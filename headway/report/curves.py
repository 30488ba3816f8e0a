"""The page's curves: one card a metric, grouped by stage, each explained by its entry of the glossary.

Metrics that belong together share a chart (loss with validation loss, chosen with rejected log-prob). Every numeric key
that a stage logged is charted, known or not. This file does not know how a line is drawn or where the rows came from.
"""

from __future__ import annotations

from collections.abc import Sequence

from headway.report import charts
from headway.report.entry import Entry
from headway.report.glossary import ENTRIES, anchor
from headway.report.markup import amount, escape
from headway.report.tables import Curve

_TOGETHER = (
    ("loss", "validation_loss"),
    ("chosen_logprob", "rejected_logprob"),
    ("chosen_reward", "rejected_reward"),
    ("chosen_shift", "rejected_shift"),
    ("chosen_tokens", "rejected_tokens"),
    ("trained_groups", "trained_rollouts"),
    ("all_correct", "all_wrong"),
    ("mean_tokens_correct", "mean_tokens_wrong"),
)
_FIRST = ("loss", "validation_loss", "accuracy", "reward", "pair_accuracy", "margin", "mean_tokens", "truncated")
_ASIDE = ("lr", "tokens_per_s", "tokens", "seconds", "sampled_rollouts", "sampled_tokens", "temperature")


def curve_cards(drawn: Sequence[Curve]) -> str:
    """All stages' charts, each stage in a block that folds."""
    if not drawn:
        return '<p class="quiet">The run logged no steps.</p>'
    blocks = []
    for stage in dict.fromkeys(curve.stage for curve in drawn):
        mine = {curve.name: curve for curve in drawn if curve.stage == stage}
        main = [_card([mine[name] for name in names]) for names in _grouped([n for n in mine if n not in _ASIDE])]
        aside = [_card([mine[name]]) for name in _ASIDE if name in mine]
        more = "<summary>Learning rate, speed and the like</summary>"
        folded = f'<details class="aside">{more}<div class="cards">{"".join(aside)}</div></details>' if aside else ""
        steps = max(curve.steps[-1] for curve in mine.values())
        blocks.append(
            f'<details class="stage-curves" open><summary><h3>{escape(stage)}'
            f'<small class="quiet"> {amount(steps)} steps</small></h3></summary>'
            f'<div class="cards">{"".join(main)}</div>{folded}</details>'
        )
    return "".join(blocks)


def glossary_list(names: set[str]) -> str:
    """The entries of the charted names and of the staircase's columns, as a list of terms."""
    fixed = {
        "ci_low, ci_high",
        "p_vs_previous",
        "difference_vs_previous",
        "pass_at_k",
        "majority",
        "truncated",
        "no_answer",
        "unverifiable",
    }
    items = []
    for name, entry in ENTRIES.items():
        if name in names | fixed | {"accuracy", "mean_tokens"}:
            watch = f" <span>Watch for: {escape(entry.watch)}</span>" if entry.watch != "-" else ""
            items.append(f'<dt id="{anchor(name)}">{escape(entry.title)}</dt><dd>{escape(entry.meaning)}{watch}</dd>')
    items += [
        f'<dt id="{anchor(name)}">{escape(name)}</dt><dd>Logged by the stage; the glossary has no entry for it.</dd>'
        for name in sorted(names - ENTRIES.keys())
    ]
    return f'<dl class="words">{"".join(items)}</dl>'


def _grouped(names: list[str]) -> list[list[str]]:
    """The names by chart: what tells most first, the rest as logged."""
    waiting = sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    groups: list[list[str]] = []
    while waiting:
        head = waiting[0]
        group = next((together for together in _TOGETHER if head in together), (head,))
        groups.append([name for name in group if name in waiting])
        waiting = [name for name in waiting if name not in group]
    return groups


def _card(group: Sequence[Curve]) -> str:
    """One chart: title that links to its entry, last value, drawing, key and one line of explanation."""
    head = group[0]
    entry = ENTRIES.get(head.name, Entry(head.name, head.name, "", ""))
    drawing = charts.curve([charts.Series(curve.name, curve.steps, curve.values) for curve in group])
    keys = "".join(_key(number, curve.name) for number, curve in enumerate(group)) if len(group) > 1 else ""
    notes = []
    width = charts.smoothing(head.values)
    if width > 1:
        notes.append(f"line: mean of {width} steps; pale: each step")
    if head.missing:
        notes.append(f"{head.missing} rows without a finite number")
    note = "".join(f'<p class="quiet">{line}</p>' for line in (keys, "; ".join(notes)) if line)
    return (
        f'<figure class="card"><h4><a href="#{anchor(head.name)}" title="{escape(entry.meaning or head.name)}">'
        f"{escape(entry.title)}</a><output>{amount(head.values[-1])}</output></h4>{drawing}{note}</figure>"
    )


def _key(number: int, name: str) -> str:
    """A sample of the line beside its name."""
    title = ENTRIES[name].title if name in ENTRIES else name
    line = f'<line class="line s{number}" x1="1" x2="19" y1="4" y2="4"/>'
    return f'<span class="key"><svg class="curve" viewBox="0 0 20 8">{line}</svg>{escape(title)}</span>'
