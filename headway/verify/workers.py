"""A pool of killable processes: each task has a time limit that holds whatever the task does.

    tasks --> idle worker --(JSON line)--> python -m headway.verify.slow --(word)--> result, or the worker is killed
                                        or headway.verify.sandbox

Processes start when the first task comes, not before. A worker over its limit is killed, and one that stands by takes its
place; one that died by itself is replaced and its task tried again, so that a worker killed from outside changes no verdict.
The limit counts the worker's own processor seconds where the system tells them (a busy machine does not turn right answers
into wrong ones), and five times as much on the wall clock, on which a time when this process did not run either (a machine that
was suspended) counts a second at most. There are no signal handlers, so any thread may call.

It does not know mathematics, programs or outcomes: a result is what its `Job` replied in one line, or "timeout" or "died".
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from headway.errors import HeadwayError
from headway.watchdog import beat

START_SECONDS = 120.0  # a cold import of sympy on a busy machine
MAX_TRIES = 3  # of one task whose worker dies; also of starts in a row that fail
KILLED = 0.2  # of a try: a worker that something outside killed says little about its task or about starting
MOST_BETWEEN_LOOKS = 1.0  # seconds that count of the time between two looks at the clocks; `_patience` is at most that
SPARES = 1  # idle workers beside the `workers`, twice as many once a task had to be killed: the next one waits for no start
NEEDED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "MONTY_BIN")  # what a worker alone may see: it starts by them
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class Job:
    """What a pool's workers are: `python -m module MEMORY_MB arguments`, which gets each task as an object of these `fields`.

    `name` and `cause` are for the user whose workers do not start. A worker that `is_alone` leads a session of its own, which is
    killed as a whole, and sees nothing of our environment: it holds what nobody trusts.
    """

    module: str
    fields: tuple[str, ...]
    name: str
    cause: str
    arguments: tuple[str, ...] = ()
    is_alone: bool = False


MATH = Job("headway.verify.slow", ("reference", "answer"), "verifier", "does `python -c 'import math_verify'` work")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a task: the worker's reply, "timeout" or "died"; `reference_read` says how far `slow` got."""

    word: str
    reference_read: bool


