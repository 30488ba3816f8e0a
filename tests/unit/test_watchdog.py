"""A real hang: a thread that sleeps within a part; the watchdog names it, writes all stacks, and says when it is over."""

import threading
import time
from pathlib import Path

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
