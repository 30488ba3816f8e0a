"""A full disk, in small: a child process that may not write files longer than so many bytes, or a disk of its own of some size.

In a child, because a limit holds for a whole process: the test runner's own output, where it goes to a file, would hit it, too.
"""

import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_MOUNT = 'mount -t tmpfs -o size="$2" tmpfs "$1" && shift 2 && exec "$@"'


def with_file_size_limit(size: int, work: Callable[[], None]) -> None:
    """Run `work` in a forked child under the limit; an assertion that fails there fails here."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the work under the limit failed, see its trace"


def on_a_small_disk(folder: Path, size: int, call: str, *more: Path) -> None:
    """`call` ("module.function") in a process of its own with `folder` on a disk of `size` bytes, which only it sees.

    The function gets the folder (and the paths `more`) as arguments. Skips where the system lets nobody mount a tmpfs in a
    namespace of one's own.
    """
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to make a small disk with")
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, "sh", str(folder), str(size)]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk without being root")
    module, _, function = call.partition(".")
    code = f"import sys; from pathlib import Path; import {module} as m; m.{function}(*map(Path, sys.argv[1:]))"
    paths = [str(path) for path in (folder, *more)]
    places = os.pathsep.join(str(ROOT / part) for part in ("", "tests", "tests/unit", "tests/flow"))
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    ended = subprocess.run(
        [*inside, sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]


class Ballast:
    """A file that fills a small disk up."""

    def __init__(self, folder: Path):
        self._path = folder / "ballast"
        self.block = os.statvfs(folder).f_frsize

    def leave(self, blocks: int) -> None:
        """Leave so many free blocks, of which the ballast needs none more itself."""
        self._path.unlink(missing_ok=True)
        place = os.statvfs(self._path.parent)
        with self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, (place.f_bavail - blocks) * place.f_frsize))
        assert os.statvfs(self._path.parent).f_bavail == blocks

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
