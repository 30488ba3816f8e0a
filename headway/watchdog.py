"""A thread that notices silence: which part of which stage has not come back, and where every thread of the process stands.

    with at("sampling"): ...        what the process is doing, wherever it is done
    Watchdog(folder, 900, say)      900 s without a sign of life: one line through `say`, all stacks into folder/watchdog.txt

A sign of life is entering or leaving a part, or `beat`: a drawn token, a forward pass, a verdict. Nothing is killed: what hangs
may come back, and is then said to have. A time in which this process did not run at all (a machine that was suspended) is no
silence of a part.

Where even this thread cannot run (native code that holds the interpreter), faulthandler's own timer, which needs no interpreter,
writes the stacks a little later, and the thread says so as soon as it can. It does not know what the parts do.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from headway.ranks import rank

_TICKS = 8  # looks within the allowed silence, at least
_TICK_SECONDS = 10.0  # between two looks, at most
_SLACK = 1.5  # of the allowed silence, after which faulthandler's own timer writes


class _Pulse:
    """What the process is doing and when it last gave a sign of life; one for all threads."""

    def __init__(self) -> None:
        self.stage, self.parts, self.at = "", list[str](), time.monotonic()

    @property
    def place(self) -> str:
        """In words: "rl: sampling"."""
        return ": ".join(filter(None, (self.stage, self.parts[-1] if self.parts else ""))) or "the start"


_PULSE = _Pulse()


def beat(stage: str = "") -> None:
    """A sign of life; of this stage, where it is named."""
    _PULSE.at = time.monotonic()
    if stage:
        _PULSE.stage = stage


@contextmanager
def at(part: str) -> Iterator[None]:
    """What happens inside is this part: "sampling", "verifying", "update", "saving", "server", ..."""
    _PULSE.parts.append(part)
    beat()
    try:
        yield
    finally:
        with suppress(ValueError):  # another thread's part may stand above
            _PULSE.parts.remove(part)
        beat()


class Watchdog:
    """A context manager; `seconds` of silence are allowed (0: it does not watch)."""

    def __init__(self, folder: Path, seconds: float, say: Callable[[str], None]):
        name = f"watchdog-rank{rank()}.txt" if rank() else "watchdog.txt"
        self._path, self._seconds, self._say = folder / name, seconds, say
        self._tick = min(seconds / _TICKS, _TICK_SECONDS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        _PULSE.stage = ""
        beat()
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._seconds:
            self._thread.join()

    def _watch(self) -> None:
        """Look now and then; tell of a silence once it is too long, and again whenever it has doubled."""
        allowed, told, silent = self._seconds, "", 0.0
        looked, seen = time.monotonic(), _PULSE.at
        with self._open() as file:
            written = 0
            while not self._ended.wait(self._tick):
                now, place = time.monotonic(), _PULSE.place
                passed, looked = now - looked, now
                faulthandler.dump_traceback_later(self._seconds * _SLACK, file=file)  # set anew each time: fires if this cannot
                if passed > self._seconds and self._size() > written:
                    self._say(f"the watchdog: nothing ran for {passed:.0f} s in {place}; all stacks are in {self._path}")
                passed = min(passed, 2 * self._tick)  # more: nothing ran, this thread neither
                silent = silent + passed if _PULSE.at == seen else min(now - _PULSE.at, passed)
                seen = _PULSE.at
                if silent < self._seconds:
                    if told:
                        self._say(f"the watchdog: it goes on; the silence in {told} is over")
                    allowed, told = self._seconds, ""
                elif silent >= allowed:
                    told, allowed = place, 2 * silent
                    where = f"; all stacks are in {self._path}" if self._write(file, silent, place) else ""
                    self._say(f"the watchdog: no sign of life for {silent:.0f} s in {place}{where}")
                written = self._size()
            faulthandler.cancel_dump_traceback_later()
        with suppress(OSError):
            if not self._size():
                self._path.unlink(missing_ok=True)

    def _open(self) -> TextIO:
        """The file of stacks; where it cannot be written, the lines in the terminal must do."""
        try:
            return self._path.open("a", encoding="utf-8")
        except OSError:
            return Path(os.devnull).open("a", encoding="utf-8")

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _write(self, file: TextIO, silent: float, place: str) -> bool:
        """Append all stacks; False where that cannot be."""
        try:
            file.write(f"\n== {time.strftime('%Y-%m-%d %H:%M:%S')}: {silent:.0f} s of silence in {place}\n")
            file.flush()
            faulthandler.dump_traceback(file)
            file.flush()
        except OSError:
            return False
        return self._path.exists()
