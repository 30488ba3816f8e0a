"""n rollouts of each problem from a teacher: the one way, whoever answers.

    problems x rollouts --book: which are open?--> teacher --> book --> table, funnel.json

Stopped or killed anywhere, the same call goes on: what was answered is kept, what failed is asked again, more rollouts ask the
new indices alone. It does not know how a server (`server`) or a checkpoint (`local`) is asked, nor who shows the progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from headway.durable import write_json
from headway.errors import HeadwayError, StoreError
from headway.store.store import Store
from headway.teacher.book import Book, folder_name
from headway.types import Funnel, Problem
from headway.verify.judge import Verifier
from headway.watchdog import at

Tell = Callable[[str, int, int, dict[str, Any]], None]  # (stage, done, in all, numbers)


class Show(Protocol):
    """Shows numbers, and how many requests are answered beside those in the book."""

    def __call__(self, numbers: dict[str, Any], answered: int = 0) -> None:
        """Show them now."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What a policy's name stands for: with a changed one it is another policy. `model` is a server's name for it, or weights.

    Example: ``Settings(model="qwen3-32b", temperature=0.6, top_p=0.95, max_tokens=32768, seed=0, instruction="Box it.")``

    `seed` < 0 sends none. `extra` are more keys of a request's body, as JSON; of a checkpoint's sampling, top_k and min_p.
    """

    model: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    instruction: str
    system: str = ""
    extra: str = "{}"


class Teacher(Protocol):
    """Who answers."""

    settings: Settings

    def answer(self, requests: Sequence[tuple[Problem, int]], policy: str, book: Book, show: Show) -> str:
        """Put each request's end into the book. Returns why the rest was not asked, or ""."""
        ...


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a call ends with: tokens, cost and tries over all calls of the policy, `seconds` of this one.

    `stopped` says why not everything was asked, or "". `failure` is what the call ends with for the user, if anything.
    """

    policy: str
    funnel: Funnel
    prompt_tokens: int
    completion_tokens: int
    cost: float
    tries: int
    seconds: float
    stopped: str
    failure: BaseException | None

    @property
    def record(self) -> dict[str, Any]:
        """As plain JSON; `requested` = `kept` + the counts in `rejected`, `failed` and `not_asked`."""
        bins: dict[str, dict[str, int]] = {"rejected": {}, "failed": {}, "not_asked": {}}
        for name, count in self.funnel.dropped.items():
            state, _, reason = name.partition(": ")
            bins[state.replace(" ", "_")][reason] = count
        requested, kept = self.funnel.considered, self.funnel.kept
        assert requested == kept + sum(sum(counts.values()) for counts in bins.values())
        names = ("prompt_tokens", "completion_tokens", "cost", "tries", "seconds", "stopped")
        values = {name: getattr(self, name) for name in names}
        return {"policy": self.policy, "requested": requested, "kept": kept, **bins, **values}


def sample_teacher(
    teacher: Teacher,
    problems: Sequence[Problem],
    rollouts: int,
    policy: str,
    store: Store,
    folder: Path,
    verifier: Verifier,
    tell: Tell,
) -> Sampled:
    """Have `rollouts` rollouts of each problem, at indices 0 to rollouts - 1, in `store`; `folder` keeps the journals.

    `policy` is the name in the table ("": the model's). The caller holds the lock on where both lie. Whatever the teacher ends
    with, what was answered is in the table first; `Sampled.failure` then says so. Raises ConfigError where the name stands
    for other settings, and RunError where table and journal differ.
    """
    started = time.monotonic()
    policy = policy or teacher.settings.model
    place = folder / folder_name(policy)
    stopped, failure = "", None
    with Book(place, store, verifier, policy, asdict(teacher.settings)) as book:
        book.begin(problems)
        requests = book.open_requests(problems, rollouts)
        total = len(problems) * rollouts

        def show(numbers: dict[str, Any], answered: int = 0) -> None:
            rate = book.new_tokens / max(1e-3, time.monotonic() - started)
            tell("teacher", total - len(requests) + book.newly_final + answered, total, {"tokens_per_s": rate, **numbers})

        try:
            with at("server"):
                stopped = teacher.answer(requests, policy, book, show) if requests else ""
        except (HeadwayError, KeyboardInterrupt) as error:
            failure, stopped = error, str(error) or "Ctrl-C"
    book.check_table()
    funnel = book.funnel(problems, rollouts, stopped)
    if not funnel.kept and failure is None:
        failure = StoreError(f"no rollout was kept: {funnel}")
    sums = [sum(getattr(row, name) for row in book.rows.values()) for name in ("prompt_tokens", "completion_tokens", "tries")]
    cost = sum(row.cost for row in book.rows.values())
    seconds = round(time.monotonic() - started, 3)
    result = Sampled(policy, funnel, sums[0], sums[1], cost, sums[2], seconds, stopped, failure)
    write_json(place / "funnel.json", result.record)
    return result
