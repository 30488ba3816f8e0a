"""What a run works on and what it takes: versions, cores, seconds, memory.

It does not know the run; it never tells a path, a host name or an environment variable.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("headway", "torch", "transformers", "tokenizers", "safetensors", "numpy", "deltalake", "duckdb", "pyarrow")
_PACKAGES += ("math-verify", "reasoning-gym", "peft")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


class Clock:
    """The seconds that a stage has run, over all restarts. Work that a kill undid is done again, and counted once."""

    def __init__(self, earlier: float = 0.0):
        self._earlier = earlier
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds up to now."""
        return self._earlier + time.monotonic() - self._since


def environment(threads: int) -> dict[str, Any]:
    """What the numbers may depend on: versions, system, cores, and the threads used (0 = all cores)."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "versions": versions,
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": threads or os.cpu_count() or 1,
        "has_kernel": c_compiler() is not None,
    }


def c_compiler() -> str | None:
    """The C compiler that the kernels are made with (`model.kernel`); None without one that can, or where HEADWAY_KERNEL=0.

    On a Mac only the one that the variable CC names: its `cc` is a clang that cannot, and where the developer tools are missing,
    to call it opens a window that wants to install them.
    """
    named = os.environ.get("CC", "")
    if os.environ.get("HEADWAY_KERNEL") == "0" or (sys.platform == "darwin" and not named):
        return None
    names = (named or "cc", "gcc", "clang")
    return next((found for name in names if (found := shutil.which(name)) and _can_compile(found)), None)


@cache
def _can_compile(compiler: str) -> bool:
    """Whether a compiler has what the kernels are written in: OpenMP, GCC's vectors, and this machine's own processor."""
    text = "typedef int V __attribute__((vector_size(64))); V f(V a, V b) { return __builtin_shuffle(a, b); }"
    command = [compiler, "-fopenmp", "-march=native", "-fsyntax-only", "-x", "c", "-"]
    try:
        return subprocess.run(command, input=text.encode(), capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


@cache
def keep_freed_memory() -> None:
    """Let the process keep what it frees, for its next tensors: blocks up to 256 MiB, and 1 GiB in all.

    glibc gives a freed block above 32 MiB back to the system, and is given it again a page of 4 KiB at a time, up to a tenth of
    a training step on a CPU. Where there is another allocator, nothing happens.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 256 << 20)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 30)


def peak_memory_bytes() -> int:
    """The most memory this process and its living children held (each one's own peak, added up), in bytes.

    Linux tells it in /proc (VmHWM). Elsewhere it is the largest of this process and its ended children.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    alive = _peak_of(os.getpid()) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return max(ended, alive)


def free_memory_bytes() -> int:
    """What this machine can give a process now without swapping, in bytes; 0 where it does not tell (Linux does)."""
    with suppress(OSError):
        match = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        return int(match[1]) * 1024 if match else 0
    return 0


def _peak_of(process: int) -> int:
    """VmHWM of a process and all below it in bytes; 0 where /proc does not tell."""
    peak = 0
    with suppress(OSError):
        match = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
        peak = int(match[1]) * 1024 if match else 0
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            children = Path(f"/proc/{process}/task/{thread}/children").read_text().split()
            peak += sum(_peak_of(int(child)) for child in children)
    return peak
