r"""Program of thought: a completion that answers with a Python program is judged by what the program comes to.

    text --program_of--> source --Sandbox--> Ran(status, value) --the ordinary rules--> CORRECT | WRONG | ...

The program is the last finished block of a completion that is fenced as ```python, outside think blocks. It runs in
`headway.verify.sandbox` and nowhere else: where pydantic-monty is not installed, nothing runs. Source of the idea: Chen et al.
2022, "Program of Thoughts" (arXiv 2211.12588); Yue et al. 2023, "MAmmoTH" (arXiv 2309.05653), section 2.4, hybrid decoding.

A program's own failure (an error, a limit) is WRONG; what CPython has and the sandbox lacks is UNVERIFIABLE, as any failure of
ours. Floats: see `agrees_as_float`. It does not know how a completion was asked for, nor what happens when there is no program.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from types import TracebackType

from headway.errors import ConfigError
from headway.types import Outcome, Problem, Rollout, Verdict
from headway.verify import extract, numbers
from headway.verify.judge import Judgement, Open, Verifier, bare, compare_found, verdict_of
from headway.verify.shape import Value, read
from headway.verify.workers import Job, Pool

VERIFIER = "program@1"

MAX_SOURCE = 20_000  # characters of a program
RELATIVE = Fraction(1, 10**9)  # floats agree with an exact reference so far
ABSOLUTE = Fraction(1, 1000)  # and are never further apart than this, however large they are
ZERO = Fraction(1, 10**12)  # from 0: sin(pi) is 1.2e-16

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^`]*")
_LANGUAGES = frozenset({"python", "python3", "py"})
_FLOAT = re.compile(r"[-+]?[0-9]+\.[0-9]*")


class Status(StrEnum):
    """What came of a program."""

    OK = "ok"  # it has a value
    NOTHING = "nothing"  # it ran, but has no value: no last expression, nothing printed, no `solution()`
    REFUSED = "refused"  # not run: the source is too long
    ERROR = "error"  # it raised, or is no Python
    UNSUPPORTED = "unsupported"  # it needs something of CPython that the sandbox lacks
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"  # it printed too much, or its value is too long
    CRASHED = "crashed"  # it brought the sandbox down, again and again


@dataclass(frozen=True, slots=True)
class Ran:
    """A program's result: its value as text, and a short reason.

    Example: ``Ran(Status.OK, "0.30000000000000004", "print")``, ``Ran(Status.ERROR, "", "ZeroDivisionError")``

    Where there is a value, `reason` is the rung it was found on: value, print or solution. `is_text`: the value is a line of text
    or a string, in which the answer is still to be found; else it is the answer.
    """

    status: Status
    value: str = ""
    reason: str = ""
    is_text: bool = False


def program_of(text: str) -> str | None:
    r"""The program that a completion answers with: its last finished block fenced as ```python, or None.

    >>> program_of("First:\n```python\nprint(1)\n```\nNo:\n```python\nprint(2)\n```")
    'print(2)\n'
    >>> program_of("<think>\n```python\nprint(1)\n```\n") is program_of("```python\nprint(1)") is None
    True

    A fence is a line of three or more backticks or tildes and, where it opens, a word: python, py or python3, in any case.
    A block that nothing closes is none (the completion was cut off). Blocks of other languages are passed over whole.
    """
    found: list[str] | None = None
    block: list[str] = []
    opener, is_python = "", False
    for line in extract.outside_thought(text).split("\n"):
        match = _FENCE.fullmatch(line.rstrip("\r"))
        if not opener:
            if match:
                opener, is_python, block = match.group(1), match.group(2).lower() in _LANGUAGES, []
        elif match and match.group(1).startswith(opener) and not match.group(2):
            found, opener = (block if is_python else found), ""
        else:
            block.append(line)
    return textwrap.dedent("\n".join(found)) + "\n" if found is not None else None


def need_sandbox() -> None:
    """Raises ConfigError where programs cannot run."""
    if importlib.util.find_spec("pydantic_monty") is None:
        raise ConfigError("programs only run in pydantic-monty, which is not installed: pip install 'headway[sandbox]'")


class Sandbox:
    """Runs programs, each for `seconds` of processor time and in `memory_mb` of address space at most, in `workers` processes.

    A context manager: leaving it ends the processes. Raises ConfigError where no sandbox is installed. Any thread may call; what
    comes of a program depends on the program alone (its clock stands still, its random numbers are seeded).
    """

    def __init__(self, workers: int = 1, seconds: float = 2.0, memory_mb: int = 1024) -> None:
        need_sandbox()
        cause = "is pydantic-monty whole (`python -m pydantic_monty --version`)"
        job = Job("headway.verify.sandbox", ("source",), "sandbox", cause, (str(seconds),), is_alone=True)
        self.pool = Pool(workers, seconds, memory_mb, job)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes; a later call starts new ones."""
        self.pool.close()

    def run(self, sources: Sequence[str]) -> list[Ran]:
        """What comes of each program, in order; each different one runs once. HeadwayError where the sandbox does not start."""
        tasks = [(source,) for source in dict.fromkeys(sources) if len(source) <= MAX_SOURCE]
        found = dict(zip(tasks, self.pool.run(tasks), strict=True)) if tasks else {}
        refused = Ran(Status.REFUSED, reason="too long")
        return [_ran(found[source,].word) if (source,) in found else refused for source in sources]


