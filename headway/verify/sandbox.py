r"""A sandbox for programs that a model wrote, in a process that may be killed at any time.

    parent --{"source": "..."}-->  this  --{"status": "ok", "value": "42", "reason": "print"}-->  parent
                                    |
                                    +-- monty subprocess (a fresh one a program; no host functions, files, network, clock)

`python -m headway.verify.sandbox MEMORY_MB SECONDS` is a worker of `workers`. pydantic-monty interprets the program: an
interpreter of its own for a part of Python, not CPython with things taken out. The value is looked for on a ladder:

    the value of the last expression  >  the last line printed  >  what `solution()` returns, or prints

Limits: monty's own (heap, recursion, time), the operating system's on this process and on monty's (address space, written
files, processor seconds, processes, open files), and the parent's clock over all of them.

It does not know problems, references or outcomes.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import datetime
import json
import math
import os
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence, Set
from decimal import Decimal
from pathlib import Path
from typing import Any

from headway.verify.service import Say, leave, serve

MAX_PRINTED = 64_000  # characters that a program may print
MAX_VALUE = 4_000  # characters of a value; a longer one is no answer that a rule could read
MAX_DIGITS = 4_000  # of an integer that a program may turn into text: Python's own default is 4,300
MAX_DEPTH, MAX_ITEMS = 4, 400  # of a value made of values
HEAP = 1 / 4  # of the address space: what monty counts as the program's own memory
TRIES = 2  # of a program during which monty dies
WALL = 5.0  # times the limit in processor seconds: monty's own clock on the wall, as the parent's

_SOLUTION = re.compile(r"^def[ \t]+solution[ \t]*\([ \t]*\)", re.MULTILINE)
_LACKS = (  # an error of monty's that CPython would not have raised, and what it is that lacks
    (re.compile(r"ModuleNotFoundError: No module named '([\w.]{1,40})'"), "module {}"),
    (re.compile(r"NotImplementedError: The monty syntax parser does not yet support (?:the )?([\w' ]{1,40})"), "syntax: {}"),
    (re.compile(r"NotImplementedError: Wildcard imports"), "syntax: import *"),
    (re.compile(r"RuntimeError: '([\w.]{1,40})' is not supported in this environment"), "{}"),
    (re.compile(r"AttributeError: module '([\w.]{1,40})' has no attribute"), "part of {}"),
    (re.compile(r"RuntimeError: Internal error in monty"), "internal error"),
)
_OBJECT = re.compile(r"<.* at 0x[0-9a-f]+>", re.DOTALL)  # monty's text of a function or an object
_NO_NAME = re.compile(r"NameError: name '(\w{1,40})' is not defined")
_NO_ATTRIBUTE = re.compile(r"AttributeError: (?:type object )?'(\w{1,40})'(?: object)? has no attribute '(\w{1,60})'")


class Printed:
    """What a program prints: the last line is kept, and too much of it ends monty's process, whose id is `child`."""

    def __init__(self, child: int) -> None:
        self.child, self.length, self.parts, self.is_flood = child, 0, list[str](), False

    def __call__(self, stream: str, text: str) -> None:
        """Takes a piece of output, as `feed_run` calls it back."""
        self.length += len(text)
        if self.length > MAX_PRINTED:
            self.is_flood = True
            if self.child:  # monty itself would go on until its time is over
                with contextlib.suppress(OSError):
                    os.kill(self.child, signal.SIGKILL)
            raise OverflowError("too much output")
        if stream == "stdout":
            self.parts.append(text)

    def last_line(self) -> str | None:
        """The last line that is not blank, or None."""
        lines = [line.strip() for line in "".join(self.parts).splitlines() if line.strip()]
        return lines[-1] if lines else None


