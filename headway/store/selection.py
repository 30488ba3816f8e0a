"""The rules that the queries choose by: repetition, balance, pairing. Records and numbers only.

    repetition(text)   share of its lines that stand there before
    balance            equal shares of (family, difficulty third), as far as each has rows
    pair_up            correct and wrong rollouts that begin alike, each used once

It does not know tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from headway.types import Problem, Rollout, content_id

Row = TypeVar("Row")


def repetition(text: str) -> float:
    r"""The share of a text's non-empty lines that it has already written, in [0, 1].

    >>> repetition("a\nb\na\nb")
    0.5
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def balance(
    rows: Sequence[Row], problem_of: Callable[[Row], Problem], limit: int, seed: int, by_difficulty: bool = True
) -> list[Row]:
    """At most `limit` rows, taken in turn from every (family, third of difficulty within the family), in a seeded order.

    Without `by_difficulty` the bins are the sources.
    """
    if len(rows) <= limit:
        return list(rows)
    thirds = _thirds([problem_of(row) for row in rows]) if by_difficulty else {}
    bins: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        problem = problem_of(row)
        key = (problem.family, _third(problem, thirds)) if by_difficulty else (problem.source, 0)
        bins.setdefault(key, []).append(row)
    queues = [bins[key] for key in sorted(bins)]
    for queue in queues:
        queue.sort(key=lambda row: content_id(seed, "balance", problem_of(row).id), reverse=True)
    kept: list[Row] = []
    while len(kept) < limit:
        for queue in queues:
            if queue and len(kept) < limit:
                kept.append(queue.pop())
    return kept


def _thirds(problems: Sequence[Problem]) -> dict[str, tuple[float, float]]:
    """family -> the two difficulties that cut its problems into thirds."""
    values: dict[str, list[float]] = {}
    for problem in problems:
        values.setdefault(problem.family, []).append(problem.difficulty)
    cuts: dict[str, tuple[float, float]] = {}
    for family, found in values.items():
        found.sort()
        cuts[family] = (found[len(found) // 3], found[2 * len(found) // 3])
    return cuts


def _third(problem: Problem, thirds: dict[str, tuple[float, float]]) -> int:
    low, high = thirds[problem.family]
    return int(problem.difficulty >= low) + int(problem.difficulty >= high)


def pair_up(correct: Sequence[Rollout], wrong: Sequence[Rollout], limit: int, seed: int) -> list[tuple[Rollout, Rollout]]:
    """At most `limit` (correct, wrong) pairs; no rollout twice.

    Those with the longest common beginning first: what differs is then the mistake and what follows from it, and the tokens
    before it cancel in DPO's gradient. Then the most similar in length; ties by a seeded hash.
    """
    texts_wrong = {w.text: w for w in wrong}
    texts_correct = {c.text: c for c in correct}
    candidates = [(c, w) for c in texts_correct.values() for w in texts_wrong.values()]

    def order(pair: tuple[Rollout, Rollout]) -> tuple[int, int, str]:
        chosen, rejected = pair
        shared = _shared_beginning(chosen.text, rejected.text)
        return -shared, abs(len(chosen.text) - len(rejected.text)), content_id(seed, chosen.id, rejected.id)

    candidates.sort(key=order)
    used: set[str] = set()
    made: list[tuple[Rollout, Rollout]] = []
    for c, w in candidates:
        if len(made) >= limit:
            break
        if c.id not in used and w.id not in used:
            used |= {c.id, w.id}
            made.append((c, w))
    return made


def _shared_beginning(a: str, b: str) -> int:
    """How many characters two texts have in common from the start."""
    shortest = min(len(a), len(b))
    return next((i for i in range(shortest) if a[i] != b[i]), shortest)
