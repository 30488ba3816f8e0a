"""Verdicts a second on one core, for each kind of answer: Headway's `grade` and Math-Verify, in one run.

    python benchmarks/verdicts.py [--seconds 3] [--cases grader_cases.jsonl]

One JSON line a kind. Math-Verify parses the reference and the completion anew for each verdict, with its own time limits on,
as its users call it. The mixture has MATH's shares: 63 % integers, 12 % fractions, 25 % closed forms; the closed forms are those
of --cases (rows of kind latex-parse, symbolic, interval, tuple, ...) or, without it, sixteen built-in ones; these few repeat,
so what is remembered of a text counts there. To compare, pin it to one core: `taskset -c 0 python benchmarks/verdicts.py`.
"""

import argparse
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from headway.verify import grade

Item = tuple[str, str]  # (reference, completion)

PROSE = "First we look at what is given, then we put the pieces together and see what follows from them. "
CLOSED = [
    (r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}"), (r"2\sqrt{5}", r"\sqrt{20}"), (r"\pi/4", r"\frac{\pi}{4}"),
    (r"[2,5)", r"[2, 5)"), (r"(3, \frac{\pi}{2})", r"(3, \pi/2)"), (r"x^2+2x+1", r"(x+1)^2"), (r"\{1,2,3\}", r"\{3,2,1\}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1&2\\3&4 \end{pmatrix}"), (r"y=2x+1", r"y = 1 + 2x"),
    (r"1+i", r"i + 1"), (r"\log_2 8", "3"), (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty) \cup (-\infty,2)"),
    (r"\sqrt[3]{2}", r"2^{1/3}"), (r"e^{2}", r"e \cdot e"), (r"10\%", "0.1"), (r"\frac{3}{4}x", r"0.75x"),
]  # fmt: skip


def boxed(answer: str) -> str:
    return f"{PROSE}So the answer is $\\boxed{{{answer}}}$."


def integers(chance: random.Random) -> Item:
    value = chance.randrange(-1000, 10**6)
    return str(value), boxed(str(value + chance.choice([0, 1])))


def fractions(chance: random.Random) -> Item:
    top, bottom, by = chance.randrange(1, 99), chance.randrange(2, 99), chance.choice([1, 2, 3])
    if chance.random() < 0.5:
        return f"{top}/{bottom}", boxed(f"\\frac{{{top * by}}}{{{bottom * by}}}")
    return f"{top / 8}", boxed(f"{chance.choice([top, top + 1]) / 8:.4f}")


def no_answer(chance: random.Random) -> Item:
    return str(
        chance.randrange(1000)
    ), "<think>" + PROSE * 8 + f"It may be {chance.randrange(1000)}, but let us check this once more"


def long_text(chance: random.Random) -> Item:
    value = str(chance.randrange(1000))
    return value, PROSE * (16_384 // len(PROSE)) + boxed(value)


def closed_forms(cases: Path | None) -> Callable[[random.Random], Item]:
    forms = CLOSED
    if cases is not None:
        rows = [json.loads(line) for line in cases.read_text(encoding="utf-8").splitlines()]
        simple = {"integer", "fraction", "decimal", "extract", "choice", "text"}
        forms = [(r["gold"], r["pred"]) for r in rows if r["pred_form"] == "bare" and r["kind"] not in simple]

    def draw(chance: random.Random) -> Item:
        reference, answer = chance.choice(forms)
        return reference, boxed(answer)

    return draw


def mixture(closed: Callable[[random.Random], Item]) -> Callable[[random.Random], Item]:
    def draw(chance: random.Random) -> Item:
        share = chance.random()
        return integers(chance) if share < 0.63 else fractions(chance) if share < 0.75 else closed(chance)

    return draw


def rate(judge: Callable[[str, str], object], items: Sequence[Item], seconds: float) -> float:
    """Verdicts a second over at least `seconds`, in whole passes through `items` or a part of the first."""
    done, start = 0, time.perf_counter()
    while True:
        for number, item in enumerate(items):
            judge(*item)
            if number % 16 == 15 and time.perf_counter() - start > seconds:
                return (done + number + 1) / (time.perf_counter() - start)
        done += len(items)


def peer(reference: str, completion: str) -> bool:
    from math_verify import parse, verify

    return verify(parse(f"${reference}$"), parse(completion))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--cases", type=Path)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    closed = closed_forms(given.cases)
    kinds = {
        "boxed integers": integers,
        "fractions and decimals": fractions,
        "no answer": no_answer,
        "16 KB texts": long_text,
        "closed forms": closed,
        "mixture as in MATH": mixture(closed),
    }
    for kind, draw in kinds.items():
        chance = random.Random(0)
        items = [draw(chance) for _ in range(512 if kind == "16 KB texts" else 20_000)]
        for judge in (grade, peer):
            rate(judge, items[:16], 0.0)  # imports and starts are no verdicts
        ours, theirs = rate(grade, items, given.seconds), rate(peer, items, given.seconds)
        line = {
            "kind": kind,
            "headway_per_s": round(ours),
            "math_verify_per_s": round(theirs, 1),
            "ratio": round(ours / theirs, 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
