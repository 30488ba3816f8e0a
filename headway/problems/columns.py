r"""From a data set's own columns to a question, a reference and a worked solution.

Authors publish under different names. CONVENTIONS lists the ones understood; the first that fits a file's first row is
used for the whole file:

    headway  question, reference, solution, family          (what `headway export` writes)
    GSM8K    question, answer          answer = worked solution <<48/2=24>> ... last line "#### 72"
    SVAMP    Body, Question, Answer    Answer = 145.0
    MATH     problem, answer, solution, level, subject      (original MATH: no answer; it is boxed in the solution)
    AIME     problem, answer [, solution]                   (AMC: answer = 27.0)
    plain    question or prompt, answer [, solution];  or a solution with \boxed{}, or a solution that is but an answer
    verl     prompt, reward_model.ground_truth              (a name inside another: a column of objects)
    and      expected_answer, final_answer, ground_truth, ground_truth_solution; messages or conversations as the question

A question may be a text or a conversation of one user turn. Solutions that a row carries beside its own are `traces`' work.
This file does not know where rows come from (`load` does) nor whether a reference can be verified (`gather` asks).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from headway.problems.prompt import boxed
from headway.problems.turns import read_turns


class RowError(ValueError):
    """What is wrong with one row, without its place: `load` knows the file and the line."""


class NoReference(RowError):
    """A row that is whole but names no answer, so that nothing written for it can be judged."""


@dataclass(frozen=True, slots=True)
class Convention:
    """The columns of one kind of data set.

    Example: ``Convention("SVAMP", question=("Body", "Question"), answer="Answer", family="svamp")``

    Several `question` columns are joined. `answer` is "" where the answer stands boxed in `solution`. `marker` must
    occur in the answer column of the first row. `also` are columns that must exist beside the others. `family` is
    the problems' family, "" for the source's name.
    """

    name: str
    question: tuple[str, ...]
    answer: str
    solution: str = ""
    marker: str = ""
    also: tuple[str, ...] = ()
    family: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """The columns without which a row does not fit."""
        return (*self.question, self.answer or self.solution, *self.also)

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Has the row these columns, and the marker in its answer?"""
        return all(_cell(row, column) is not _ABSENT for column in self.required) and (
            not self.marker or self.marker in str(row[self.required[-1]])
        )


_QUESTIONS = ("problem", "question", "prompt", "messages", "conversations")
CONVENTIONS = (
    Convention("headway", ("question",), "reference", "solution", also=("family",)),
    Convention("SVAMP", ("Body", "Question"), "Answer", family="svamp"),
    Convention("GSM8K", ("question",), "answer", marker="####", family="gsm8k"),
    Convention("MATH", ("problem",), "answer", "solution", also=("level", "subject"), family="math"),
    Convention("MATH", ("problem",), "", "solution", also=("level", "type"), family="math"),
    Convention("AIME", ("problem",), "answer", "solution"),
    Convention("plain", ("question",), "answer", "solution"),
    Convention("plain", ("prompt",), "answer", "solution"),
    *(
        Convention(answer, (question,), answer, "solution")
        for answer in ("expected_answer", "final_answer", "ground_truth")
        for question in _QUESTIONS
    ),
    Convention("verl", ("prompt",), "reward_model.ground_truth"),
    *(Convention("boxed", (question,), "", "solution") for question in _QUESTIONS[:3]),
    Convention("boxed", ("problem",), "", "ground_truth_solution"),
    *(Convention("plain", (question,), "answer", "solution") for question in _QUESTIONS[3:]),
)
_DETAILS = (  # kept as metadata
    *("subject", "type", "level", "unique_id", "id", "url", "ID", "Type", "Equation"),
    *("domain", "topic", "problem_type", "data_source", "ability", "uuid"),
)
COLUMNS = frozenset(  # all columns that are ever read of a problem
    column.split(".")[0]
    for column in (
        *(*_DETAILS, "difficulty", "metadata", "split"),
        *(column for c in CONVENTIONS for column in (*c.required, c.solution) if column),
    )
)

LARGEST_TEXT = 1_000_000  # characters: longer cells are damaged files, not problems
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K's marks for a calculator, as in 48/2 = <<48/2=24>>24
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_LARGEST_ANSWER = 100  # characters of a `solution` that is but an answer
_TWO_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[^\s{])")


@dataclass(frozen=True, slots=True)
class Row:
    r"""What a row says: ``Row("How many …?", "72", solution="… \\boxed{72}", difficulty=2.0, metadata="{}")``.

    `family` and `split` are "" where the row does not say.
    """

    question: str
    reference: str
    solution: str = ""
    difficulty: float = 0.0
    metadata: str = "{}"
    family: str = ""
    split: str = ""


def recognise(row: Mapping[str, Any]) -> Convention:
    """The first convention that fits. Raises RowError listing the columns found and those understood."""
    for convention in CONVENTIONS:
        if convention.fits(row):
            return convention
    known = "; ".join(dict.fromkeys(" + ".join(c.required) for c in CONVENTIONS))
    found = ", ".join(str(column)[:40] for column in list(row)[:20]) or "none"
    raise RowError(f"unknown columns: found {found}; understood are {known}")


