"""What became of every request, in segments: what a kill may not lose before it is in the table.

    000007.jsonl        one line a finished request, appended as it arrives    <- a kill tears at most its last line
    000007.done.jsonl   the same without the texts, once the table holds them (batch "teacher/POLICY/7")

A new process never appends to a segment that it finds: it hands it to the table as it is and begins the next. Then the batch of
a segment is always the same rows, and appending it twice is a no-op. One writer at a time: its caller holds the folder's lock.

It does not know who answered, nor how rows get into the table.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from headway.durable import refusing, write_atomic
from headway.errors import RunError
from headway.types import Outcome, Rollout, StopReason, Verdict

State = Literal["kept", "rejected", "failed"]
_SYNC_SECONDS = 0.25  # what a power cut may cost; a kill costs nothing


@dataclass(frozen=True, slots=True)
class Finished:
    """One request's end. `key` is "PROBLEM_ID/INDEX". Kept and rejected are final; failed is asked again by the next call.

    Example: ``Finished("9f…/2", "kept", rollout=Rollout(…), prompt_tokens=80, completion_tokens=412, tries=1)``

    A kept one has its `rollout` (None again once the table holds it); its `verdict` where it is judged already.
    """

    key: str
    state: State
    reason: str = ""
    rollout: Rollout | None = None
    verdict: Verdict | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    tries: int = 1

    @property
    def is_final(self) -> bool:
        """Whether it is never asked again."""
        return self.state != "failed"


class Journal:
    """The segments of one policy below `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._handle: int | None = None
        self._number = max((number for number, _ in self._found()), default=0)
        self._synced = time.monotonic()
        self.waiting = 0  # kept rows of the open segment

    def append(self, row: Finished) -> None:
        """Write one line to the open segment. It is with the kernel at once, on the disk soon (`sync`: now)."""
        line = json.dumps(_plain(row), ensure_ascii=True, allow_nan=False).encode() + b"\n"
        path = self._path(self._number + (self._handle is None))
        with refusing(path, len(line)):
            if self._handle is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
                self._number, self.waiting = self._number + 1, 0
            before = os.fstat(self._handle).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._handle, line[written:])
            except BaseException:
                os.ftruncate(self._handle, before)
                raise
        self.waiting += row.state == "kept"
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        self._synced = time.monotonic()
        if self._handle is not None:
            with refusing(self._path(self._number)):
                os.fsync(self._handle)

    def close(self) -> int:
        """End the open segment: its number, or 0 where none is open."""
        if self._handle is None:
            return 0
        self.sync()
        os.close(self._handle)
        self._handle = None
        self.waiting = 0
        return self._number

    def unsettled(self) -> list[int]:
        """The segments that the table may not hold yet, without the open one."""
        done = {number for number, is_done in self._found() if is_done}
        is_open = self._number if self._handle is not None else 0
        return sorted(number for number, is_done in self._found() if not is_done and number not in done | {is_open})

    def settle(self, number: int) -> None:
        """Keep a segment without its texts: the table holds them."""
        lines = [{key: value for key, value in row.items() if key not in ("rollout", "verdict")} for row in self._lines(number)]
        write_atomic(self._path(number, done=True), "".join(json.dumps(row) + "\n" for row in lines))
        self._path(number).unlink(missing_ok=True)

    def rows(self, number: int = 0) -> list[Finished]:
        """The rows of one segment, or of all but the open one, in order. RunError names a damaged line."""
        is_open = self._number if self._handle is not None else 0
        numbers = [number] if number else sorted({found for found, _ in self._found()} - {is_open})
        return [_finished(row, self._path(one)) for one in numbers for row in self._lines(one)]

    def _lines(self, number: int) -> list[dict[str, Any]]:
        """The whole lines of a segment; a torn last one is none."""
        done = self._path(number, done=True)
        path = done if done.exists() else self._path(number)
        try:
            parts = path.read_bytes().split(b"\n")[:-1]
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}") from None
        rows: list[dict[str, Any]] = []
        for place, part in enumerate(parts, start=1):
            try:
                row = json.loads(part)
                if not isinstance(row, dict):
                    raise TypeError
            except (ValueError, TypeError, RecursionError):
                raise RunError(f"{path}, line {place} is damaged: not a finished request") from None
            rows.append(row)
        return rows

    def _found(self) -> list[tuple[int, bool]]:
        """(number, is settled) of the segments' files."""
        names = [path.name for path in self.folder.glob("*.jsonl")] if self.folder.is_dir() else []
        return [(int(name.split(".")[0]), name.endswith(".done.jsonl")) for name in names if name.split(".")[0].isdecimal()]

    def _path(self, number: int, done: bool = False) -> Path:
        return self.folder / f"{number:06}{'.done' if done else ''}.jsonl"


def _plain(row: Finished) -> dict[str, Any]:
    """A row as JSON, without what is as it is by default."""
    values = {item.name: getattr(row, item.name) for item in fields(row) if getattr(row, item.name) != item.default}
    return {key: asdict(value) if isinstance(value, Rollout | Verdict) else value for key, value in values.items()}


def _finished(row: Mapping[str, Any], path: Path) -> Finished:
    try:
        values = dict(row)
        if rollout := values.get("rollout"):
            lists = {name: tuple(rollout[name]) for name in ("token_ids", "logprobs")}
            values["rollout"] = Rollout(**{**rollout, **lists, "stop_reason": StopReason(rollout["stop_reason"])})
        if verdict := values.get("verdict"):
            values["verdict"] = Verdict(**{**verdict, "outcome": Outcome(verdict["outcome"])})
        return Finished(**values)
    except (TypeError, ValueError, KeyError):
        raise RunError(f"{path} holds a line that is no finished request of this version of headway") from None
