r"""The scripted teacher: step-by-step solutions of three reasoning-gym families, with checking, and with mistakes.

    chain_sum         4 - 1 - 7          "4-1=3;3-7"  "3-7=-4;-4"                       one operation a line, then what is left
    leg_counting      3 cats, 2 ducks    "cat 4*3=12;12"  "duck 2*2=4;12+4=16"          one animal a line, and the total so far
    simple_equations  7*x - 5 = 51       "7x=51+5=56"  "x=56/7=8"                 x stands for the unknown; move, then divide

Every computed number is wrong with chance `mistake_rate`. A careful solution (half of them) checks each operation by its
inverse, "4-1=3(3+1=4)"; where that shows a mistake, the teacher notices with chance `catch_rate` and repairs it, "4-1=2(2+1=3 no)
4-1=3". A mistake that goes unnoticed spoils everything after it. Some solutions ramble: they write lines again. So the
rollouts are correct and wrong, short and long, as a real teacher's are. Each is a function of (seed, problem, index).

This file never looks at the reference answer: whether a solution is right is for the verifier to say.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from headway.config import TeacherConfig
from headway.errors import ConfigError
from headway.problems.prompt import boxed
from headway.types import Problem, Rollout, StopReason

_OPENINGS = ("Let me work it out.", "We go step by step.", "First I look at what is given.", "Let me compute this carefully.")
_CLOSINGS = ("So the answer is ", "The answer is ", "Therefore we get ", "That gives ")


class _Writer:
    """Writes one solution: the chances, the randomness, and the lines so far. Every number goes through `compute`."""

    def __init__(self, config: TeacherConfig, rng: random.Random):
        self._config, self._rng = config, rng
        self.careful = rng.random() < 0.5
        self.lines: list[str] = []

    def compute(self, a: int, operator: str, b: int) -> tuple[str, int]:
        """The text of one operation ("4-1=3", checked if careful), and the value that the teacher goes on with."""
        right = _apply(a, operator, b)
        value = right if self._rng.random() >= self._config.mistake_rate else self._slip(right)
        text = f"{_operation(a, operator, b)}={value}"
        if not self.careful or _check(value, operator, b) is None:
            return text, value
        inverse, back = _check(value, operator, b) or ("", 0)
        if back == a:
            return f"{text}({inverse}={back})", value
        if self._rng.random() < self._config.catch_rate:
            return f"{text}({inverse}={back} no){_operation(a, operator, b)}={right}", right
        return f"{text}({inverse}={a})", value

    def _slip(self, value: int) -> int:
        """A plausible wrong value: off by one, two or ten."""
        return value + self._rng.choice((-1, 1, -2, 2, -10, 10))


def _apply(a: int, operator: str, b: int) -> int:
    if operator == "/":
        return int(Fraction(a, b)) if b else 0  # exact in a solvable equation; after a mistake the teacher rounds
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def _operation(a: int, operator: str, b: int) -> str:
    """The operation as written: a negative second number turns the sign of a sum."""
    if b < 0 and operator in "+-":
        return f"{a}{'-' if operator == '+' else '+'}{-b}"
    return f"{a}{operator}{b}"


def _check(value: int, operator: str, b: int) -> tuple[str, int] | None:
    """The inverse operation on the result and what it gives, or None where it has none."""
    inverse = {"+": "-", "-": "+", "/": "*"}.get(operator)
    return (_operation(value, inverse, b), _apply(value, inverse, b)) if inverse else None


def _chain_sum(writer: _Writer, problem: Problem) -> str:
    expression = json.loads(problem.metadata)["expression"].replace(" ", "").replace("--", "+").replace("+-", "-")
    first, *terms = re.findall(r"(?:^-|[+-])?\d+", expression)
    total = int(first)
    for place, term in enumerate(terms, start=1):
        text, total = writer.compute(total, term[0], int(term[1:]))
        writer.lines.append(f"{text};{total}{''.join(terms[place:])}")
    return str(total)


def _leg_counting(writer: _Writer, problem: Problem) -> str:
    animals = json.loads(problem.metadata)["animals"]
    total = None
    for animal, count in animals.items():
        text, legs = writer.compute(_legs_of(animal), "*", count)
        if total is None:
            total = legs
            writer.lines.append(f"{animal} {text}")
        else:
            more, total = writer.compute(total, "+", legs)
            writer.lines.append(f"{animal} {text};{more}")
    return str(total)


def _legs_of(animal: str) -> int:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS  # slow to import, and only this family needs it

    return int(ANIMALS[animal])


def _simple_equations(writer: _Writer, problem: Problem) -> str:
    facts = json.loads(problem.metadata)
    name = facts["variable"]
    slope, constant, right = _linear(facts["equation"], name)
    if constant:
        text, right = writer.compute(right, "+", -constant)
        writer.lines.append(f"{slope}x={text}")
    if slope not in (0, 1):
        text, right = writer.compute(right, "/", slope)
        writer.lines.append(f"x={text}")
    return str(right)


def _linear(equation: str, name: str) -> tuple[int, int, int]:
    """(slope, constant, right) of `slope*name + constant = right` with its terms in any order."""
    left, right = equation.replace(" ", "").split("=")
    slope = constant = 0
    for sign, coefficient, letter, number in re.findall(rf"([+-]?)(?:(?:(\d+)\*)?({re.escape(name)})|(\d+))", left):
        factor = -1 if sign == "-" else 1
        if letter:
            slope += factor * int(coefficient or 1)
        else:
            constant += factor * int(number)
    return slope, constant, int(right)


SOLVERS: dict[str, Callable[[_Writer, Problem], str]] = {
    "chain_sum": _chain_sum,
    "leg_counting": _leg_counting,
    "simple_equations": _simple_equations,
}


def solve(problem: Problem, config: TeacherConfig, seed: int, index: int) -> Rollout:
    """The teacher's rollout number `index` of a problem. Raises ConfigError for a family that it does not know."""
    solver = SOLVERS.get(problem.family)
    if solver is None:
        known = ", ".join(sorted(SOLVERS))
        raise ConfigError(f"the scripted teacher does not know the family {problem.family!r}; it knows {known}")
    rng = random.Random(f"{seed}/{problem.id}/{index}")
    writer = _Writer(config, rng)
    answer = solver(writer, problem)
    lines = writer.lines
    if rng.random() < config.ramble_rate:
        lines = [line for line in lines for _ in range(rng.choice((1, 2, 3)))]
    wordy = rng.random() < 0.5
    opening = [rng.choice(_OPENINGS)] if wordy else []
    closing = rng.choice(_CLOSINGS) if wordy else ""
    text = "\n".join([*opening, *lines, closing + boxed(answer)])
    return Rollout.make(problem.id, "teacher", 0, index, "scripted@1", text, stop_reason=StopReason.IMPORTED)


def solve_all(problems: Sequence[Problem], config: TeacherConfig, seed: int) -> list[Rollout]:
    """The whole budget: `config.rollouts` rollouts of each problem, in order."""
    return [solve(problem, config, seed, index) for problem in problems for index in range(config.rollouts)]
