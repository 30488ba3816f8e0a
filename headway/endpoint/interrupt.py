"""Ctrl-C while requests are in flight: the first sends nothing new and waits for them, the second drops them.

It does not know what is asked.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from headway.endpoint.client import Endpoint


@contextmanager
def on_ctrl_c(endpoint: Endpoint, say: Callable[[str], None]) -> Iterator[list[int]]:
    """A list that is not empty any more after Ctrl-C. In a thread that gets no signals it stays empty."""
    times: list[int] = []
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    stopping: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        times.append(1)
        if len(times) == 1:
            stopping.append(asyncio.ensure_future(endpoint.stop("Ctrl-C")))
            say(f"waiting for {endpoint.pace.in_flight} requests in flight; Ctrl-C again drops them")
        elif main is not None:
            main.cancel()

    with suppress(ValueError, RuntimeError, NotImplementedError):
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield times
    finally:
        with suppress(ValueError, RuntimeError, NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