def _ran(word: str) -> Ran:
    """A worker's reply, or the pool's own word."""
    if word in ("timeout", "died"):
        return Ran(Status.TIMEOUT if word == "timeout" else Status.CRASHED)
    reply = json.loads(word)
    return Ran(Status(reply["status"]), reply["value"], reply["reason"], reply.get("kind") == "text")


class ProgramVerifier:
    """Judges completions by their programs, as `Verifier` does by their text. A context manager."""

    def __init__(self, workers: int = 1, seconds: float = 2.0, memory_mb: int = 1024) -> None:
        self.sandbox = Sandbox(workers, seconds, memory_mb)
        self._rules = Verifier(workers, seconds, memory_mb)

    def __enter__(self) -> ProgramVerifier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.sandbox.close()
        self._rules.close()

    def judge_all(self, items: Sequence[tuple[str, str]]) -> list[Judgement]:
        """One judgement for each (reference, completion), in order. Raises HeadwayError when a process cannot start."""
        sources = [program_of(text) for _, text in items]
        ran = iter(self.sandbox.run([source for source in sources if source is not None]))
        found = [
            Judgement(Outcome.NO_ANSWER, "no_program", "") if source is None else _compare(reference, next(ran))
            for (reference, _), source in zip(items, sources, strict=True)
        ]
        return self._rules.settle(found)

    def verdicts(self, pairs: Sequence[tuple[Problem, Rollout]]) -> list[Verdict]:
        """One verdict for each (problem, rollout), in order."""
        judgements = self.judge_all([(problem.reference, rollout.text) for problem, rollout in pairs])
        return [
            verdict_of(rollout.id, VERIFIER, problem.reference, found)
            for (problem, rollout), found in zip(pairs, judgements, strict=True)
        ]


def ran_as_program(verdict: Verdict) -> bool:
    """Whether a verdict of ours is one about a value that a program came to: there was a program, it ran, and it had a value."""
    return not verdict.reason.startswith(("program_", "no_program"))


def _compare(reference: str, ran: Ran) -> Judgement | Open:
    """The judgement of a program's result, by the ordinary rules where it has a value."""
    if ran.status is not Status.OK:
        reason = f"program_{ran.status}" + (f":{ran.reason}" if ran.reason else "")
        return Judgement(Outcome.UNVERIFIABLE if ran.status is Status.UNSUPPORTED else Outcome.WRONG, reason, "")
    whole = extract.Found(ran.value, "box")
    found = extract.find(ran.value, last_number=True) or whole if ran.is_text else whole
    reference = bare(reference)
    if agrees_as_float(reference, found.answer):
        return Judgement(Outcome.CORRECT, "float", found.answer)
    return compare_found(reference, ran.value, found, last_number=True)


def agrees_as_float(reference: str, answer: str) -> bool:
    r"""Whether a decimal is what floating point makes of the exact `reference`.

    |answer - reference| <= min(1e-9 |reference|, 1e-3); of a reference 0: <= 1e-12. What is rounded on purpose does not get
    through: 0.33 is not 1/3. A decimal without a fraction (42.0) is a whole number and compared as such: above 2**53, where
    floats are not exact, only an int is right. References with variables or percent, or that are no single number, never agree.

    >>> agrees_as_float("42", "42.00000000000001"), agrees_as_float(r"2\pi", "6.283185307179586"), agrees_as_float("1/3", "0.33")
    (True, True, False)
    """
    if not _FLOAT.fullmatch(answer) or len(answer) > 400:
        return False
    shape = read(reference)
    if not isinstance(shape, Value) or shape.percent or numbers.variables(shape.tree):
        return False
    exact = shape.exact
    if exact is None:
        sampled = numbers.sample(shape.tree, 0)
        if sampled is None or sampled.imag or not math.isfinite(sampled.real):
            return False
        exact = Fraction(sampled.real)
    value = Fraction(answer)
    if value.denominator == 1 and exact.denominator == 1:
        return value == exact
    return abs(value - exact) <= (min(RELATIVE * abs(exact), ABSOLUTE) if exact else ZERO)
