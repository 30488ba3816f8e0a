"""A real hang: a thread that sleeps within a part; the watchdog names it, writes all stacks, and says when it is over."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from headway import watchdog
from headway.verify.workers import Pool
from headway.watchdog import Watchdog, at, beat


def sleep_in(part: str, until: threading.Event) -> None:
    with at(part):
        until.wait(30)


def wait_for(said: list[str], count: int) -> None:
    until = time.monotonic() + 30
    while len(said) < count and time.monotonic() < until:
        time.sleep(0.02)


def test_a_hang_is_named_with_all_stacks_and_its_end(tmp_path: Path) -> None:
    said: list[str] = []
    woken = threading.Event()
    with Watchdog(tmp_path, 0.4, said.append):
        beat("rl")
        sleeper = threading.Thread(target=sleep_in, args=("verifying", woken), name="sleeper")
        sleeper.start()
        wait_for(said, 1)
        woken.set()
        sleeper.join()
        wait_for(said, len(said) + 1)
    assert said[0].startswith("the watchdog: no sign of life for ")
    assert said[0].endswith(f" s in rl: verifying; all stacks are in {tmp_path / 'watchdog.txt'}")
    assert said[-1] == "the watchdog: it goes on; the silence in rl: verifying is over"
    written = (tmp_path / "watchdog.txt").read_text()
    assert "s of silence in rl: verifying" in written
    assert "in sleep_in" in written  # where the thread that hangs stands
    assert "in wait_for" in written  # and the others


def test_life_is_silent_and_leaves_no_file(tmp_path: Path) -> None:
    said: list[str] = []
    with Watchdog(tmp_path, 20, said.append):
        with at("sampling"):
            beat()
        assert any(thread.name == "watchdog" for thread in threading.enumerate())
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_it_can_be_left_out(tmp_path: Path) -> None:
    with Watchdog(tmp_path, 0, print):
        assert not any(thread.name == "watchdog" for thread in threading.enumerate())
    assert list(tmp_path.iterdir()) == []


def test_honest_long_work_is_silent(tmp_path: Path) -> None:
    """Twice the allowed time in one part, with a sign of life now and then."""
    said: list[str] = []
    with Watchdog(tmp_path, 1.0, said.append), at("sampling"):
        for _ in range(40):
            time.sleep(0.05)
            beat()
    assert said == []


def test_a_verifier_s_worker_that_stands_still_is_named_and_does_not_hold_the_run(tmp_path: Path) -> None:
    """SIGSTOP, as a debugger or a full machine would: "verifying" is named, the pool ends the worker at five times its limit."""
    said: list[str] = []
    pool = Pool(1, 0.5, 1024)
    try:
        pool.run([("1/2", "0.5")])
        for pid in pool.pids:
            os.kill(pid, signal.SIGSTOP)
        with Watchdog(tmp_path, 0.8, said.append), at("verifying"):
            (result,) = pool.run([("1/3", "2/6")])
            wait_for(said, len(said) + 1)
    finally:
        pool.close()
    assert result.word == "timeout"
    assert "s in verifying; all stacks are in" in said[0]
    assert said[-1] == "the watchdog: it goes on; the silence in verifying is over"


def test_native_code_that_holds_the_interpreter_leaves_stacks(tmp_path: Path) -> None:
    """No Python runs, this watchdog neither: faulthandler's timer writes, and afterwards the watchdog says so."""
    said: list[str] = []
    sleep = ctypes.PyDLL(None).usleep  # a PyDLL's functions keep the interpreter's lock
    with Watchdog(tmp_path, 0.4, said.append), at("update"):
        time.sleep(0.2)
        sleep(900_000)
        wait_for(said, 1)
    assert said[0].startswith("the watchdog: nothing ran for ")
    assert said[0].endswith(f" s in update; all stacks are in {tmp_path / 'watchdog.txt'}")
    assert "test_native_code_that_holds_the_interpreter" in (tmp_path / "watchdog.txt").read_text()


STOPPED = """
import sys, time
from pathlib import Path
from headway.watchdog import Watchdog, at
with Watchdog(Path(sys.argv[1]), 1.2, print), at("update"):
    print("begun", flush=True)
    for _ in range(8):
        time.sleep(0.1)
print("ended", flush=True)
"""


def test_a_process_that_was_stopped_is_no_hang(tmp_path: Path) -> None:
    """Twice the allowed silence passes while nothing runs: that is nobody's fault, and no part is blamed."""
    process = subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(process.pid, signal.SIGCONT)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait() == 0
    assert "no sign of life" not in rest
    assert rest.endswith("ended\n")


def test_where_no_file_can_be_written_the_line_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    with Watchdog(tmp_path / "missing", 0.3, said.append), at("saving"):
        wait_for(said, 1)
    assert said[0].startswith("the watchdog: no sign of life for ")
    assert said[0].endswith(" s in saving")


def test_another_part_of_another_thread_is_not_forgotten() -> None:
    with at("server"), at("verifying"):
        assert watchdog._PULSE.place.endswith("verifying")
    assert watchdog._PULSE.parts == []