def text_of(value: Any, depth: int = 0) -> str | None:
    r"""A value as an answer is written, or None where it is none (nothing, a function, an object, not a number, too large).

    >>> text_of(0.30000000000000004), text_of((1, 2.0)), text_of([3, 1]), text_of({2}), text_of(1e-05), text_of(2 - 1j)
    ('0.30000000000000004', '(1, 2.0)', '3, 1', '\\{2\\}', '0.00001', '2-1i')
    """
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, bool | str):
        return None if _OBJECT.fullmatch(str(value)) else str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < MAX_DIGITS * 3.3 else None
    if isinstance(value, float | Decimal):
        return _decimal(value)
    if isinstance(value, complex):
        real, imaginary = _decimal(value.real), _decimal(value.imag)
        if real is None or imaginary is None:
            return None
        return f"{real.removesuffix('.0')}{'' if imaginary[0] == '-' else '+'}{imaginary.removesuffix('.0')}i"
    if isinstance(value, list | tuple | Set) and len(value) <= MAX_ITEMS:
        texts = [text_of(item, depth + 1) for item in value]
        if all(text is not None for text in texts):
            inside = ", ".join(filter(None, texts))
            if isinstance(value, Set):
                return rf"\{{{inside}\}}" if value else r"\emptyset"
            if isinstance(value, list):
                return f"[{inside}]" if depth or not value else inside  # outermost, a bare list: its order is not always meant
            return inside if len(value) == 1 else f"({inside})"
    return None


def _decimal(value: float | Decimal) -> str | None:
    """Without an exponent, so that the rules for answers read it as a decimal."""
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    if not exact.is_finite():
        return None
    if exact and not -50 < exact.adjusted() < 50:
        return rf"{exact.scaleb(-exact.adjusted())} \times 10^{{{exact.adjusted()}}}"
    text = format(exact, "f")
    return text if isinstance(value, Decimal) or "." in text else text + ".0"


def line_value(line: str) -> tuple[str, bool]:
    """A printed line as an answer is written, and whether it is one value; else the line itself, to be read as text.

    >>> line_value("(1, 2)"), line_value("1e-05"), line_value("The answer is [3]")
    (('(1, 2)', True), ('0.00001', True), ('The answer is [3]', False))
    """
    if len(line) <= MAX_VALUE and line[0] in "([{+-.0123456789":
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            text = text_of(ast.literal_eval(line))
            if text is not None:
                return text, True
    return line, False


def failure(message: str) -> tuple[str, str]:
    """The status and the reason of an error that monty names "Type: message".

    What CPython has and monty lacks is "unsupported", so that it is never taken for the program's own mistake.

    >>> failure("ZeroDivisionError: division by zero"), failure("ModuleNotFoundError: No module named 'sympy'")
    (('error', 'ZeroDivisionError'), ('unsupported', 'module sympy'))
    """
    if message.startswith("MemoryError: "):
        return "memory", ""
    if message.startswith("TimeoutError: feed time limit"):
        return "timeout", ""
    for pattern, text in _LACKS:
        found = pattern.match(message)
        if found:
            return "unsupported", text.format(*found.groups())
    name, attribute = _NO_NAME.match(message), _NO_ATTRIBUTE.match(message)
    if name and hasattr(builtins, name.group(1)):
        return "unsupported", name.group(1)
    if attribute and hasattr(getattr(builtins, attribute.group(1), None), attribute.group(2)):
        return "unsupported", f"{attribute.group(1)}.{attribute.group(2)}"
    kind = re.match(r"[A-Za-z_.]{1,40}(?=:|$)", message)
    return "error", kind.group() if kind else "Exception"


