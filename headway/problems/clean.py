r"""One problem once, and no training problem that is also a held-out one.

Two questions are *equal* when their normal forms are: lower case, LaTeX dressing ($, \left, \, \dfrac, \text) and white space
gone, sentence punctuation gone, symbols and **numbers kept** ("3 + 4" and "3 + 5" differ):

    "Find $\dfrac{1}{2} + x.$"   ->   "find \frac { 1 } { 2 } + x"

What makes a training question *near* a held-out one (copied in long runs, or rewritten) says `overlap`. Numbers must agree,
because a question with other numbers is another question, however alike the words.

This file does not know which splits exist nor where problems come from; its callers pass two lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from headway.problems.likeness.overlap import SHARE, HeldoutIndex, Removal
from headway.types import Funnel, Problem

OVERLAP = "held-out overlap"  # the funnel's name
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
    explain: list[Removal] | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> tuple[list[Problem], Funnel]:
    """The training (or validation) problems that repeat no held-out question, in order, and the funnel.

    `share` is the part of the shorter question's 8-word runs that makes a copy. `templated` names the sources whose questions
    are one template around different facts: compared by equality only. To `explain` a Removal is added for each problem
    removed. `tell` is called with how many problems are done.
    """
    index = HeldoutIndex(heldout, [normalise(problem.question) for problem in heldout], share, templated)
    kept: list[Problem] = []
    dropped = {"equals a held-out question": 0, "near a held-out question": 0}
    for done, problem in enumerate(train):
        removal = index.find(problem, normalise(problem.question))
        if removal is None:
            kept.append(problem)
        else:
            dropped["equals a held-out question" if removal.rule == "equal" else "near a held-out question"] += 1
            if explain is not None:
                explain.append(removal)
        tell(done + 1)
    return kept, Funnel(OVERLAP, len(train), len(kept), dropped)
