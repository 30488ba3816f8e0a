"""The books of one policy: what is asked already, what goes into the table, and a funnel that adds up.

    Finished --> journal --(a segment is full, or the call ends)--> verdicts --> table --> settled
    requested = kept + rejected: reason + failed: reason + not asked: why

Rows reach the table by segment, in a thread of their own, so that answers are written down meanwhile. What a policy's name stands
for is fixed by its first call: other settings under the same name are refused. It does not know who answers.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from headway.durable import read_json, sweep, write_json
from headway.errors import ConfigError, RunError
from headway.store.store import Store
from headway.teacher.journal import Finished, Journal
from headway.types import Funnel, Problem, Rollout, content_id
from headway.verify.judge import Verifier

SEGMENT = 1000  # kept rows that go into the table together
SEGMENT_SECONDS = 300.0  # a slow teacher's rows are not kept waiting longer
SAMPLER = "teacher"


class Book:
    """A context manager: leaving it brings everything that was answered into the table. `folder` is the policy's own.

    `settings` are what the policy's name stands for. ConfigError where the folder holds others; RunError where the table and the
    journal do not hold the same requests.
    """

    def __init__(self, folder: Path, store: Store, verifier: Verifier, policy: str, settings: Mapping[str, Any]):
        self.folder, self.policy = folder, policy
        self._store, self._verifier = store, verifier
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        agree(folder, policy, settings)
        self._journal = Journal(folder)
        self._problems: dict[str, Problem] = {}
        self._thread = ThreadPoolExecutor(1, "teacher-table")
        self._settling: list[Future[None]] = []
        self._last = time.monotonic()
        self.rows: dict[str, Finished] = {}  # the newest of each request, without its text
        self.newly_final = self.new_tokens = 0  # in this call

    def __enter__(self) -> Book:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._close_segment()
        finally:
            self._thread.shutdown(wait=True)
        if error is None:
            self._raise_failed()

    def begin(self, problems: Sequence[Problem]) -> None:
        """Bring what an earlier process left into the table, and read what is asked already."""
        self._problems = {problem.id: problem for problem in problems}
        self._store.add_problems(problems)
        for number in self._journal.unsettled():
            self._settle(number)
        for row in self._journal.rows():
            self._remember(row)
        self.check_table()

    def open_requests(self, problems: Iterable[Problem], rollouts: int) -> list[tuple[Problem, int]]:
        """(problem, index) of every request that has no final end yet, problem by problem."""
        pairs = ((problem, index) for problem in problems for index in range(rollouts))
        return [(problem, index) for problem, index in pairs if not self._is_final(key_of(problem.id, index))]

    def add(self, row: Finished) -> None:
        """Write down one request's end."""
        assert not self._is_final(row.key), f"{row.key} was finished before"
        self._journal.append(row)
        self._remember(row)
        self.newly_final += row.is_final
        self.new_tokens += row.completion_tokens
        self._raise_failed()
        late = self._journal.waiting and time.monotonic() - self._last > SEGMENT_SECONDS
        if self._journal.waiting >= SEGMENT or late:
            self._close_segment()

    def funnel(self, problems: Iterable[Problem], rollouts: int, why_not_asked: str) -> Funnel:
        """Every request of these problems in one bin."""
        bins: Counter[str] = Counter()
        keys = [key_of(problem.id, index) for problem in problems for index in range(rollouts)]
        for key in keys:
            row = self.rows.get(key)
            reason = f"not asked: {why_not_asked}" if row is None else f"{row.state}: {row.reason}"
            bins["kept" if row is not None and row.state == "kept" else reason] += 1
        kept = bins.pop("kept", 0)
        return Funnel(f"teacher {self.policy}", len(keys), kept, dict(sorted(bins.items())))

    def _remember(self, row: Finished) -> None:
        light = Finished(
            row.key, row.state, row.reason, None, None, row.prompt_tokens, row.completion_tokens, row.cost, row.tries
        )
        self.rows[row.key] = light

    def _is_final(self, key: str) -> bool:
        return key in self.rows and self.rows[key].is_final

    def _close_segment(self) -> None:
        self._last = time.monotonic()
        if number := self._journal.close():
            self._settling.append(self._thread.submit(self._settle, number))

    def _settle(self, number: int) -> None:
        """Judge a segment's rows and append them; a segment whose batch is there already changes nothing."""
        batch = f"teacher/{self.folder.name}/{number}"
        kept = [row for row in self._journal.rows(number) if row.rollout is not None]
        rollouts = [row.rollout for row in kept if row.rollout is not None]
        if rollouts:
            self._store.add_rollouts(rollouts, batch)
            open_ = [row.rollout for row in kept if row.rollout is not None and row.verdict is None]
            problems = self._problems_of(open_)
            found = self._verifier.verdicts([(problems[rollout.problem_id], rollout) for rollout in open_])
            judged = {verdict.rollout_id: verdict for verdict in [*found, *(row.verdict for row in kept if row.verdict)]}
            self._store.add_verdicts([judged[rollout.id] for rollout in rollouts], batch)
        self._journal.settle(number)

    def _problems_of(self, rollouts: Sequence[Rollout]) -> dict[str, Problem]:
        """The problems by id; those of an earlier call come from the table."""
        missing = sorted({rollout.problem_id for rollout in rollouts} - self._problems.keys())
        if missing:
            self._problems |= {problem.id: problem for problem in self._store.problems(ids=missing)}
        if lost := [key for key in missing if key not in self._problems]:
            raise RunError(f"{self.folder}: the journal holds a rollout of problem {lost[0]}, which the table does not hold")
        return self._problems

    def _raise_failed(self) -> None:
        """What went wrong in the thread goes wrong here."""
        for one in [one for one in self._settling if one.done()]:
            self._settling.remove(one)
            one.result()

    def check_table(self) -> None:
        """RunError unless each kept request is one row of the table, and each row of the policy one kept request."""
        query = (
            'SELECT problem_id, "index" AS place, count(*) AS rows FROM rollouts WHERE sampler = ? AND policy = ? GROUP BY ALL'
        )
        stored = {
            key_of(r["problem_id"], r["place"]): r["rows"] for r in self._store.sql(query, [SAMPLER, self.policy]).to_pylist()
        }
        kept = {key for key, row in self.rows.items() if row.state == "kept"}
        if doubled := [key for key, count in stored.items() if count != 1]:
            raise RunError(f"{self._store.path} holds request {doubled[0]} of {self.policy!r} {stored[doubled[0]]} times")
        if stored.keys() != kept:
            raise RunError(
                f"{self._store.path} holds {len(stored)} rollouts of {self.policy!r} and {self.folder} knows of {len(kept)}: "
                "they belong together; put back what is missing, or give --policy another name"
            )


def agree(folder: Path, policy: str, settings: Mapping[str, Any], option: str = "--policy") -> None:
    """Fix what a name stands for at the first call. Later a ConfigError names the first setting that differs."""
    path = folder / "settings.json"
    if not path.exists():
        write_json(path, {"policy": policy, **settings})
        return
    before = read_json(path)
    for name, value in {"policy": policy, **settings}.items():
        if before.get(name) != value:
            raise ConfigError(
                f"{folder} holds rollouts of {policy!r} with {name} = {before.get(name)!r}; now it is {value!r}: "
                f"give it another name with {option}, or take another --out"
            )


def key_of(problem_id: str, index: int) -> str:
    """The key of one request of a policy."""
    return f"{problem_id}/{index}"


def folder_name(policy: str) -> str:
    """A policy's folder: its name as far as a file system takes it, and a hash that tells apart what looks alike."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', policy)[:60].strip('.-') or 'policy'}-{content_id(policy)[:8]}"
