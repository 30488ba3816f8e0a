"""Processes that are ranks of one run, started as torchrun starts them, but without it: for the tests of several ranks."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds until ranks count as hanging


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | more


def launch(words: Sequence[str], count: int, limit_bytes: int = 0) -> list[subprocess.Popen[str]]:
    """`python WORDS` as so many ranks; rank 0 may write no file beyond `limit_bytes`, where it is given."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    found = []
    for rank in range(count):
        here = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        before: Callable[[], None] | None = limited if limit_bytes and rank == 0 else None
        found.append(
            subprocess.Popen(
                [sys.executable, *words],
                env=environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **here),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=before,
            )
        )
    return found


def ended(ranks: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Each rank's exit code and what it said, once all have ended; a rank that hangs is a failure."""
    try:
        said = [rank.communicate(timeout=PATIENCE) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, out, error) for rank, (out, error) in zip(ranks, said, strict=True)]
