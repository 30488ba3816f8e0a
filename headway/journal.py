"""The rows that a stage logs: a JSON Lines file that a kill tears at most in its last line.

    {"step": 119, "loss": 0.41, ...}
    {"step": 120, "loss": 0.40, ...}     <- a resume point at step 120 covers the rows up to here
    {"step": 121, "lo                    <- torn by a kill: never read, cut off before the next row

It does not know what the numbers mean, nor when a resume point is written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.durable import refusing, write_atomic
from headway.errors import RunError


class Metrics:
    """The rows of one stage. Each has an integer `step`; several rows may share one.

    A row reaches the kernel at once; `sync` waits until all of them are on the disk.
    """

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row. NaN and infinity become null. On a full disk: RunError, and the rows before it stay whole."""
        assert isinstance(row.get("step"), int), f"a metrics row needs an integer step: {row}"
        line = json.dumps(_finite(row), ensure_ascii=False).encode("utf-8") + b"\n"
        with refusing(self.path, len(line)):
            handle = self._open()
            before = os.fstat(handle).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(handle, line[written:])
            except BaseException:
                os.ftruncate(handle, before)
                raise

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows in order. RunError names the line of a damaged one."""
        return [row for row, _ in self._read()]

    def rewind(self, step: int) -> None:
        """Drop every row after `step` (and a torn last line), atomically: they will be logged again. -1 drops all."""
        if not self.path.exists():
            return
        self.close()
        content = b"".join(line for row, line in self._read() if row["step"] <= step)
        if len(content) < self.path.stat().st_size:
            write_atomic(self.path, content)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        if self._handle is not None:
            with refusing(self.path):
                os.fsync(self._handle)

    def close(self) -> None:
        """Let go of the file; the next `append` opens it again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int:
        """The handle to append with. Before its first use a torn last line is cut off."""
        if self._handle is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            content = self.path.read_bytes()
            os.ftruncate(self._handle, content.rfind(b"\n") + 1)
        return self._handle

    def _read(self) -> list[tuple[dict[str, Any], bytes]]:
        """Each whole row with its bytes."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"cannot read {self.path}: {error.strerror}") from error
        found: list[tuple[dict[str, Any], bytes]] = []
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                row = json.loads(line)
                if not isinstance(row["step"], int):
                    raise TypeError
            except (ValueError, TypeError, KeyError):
                raise RunError(f"{self.path}, line {number} is damaged: not a row with an integer step") from None
            found.append((row, line + b"\n"))
        return found


def _finite(value: Any) -> Any:
    """The value with every NaN and infinity replaced by None, which JSON can say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
