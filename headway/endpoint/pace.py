"""How many requests are in flight: more while all goes well, fewer when the server says so.

    answered  limit += 1, until the first time the server was too slow; from then on += 1 / limit (one a round)
    slower    limit *= 0.7, once a round: what was sent before the last cut does not cut again

Chiu and Jain (1989), as in TCP. While the server asked for a pause, nobody starts. It does not know what is asked.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

_FIRST = 8
_CUT = 0.7


class Pace:
    """A gate of changing width. For one event loop."""

    def __init__(self, most: int):
        self.most = most
        self.limit = float(min(_FIRST, most))
        self.in_flight = 0
        self._round = 0
        self._is_starting = True
        self._not_before = 0.0
        self._stopped = asyncio.Event()
        self._changed = asyncio.Condition()

    @property
    def is_stopped(self) -> bool:
        """Whether nobody may enter any more."""
        return self._stopped.is_set()

    async def enter(self) -> int | None:
        """Wait for a place: a ticket for `leave`, or None where the gate was closed."""
        async with self._changed:
            while not self.is_stopped:
                pause = self._not_before - time.monotonic()
                if pause > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), pause)
                elif self.in_flight < int(self.limit):
                    self.in_flight += 1
                    return self._round
                else:
                    await self._changed.wait()
        return None

    async def leave(self, ticket: int, *, is_slower: bool, pause: float = 0.0) -> None:
        """Give the place back, with what the answer means for the others."""
        self.in_flight -= 1
        if not is_slower:
            self.limit = min(float(self.most), self.limit + (1.0 if self._is_starting else 1.0 / self.limit))
        elif ticket == self._round:
            self.limit, self._round, self._is_starting = max(1.0, self.limit * _CUT), self._round + 1, False
        if pause > 0:
            self._not_before = max(self._not_before, time.monotonic() + pause)
        async with self._changed:
            self._changed.notify_all()

    async def rest(self, seconds: float) -> None:
        """Wait, or until the gate is closed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    async def stop(self) -> None:
        """Let nobody enter any more and wake all who wait."""
        self._stopped.set()
        async with self._changed:
            self._changed.notify_all()
