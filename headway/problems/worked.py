r"""The scripted teacher: long worked solutions of three reasoning-gym families, with checking, and with mistakes.

    chain_sum         47 - 38 + 85         column by column, one operation a line
    products          47 * 38              one partial product a line, then their sum
    simple_equations  15*x - 9 = 186       move the constant, then divide by trial

Every elementary step ("7+5=12") is wrong with chance `mistake_rate`; a wrong step is noticed and repaired on the spot with
chance `catch_rate` ("7+5=13 no 7+5=12"), else everything after follows from it. Each solution ends with a check by the inverse
operation, which also notices with chance `catch_rate`. Some solutions ramble: they write lines again. So the rollouts
are correct and wrong, clean and not, as a real teacher's are. Each is a function of (seed, problem, index).

This file does not look at the reference answer: whether a solution is right is for the verifier to say.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence

from headway.config import TeacherConfig
from headway.errors import ConfigError
from headway.problems.prompt import boxed
from headway.types import Problem, Rollout, StopReason

_OPENINGS = ("", "Let's work it out.\n", "We go step by step.\n", "Let me compute this carefully.\n")
_CLOSINGS = ("", "So the answer is ", "The answer is ", "Therefore we get ")


class _Writer:
    """Writes one solution. Holds the chances and the randomness; every number that it writes goes through `_slip`."""

    def __init__(self, config: TeacherConfig, rng: random.Random):
        self._config, self._rng = config, rng
        self.lines: list[str] = []

    def step(self, left: str, value: int) -> tuple[str, int]:
        """One elementary step: its text, and the value that the teacher goes on with."""
        if self._rng.random() >= self._config.mistake_rate:
            return f"{left}={value}", value
        wrong = self._slip(value)
        if self._rng.random() < self._config.catch_rate:
            return f"{left}={wrong} no {left}={value}", value
        return f"{left}={wrong}", wrong

    def _slip(self, value: int) -> int:
        """A plausible wrong value: off by one, two or ten."""
        return value + self._rng.choice([d for d in (-1, 1, -2, 2, 10) if value + d >= 0 or value < 0])

    def noticed(self) -> bool:
        """Whether a mistake that the closing check could show is seen."""
        return self._rng.random() < self._config.catch_rate

    def line(self, text: str) -> None:
        """Add a line; a rambling teacher will write some again."""
        self.lines.append(text)

    def add(self, a: int, b: int) -> int:
        """a + b for non-negative numbers, column by column from the right."""
        steps: list[str] = []
        result, carry, place = 0, 0, 1
        rest_a, rest_b = a, b
        while rest_a or rest_b or place == 1:
            x, y = rest_a % 10, rest_b % 10
            text, total = self.step(f"{x}+{y}" + ("+1" if carry else ""), x + y + carry)
            steps.append(text)
            result += (total % 10) * place
            carry, place = int(total >= 10), place * 10
            rest_a, rest_b = rest_a // 10, rest_b // 10
        result += carry * place
        self.line(f"{a}+{b}:{','.join(steps)};{result}")
        return result

    def subtract(self, a: int, b: int) -> int:
        """a - b for a >= b >= 0, column by column; a borrow adds ten and takes one from the next column."""
        steps: list[str] = []
        result, borrow, place = 0, 0, 1
        rest_a, rest_b = a, b
        while rest_a or rest_b or place == 1:
            x, y = rest_a % 10, rest_b % 10
            short = x - y - borrow < 0
            left = ("1" if short else "") + f"{x}-{y}" + ("-1" if borrow else "")
            text, digit = self.step(left, x - y - borrow + 10 * short)
            steps.append(text)
            result += max(0, digit % 10) * place
            borrow, place = int(short), place * 10
            rest_a, rest_b = rest_a // 10, rest_b // 10
        self.line(f"{a}-{b}:{','.join(steps)};{result}")
        return result

    def times_digit(self, a: int, digit: int) -> int:
        """a * digit, column by column."""
        steps: list[str] = []
        result, carry, place = 0, 0, 1
        rest = a
        while rest or place == 1:
            x = rest % 10
            text, total = self.step(f"{x}*{digit}" + (f"+{carry}" if carry else ""), x * digit + carry)
            steps.append(text)
            result += (total % 10) * place
            carry, place, rest = total // 10, place * 10, rest // 10
        result += carry * place
        self.line(f"{a}*{digit}:{','.join(steps)};{result}")
        return result

    def signed_sum(self, a: int, b: int) -> int:
        """a + b of any signs, by one addition or subtraction of magnitudes."""
        if (a < 0) == (b < 0):
            size = self.add(abs(a), abs(b))
            return -size if a < 0 else size
        if abs(a) >= abs(b):
            size = self.subtract(abs(a), abs(b))
            return -size if a < 0 else size
        size = self.subtract(abs(b), abs(a))
        return -size if b < 0 else size


def _signed(value: int) -> str:
    return f"-{-value}" if value < 0 else f"+{value}"


def _chain_sum(writer: _Writer, problem: Problem) -> str:
    expression = json.loads(problem.metadata)["expression"]
    terms = [int(t.replace(" ", "")) for t in re.findall(r"[+-]?\s*\d+", expression)]
    total = terms[0]
    for term in terms[1:]:
        before = total
        total = _checked_sum(writer, before, term)
    return str(total)


def _checked_sum(writer: _Writer, before: int, term: int) -> int:
    """One operation of a chain, and the line that says where the chain stands."""
    total = writer.signed_sum(before, term)
    if total != before + term and writer.noticed():
        writer.line("check no")
        total = writer.signed_sum(before, term)
    writer.line(f"{before}{_signed(term)}={total}")
    return total


def _products(writer: _Writer, problem: Problem) -> str:
    a, b = (int(n) for n in re.findall(r"\d+", json.loads(problem.metadata)["expression"]))
    partial: list[int] = []
    for place, digit in enumerate(reversed(str(b))):
        value = writer.times_digit(a, int(digit))
        if value != a * int(digit) and writer.noticed():
            writer.line("check no")
            value = writer.times_digit(a, int(digit))
        partial.append(value * 10**place)
    total = partial[0]
    for value in partial[1:]:
        total = writer.add(total, value)
    return str(total)


def _simple_equations(writer: _Writer, problem: Problem) -> str:
    facts = json.loads(problem.metadata)
    slope, constant, right = _linear(facts["equation"], facts["variable"])
    name = facts["variable"]
    if constant:
        moved = writer.signed_sum(right, -constant)
        writer.line(f"{slope}{name}={right}{_signed(-constant)}={moved}")
    else:
        moved = right
        writer.line(f"{slope}{name}={moved}")
    if slope == 0:
        return str(moved)
    return str(_divide(writer, moved, slope))


def _divide(writer: _Writer, dividend: int, divisor: int) -> int:
    """Exact division by long division: tens, then units; the remainder is the check."""
    sign = -1 if (dividend < 0) != (divisor < 0) else 1
    rest, by = abs(dividend), abs(divisor)
    quotient = 0
    for place in (100, 10, 1):
        digit = min(9, rest // (by * place))
        if digit or place == 1:
            text, value = writer.step(f"{by}*{digit * place}", by * digit * place)
            writer.line(text)
            if value and value <= rest:
                rest = writer.subtract(rest, value)
            quotient += digit * place
    writer.line("check " + ("ok" if rest == 0 else "rest " + str(rest)))
    return sign * quotient


def _linear(equation: str, name: str) -> tuple[int, int, int]:
    """(slope, constant, right) of `slope*name + constant = right` with its terms in any order."""
    left, right = equation.split("=")
    slope = constant = 0
    for sign, coefficient, letter, number in re.findall(
        rf"([+-]?)\s*(?:(?:(\d+)\s*\*\s*)?({re.escape(name)})|(\d+))", left.replace(" ", "")
    ):
        factor = -1 if sign == "-" else 1
        if letter:
            slope += factor * int(coefficient or 1)
        else:
            constant += factor * int(number)
    return slope, constant, int(right.replace(" ", ""))


SOLVERS: dict[str, Callable[[_Writer, Problem], str]] = {
    "chain_sum": _chain_sum,
    "products": _products,
    "simple_equations": _simple_equations,
}


def solve(problem: Problem, config: TeacherConfig, seed: int, index: int) -> Rollout:
    """The teacher's rollout number `index` of a problem. Raises ConfigError for a family that it does not know."""
    solver = SOLVERS.get(problem.family)
    if solver is None:
        raise ConfigError(
            f"the scripted teacher does not know the family {problem.family!r}; it knows {', '.join(sorted(SOLVERS))}"
        )
    rng = random.Random(f"{seed}/{problem.id}/{index}")
    writer = _Writer(config, rng)
    answer = solver(writer, problem)
    lines = writer.lines
    if rng.random() < config.ramble_rate:
        lines = [line for line in lines for _ in range(rng.choice((1, 1, 2, 3)))]
    verbose = rng.random() < 0.5
    opening = rng.choice(_OPENINGS) if verbose else ""
    closing = rng.choice(_CLOSINGS) if verbose else ""
    text = f"{opening}{chr(10).join(lines)}\n{closing}{boxed(answer)}"
    return Rollout.make(problem.id, "teacher", 0, index, "scripted@1", text, stop_reason=StopReason.IMPORTED)


def solve_all(problems: Sequence[Problem], config: TeacherConfig, seed: int) -> list[Rollout]:
    """The whole budget: `config.rollouts` rollouts of each problem, in order."""
    return [solve(problem, config, seed, index) for problem in problems for index in range(config.rollouts)]
