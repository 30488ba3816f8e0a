"""`headway clean`: problem files without duplicates and without what evaluation sets hold, and why each was removed.

    DATA --load--> deduplicate [--> deduplicate_near] --> decontaminate against EVAL --> --out FILE (JSONL), funnels, explanations

It does not know what makes two questions one problem (`problems.overlap`, `problems.near`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from headway.config import SourceConfig
from headway.durable import refusing, write_atomic
from headway.errors import DataError
from headway.problems.clean import decontaminate, deduplicate
from headway.problems.gather import removals_record
from headway.problems.likeness.near import NearGroup, deduplicate_near
from headway.problems.likeness.overlap import Removal
from headway.problems.load import load
from headway.report.markup import clean
from headway.types import Problem, Split


def clean_files(data: Sequence[str], against: Sequence[str], out: Path | None, explain: int, near: bool, as_json: bool) -> None:
    """Clean the problems of all `data` files against all `against`, print the funnels and up to `explain` explanations.

    With `near` nearly equal questions are reduced to the first. Raises DataError for what cannot be read or written.
    """
    console = Console(stderr=True)
    problems = [problem for name in data for problem in load(SourceConfig(data=name))]
    heldout = [problem for name in against for problem in load(SourceConfig(data=name, split=Split.HELDOUT))]
    if out is not None and any(Path(name).exists() and out.exists() and Path(name).samefile(out) for name in (*data, *against)):
        raise DataError(f"{out} is one of the files that are read: give another --out")
    kept, exact = deduplicate(problems)
    funnels, groups, removals = [exact], list[NearGroup](), list[Removal]()
    if near:
        with _bar(console, "near duplicates", len(kept)) as tell:
            kept, funnel = deduplicate_near(kept, explain=groups, tell=tell)
        funnels.append(funnel)
    with _bar(console, "held-out overlap", len(kept)) as tell:
        kept, funnel = decontaminate(kept, deduplicate(heldout)[0], explain=removals, tell=tell)
    funnels.append(funnel)
    if out is not None:
        with refusing(out.parent):
            write_atomic(out, "".join(json.dumps(_row(problem), ensure_ascii=False) + "\n" for problem in kept))
    if as_json:
        shown = removals_record(removals, explain)
        near_groups = [[problem.id for problem in (group.kept, *group.dropped)] for group in groups[:explain]]
        print(json.dumps({"funnels": [asdict(funnel) for funnel in funnels], **shown, "near_groups": near_groups}))
        return
    screen = Console()
    for funnel in funnels:
        screen.print(Text(str(funnel)), soft_wrap=True)
    for group in groups[:explain]:
        _show(screen, "near duplicate", group.similarity[0], group.kept, group.dropped[0], f"and {len(group.dropped) - 1} more")
    for removal in removals[:explain]:
        _show_removal(screen, removal)
    if out is not None:
        screen.print(Text(f"wrote {len(kept)} problems to {out}"), soft_wrap=True)


def _row(problem: Problem) -> dict[str, Any]:
    """A problem as `load` reads it back."""
    row = {"id": problem.id, "source": problem.source, "question": problem.question, "answer": problem.reference}
    return row | ({"solution": problem.solution} if problem.solution else {})


@contextmanager
def _bar(console: Console, name: str, total: int) -> Iterator[Any]:
    """A progress bar on standard error while it takes; the value is to be called with how many are done."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total)

        def tell(done: int) -> None:
            if done % 256 == 0 or done == total:
                progress.update(task, completed=done)

        yield tell


def _show(screen: Console, rule: str, score: float, kept: Problem, dropped: Problem, more: str) -> None:
    screen.print(Text(f"\n{rule} ({score:.2f}) {more}"), soft_wrap=True)
    screen.print(Text(f"  kept    {kept.source} {kept.id}: {clean(kept.question)}"), soft_wrap=True)
    screen.print(Text(f"  dropped {dropped.source} {dropped.id}: {clean(dropped.question)}"), soft_wrap=True)


def _show_removal(screen: Console, removal: Removal) -> None:
    """One removal, both questions one below the other."""
    shared = "; ".join(
        part for part in (f"numbers {', '.join(removal.numbers)}" if removal.numbers else "", " ".join(removal.words)) if part
    )
    screen.print(Text(f"\n{removal.rule} ({removal.score:.2f})" + (f": {clean(shared)}" if shared else "")), soft_wrap=True)
    screen.print(Text(f"  removed  {removal.source} {removal.problem_id}: {clean(removal.question)}"), soft_wrap=True)
    screen.print(
        Text(f"  held out {removal.heldout_source} {removal.heldout_id}: {clean(removal.heldout_question)}"), soft_wrap=True
    )
