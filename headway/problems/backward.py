r"""New problems made of old ones (MetaMath, arXiv 2309.12284): a number of the question becomes x, the answer becomes known.

    question       Sam has 7 apples and buys 12 more. How many apples has he?                reference 19
    masked         Sam has x apples and buys 12 more. How many apples has he?                new reference 7
    FOBAR          masked + If we know the answer to the above question is 19, what is the value of the unknown variable x?
    verification   Sam has x apples and buys 12 more; then he has 19.  + What is the value of unknown variable x?

A number may be masked where x has one meaning and is asked for: an integer or decimal that occurs once in the question, also by
value; that is no part of a fraction, range, ratio, date, power, formula in braces, ordinal or name ("A4", "3rd", "1/2", "10:30");
that does not number a list, a step or a figure; that is not the reference; in a question that has no x of its own.

This file does not know who writes the statement nor whether the new problem is answered as expected.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from decimal import Decimal

from headway.types import Problem, Split, content_id

KINDS = ("answers", "rephrase", "self-verification", "fobar")
UNKNOWN = "x"

_NUMBER = re.compile(
    r"(?<![\w.,/:^_{\\+*=<>-])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w/:^_}\\*=<>-]|[.,]\d|\s*[-+*/^=<>:]\s*[\d(\\])"
)
_ANY_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")
_BEFORE = re.compile(
    r"(?:[-+*/^=<>(]\s*|\b(?:step|figure|fig\.?|part|question|problem|exercise|number|no\.|page|chapter|level|grade|room|rule)\s+)$",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?:^|\n|[.;:?!]\s+|\()\s*$")  # before a number that "." or ")" follows: an enumeration
_OWN_X = re.compile(r"(?<![A-Za-z])[xX](?![A-Za-z])")
_FOBAR = " If we know the answer to the above question is {a}, what is the value of the unknown variable x?"
_ASKS = " What is the value of unknown variable x?"


@dataclass(frozen=True, slots=True)
class Mask:
    """A question with one number as x. Example: ``Mask("Sam has x apples …", value="7", start=8)``; `value` has no commas."""

    question: str
    value: str
    start: int


def masks(problem: Problem, seed: int = 0) -> list[Mask]:
    """Every way to mask a number of the problem's question, in a seeded order; [] where none may be masked.

    >>> [m.value for m in masks(Problem.make("s", "s", "1) Sam has 7 red and 12 blue pens, 1/2 of 12 new.", "19", Split.TRAIN))]
    ['7']
    """
    text = problem.question
    if _OWN_X.search(text):
        return []
    values = [_value(one.group()) for one in _ANY_NUMBER.finditer(text)]
    reference = _ANY_NUMBER.fullmatch(problem.reference.strip(" $"))
    taken = _value(reference.group()) if reference else None
    found: list[Mask] = []
    for one in _NUMBER.finditer(text):
        value = _value(one.group())
        if values.count(value) != 1 or value == taken or _is_label(text, one):
            continue
        masked = text[: one.start()] + UNKNOWN + text[one.end() :]
        found.append(Mask(masked, one.group().replace(",", ""), one.start()))
    return sorted(found, key=lambda mask: content_id("mask", seed, problem.id, mask.start))


def _is_label(text: str, one: re.Match[str]) -> bool:
    """Whether a number names something, or is part of a formula, instead of counting."""
    before, after = text[max(0, one.start() - 24) : one.start()], text[one.end() : one.end() + 2]
    if re.match(r"[.)](?:\s|$)", after) and _LISTED.search(before) and text[one.end() :].strip(".) \n"):
        return True
    return bool(_BEFORE.search(before))


def _value(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def fobar(problem: Problem, mask: Mask) -> Problem:
    """The backward question by rule."""
    return derived(problem, "fobar", mask.question.rstrip() + _FOBAR.replace("{a}", problem.reference), mask.value)


def verification(problem: Problem, mask: Mask, statement: str) -> Problem:
    """The backward question of a statement that somebody made of the masked question and its answer."""
    return derived(problem, "self-verification", statement.strip() + _ASKS, mask.value)


def derived(problem: Problem, kind: str, question: str, reference: str) -> Problem:
    """A problem made of another one: family, difficulty and split are the origin's; the metadata name it."""
    assert problem.split is Split.TRAIN, "only training problems are augmented"
    metadata = json.dumps({"origin": problem.id, "kind": kind})
    made = Problem.make(f"{problem.source}+{kind}", problem.family, question, reference, Split.TRAIN, metadata=metadata)
    return replace(made, difficulty=problem.difficulty)


def fault(problem: Problem, new: Problem, kind: str) -> str:
    """Why a text that a model wrote is no new problem, or ""; whether it is answered as expected is seen later."""
    text = new.question.removesuffix(_ASKS) if kind == "self-verification" else new.question
    if not 12 <= len(text) <= 4 * len(problem.question) + 200:
        return "too short or too long"
    old, now = ({_value(one) for one in _ANY_NUMBER.findall(part)} for part in (problem.question, text))
    reference = problem.reference.strip(" $")
    number = _value(reference) if _ANY_NUMBER.fullmatch(reference) else None
    if kind == "rephrase":
        if " ".join(text.split()) == " ".join(problem.question.split()):
            return "equal to its origin"
        gives = number in now - old if number is not None else reference in text and reference not in problem.question
        return "gives the answer away" if gives else ""
    if not _OWN_X.search(text):
        return "without x"
    if _value(new.reference) in now and _value(new.reference) != number:
        return "gives the answer away"
    if number not in now if number is not None else reference not in text:
        return "without the answer"
    return "still a question" if "?" in text else ""
