"""A full disk, in small: a child process that may not write files longer than so many bytes.

In a child, because the limit holds for a whole process: the test runner's own output, where it goes to a file, would hit it, too.
"""

import os
import resource
import sys
import traceback
from collections.abc import Callable


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
