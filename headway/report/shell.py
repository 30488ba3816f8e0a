"""What the terminal shows of finished runs: the staircase, two runs side by side, verdicts old and new. It loads no torch.

It does not know how the numbers come about (`tables`, `compare`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from headway.evaluate.regrade import Regraded, regrade
from headway.report.compare import compare, render_comparison, render_pooled
from headway.report.holdings import holdings
from headway.report.holdings_terminal import render_holdings
from headway.report.markup import clean
from headway.report.page import write_page
from headway.report.progress import Display
from headway.report.tables import render_staircase
from headway.store.schema import TABLES
from headway.store.store import Store
from headway.verify.judge import VERIFIER, Verifier


def report(folders: Sequence[Path]) -> None:
    """Print the staircase of a run and write its page again; of several runs, print the pooled staircase."""
    console = Console()
    if len(folders) > 1:
        render_pooled(folders, console)
        return
    (folder,) = folders
    render_staircase(folder, console)
    console.print(Text(f"page: {write_page(folder)}"), soft_wrap=True)


def compare_runs(a: Sequence[Path], b: Sequence[Path], as_json: bool) -> None:
    """Put two runs, or two lists of runs paired in order, side by side."""
    found = compare(list(a), list(b))
    if as_json:
        print(json.dumps(found.record))
        if found.warning:
            Console(stderr=True).print(Text(clean(found.warning)), soft_wrap=True)
    else:
        render_comparison(found, Console())


def show_holdings(folder: Path, as_json: bool) -> None:
    """Print what the tables in `folder` hold."""
    found = holdings(Store(folder, create=False))
    if as_json:
        print(json.dumps(found.record))  # ASCII: control characters are escaped
    else:
        render_holdings(found, Console())


def compact_store(folder: Path) -> None:
    """Join the small files of the tables in `folder`, and say how many there were and are."""
    store = Store(folder, create=False)
    with Display(Console(stderr=True)) as display:
        names = list(TABLES)
        counts = store.compact(lambda name: display("compact", names.index(name), len(names), {"table": name}))
    for name, (before, after) in counts.items():
        print(f"{name}: {before} files -> {after}")


def verify_run(folder: Path, everything: bool, diff: bool, against: str, sample: int, as_json: bool) -> None:
    """Judge a run's rollouts with this build's verifier, keep what is new, and show what it changes."""
    store = Store(folder / "store", create=False)
    console = Console(stderr=as_json)
    with Display(console) as display, Verifier(workers=os.cpu_count() or 1) as verifier:

        def tell(done: int, total: int) -> None:
            display("verify", done, total, {})

        found = regrade(store, verifier, everything=everything, against=against, sample=sample if diff else 0, tell=tell)
    if as_json:
        print(json.dumps(_regraded_record(found)))
        return
    console.print(Text(f"{VERIFIER}: {found.judged} rollouts judged, {found.added} new verdicts"), soft_wrap=True)
    if diff:
        _render_changes(found, console)


def _regraded_record(found: Regraded) -> dict[str, object]:
    """What `headway verify --json` prints."""
    return {
        "verifier": VERIFIER,
        "judged": found.judged,
        "added": found.added,
        "changed": found.num_changes,
        "outcomes": [{"before": before, "after": after, "count": n} for (before, after), n in sorted(found.outcomes.items())],
        "examples": [
            {
                "rollout_id": one.after.rollout_id,
                "reference": one.reference,
                **{f"before_{key}": getattr(one.before, key) for key in _SHOWN},
                **{f"after_{key}": getattr(one.after, key) for key in _SHOWN},
            }
            for one in found.examples
        ],
    }


_SHOWN = ("verifier", "outcome", "reason", "extracted")


def _render_changes(found: Regraded, console: Console) -> None:
    """How many outcomes changed from what to what, and the sampled ones, one rollout in two lines."""
    compared = sum(found.outcomes.values())
    console.print(Text(f"compared with an earlier verdict: {compared}; other outcome: {found.num_changes}"), soft_wrap=True)
    for (before, after), count in sorted(found.outcomes.items()):
        if before is not after:
            console.print(Text(f"  {before} -> {after}: {count}"), soft_wrap=True)
    for one in found.examples:
        console.print(Text(f"{one.after.rollout_id}  reference {clean(one.reference)!r}"), soft_wrap=True)
        for verdict in (one.before, one.after):
            said = f"{verdict.outcome} ({clean(verdict.reason)}), extracted {clean(verdict.extracted)!r}"
            said += f", read as {clean(verdict.parsed)!r} against {clean(verdict.parsed_reference)!r}" if verdict.parsed else ""
            console.print(Text(f"  {clean(verdict.verifier)}: {said}"), soft_wrap=True)