def read_row(row: Mapping[str, Any], convention: Convention) -> Row:
    """Question, reference, solution and details of one row. Raises RowError; NoReference where only the answer is missing."""
    for column in convention.required:
        if _cell(row, column) is _ABSENT:
            raise RowError(f"column {column!r} is missing")
    details = {key: row[key] for key in _DETAILS if isinstance(row.get(key), str | int)}
    turns = [_one_turn(row[column], column) for column in convention.question]
    question = _join([_text(text, column) for (_, text), column in zip(turns, convention.question, strict=True)])
    if turns[0][0]:
        details["system"] = turns[0][0]
    solution, steps = "", 0
    if convention.marker:
        solution, reference, steps = _worked_answer(_text(row[convention.answer], convention.answer))
    else:
        if row.get(convention.solution) is not None:
            solution = _text(row[convention.solution], convention.solution, may_be_empty=bool(convention.answer))
        if convention.answer:
            reference = _answer(_cell(row, convention.answer), convention.answer)
        else:
            reference, solution = _of_solution(solution, convention.solution)
    metadata = json.dumps(details)
    if convention.name == "headway":
        metadata = _text(row.get("metadata", "{}"), "metadata")
        return Row(question, reference, solution, _difficulty(row, 0), metadata, _text(row["family"], "family"), _split(row))
    return Row(question, reference, solution, _difficulty(row, steps), metadata)


def read_question(row: Mapping[str, Any]) -> str:
    """The question of a row that names no answer, "" where it has none: a text, or a conversation's user turn."""
    for column in (*_QUESTIONS, "chosen"):  # preferences may hold their prompt in `chosen`
        if row.get(column) is None or (column == "chosen" and isinstance(row[column], str)):
            continue
        if text := _one_turn(row[column], column)[1]:
            return _text(text, column)
    return ""


def last_box(text: str) -> str:
    r"""The contents of the last ``\boxed{...}`` with balanced braces, "" where there is none.

    >>> print(last_box(r"so $x = \boxed{\frac{1}{2}}$."))
    \frac{1}{2}
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return ""
    start, opening = boxes[-1].end(), boxes[-1].group(1)
    if opening != "{":
        return opening  # TeX's \boxed 5
    depth, i = 1, start
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start:i].strip()
        i += 1
    return ""


def answer_text(value: Any) -> str:
    """A reference as text: 145.0 -> "145", 0.5 -> "0.5", "1,080" -> "1080", other text as it stands.

    Raises RowError for what is no answer: null, true, a list, NaN, an empty text.
    """
    if isinstance(value, str):
        text = value.strip()
        return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise RowError(f"should hold a number or a text, not {_shown(value)}")
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise RowError(f"should hold a finite number, not {value}")
    digits = format(Decimal(repr(value + 0.0)) if isinstance(value, float) else value, "f")  # + 0.0: no "-0"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _answer(value: Any, column: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise NoReference(
            f"column {column!r} is empty" if value is not None else f"column {column!r} should hold a number or a text, not null"
        )
    try:
        return _text(answer_text(value), column)
    except RowError as error:
        raise RowError(str(error) if column in str(error) else f"column {column!r} {error}") from None


def _worked_answer(text: str) -> tuple[str, str, int]:
    """GSM8K's answer column -> the solution with a box, the reference, and how many calculations it has."""
    body, mark, last = text.rpartition("####")
    if not mark or not last.strip() or "\n" in last.strip():
        raise RowError("column 'answer' should end in a line like '#### 72'")
    reference = answer_text(last)
    steps = len(_CALCULATOR.findall(body))
    body = _CALCULATOR.sub("", body).rstrip()
    return (f"{body}\n" if body else "") + boxed(reference), reference, steps


def _of_solution(solution: str, column: str) -> tuple[str, str]:
    """The reference that a solution boxes, and the solution; a short line that is but an answer is no solution."""
    if box := last_box(solution):
        return box, solution
    bare = solution.strip("$ ") if solution.count("$") == 2 else solution
    is_answer = len(bare) <= _LARGEST_ANSWER and "\n" not in bare and re.search(r"[0-9\\$]", solution)
    if is_answer and not _TWO_WORDS.search(bare):
        return answer_text(bare), ""
    raise NoReference(f"column {column!r} has no \\boxed{{answer}}")


def _split(row: Mapping[str, Any]) -> str:
    split = row.get("split", "")
    return split if isinstance(split, str) else ""


def _difficulty(row: Mapping[str, Any], steps: int) -> float:
    """A column `difficulty` with a number in it, else MATH's level, GSM8K's calculations, or 0."""
    value = row.get("difficulty")
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return _level(row.get("level"), steps)


def _level(level: Any, steps: int) -> float:
    """MATH's level (5 or "Level 5"), GSM8K's number of calculations, or 0."""
    digits = re.search(r"\d+(\.\d+)?", str(level)[:40])
    return float(digits.group()) if digits else float(steps)


def _text(value: Any, column: str, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise RowError(f"column {column!r} should hold a text, not {_shown(value)}")
    if len(value) > LARGEST_TEXT:
        raise RowError(f"column {column!r} holds more than {LARGEST_TEXT:,} characters")
    if "\0" in value:
        raise RowError(f"column {column!r} holds a NUL character")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RowError(f"column {column!r} holds half of a surrogate pair, which is no character") from None
    text = value.strip()
    if not text and not may_be_empty:
        raise RowError(f"column {column!r} is empty")
    return text


def _one_turn(value: Any, column: str) -> tuple[str, Any]:
    """(system turn, text of the user's turn) of a conversation of one question; ("", value) of anything else."""
    if not isinstance(value, list):
        return "", value
    turns = read_turns(value)
    if turns is None or not turns.question or (turns.solution and column == "prompt"):
        raise RowError(f"column {column!r} should be a text or one user turn")
    return turns.system, turns.question


_ABSENT = object()


def _cell(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a name inside a column of objects ("reward_model.ground_truth"); _ABSENT where it is not."""
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _join(parts: list[str]) -> str:
    """Body and question as one text: many of SVAMP's bodies end in the middle of a sentence."""
    text = parts[0]
    for part in parts[1:]:
        text += (" " if text[-1] in ".?!,:;" else ", ") + part
    return text


def _shown(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
