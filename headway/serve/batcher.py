"""One thread that samples for everybody: requests join the batch when a slot is free, and leave it when they end.

    submit --queue--> [engine thread: add, step, step, ...] --tokens, completions--> each job's own queue in its event loop

A sample's noise is its key's, so who else is in the batch changes no token. Prompts that begin alike are computed once
(`engine.session`). It does not know text, HTTP or JSON.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from headway.engine.engine import Engine, InFlight, Session
from headway.engine.flight import Counts
from headway.types import Completion, Request


class Busy(Exception):
    """Too many requests wait already."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One new token of one sample."""

    index: int
    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Ended:
    """One sample's end. A dropped one that never started has no tokens."""

    index: int
    completion: Completion


@dataclass(frozen=True, slots=True)
class Broken:
    """The engine failed; nothing more comes."""

    said: str


Event = Drawn | Ended | Broken


@dataclass(slots=True, eq=False)
class Job:
    """One request at work. `events` gets a list of what happened in a step; tokens only where `wants_tokens`."""

    request: Request
    wants_tokens: bool
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[list[Event]] = field(default_factory=asyncio.Queue[list[Event]])
    number: int = -1
    open: set[int] = field(default_factory=set[int])


class Batcher:
    """The engine's thread; `close` ends it. `most` requests may be at work or wait, `slots` samples run at once."""

    def __init__(self, engine: Engine, slots: int, most: int):
        self._engine, self._slots, self._most = engine, slots, most
        self._jobs: dict[int, Job] = {}
        self._coming: list[Job] = []
        self._dropped: list[tuple[Job, int]] = []
        self._news: dict[int, list[Event]] = {}
        self._next = 0
        self.counts = Counts()  # of the session at work
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def at_work(self) -> int:
        """Requests that run or wait."""
        return len(self._jobs) + len(self._coming)

    def submit(self, request: Request, wants_tokens: bool) -> Job:
        """Hand in a request, from an event loop. The caller has checked that it fits the model's positions. Raises Busy."""
        job = Job(request, wants_tokens, asyncio.get_running_loop())
        job.open = set(range(len(request.keys)))
        with self._changed:
            if self.at_work >= self._most or self._is_closing:
                raise Busy
            self._coming.append(job)
            self._changed.notify()
        return job

    def drop(self, job: Job, indices: Iterable[int]) -> None:
        """Nobody wants these samples any more; those that ended already are no matter."""
        with self._changed:
            self._dropped += [(job, index) for index in indices]
            self._changed.notify()

    def close(self) -> None:
        """End the thread; what is at work is broken off."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(30)

    @torch.inference_mode()
    def _work(self) -> None:
        session = self._begin()
        while True:
            with self._changed:
                while not (self._jobs or self._coming or self._is_closing):
                    self._changed.wait()
                coming, self._coming = self._coming, []
                dropped, self._dropped = self._dropped, []
                is_closing = self._is_closing
                for job in coming:
                    self._next, job.number = self._next + 1, self._next
                    self._jobs[job.number] = job
            if is_closing:
                session.close()
                self._break_all("the server is shutting down")
                return
            try:
                for job in coming:
                    session.add(job.number, job.request)
                for job, index in dropped:
                    if index in job.open:
                        session.drop(job.number, index)
                session.step()
                for number, index, completion in session.collect():
                    self._news.setdefault(number, []).append(Ended(index, completion))
                for number in self._tell():
                    session.forget(number)
            except Exception as error:  # out of memory, say: those at work are told, the next ones get a new session
                self._break_all(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                session.close()
                session = self._begin()

    def _begin(self) -> Session:
        session = self._engine.session(self._slots, self._watch, keeps=True)
        self.counts = session.counts
        return session

    def _watch(self, sequences: list[InFlight]) -> None:
        for sequence in sequences:
            if self._jobs[sequence.request].wants_tokens:
                drawn = Drawn(sequence.index, sequence.tokens[-1], sequence.logprobs[-1])
                self._news.setdefault(sequence.request, []).append(drawn)

    def _tell(self) -> list[int]:
        """Give each job its news; the numbers of those that are done."""
        done: list[int] = []
        for number, events in self._news.items():
            job = self._jobs[number]
            job.open = job.open - {event.index for event in events if isinstance(event, Ended)}  # a new set: others look at it
            if not job.open:
                done.append(number)
            _post(job, events)
        self._news = {}
        with self._changed:
            for number in done:
                del self._jobs[number]
        return done

    def _break_all(self, said: str) -> None:
        with self._changed:
            jobs = [*self._jobs.values(), *self._coming]
            self._jobs, self._coming, self._news = {}, [], {}
        for job in jobs:
            _post(job, [Broken(said)])


def _post(job: Job, events: list[Event]) -> None:
    try:
        job.loop.call_soon_threadsafe(job.events.put_nowait, events)
    except RuntimeError:  # its event loop is closed: nobody listens
        return