@dataclass(slots=True)
class _Worker:
    """One process and the task it works on (None: idle; -1: still starting)."""

    process: subprocess.Popen[bytes]
    job: Job
    task: int | None = -1
    waited: float = 0.0  # seconds of the wall clock since the task, or the start, began
    cpu_before: float = 0.0
    helper: int = 0  # a process of the worker's own that the task runs in; its time counts, too
    reference_read: bool = False
    is_late: bool = False
    buffer: bytes = b""

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def cpu_seconds(self) -> float | None:
        """Processor seconds that the task has used, or None where the system does not tell."""
        used = _cpu_seconds(self.process.pid)
        return None if used is None else used - self.cpu_before + (_cpu_seconds(self.helper) or 0.0 if self.helper else 0.0)

    def give(self, task: int, values: tuple[str, ...]) -> None:
        """Sends a task; a worker that is gone is noticed when its reply does not come."""
        assert self.process.stdin is not None
        self.task, self.waited, self.reference_read, self.helper = task, 0.0, False, 0
        self.cpu_before = _cpu_seconds(self.process.pid) or 0.0
        line = json.dumps(dict(zip(self.job.fields, values, strict=True))).encode() + b"\n"
        with contextlib.suppress(OSError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def lines(self) -> list[str] | None:
        """The words that have arrived, or None at the end of the stream."""
        chunk = os.read(self.fileno(), 65_536)
        if not chunk:
            return None
        *whole, self.buffer = (self.buffer + chunk).split(b"\n")
        return [line.decode() for line in whole]

    def end(self) -> None:
        """Kills the process, and what it started where it is alone, and waits for it."""
        if self.job.is_alone:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.wait()


def _cpu_seconds(pid: int) -> float | None:
    """Processor seconds of a process since it began, or None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK
    except (OSError, IndexError, ValueError):
        return None


class Pool:
    """Runs the tasks of a `job` in `workers` processes, `seconds` and `memory_mb` each at most. A task is a text a field."""

    def __init__(self, workers: int, seconds: float, memory_mb: int, job: Job = MATH) -> None:
        self.workers, self.seconds, self.memory_mb, self.job = workers, seconds, memory_mb, job
        self._pool: list[_Worker] = []
        self._lock = threading.Lock()
        self._failed_starts = 0.0
        self._spares = SPARES
        self._looked = 0.0

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that exist now."""
        return [worker.process.pid for worker in self._pool]

    def run(self, tasks: Sequence[tuple[str, ...]]) -> list[Result]:
        """One result for each task, in order. Raises HeadwayError when workers do not start."""
        with self._lock:
            return self._run(tasks)

    def close(self) -> None:
        """Ends all workers. The pool starts new ones when it is used again."""
        with self._lock:
            self._end_all()

    def _end_all(self) -> None:
        while self._pool:
            self._pool.pop().end()

    def _run(self, tasks: Sequence[tuple[str, ...]]) -> list[Result]:
        results: list[Result | None] = [None] * len(tasks)
        waiting = deque(range(len(tasks)))
        tries = [0.0] * len(tasks)
        self._looked = time.monotonic()
        try:
            while any(result is None for result in results):
                self._assign(tasks, waiting)
                ready = wait([worker.fileno() for worker in self._pool], timeout=self._patience())
                for worker in [worker for worker in self._pool if worker.fileno() in ready]:
                    self._listen(worker, results, waiting, tries)
                self._kill_late(results)
        except BaseException:
            self._end_all()  # a worker that still computes must not answer the next call
            raise
        return [result for result in results if result is not None]

    def _assign(self, tasks: Sequence[tuple[str, ...]], waiting: deque[int]) -> None:
        busy = sum(worker.task is not None for worker in self._pool)
        needed = min(self.workers, busy + len(waiting))
        while len(self._pool) < needed:
            self._pool.append(self._start())
        starting = any(worker.task == -1 for worker in self._pool)
        if len(self._pool) < needed + self._spares and not starting:  # one by one: a start takes a whole core
            self._pool.append(self._start())
        at_work = sum(worker.task is not None and worker.task >= 0 for worker in self._pool)
        for worker in self._pool:
            if worker.task is None and waiting and at_work < self.workers:
                task = waiting.popleft()
                worker.give(task, tasks[task])
                at_work += 1

    def _start(self) -> _Worker:
        job, root, path = self.job, str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")
        environment = {name: os.environ[name] for name in NEEDED if name in os.environ} if job.is_alone else dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([root, path] if path else [root])
        flags = ["-P"] if job.is_alone else []  # the working folder is no place to import from
        command = [sys.executable, *flags, "-m", job.module, str(self.memory_mb), *job.arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=job.is_alone
        )
        return _Worker(process, job)

    def _patience(self) -> float:
        """Seconds until the next look at the clocks."""
        busy = any(worker.task is not None and worker.task >= 0 for worker in self._pool)
        return min(0.05, self.seconds / 4) if busy else 1.0

    def _listen(self, worker: _Worker, results: list[Result | None], waiting: deque[int], tries: list[float]) -> None:
        words = worker.lines()
        if words is None:
            self._bury(worker, results, waiting, tries)
            return
        for word in words:
            if word == "ready":
                worker.task, self._failed_starts = None, 0.0
            elif word == "R":
                worker.reference_read = True
            elif word.startswith("H "):
                worker.helper = int(word[2:])
            elif worker.task is not None and worker.task >= 0:
                beat()
                results[worker.task] = Result(word, worker.reference_read)
                worker.task = None

    def _bury(self, worker: _Worker, results: list[Result | None], waiting: deque[int], tries: list[float]) -> None:
        """Takes a worker that died out of the pool; its task is tried again."""
        self._pool.remove(worker)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(1.0)  # its own exit code, not that of our kill
        worker.end()
        task, code = worker.task, worker.process.returncode
        weight = KILLED if code == -signal.SIGKILL and not worker.is_late else 1.0
        if task == -1:
            self._failed_starts += weight
            if self._failed_starts >= MAX_TRIES:
                raise HeadwayError(
                    f"the {self.job.name}'s worker process does not start (exit code {code}, {MAX_TRIES} tries); "
                    f"{self.job.cause}, and are {self.memory_mb} MB enough?"
                )
        elif task is not None:
            tries[task] += weight
            if tries[task] >= MAX_TRIES:
                results[task] = Result("died", worker.reference_read)
            else:
                waiting.appendleft(task)

    def _kill_late(self, results: list[Result | None]) -> None:
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, MOST_BETWEEN_LOOKS), now
        for worker in list(self._pool):
            if worker.task is None:
                continue
            worker.waited += passed
            if worker.task == -1:
                if worker.waited > START_SECONDS:
                    worker.is_late = True
                    worker.process.kill()  # its end of stream is then a failed start
                continue
            if worker.waited <= self.seconds:
                continue
            used = worker.cpu_seconds()
            if used is None or used > self.seconds or worker.waited > 5 * self.seconds:
                self._pool.remove(worker)
                worker.end()
                beat()
                results[worker.task] = Result("timeout", worker.reference_read)
                self._spares = 2 * SPARES
                self._pool.append(self._start())
