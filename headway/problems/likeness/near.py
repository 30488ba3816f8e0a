r"""Questions that are nearly the same: one of each group is enough to learn from.

    question --> words by `normalise`, numbers by value --> runs of 3 words, each with all numbers of the question
    near      <=>  Jaccard(runs a, runs b) >= 0.75, and no conflict (`conflict.conflicts`: "more" against "fewer", ...)

Because every run carries all numbers, two questions with other numbers share nothing: a question with other numbers is another
question. Candidates are found by MinHash (datasketch, 64 permutations) in 16 bands of 4: a pair at 0.75 shares a band with
probability 1 - (1 - 0.75^4)^16 = 0.998. The signatures are 256 bytes a question; bands are compared by sorting, so no index of
objects is held.

A problem is dropped when it is near an earlier one that was kept. Generated families (`templated`) are left alone. This file
does not know held-out problems (`clean.decontaminate` does), nor exact duplicates (`clean.deduplicate`, which goes first).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from headway.problems.clean import normalise
from headway.problems.likeness.conflict import conflicts
from headway.problems.likeness.numerals import merge
from headway.problems.likeness.reading import read_question
from headway.types import Funnel, Problem

WORDS = 3  # in a run
THRESHOLD = 0.75  # Jaccard of two questions' runs
PERMUTATIONS = 64
BAND = 4  # signature values in a band


@dataclass(frozen=True, slots=True)
class NearGroup:
    """A problem that was kept and those dropped as near it, in order, with their Jaccard similarity.

    Example: ``NearGroup(kept=…, dropped=(…, …), similarity=(0.91, 0.83))``
    """

    kept: Problem
    dropped: tuple[Problem, ...]
    similarity: tuple[float, ...]


def deduplicate_near(
    problems: Sequence[Problem],
    *,
    templated: Collection[str] = (),
    explain: list[NearGroup] | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> tuple[list[Problem], Funnel]:
    """The problems without those nearly equal to an earlier kept one, in order, and the funnel. To `explain` each group is added.

    A near one with another reference goes into a bin of its own. `tell` is called with how many questions are signed.
    """
    asked = [i for i, problem in enumerate(problems) if problem.source not in templated]
    bands = _bands(_signatures([problems[i].question for i in asked], tell))
    first: list[dict[int, list[int]]] = [{} for _ in bands]  # band value -> kept problems with it
    near: dict[int, list[tuple[int, float]]] = {}
    lost: set[int] = set()
    dropped = {"near duplicate": 0, "near duplicate with another reference": 0}
    for place, i in enumerate(asked):
        values = [int(band[place]) for band in bands]
        candidates = sorted({j for known, value in zip(first, values, strict=True) if value >= 0 for j in known.get(value, ())})
        best, similarity = _nearest(problems, i, candidates)
        if best < 0:
            for known, value in zip(first, values, strict=True):
                if value >= 0:
                    known.setdefault(value, []).append(i)
            continue
        lost.add(i)
        near.setdefault(best, []).append((i, similarity))
        same_reference = problems[best].reference == problems[i].reference
        dropped["near duplicate" if same_reference else "near duplicate with another reference"] += 1
    if explain is not None:
        for kept, members in sorted(near.items()):
            explain.append(
                NearGroup(problems[kept], tuple(problems[i] for i, _ in members), tuple(round(s, 3) for _, s in members))
            )
    rest = [problem for i, problem in enumerate(problems) if i not in lost]
    return rest, Funnel("near duplicates", len(problems), len(rest), dropped)


def runs_of(question: str) -> set[str]:
    """The runs of 3 words of a question, each with all its numbers; the whole text where it is shorter.

    >>> sorted(runs_of("Ann has two red pens"))
    ['#2 red pens|#2', 'ann has #2|#2', 'has #2 red|#2']
    """
    tokens = merge(normalise(question))
    numbers = " ".join(sorted(token for token in tokens if token[0] == "#"))
    size = max(1, len(tokens) - WORDS + 1)
    return {f"{' '.join(tokens[i : i + WORDS])}|{numbers}" for i in range(size)}


def _signatures(questions: Sequence[str], tell: Callable[[int], None]) -> np.ndarray:
    """MinHash signatures, uint32 [questions, PERMUTATIONS]."""
    from datasketch import MinHash

    found = np.empty((len(questions), PERMUTATIONS), np.uint32)
    encoded = ([run.encode() for run in runs_of(question)] for question in questions)
    for i, sketch in enumerate(MinHash.generator(encoded, num_perm=PERMUTATIONS, seed=1)):
        found[i] = sketch.hashvalues
        tell(i + 1)
    return found


def _bands(signatures: np.ndarray) -> list[np.ndarray]:
    """For each band the number of each question's group of equal values, int64; -1 where it is alone."""
    found: list[np.ndarray] = []
    for start in range(0, PERMUTATIONS, BAND):
        halves = np.ascontiguousarray(signatures[:, start : start + BAND]).view(np.uint64)
        mixed = (
            halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1]
        )  # two bands that meet by chance are told apart by their runs
        _, group, size = np.unique(mixed, return_inverse=True, return_counts=True)
        found.append(np.where(size[group] > 1, group, -1))
    return found


def _nearest(problems: Sequence[Problem], i: int, candidates: Sequence[int]) -> tuple[int, float]:
    """The candidate that is nearest to problem `i` (the earliest of equals) with its similarity; -1 where none is near."""
    best, highest = -1, 0.0
    if not candidates:
        return best, highest
    runs = runs_of(problems[i].question)
    reading = None
    for j in candidates:
        others = runs_of(problems[j].question)
        similarity = len(runs & others) / len(runs | others)
        if similarity >= THRESHOLD and similarity > highest:
            reading = reading or read_question(problems[i].question)
            if not conflicts(read_question(problems[j].question), reading):
                best, highest = j, similarity
    return best, highest
