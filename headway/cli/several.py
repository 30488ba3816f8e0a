"""The command line of one of several ranks: which verbs take them, who says what went wrong, and how all of them end.

    torchrun --nproc-per-node 2 -m headway run RECIPE    -->   a failure anywhere: one line of one rank, exit code 2 of each

Alone, nothing in here does anything. It does not know why a rank fails.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from headway import ranks
from headway.errors import ConfigError, RunError

_VERBS = ("run", "base", "midtrain", "sft", "dpo", "rl", "eval")  # whose work is shared out
NOTICED = 3.0  # seconds until torchrun has surely seen who ended first
LOST = RunError("another rank of this run has ended, so this one ends: start the same command again, it goes on from there")


def are_started() -> bool:
    """Whether torchrun says that this process is one of several."""
    return os.environ.get("WORLD_SIZE", "") not in ("", "1")


def check(words: Sequence[str]) -> None:
    """Raise ConfigError for a verb that one process does."""
    verb = next((word for word in words if not word.startswith("-")), "")
    if are_started() and verb and verb not in _VERBS:
        raise ConfigError(f"headway {verb}: one process does this, start it without torchrun; ranks share {', '.join(_VERBS)}")


def speaks() -> bool:
    """Whether this rank is the one that says how the run ends: the first to ask; of ranks that are not joined yet, rank 0."""
    if are_started() and ranks.size() == 1:
        return os.environ.get("RANK", "0") == "0"
    return ranks.claim("said how it ends")


def has_lost(error: BaseException) -> bool:
    """Whether the error is that another rank is gone."""
    if ranks.size() == 1:
        return False
    from headway.train.processes import is_loss_of_rank

    return is_loss_of_rank(error)


def report(line: str) -> None:
    """Leave the line where torchrun looks for what its report should say of this rank."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if are_started() and path:
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": f"headway: {line}", "timestamp": int(time.time())}), encoding="utf-8")


def end(code: int, after: float = 0.0) -> None:
    """End a process that was a rank at once: the interpreter's own end waits for connections, and may abort in their threads."""
    if ranks.were_joined():
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(after)
        os._exit(code)
