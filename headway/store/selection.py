"""The rules that the queries choose by: repetition, balance, diversity, score. Texts and numbers only.

    repetition(text)   share of its lines that stand there before
    balance            equal shares of (group, third of a value), as far as each has rows
    content_cells      groups of like questions, to balance by
    solution_scores    LIMO's score of a solution

It does not know tables.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Literal, NamedTuple, TypeVar

from headway.types import content_id

Row = TypeVar("Row")
Balance = Literal["difficulty", "length", "diversity"]

_WORD = re.compile(r"[^\W_]+")
_WEIGHTS = (0.3, 0.2, 0.25, 0.25)
_SCORED = (
    {"check", "checks", "checking", "verify", "verifies", "verifying", "confirm", "confirms", "recheck"},  # self-verification
    {"perhaps", "maybe", "might", "alternatively", "suppose", "wait", "try", "consider", "another"},  # exploration
    {"therefore", "since", "because", "thus", "hence", "so", "then", "first", "next", "finally"},  # steps that are connected
)


def repetition(text: str) -> float:
    r"""The share of a text's non-empty lines that it has already written, in [0, 1].

    >>> repetition("a\nb\na\nb")
    0.5
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


class Traits(NamedTuple):
    """What a row is balanced by. Example: ``Traits("9f…", "gsm8k", 3.0)``; `value` is a difficulty or a length, only compared
    within a group.
    """

    problem_id: str
    group: str
    value: float


def balance(rows: Sequence[Row], traits_of: Callable[[Row], Traits], limit: int, seed: int) -> list[Row]:
    """At most `limit` rows, taken in turn from every (group, third of `value` within the group), in a seeded order."""
    if len(rows) <= limit:
        return list(rows)
    traits = [traits_of(row) for row in rows]
    thirds = _thirds(traits)
    bins: dict[tuple[str, int], list[tuple[str, Row]]] = {}
    for row, one in zip(rows, traits, strict=True):
        low, high = thirds[one.group]
        key = (one.group, int(one.value >= low) + int(one.value >= high))
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
    """group -> the two values that cut its rows into thirds."""
    values: dict[str, list[float]] = {}
    for one in traits:
        values.setdefault(one.group, []).append(one.value)
    cuts: dict[str, tuple[float, float]] = {}
    for group, found in values.items():
        found.sort()
        cuts[group] = (found[len(found) // 3], found[2 * len(found) // 3])
    return cuts


def solution_scores(texts: Sequence[str]) -> list[float]:
    """How much a solution explains, checks, explores and connects, in [0, 1], against the other `texts` (LIMO v2, 2502.03387).

        0.30 length + 0.20 checking + 0.25 exploring + 0.25 connecting

    Each part is the share of the texts that have less of it (half of those with as much): length in words, then words of a list
    per word of the text. The weights are the paper's; the lists of words and the ranking are ours, it gives none.
    """
    counts = [_WORD.findall(text.lower()) for text in texts]
    parts = [[float(len(words)) for words in counts]]
    parts += [[sum(word in wanted for word in words) / max(1, len(words)) for words in counts] for wanted in _SCORED]
    ranks = [_shares_below(part) for part in parts]
    return [sum(weight * rank for weight, rank in zip(_WEIGHTS, one, strict=True)) for one in zip(*ranks, strict=True)]


def _shares_below(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(bisect_left(ordered, v) + bisect_right(ordered, v)) / (2 * len(ordered)) for v in values]


def content_cells(questions: Sequence[str], bits: int = 12) -> list[str]:
    """A cell of each question, equal for questions in nearly the same words: for `balance` to choose diverse ones.

    SimHash (Charikar 2002): each word is a keyed vector of +1 and -1, weighted by how rare it is among the questions; the signs
    of the sum are the cell. Numbers are one word: a template with other numbers stays in its cell.
    """
    words = [{"#" if word.isdigit() else word for word in _WORD.findall(question.lower())} for question in questions]
    seen = Counter(word for one in words for word in one)
    vectors: dict[str, list[float]] = {}
    for word, count in seen.items():
        signs, weight = int(content_id("cell", word), 16), math.log(1 + len(questions) / count)
        vectors[word] = [weight if signs >> bit & 1 else -weight for bit in range(bits)]

    def cell(one: set[str]) -> str:
        columns = zip(*(vectors[word] for word in sorted(one)), strict=True)  # sorted: a sum of floats depends on its order
        return "".join("1" if sum(column) > 0 else "0" for column in columns)

    return [cell(one) for one in words]
