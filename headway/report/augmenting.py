"""`headway augment` in the terminal: where problems come from, what nothing may repeat, live progress, a funnel a kind.

It does not know how a problem is made (`curate.augmenting`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from headway.config import SourceConfig
from headway.curate.augmenting import Augmented, Augmenter, Wish
from headway.durable import refusing, write_json
from headway.errors import ConfigError, DataError
from headway.lock import FolderLock
from headway.problems.backward import KINDS
from headway.problems.clean import deduplicate
from headway.problems.gather import check_references
from headway.problems.load import load
from headway.report.markup import amount, clean
from headway.report.progress import Display
from headway.report.teacher import endpoint_config
from headway.store.store import Store
from headway.types import Problem, Split
from headway.verify.judge import Verifier


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for: problems of `store` or of the file `data`; `against` are more held-out files."""

    out: Path
    data: str
    store: Path | None
    against: tuple[str, ...]
    num_problems: int
    server: Mapping[str, Any]
    wish: Wish


def augment(order: Order, as_json: bool) -> None:
    """Make the new problems; then the funnels. Raises what the call ends with."""
    console = Console(stderr=as_json)
    if not order.server:
        raise ConfigError("new problems are written by a model of a server: give --base-url and --model")
    if unknown := [kind for kind in order.wish.kinds if kind not in KINDS]:
        raise ConfigError(f"--kind {unknown[0]!r}: the kinds are {', '.join(KINDS)}")
    if order.store is not None and order.store.absolute() == (order.out / "store").absolute():
        raise ConfigError(f"--out {order.out}: its table is the one that problems are taken from; give another folder")
    config = endpoint_config(order.server)

    def say(note: str) -> None:
        console.print(Text(clean(note)), soft_wrap=True)

    with refusing(order.out):
        order.out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(order.out)
    try:
        with Verifier(workers=os.cpu_count() or 1) as verifier, Display(console) as display:
            problems, heldout = _problems(order, verifier, say)
            found = Augmenter(order.out, config, order.wish, heldout, say, display).run(problems, verifier)
        record = _record(found)
        write_json(order.out / "funnel.json", record)
    finally:
        lock.release()
    if as_json:
        print(json.dumps(record))
    for funnel in found.funnels:
        say(str(funnel))
    cost = f", cost {found.spent.cost:.4g}" if found.spent.cost else ""
    tokens = f"{amount(found.spent.prompt_tokens)} prompt and {amount(found.spent.completion_tokens)} completion tokens"
    say(f"{tokens}{cost}; table in {order.out / 'store'}")
    if found.failure is not None:
        raise found.failure
    if found.stopped:
        say(f"stopped early: {found.stopped}; the same command goes on from here")


def _record(found: Augmented) -> dict[str, Any]:
    return {"funnels": [asdict(funnel) for funnel in found.funnels], **asdict(found.spent), "stopped": found.stopped}


def _problems(order: Order, verifier: Verifier, say: Any) -> tuple[Sequence[Problem], list[Problem]]:
    """The training problems, and those that nothing may repeat: the store's held-out and validation ones, and `against`."""
    heldout = [problem for name in order.against for problem in load(SourceConfig(data=name, split=Split.HELDOUT))]
    if order.store is not None:
        store = Store(order.store, create=False)
        found = store.problems(split=Split.TRAIN)
        heldout += store.problems(split=Split.HELDOUT) + store.problems(split=Split.VALIDATION)
    else:
        found = load(SourceConfig(data=order.data))
    if not heldout:
        say("nothing is known to be held out: give --against, or a store that holds it, if something is")
    distinct, doubles = deduplicate(found)
    problems, references = check_references(distinct, verifier.verifies_itself)
    for funnel in (doubles, references):
        if funnel.considered != funnel.kept:
            say(str(funnel))
    if not problems:
        raise DataError(f"{order.data or order.store} has no training problem whose reference verifies")
    return problems[: order.num_problems or None], heldout
