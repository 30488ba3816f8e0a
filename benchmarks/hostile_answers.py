r"""Hostile answers and random mutations of them through `grade`, one at a time: how long the slowest verdict takes.

    python benchmarks/hostile_answers.py CASES.jsonl [--mutations 10000] [--seed 0]

CASES.jsonl holds {gold, pred or pred_spec: {prefix, unit, times, suffix}, expect: true | false | "any"} a line. A mutation
deletes, doubles, inserts or moves pieces of an answer that must be refused. Some come out right (where the second box of
`\boxed{41} no wait \boxed{42}` was cut away), so those that are CORRECT are printed, to be read. Prints one JSON line; exit
code 1 where a case itself has the wrong outcome.
"""

import argparse
import json
import random
import resource
import sys
import time
from pathlib import Path

from headway.types import Outcome
from headway.verify import grade

PIECES = [
    "{",
    "}",
    "\\",
    "$",
    "^",
    "_",
    "\\frac",
    "\\sqrt",
    "\\boxed{",
    "!",
    "10^",
    "**",
    "\\left(",
    "\x00",
    "\u202e",
    "9" * 50,
    ",",
    "=",
]


def answer_of(case: dict) -> str:
    """The text of a case, which long ones describe instead of holding it."""
    if "pred" in case:
        return case["pred"]
    spec = case["pred_spec"]
    return spec["prefix"] + spec["unit"] * spec["times"] + spec["suffix"]


def mutated(text: str, chance: random.Random) -> str:
    """One to four random edits."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        end = min(len(text), at + chance.randint(1, 12))
        kind = chance.randrange(4)
        if kind == 0:
            text = text[:at] + text[end:]
        elif kind == 1:
            text = text[:end] + text[at:end] + text[end:]
        elif kind == 2:
            text = text[:at] + chance.choice(PIECES) + text[at:]
        else:
            other = chance.randrange(len(text) + 1)
            text = text[:other] + text[at:end] + text[other:]
    return text


def peak_of_workers_mb() -> float:
    """The largest resident set of any worker process that has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cases = [json.loads(line) for line in given.cases.read_text(encoding="utf-8").splitlines()]
    chance = random.Random(given.seed)
    refused = [case for case in cases if case["expect"] is False]
    work = [(case["gold"], answer_of(case), case["expect"], False) for case in cases]
    for _ in range(given.mutations):
        case = chance.choice(refused)
        work.append((case["gold"], mutated(answer_of(case), chance), False, True))
    start = time.perf_counter()
    grade(r"\int_{0}^{7} 1\, dx", r"\boxed{\int_0^7 dx}")  # the fast path leaves it open: the worker starts
    start_seconds = time.perf_counter() - start
    seconds, wrong, mutations_correct, slowest = [], [], [], (0.0, "")
    for gold, text, expect, is_mutation in work:
        start = time.perf_counter()
        found = grade(gold, text)
        seconds.append(time.perf_counter() - start)
        if seconds[-1] > slowest[0]:
            slowest = (seconds[-1], f"{gold[:60]} | {text[:120]} | {found.reason}")
        is_correct = found.outcome is Outcome.CORRECT
        if is_mutation and is_correct:
            mutations_correct.append((gold, text[-100:], found.extracted, found.reason))
        elif expect != "any" and is_correct != expect:
            wrong.append((gold, text[:100], found.outcome, found.reason))
    seconds.sort()
    print(
        json.dumps(
            {
                "verdicts": len(seconds),
                "start_ms": round(1e3 * start_seconds),
                "p50_ms": round(1e3 * seconds[len(seconds) // 2], 3),
                "p99_ms": round(1e3 * seconds[int(0.99 * len(seconds))], 3),
                "slowest_ms": round(1e3 * seconds[-1], 1),
                "over_1_s": sum(s > 1 for s in seconds),
                "slowest": slowest[1],
                "wrong": wrong,
                "mutations_correct": mutations_correct,
                "workers_peak_mb": round(peak_of_workers_mb()),
            }
        )
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
