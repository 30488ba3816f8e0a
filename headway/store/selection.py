"""The rules that the queries choose by: repetition, balance, pairing. Records and numbers only.

    repetition(text)   share of its lines that stand there before
    balance            equal shares of (group, difficulty third), as far as each has rows
    pair_up            correct and wrong rollouts that begin alike, each used once

It does not know tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, TypeVar

from headway.types import content_id

Row = TypeVar("Row")


def repetition(text: str) -> float:
    r"""The share of a text's non-empty lines that it has already written, in [0, 1].

    >>> repetition("a\nb\na\nb")
    0.5
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


class Traits(NamedTuple):
    """What a row is balanced by. Example: ``Traits("9f…", "gsm8k", 3.0)``; `difficulty` is only compared within a group."""

    problem_id: str
    group: str
    difficulty: float


def balance(rows: Sequence[Row], traits_of: Callable[[Row], Traits], limit: int, seed: int) -> list[Row]:
    """At most `limit` rows, taken in turn from every (group, third of difficulty within the group), in a seeded order."""
    if len(rows) <= limit:
        return list(rows)
    traits = [traits_of(row) for row in rows]
    thirds = _thirds(traits)
    bins: dict[tuple[str, int], list[tuple[str, Row]]] = {}
    for row, one in zip(rows, traits, strict=True):
        low, high = thirds[one.group]
        key = (one.group, int(one.difficulty >= low) + int(one.difficulty >= high))
        bins.setdefault(key, []).append((content_id(seed, "balance", one.problem_id), row))
    queues = [bins[key] for key in sorted(bins)]
    for queue in queues:
        queue.sort(key=itemgetter(0), reverse=True)
    kept: list[Row] = []
    while len(kept) < limit:
        for queue in queues:
            if queue and len(kept) < limit:
                kept.append(queue.pop()[1])
    return kept


def _thirds(traits: Sequence[Traits]) -> dict[str, tuple[float, float]]:
    """group -> the two difficulties that cut its rows into thirds."""
    values: dict[str, list[float]] = {}
    for one in traits:
        values.setdefault(one.group, []).append(one.difficulty)
    cuts: dict[str, tuple[float, float]] = {}
    for group, found in values.items():
        found.sort()
        cuts[group] = (found[len(found) // 3], found[2 * len(found) // 3])
    return cuts


class Candidate(NamedTuple):
    """A rollout as pairing sees it. Example: ``Candidate("c1…", 17, "7 + 5 = 12 …")``; `place` is its row in the table."""

    id: str
    place: int
    text: str


def pair_up(correct: Sequence[Candidate], wrong: Sequence[Candidate], limit: int, seed: int) -> list[tuple[Candidate, Candidate]]:
    """At most `limit` (correct, wrong) pairs; no rollout twice.

    Those with the longest common beginning first: what differs is then the mistake and what follows from it, and the tokens
    before it cancel in DPO's gradient. Then the most similar in length; ties by a seeded hash.
    """
    texts_wrong = {w.text: w for w in wrong}
    texts_correct = {c.text: c for c in correct}
    scored = [
        (-_shared_beginning(c.text, w.text), abs(len(c.text) - len(w.text)), c, w)
        for c in texts_correct.values()
        for w in texts_wrong.values()
    ]
    scored.sort(key=itemgetter(0, 1))
    used: set[str] = set()
    made: list[tuple[Candidate, Candidate]] = []
    for _, group in groupby(scored, itemgetter(0, 1)):
        tied = list(group)
        if len(tied) > 1:
            tied.sort(key=lambda row: content_id(seed, row[2].id, row[3].id))
        for _, _, c, w in tied:
            if len(made) >= limit:
                return made
            if c.id not in used and w.id not in used:
                used |= {c.id, w.id}
                made.append((c, w))
    return made


def _shared_beginning(a: str, b: str) -> int:
    """How many characters two texts have in common from the start: by halves, since comparing a slice is fast."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
