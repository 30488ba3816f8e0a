"""`headway label` in the terminal: who labels which problems, live progress, a funnel and the counts.

It does not know how a label is made (`curate.labelling`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from headway.curate.labelling import Labelled, label_by_model, label_by_pass_rate
from headway.curate.replies import Replies
from headway.durable import refusing, write_json
from headway.errors import ConfigError
from headway.lock import FolderLock
from headway.report.markup import clean
from headway.report.progress import Display
from headway.report.teacher import endpoint_config
from headway.store.store import Store
from headway.teacher.book import folder_name
from headway.types import Split


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for: labels of a model behind `server`, or those of `sampler`'s pass rates."""

    store: Path
    by: str
    server: Mapping[str, Any]
    name: str
    sampler: str
    split: str
    num_problems: int
    attempts: int
    seed: int


def label_store(order: Order, as_json: bool) -> None:
    """Label; then the funnel. Raises what the call ends with."""
    if order.by not in ("model", "pass-rate"):
        raise ConfigError(f"--by {order.by!r}: model or pass-rate")
    if order.split and order.split not in tuple(Split):
        raise ConfigError(f"--split {order.split!r}: it is one of {', '.join(Split)}")
    console = Console(stderr=as_json)
    store = Store(order.store, create=False)
    record: dict[str, Any] = {}
    if order.by == "model":
        found, record = _by_model(order, store, console)
    else:
        found = label_by_pass_rate(store, order.sampler)
    record = {"labeller": found.labeller, "funnel": asdict(found.funnel), "added": found.added, **record}
    record["labels"] = [{"domain": d, "difficulty": e, "problems": n} for (d, e), n in sorted(found.labels.items())]
    if as_json:
        print(json.dumps(record))
    else:
        console.print(Text(clean(str(found.funnel))), soft_wrap=True)
        for row in record["labels"]:
            console.print(Text(f"  {row['problems']:>8,}  {row['domain']}  {row['difficulty']}"), soft_wrap=True)
        console.print(Text(clean(f"{found.added} new labels by {found.labeller}")), soft_wrap=True)
    if found.failure is not None:
        raise found.failure
    if found.stopped:
        console.print(Text(clean(f"stopped early: {found.stopped}; the same command goes on from here")), soft_wrap=True)


def _by_model(order: Order, store: Store, console: Console) -> tuple[Labelled, dict[str, Any]]:
    if not order.server:
        raise ConfigError("labels come from a model of a server (--base-url and --model) or from --by pass-rate")
    config = endpoint_config({"max_tokens": 4096, **order.server})
    labeller = f"model:{order.name or config.model}@1"
    settings = {"model": config.model, "temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens}
    settings |= {"attempts": order.attempts, "seed": order.seed, "extra": json.dumps(config.extra, sort_keys=True)}
    problems = store.problems(split=order.split or None)[: order.num_problems or None]
    folder = order.store.parent / "labels" / folder_name(labeller)
    with refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    try:
        with Display(console) as display:
            replies = Replies(folder, labeller, config, settings, lambda note: console.print(Text(clean(note)), soft_wrap=True))
            show = lambda done, total, numbers: display("labels", done, total, numbers)  # noqa: E731
            found = label_by_model(store, replies, labeller, problems, order.attempts, order.seed, show)
        record = {**asdict(replies.spent), "stopped": found.stopped}
        write_json(folder / "funnel.json", {"funnel": asdict(found.funnel), **record})
    finally:
        lock.release()
    return found, record
