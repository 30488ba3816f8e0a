"""The page's alarms: what went wrong while a run trained, in plain words, each with its metric and a rollout to look at.

It does not know when an alarm is raised (`train.health`).
"""

from __future__ import annotations

from pathlib import Path

from headway.journal import Metrics
from headway.report.glossary import ENTRIES, anchor
from headway.report.markup import escape, table

ALARMS_INTRO = (
    "What the run warned of while it trained. An alarm changes nothing by itself; docs/health.md says what to do about each."
)


def alarm_words(run_dir: Path) -> set[str]:
    """The metrics that alarms name and the glossary explains."""
    return {str(row["metric"]) for row in Metrics(run_dir / "alarms.jsonl").rows()} & ENTRIES.keys()


def alarm_list(run_dir: Path) -> str:
    """A table of the run's alarms, in the order in which they were raised."""
    rows = Metrics(run_dir / "alarms.jsonl").rows()
    if not rows:
        return '<p class="quiet">None was raised.</p>'
    body: list[tuple[str, list[str]]] = []
    for row in rows:
        metric = str(row["metric"])
        name = escape(ENTRIES[metric].title if metric in ENTRIES else metric)
        link = f'<a href="#{anchor(metric)}">{name}</a>' if metric in ENTRIES else name
        look = f"<code>{escape(row['look'])}</code>" if row.get("look") else ""
        cells = [str(row["step"]), link, escape(row["says"]), look]
        body.append((str(row["stage"]), [f"<td>{cell}</td>" for cell in cells]))
    return table("alarms", ["stage", "step", "metric", "what happened", "look at one"], body)
