"""Replies of a model, each asked for once: a log of what came back, and who is still to be asked.

    asks --not in the log--> endpoint --as it arrives--> FOLDER/replies.jsonl          <- a kill tears at most its last line
    calls of this module with the same asks: the log answers, nothing is sent

A reply is a pure function's input: callers work out everything else from `rows` again after a kill. Answered and rejected are
final; failed is asked again by the next process. One writer at a time: its caller holds the folder's lock. It does not know what
a reply means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headway.config import EndpointConfig
from headway.durable import sweep
from headway.endpoint.answer import Answer, State
from headway.endpoint.client import Ask, Endpoint, api_key
from headway.endpoint.interrupt import on_ctrl_c
from headway.endpoint.meter import Meter
from headway.errors import RunError
from headway.journal import Metrics
from headway.teacher.book import agree
from headway.teacher.server import in_passing

Show = Callable[[int, int, dict[str, Any]], None]  # (done, in all, numbers)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one ask. Example: ``Reply("9f…/0", "answered", "DIFFERENT 4821", prompt_tokens=212, completion_tokens=4)``

    `text` is the answer without reasoning that the server sent apart. `reason` as in `endpoint.answer.Answer`; an answer that
    was cut off at max_tokens is "rejected" with the reason "length": asking again would give the same.
    """

    key: str
    state: State
    text: str = ""
    reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    tries: int = 1

    @property
    def is_final(self) -> bool:
        """Whether it is never asked again."""
        return self.state != "failed"


@dataclass(slots=True)
class Spent:
    """Tokens and cost. Example: ``Spent(9000, 120, 0.02)``"""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


def plus(one: Spent, other: Spent) -> Spent:
    """Both together."""
    counts = (one.prompt_tokens + other.prompt_tokens, one.completion_tokens + other.completion_tokens)
    return Spent(*counts, one.cost + other.cost)


def spent_in(folder: Path) -> Spent:
    """What the replies below `folder` have used, all calls together."""
    found = Spent()
    for row in Metrics(folder / "replies.jsonl").rows():
        found = plus(found, Spent(row["prompt_tokens"], row["completion_tokens"], row["cost"]))
    return found


class Replies:
    """The log of one model for one purpose. ConfigError where `folder` holds replies under other `settings`, or no key is set.

    `before` was spent elsewhere under the same cap. `stopped` says why not everything was asked, or "".
    """

    def __init__(
        self, folder: Path, name: str, config: EndpointConfig, settings: Mapping[str, Any], say: Say, before: Spent | None = None
    ):
        api_key(config)
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        agree(folder, name, settings, "--name")
        self.config, self._say, self._before = config, say, before or Spent()
        self._log = Metrics(folder / "replies.jsonl")
        self.rows: dict[str, Reply] = {}
        self.stopped = ""
        self.newly = 0
        for row in self._log.rows():
            self._remember(self._read(row))

    def ask(self, asks: Sequence[Ask], show: Show, least: int = 0) -> None:
        """Ask all that have no final reply. `least` is what `show` counts as done before.

        Returns early, with `stopped` set, at a cap. Raises EndpointError where the server refuses us and KeyboardInterrupt after
        Ctrl-C; every answer that came is in the log.
        """
        open_ = [ask for ask in asks if not ((row := self.rows.get(ask.key)) and row.is_final)]
        if not open_ or self.stopped:
            return
        try:
            asyncio.run(self._ask(open_, least + len(asks) - len(open_), least + len(asks), show))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._log.sync()

    @property
    def spent(self) -> Spent:
        """Of all calls."""
        found = Spent()
        for row in self.rows.values():
            found = plus(found, Spent(row.prompt_tokens, row.completion_tokens, row.cost))
        return found

    async def _ask(self, asks: Iterable[Ask], done: int, total: int, show: Show) -> None:
        meter = Meter(self.config)
        meter.add(self._before.prompt_tokens, self._before.completion_tokens, self._before.cost)
        meter.answered = 0  # means are of what is asked here
        for row in self.rows.values():
            if row.is_final:
                meter.add(row.prompt_tokens, row.completion_tokens, row.cost)
        async with Endpoint(self.config, meter) as endpoint:
            with on_ctrl_c(endpoint, self._say) as interrupted:
                async with aclosing(endpoint.complete(asks, self._write_down)) as finished:
                    async for _ in finished:
                        done += 1
                        show(done, total, in_passing(endpoint))
            if interrupted:
                raise KeyboardInterrupt
            self.stopped = endpoint.stopped

    def _write_down(self, ask: Ask, answer: Answer) -> None:
        assert not ((row := self.rows.get(ask.key)) and row.is_final), f"{ask.key} was finished before"
        state, text, reason = answer.state, answer.text, answer.reason
        if answer.finish_reason == "length":
            state, text, reason = "rejected", "", "length"
        counts = (answer.prompt_tokens, answer.completion_tokens, answer.cost, answer.tries)
        reply = Reply(ask.key, state, text, reason, *counts)
        self._log.append({"step": len(self.rows), **asdict(reply)})
        self._remember(reply)
        self.newly += 1

    def _remember(self, reply: Reply) -> None:
        self.rows[reply.key] = reply

    def _read(self, row: Mapping[str, Any]) -> Reply:
        try:
            return Reply(**{name: value for name, value in row.items() if name != "step"})
        except TypeError:
            raise RunError(f"{self._log.path} holds a line that is no reply of this version of headway") from None
