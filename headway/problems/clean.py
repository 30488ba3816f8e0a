r"""One problem once, and no training problem that is also a held-out one.

Two questions are *equal* when their normal forms are: lower case, LaTeX dressing ($, \left, \, \dfrac, \text) and
white space gone, sentence punctuation gone, symbols and **numbers kept** ("3 + 4" and "3 + 5" differ):

    "Find $\dfrac{1}{2} + x.$"   ->   "find \frac { 1 } { 2 } + x"

Two questions are *near* when both have at least 20 words, the same numbers (digits and number words, with how often
each occurs), and the shorter shares at least 60 % of its 8-word runs with the longer:

    runs(q) = {words i..i+7 of q's normal form}         near  <=>  |runs(a) & runs(b)| >= 0.6 min(|runs(a)|, |runs(b)|)

Numbers must agree because a question with other numbers is another question, however alike the words. Generated
families write one template around different facts, so their problems (`templated`) are compared by equality only.

This file does not know which splits exist nor where problems come from; its callers pass two lists.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from headway.types import Funnel, Problem

MIN_WORDS = 20  # shorter questions have too few runs to tell coincidence from copy
RUN = 8  # words in a run
SHARE = 0.6  # of the shorter question's runs

_TEX_SAME = (  # TeX commands that print alike
    (re.compile(r"\\[dt]frac\b"), r"\\frac"),
    (re.compile(r"\\(?:left|right|big|bigl|bigr|displaystyle|quad|qquad|limits)(?![a-zA-Z])|\\[,;:!]|\\ "), " "),
    (re.compile(r"\\(?:text|textbf|textit|mbox|mathrm|mathbf)\s*\{([^{}]*)\}"), r" \1 "),
)
_LOOKALIKES = str.maketrans({"’": "'", "‘": "'", "−": "-", "–": "-", "×": "*", "·": "*", "$": " ", "~": " ", "\xa0": " "})
_TOKEN = re.compile(
    r"\d+(?:,\d{3}(?!\d))*(?:\.\d+)?|\.\d+"  # a number, perhaps with thousands: 1,080.5
    r"|\\?[^\W\d_]+(?:'[^\W\d_]+)*"  # a word or a TeX command
    r"|[^\s.,?;\"“”]"  # any other symbol except sentence punctuation
)
_NUMBER_NAMES = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million once twice thrice
    double triple half third quarter fourth fifth dozen
"""
_NUMBER_WORDS = frozenset(_NUMBER_NAMES.split())


def normalise(question: str) -> list[str]:
    r"""The tokens of a question's normal form; two questions are equal when these are.

    >>> normalise(r"Find $\dfrac{1}{2} + 1,080.$")
    ['find', '\\frac', '{', '1', '}', '{', '2', '}', '+', '1080']
    """
    text = question.translate(_LOOKALIKES)
    if "\\" in text:
        for pattern, replacement in _TEX_SAME:
            text = pattern.sub(replacement, text)
    return [token.replace(",", "") for token in _TOKEN.findall(text.lower())]


def deduplicate(problems: Sequence[Problem]) -> tuple[list[Problem], Funnel]:
    """The first of all problems with equal questions, in order, and the funnel.

    A later equal question with another reference is dropped into a bin of its own: one of the two is wrong.
    """
    first: dict[str, str] = {}
    kept: list[Problem] = []
    dropped = {"duplicate": 0, "duplicate with another reference": 0}
    for problem in problems:
        question = " ".join(normalise(problem.question))
        if question not in first:
            first[question] = problem.reference
            kept.append(problem)
        elif first[question] == problem.reference:
            dropped["duplicate"] += 1
        else:
            dropped["duplicate with another reference"] += 1
    return kept, Funnel("duplicates", len(problems), len(kept), dropped)


def decontaminate(
    train: Sequence[Problem],
    heldout: Sequence[Problem],
    *,
    share: float = SHARE,
    templated: Collection[str] = (),
) -> tuple[list[Problem], Funnel]:
    """The training (or validation) problems that no held-out question equals or is near, in order, and the funnel.

    `share` is the part of the shorter question's 8-word runs that makes two questions near. `templated` names the
    sources whose questions are one template around different facts: compared by equality only.
    """
    tokens = [normalise(problem.question) for problem in heldout]
    equal = {" ".join(words) for words in tokens}
    near = _NearIndex([words for words, p in zip(tokens, heldout, strict=True) if p.source not in templated], share)
    kept: list[Problem] = []
    dropped = {"equals a held-out question": 0, "near a held-out question": 0}
    for problem in train:
        words = normalise(problem.question)
        if " ".join(words) in equal:
            dropped["equals a held-out question"] += 1
        elif problem.source not in templated and near.has(words):
            dropped["near a held-out question"] += 1
        else:
            kept.append(problem)
    return kept, Funnel("held-out overlap", len(train), len(kept), dropped)


class _NearIndex:
    """Which of many questions share runs of words and all numbers with a given one."""

    def __init__(self, questions: Sequence[Sequence[str]], share: float) -> None:
        self._share = share
        self._num_runs: list[int] = []
        self._where: defaultdict[tuple[tuple[str, ...], str], list[int]] = defaultdict(list)  # (numbers, run) -> which
        for words in questions:
            numbers, runs = _numbers_and_runs(words)
            for run in runs:
                self._where[numbers, run].append(len(self._num_runs))
            self._num_runs.append(len(runs))

    def has(self, words: Sequence[str]) -> bool:
        numbers, runs = _numbers_and_runs(words)
        shared = Counter(which for run in runs for which in self._where.get((numbers, run), ()))
        return any(count >= self._share * min(len(runs), self._num_runs[which]) for which, count in shared.items())


def _numbers_and_runs(tokens: Sequence[str]) -> tuple[tuple[str, ...], set[str]]:
    """The sorted numbers of a question and its runs of words; no runs where it has fewer than MIN_WORDS words."""
    numbers = tuple(sorted(token for token in tokens if token[-1].isdigit() or token in _NUMBER_WORDS))
    words = [token for token in tokens if token[-1].isalnum()]
    if len(words) < MIN_WORDS:
        return numbers, set()
    return numbers, {" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}
