"""The lock of a folder: whose number it tells, and what a number is worth after its process has ended."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from headway.errors import RunError
from headway.lock import FolderLock

proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to tell when a process began")


def began(process: int) -> str:
    """By hand: the 22nd field of the kernel's line, whose second is the name in parentheses."""
    return Path(f"/proc/{process}/stat").read_text().split(") ")[1].split()[22 - 3]


def held(folder: Path, owner: str) -> int:
    """Someone has the lock, and the file says `owner`."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.pwrite(handle, owner.encode(), 0)
    return handle


@proc
def test_the_file_tells_the_process_and_when_it_began(tmp_path):
    lock = FolderLock(tmp_path)
    assert (tmp_path / ".lock").read_text() == f"{os.getpid()} {began(os.getpid())}"
    lock.release()
    FolderLock(tmp_path).release()


@proc
def test_a_number_that_was_given_away_again_is_nobody(tmp_path):
    """A killed owner's number belongs to someone else by now, and a worker that it forked has yet to let go: we wait."""
    handle = held(tmp_path, f"{os.getppid()} 1")
    threading.Timer(0.3, os.close, [handle]).start()
    FolderLock(tmp_path).release()


@proc
def test_a_process_that_was_killed_and_not_collected_is_nobody(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        handle = held(tmp_path, f"{process.pid} {began(process.pid)}")
        process.kill()
        while " Z " not in Path(f"/proc/{process.pid}/stat").read_text():
            time.sleep(0.01)
        threading.Timer(0.3, os.close, [handle]).start()
        FolderLock(tmp_path).release()


@pytest.mark.parametrize("when", ["", " began"])
def test_a_living_owner_is_refused_at_once_and_named(tmp_path, when):
    """Also one that an earlier version noted, without the time."""
    if when and not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    owner = os.getppid()
    handle = held(tmp_path, f"{owner} {began(owner)}" if when else str(owner))
    with pytest.raises(RunError, match=f"is in use by process {owner}$"):
        FolderLock(tmp_path)
    os.close(handle)