class Sandbox:
    """monty's processes, one a program. `say` tells the parent which one is at work."""

    def __init__(self, memory_mb: int, seconds: float, say: Say, binary: str | None = None) -> None:
        from pydantic_monty import Monty

        self._memory, self._seconds, self._say = memory_mb * 2**20, seconds, say
        pool = Monty(binary_path=binary, max_processes=1, max_checkouts_per_worker=1)
        self._pool = pool.__enter__()  # left with the process

    def run(self, source: str) -> dict[str, str]:
        """What came of a program: its status, the text of its value, a short reason."""
        from pydantic_monty import MontyCrashedError, MontyError, MontyRuntimeError, MontySyntaxError

        for _ in range(TRIES):  # something outside may have ended monty's process
            printed = Printed(0)
            try:
                return self._run(source, printed)
            except MontyCrashedError:
                if printed.is_flood:
                    return reply("output")
            except (MontyRuntimeError, MontySyntaxError) as error:
                return reply("output") if printed.is_flood else reply(*failure(error.display("type-msg")[:400]))
            except (MontyError, RecursionError) as error:  # a value that cannot leave the sandbox
                return reply("error", type(error).__name__)
            except MemoryError:
                return reply("memory")
        return reply("crashed")

    def _run(self, source: str, printed: Printed) -> dict[str, str]:
        policy = {"datetime": datetime.datetime(2000, 1, 1), "sleep": "zero", "random_start": {"seed": 0}}
        limits = {"max_feed_duration_secs": WALL * self._seconds, "max_memory": int(HEAP * self._memory)}
        with self._pool.checkout(limits=limits, os_policy=policy, assert_message_annotations=False) as session:  # type: ignore[arg-type]
            printed.child = child_of(os.getpid())
            if printed.child:
                confine(printed.child, self._seconds)
                self._say(f"H {printed.child}")
            found = _found(session.feed_run(source, print_callback=printed), printed, "value")
            if found is None and _SOLUTION.search(source):
                found = _found(session.feed_run("solution()", print_callback=printed), printed, "solution")
        return found or reply("nothing")


def _found(value: Any, printed: Printed, rung: str) -> dict[str, str] | None:
    """The answer of what has run so far."""
    text = text_of(value)
    is_value = not isinstance(value, str)
    if text is None or not text.strip():
        line = printed.last_line()
        if line is None:
            return None
        rung = "print"
        text, is_value = line_value(line)
    if len(text) > MAX_VALUE:
        return reply("output")
    return reply("ok", rung, text) | {"kind": "value" if is_value else "text"}


def reply(status: str, reason: str = "", value: str = "") -> dict[str, str]:
    """One answer to the parent."""
    return {"status": status, "reason": reason, "value": value}


def child_of(pid: int) -> int:
    """The process that `pid` has started last and that lives, or 0 where there is none or the system does not tell."""
    found = 0
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError, IndexError):
            for child in task.read_text().split():
                if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found = int(child)
    return found


def confine(pid: int, seconds: float) -> None:
    """Monty's process may start no other one, open few files, and use little more time than the parent allows."""
    prlimit: Callable[[int, int, tuple[int, int]], Any] | None = getattr(resource, "prlimit", None)
    if prlimit is None:  # Linux only
        return
    time = math.ceil(seconds) + 2
    for what, limit in ((resource.RLIMIT_NPROC, 0), (resource.RLIMIT_NOFILE, 16), (resource.RLIMIT_CPU, time)):
        with contextlib.suppress(OSError, ValueError):
            prlimit(pid, what, (limit, limit))


def ceilings(memory_mb: int) -> Mapping[int, int]:
    """What this process and those it starts are held to."""
    return {
        resource.RLIMIT_AS: memory_mb * 2**20,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }


def withdraw() -> None:
    """Into a folder that is gone: nothing can be read or written by a relative path. And out of the environment."""
    with tempfile.TemporaryDirectory(prefix="headway-sandbox-") as folder:
        os.chdir(folder)
    os.environ.clear()


def leave_with_all() -> None:
    """Ends this process and all it has started."""
    with contextlib.suppress(OSError):
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
    leave()


def main(arguments: Sequence[str]) -> None:
    """Serves programs until standard input closes."""
    memory_mb, seconds = int(arguments[0]), float(arguments[1])

    def prepare(say: Say) -> Callable[[dict[str, Any]], str]:
        import pydantic_monty  # noqa: F401  (before the limits bite)

        binary = os.environ.get("MONTY_BIN")
        sys.set_int_max_str_digits(MAX_DIGITS + 1)
        withdraw()
        for what, limit in ceilings(memory_mb).items():
            with contextlib.suppress(
                *(() if sys.platform == "linux" else (OSError, ValueError))
            ):  # macOS has no such limit on memory
                resource.setrlimit(what, (limit, limit))
        sandbox = Sandbox(memory_mb, seconds, say, binary)
        if sandbox.run("1 + 1")["value"] != "2":
            sys.exit(3)  # no sandbox: the parent says so
        return lambda request: json.dumps(sandbox.run(request["source"]))

    serve(prepare, leave_with_all)


if __name__ == "__main__":
    main(sys.argv[1:])
