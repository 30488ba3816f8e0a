"""A thread that notices silence: which part of which stage has not come back, and where every thread of the process stands.

    with at("sampling"): ...        what the process is doing, wherever it is done
    Watchdog(folder, 900, say)      900 s without a sign of life: one line through `say`, all stacks into folder/watchdog.txt

A sign of life is entering or leaving a part, or `beat`. Nothing is killed: what hangs may come back, and is
then said to have.

Where even this thread cannot run (native code that holds the interpreter), faulthandler's own timer, which needs no interpreter,
writes the stacks a little later. It does not know what the parts do.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from headway.ranks import rank

_TICKS = 8  # looks within the allowed silence
_SLACK = 1.5  # of the allowed silence, after which faulthandler's own timer writes


class _Pulse:
    """What the process is doing and when it last gave a sign of life; one for all threads."""

    def __init__(self) -> None:
        self.stage, self.parts, self.at = "", list[str](), time.monotonic()

    @property
    def place(self) -> str:
        """In words: "rl: sampling"."""
        return ": ".join(filter(None, (self.stage, self.parts[-1] if self.parts else "")))


_PULSE = _Pulse()


def beat(stage: str = "") -> None:
    """A sign of life; of this stage, where it is named."""
    _PULSE.at = time.monotonic()
    if stage:
        _PULSE.stage = stage


@contextmanager
def at(part: str) -> Iterator[None]:
    """What happens inside is this part: "sampling", "verifying", "update", "saving", "server"."""
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
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
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
        allowed, told = self._seconds, ""
        with self._path.open("a", encoding="utf-8") as file:
            while not self._ended.wait(self._seconds / _TICKS):
                faulthandler.dump_traceback_later(self._seconds * _SLACK, file=file)  # set anew each time: fires if this cannot
                silent, place = time.monotonic() - _PULSE.at, _PULSE.place or "the start"
                if silent < self._seconds:
                    if told:
                        self._say(f"the watchdog: it goes on; the silence in {told} is over")
                    allowed, told = self._seconds, ""
                elif silent >= allowed:
                    file.write(f"\n== {time.strftime('%Y-%m-%d %H:%M:%S')}: {silent:.0f} s of silence in {place}\n")
                    file.flush()
                    faulthandler.dump_traceback(file)
                    file.flush()
                    told, allowed = place, 2 * silent
                    self._say(f"the watchdog: no sign of life for {silent:.0f} s in {place}; all stacks are in {self._path}")
            faulthandler.cancel_dump_traceback_later()
        if not self._path.stat().st_size:
            self._path.unlink()
