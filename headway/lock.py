"""One process at a time works in a folder: a lock that kill -9 does not leave behind.

The lock is the kernel's (flock on `FOLDER/.lock`), which ends with its process; the file holds the process number for
the message to others, and when that process began: a number that was given away again names nobody. A forked worker inherits
the handle and would keep the lock of a killed parent, so it closes its copy at once. A file system without flock refuses in its
own words.

It does not know what the folder holds.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from headway.durable import refusing
from headway.errors import RunError

_PATIENCE_SECONDS = 2.0


class FolderLock:
    """The lock on a folder, taken at once. RunError names the process that has it.

    Where that process is dead but the lock is not free yet (a worker that it forked at that moment still has to let
    go), we wait for it, two seconds at most.
    """

    def __init__(self, folder: Path):
        until = time.monotonic() + _PATIENCE_SECONDS
        path = folder / ".lock"
        with refusing(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                while not self._take():
                    owner, _, began = os.pread(self._handle, 64, 0).decode("ascii", "replace").strip().partition(" ")
                    if _is_alive(owner, began) or time.monotonic() > until:
                        raise RunError(f"{folder} is in use by process {owner or '(unknown)'}")
                    time.sleep(0.02)
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, f"{os.getpid()} {_began(os.getpid())}".encode(), 0)
            except BaseException:
                self.release()
                raise
        _held.add(self)

    def release(self) -> None:
        """Let go; a second time does nothing."""
        _held.discard(self)
        if self._handle >= 0:
            with suppress(OSError):
                os.close(self._handle)
            self._handle = -1

    def _take(self) -> bool:
        """Try, without waiting."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_held: set[FolderLock] = set()


def _is_alive(process: str, began: str) -> bool:
    """Is it there, and the one that began then? Where the system does not tell, the number alone decides."""
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    now = _began(int(process))
    return not (now and began) or now == began


def _began(process: int) -> str:
    """When a process began, in the kernel's ticks since boot (field 22 of /proc/PID/stat); "" where /proc does not tell."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "ended" if fields[0] == "Z" else fields[19]  # killed, and nobody has asked for its exit code yet
    return ""


def _release_in_child() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
