"""`headway judge` in the terminal: options to a panel, live progress, a funnel and how far the judge can be trusted.

It does not know how a vote is taken (`curate.judging`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from headway.curate.judging import Choice, Judged, Panel, judge, say_agreement
from headway.curate.replies import Replies
from headway.durable import refusing, write_json
from headway.errors import ConfigError
from headway.lock import FolderLock
from headway.problems.label import pass_rate
from headway.report.markup import amount, clean
from headway.report.progress import Display
from headway.report.teacher import endpoint_config
from headway.store.binned import VERIFIER
from headway.store.combined import JOIN, combined
from headway.store.store import Store
from headway.teacher.book import folder_name
from headway.types import Outcome


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for. `server` are keys of EndpointConfig; `name` "" names the judge by its model."""

    store: Path
    server: Mapping[str, Any]
    name: str
    votes: int
    attempts: int
    seed: int
    choice: Choice


def judge_store(order: Order, as_json: bool) -> None:
    """Ask until every rollout chosen has its end; then the figures. Raises what the call ends with."""
    console = Console(stderr=as_json)
    if not order.server:
        raise ConfigError("a judge is a model of a server: give --base-url and --model")
    _check(order)
    config = endpoint_config({"max_tokens": 8192, **order.server})
    name = f"judge:{order.name or config.model}@1"
    if JOIN in name or "," in name:
        raise ConfigError(f"{name!r} cannot be a verifier's name, since '+' joins such names: give another with --name")
    panel = Panel(name, order.votes, order.attempts, order.seed)
    settings = {"model": config.model, "votes": order.votes, "attempts": order.attempts, "seed": order.seed}
    settings |= {"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens}
    settings |= {"extra": json.dumps(config.extra, sort_keys=True)}

    def say(note: str) -> None:
        console.print(Text(clean(note)), soft_wrap=True)

    store = Store(order.store, create=False)
    folder = order.store.parent / "judge" / folder_name(name)
    with refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    try:
        replies = Replies(folder, name, config, settings, say)
        with Display(console) as display:
            found = judge(
                store, replies, panel, order.choice, lambda done, total, numbers: display("judge", done, total, numbers)
            )
        record = _record(found, replies)
        write_json(folder / "funnel.json", record)
    finally:
        lock.release()
    if as_json:
        print(json.dumps(record))
    else:
        _tell(found, record, say)
    if found.failure is not None:
        raise found.failure


def _check(order: Order) -> None:
    if order.votes % 2 == 0:
        raise ConfigError(f"--votes {order.votes}: an odd number, so that there is a majority")
    known = (Outcome.WRONG, Outcome.UNVERIFIABLE)
    if not order.choice.outcomes or set(order.choice.outcomes) - set(known):
        raise ConfigError(f"--outcome: a second opinion is on {' or '.join(known)} rollouts, not on {order.choice.outcomes}")
    if order.choice.references not in ("hard", "all"):
        raise ConfigError(f"--references {order.choice.references!r}: hard (no plain numbers) or all")


def _record(found: Judged, replies: Replies) -> dict[str, Any]:
    """Everything as plain JSON; `requested` = `kept` + the counts in `rejected`, `failed` and `not_asked`."""
    bins: dict[str, dict[str, int]] = {"rejected": {}, "failed": {}, "not_asked": {}}
    for name, count in found.funnel.dropped.items():
        state, _, reason = name.partition(": ")
        bins[state.replace(" ", "_")][reason] = count
    wrong, right = (found.opinions.get(group, {}) for group in ("control wrong", "control correct"))
    rates = {"false_accept": _rate(wrong, Outcome.CORRECT), "false_reject": _rate(right, Outcome.WRONG)}
    agreement = {"decided": found.decided, "unanimous": found.unanimous, "votes": dict(found.votes)}
    shares = {"opinions": {group: dict(counts) for group, counts in found.opinions.items()}, **rates}
    return {
        "verifier": found.verifier, "combined": combined([VERIFIER, found.verifier]), "requested": found.funnel.considered,
        "kept": found.funnel.kept, **bins, "added": found.added, "canaries": found.canaries, **agreement, **shares,
        **asdict(replies.spent), "stopped": found.stopped,
    }  # fmt: skip


def _rate(counts: Mapping[str, int], mistake: Outcome) -> dict[str, Any]:
    """How many controls the judge gets wrong, with the interval of a rate."""
    count, of = counts.get(mistake.value, 0), sum(counts.values())
    return {"count": count, "of": of, "interval": [round(end, 4) for end in pass_rate(count, of).interval()] if of else []}


def _tell(found: Judged, record: Mapping[str, Any], say: Any) -> None:
    say(str(found.funnel))
    say_agreement(found, say)
    for name, what in (
        ("false_accept", "calls two different integers the same"),
        ("false_reject", "rejects what rules@1 accepts"),
    ):
        rate = record[name]
        if rate["of"]:
            low, high = rate["interval"]
            say(f"the judge {what}: {rate['count']} of {rate['of']} (90 % interval {low:.1%} to {high:.1%})")
    cost = f", cost {record['cost']:.4g}" if record["cost"] else ""
    say(f"{amount(record['prompt_tokens'])} prompt and {amount(record['completion_tokens'])} completion tokens{cost}; "
        f"{found.added} new verdicts by {found.verifier}; {found.canaries} checks passed")  # fmt: skip
    say(f'a recipe counts them with verifier = "{record["combined"]}"')
    if found.stopped and found.failure is None:
        say(f"stopped early: {found.stopped}; the same command goes on from here")


def choice_of(
    outcomes: Sequence[str], references: str, samplers: Sequence[str], sources: Sequence[str], reasons: Sequence[str], limit: int,
    control: int,
) -> Choice:  # fmt: skip
    """The command line's options as a Choice."""
    return Choice(tuple(outcomes), references, tuple(samplers), tuple(sources), tuple(reasons), limit, control)
