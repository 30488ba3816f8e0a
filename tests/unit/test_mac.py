"""What a Mac lacks beside Linux: a compiler for the kernels, a limit on the address space, /proc. Its GPU: `test_mps`."""

import os
import resource
import sys
from pathlib import Path

import pytest

from headway.machine import c_compiler, environment
from headway.verify import sandbox, slow

APPLE_CLANG = """#!/bin/sh
case "$*" in
*--version*) echo "Apple clang version 17.0.0 (clang-1700.0.13.3)" ;;
*-fopenmp*) echo "clang: error: unsupported option '-fopenmp'" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def clang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose compilers are all Apple's clang; its path."""
    for name in ("cc", "gcc", "clang"):
        (tmp_path / name).write_text(APPLE_CLANG)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("HEADWAY_KERNEL", raising=False)
    return tmp_path / "cc"


def test_a_compiler_that_cannot_make_the_kernels_is_none_and_is_recorded_as_none(
    clang: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (c_compiler(), environment(0)["has_kernel"]) == (None, False)
    (clang.parent / "gcc-15").write_text("#!/bin/sh\nexit 0\n")
    (clang.parent / "gcc-15").chmod(0o755)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert c_compiler() is None, "on a Mac nothing is called that was not named"
    monkeypatch.setenv("CC", "gcc-15")
    assert c_compiler() == str(clang.parent / "gcc-15")
    monkeypatch.setenv("HEADWAY_KERNEL", "0")
    assert (c_compiler(), environment(0)["has_kernel"]) == (None, False)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_missing_limit_on_memory_ends_the_workers_of_linux_alone(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def setrlimit(what: int, limits: tuple[int, int]) -> None:
        asked.append(what)
        if what == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")  # macOS's answer

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "linux":
        with pytest.raises(ValueError, match="exceeds maximum"):
            slow._limit(512)
    else:
        slow._limit(512)
        assert asked == [resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE]


def test_a_sandbox_without_prlimit_or_proc_goes_on_with_the_limits_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(resource, "prlimit", raising=False)
    sandbox.confine(os.getpid(), 1.0)  # nothing is changed, nothing raised
    assert sandbox.child_of(2**22 + 1) == 0  # a process that /proc does not know, as none is known where there is no /proc
