r"""The child's side of `workers`: requests come as JSON lines on standard input, each is answered with one line.

    parent --{"reference": "...", "answer": "..."}-->  answer(request, say)  --"same"-->  parent

Standard output and standard error lead nowhere, so that nothing a library or a task writes is taken for a reply. When the parent
goes away, so does this process at once, also out of a running computation.

It does not know what the requests mean.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

Say = Callable[[str], None]


def leave() -> None:
    """Ends this process without waiting for anything."""
    os._exit(0)


def serve(prepare: Callable[[Say], Callable[[dict[str, Any]], str]], leave: Callable[[], None] = leave) -> None:
    """Prepares, says "ready", and answers requests for ever; `leave` is called, in a thread, when standard input closes.

    `prepare` gets `say`, which sends a line before the answer (a sign of progress), and returns what answers a request.
    """
    replies = os.dup(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            requests.put(line)
        leave()

    def say(word: str) -> None:
        os.write(replies, word.encode() + b"\n")

    logging.disable(logging.CRITICAL)
    answer = prepare(say)
    threading.Thread(target=listen, daemon=True).start()
    say("ready")
    while True:
        say(answer(json.loads(requests.get())))
