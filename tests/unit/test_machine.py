"""Versions, clocks and memory."""

import json
import os
import socket
import subprocess
import sys

from headway.machine import Clock, environment, peak_memory_bytes


def test_the_environment_names_versions_and_nothing_private():
    found = environment(0)
    assert found["threads"] == found["cores"] == os.cpu_count()
    assert environment(3)["threads"] == 3
    assert found["versions"]["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    text = json.dumps(found)
    assert socket.gethostname() not in text
    assert "/" not in text


def test_a_clock_goes_on_from_what_was_saved():
    clock = Clock(100.0)
    first = clock.seconds
    assert 100.0 <= first <= clock.seconds < 200.0


MIB = 2**20
HOLD = "block = bytearray(b'x') * (96 * 2**20)"
TELL = "from headway.machine import peak_memory_bytes; print(peak_memory_bytes(), flush=True)"


def test_peak_memory_remembers_what_was_let_go():
    def peak(code: str) -> int:
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)

    alone = peak(TELL)
    assert 2 * MIB < alone < 90 * MIB
    assert peak(f"{HOLD}; del block; {TELL}") >= 95 * MIB  # the kernel counts pages roughly, to a fraction of a MiB


def test_peak_memory_adds_a_living_child():
    with subprocess.Popen([sys.executable, "-c", f"{HOLD}; {TELL}; input()"], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        of_child = int(child.stdout.readline())
        together = peak_memory_bytes()
        child.communicate(b"\n")
    assert together >= of_child + 2 * MIB
