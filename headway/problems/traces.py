"""The solutions that a data set's row carries, whoever wrote them: the traces that become rollouts of their source.

    row --columns.read_row--> (question, reference)        row --read_traces--> Trace(author, text, what the set says of it), ...

    AUTHORS   lists of texts (OpenR1-Math: generations), one text a column (DeepMath: r1_solution_1), thought and answer apart
              (s1K, OpenThoughts), conversations (messages, conversations), TRL's completion with its label, and its chosen
              and rejected as two
    policy    of the rollout: SOURCE/COLUMN; the set's own worked `solution` is SOURCE itself; where a column names who wrote
              it (generation_model), SOURCE/THAT

What the set claims of a trace (a flag, a grade, being the chosen one) is kept beside it to be compared: it never becomes a
verdict. This file does not know how a verdict is made or where a rollout is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway.problems.columns import COLUMNS, LARGEST_TEXT, Row
from headway.problems.turns import read_turns


@dataclass(frozen=True, slots=True)
class Author:
    """A column of solutions: one text, a list of texts, or a conversation that ends in one.

    Example: ``Author("deepseek_attempt", thought="deepseek_thinking_trajectory", flags=("deepseek_grade",))``

    `thought` is the column with the reasoning before the solution. `flags` are columns in which the set says whether it is
    right, the first that says something counts; `claim` is what being in this column says. `ends` are columns that tell an
    incomplete text. `named_by` is the column that names who wrote it.
    """

    column: str
    thought: str = ""
    flags: tuple[str, ...] = ()
    claim: bool | None = None
    ends: tuple[str, ...] = ()
    named_by: str = ""


WORKED = "solution"  # the set's own worked solution
AUTHORS = (
    Author(WORKED),
    Author(
        "generations", flags=("correctness_math_verify", "correctness_llama"), ends=("is_reasoning_complete", "finish_reasons")
    ),
    Author("generated_solution", flags=("is_correct",), named_by="generation_model"),
    Author("deepseek_solution", thought="deepseek_reasoning"),
    Author("deepseek_attempt", thought="deepseek_thinking_trajectory", flags=("deepseek_grade",)),
    Author("gemini_attempt", thought="gemini_thinking_trajectory", flags=("gemini_grade",)),
    Author("attempt", thought="thinking_trajectories"),
    *(Author(f"r1_solution_{number}") for number in (1, 2, 3)),
    Author("completion", flags=("label", "outcome"), ends=("stop_reason",), named_by="policy"),
    Author("response"),
    Author("responses"),
    Author("chosen", claim=True),
    Author("rejected", claim=False),
    Author("conversations", flags=("correct",)),
    Author("messages"),
)
TRACE_COLUMNS = COLUMNS | {
    column
    for author in AUTHORS
    for column in (author.column, author.thought, *author.flags, *author.ends, author.named_by)
    if column
}
_LARGEST_NAME = 200  # characters of the name of who wrote it; what is longer is none
_YES = frozenset({"true", "yes", "correct", "1"})
_NO = frozenset({"false", "no", "wrong", "incorrect", "0"})


@dataclass(frozen=True, slots=True)
class Trace:
    """One solution. Example: ``Trace("generations", 1, "<think>…", claimed=False)``: the row's second generation.

    `author` is "" for the set's own worked solution, `index` its place among the author's in the row. `claimed` is what the
    set says: right, wrong, or None for nothing.
    """

    author: str
    index: int
    text: str
    claimed: bool | None = None
    is_complete: bool = True

    def policy(self, source: str) -> str:
        """Who wrote it, as `Rollout.policy`: ``Trace("generations", …).policy("openr1")`` is "openr1/generations"."""
        return f"{source}/{self.author}" if self.author else source


def read_traces(row: Mapping[str, Any], read: Row | None) -> tuple[list[Trace], Counter[str]]:
    """The row's traces in the order of AUTHORS, and how many were dropped, by reason.

    `read` is what `columns` read of the row, None where its answer is unknown. A text that the row has already is dropped, as are
    what is no text, an empty one, and one that cannot be kept (over a million characters, a NUL, half a surrogate pair).
    """
    dropped: Counter[str] = Counter()
    found: dict[str, Trace] = {}
    for author in AUTHORS:
        for index, value in enumerate(_values(row, author, read)):
            text = _text(row, author, value, index)
            reason = _fault(text)
            if not reason and text in found:
                reason = "text that its row has already"
            if reason:
                dropped[reason] += 1
                continue
            said = row.get(author.named_by) if author.named_by else ""
            name = said if isinstance(said, str) and not _fault(said) and len(said) <= _LARGEST_NAME else author.column
            claimed, is_complete = _claim(row, author, index), _is_complete(row, author, index)
            found[text] = Trace("" if name == WORKED else name, index, text, claimed, is_complete)
    return list(found.values()), dropped


def _values(row: Mapping[str, Any], author: Author, read: Row | None) -> list[Any]:
    """The cells of the author's column, one a trace; [] where the row has none."""
    if author.column == WORKED and read is not None:
        return [read.solution] if read.solution else []  # GSM8K's is in another column; a bare answer is none
    value = row.get(author.column)
    if value is None or (isinstance(value, str) and not value.strip() and not _thought(row, author, 0)):
        return []
    if not isinstance(value, list):
        return [value]
    if value and isinstance(value[0], dict):
        turns = read_turns(value)
        is_a_question_alone = turns is not None and not turns.solution
        return [] if is_a_question_alone else [turns.solution if turns else None]
    return value


def _text(row: Mapping[str, Any], author: Author, value: Any, index: int) -> Any:
    """The trace as one text: thought, then solution."""
    thought = _thought(row, author, index)
    if not thought or not isinstance(value, str):
        return _with_usual_marks(value.strip()) if isinstance(value, str) else value
    return f"<think>\n{thought}\n</think>\n\n{value.strip()}"


def _with_usual_marks(text: str) -> str:
    """Sky-T1's marks, which Bespoke-Stratos and OpenThoughts have, as the `<think>` of everybody else."""
    if not text.startswith("<|begin_of_thought|>"):
        return text
    thought, _, rest = text.removeprefix("<|begin_of_thought|>").partition("<|end_of_thought|>")
    solution = rest.strip().removeprefix("<|begin_of_solution|>").removesuffix("<|end_of_solution|>")
    return f"<think>\n{thought.strip()}\n</think>\n\n{solution.strip()}" if solution.strip() else text


def _thought(row: Mapping[str, Any], author: Author, index: int) -> str:
    value = _at(row, author.thought, index) if author.thought else None
    return value.strip() if isinstance(value, str) else ""


def _fault(text: Any) -> str:
    """Why a trace cannot be kept, or ""."""
    if not isinstance(text, str):
        return "not one text"
    if not text:
        return "empty text"
    if len(text) > LARGEST_TEXT:
        return f"more than {LARGEST_TEXT:,} characters"
    if "\0" in text:
        return "a NUL character"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "half of a surrogate pair"
    return ""


def _at(row: Mapping[str, Any], column: str, index: int) -> Any:
    """The column's value for the trace at `index`: its item where the column is a list, None where there is none."""
    value = row.get(column)
    if isinstance(value, list):
        return value[index] if index < len(value) else None
    return value


def _claim(row: Mapping[str, Any], author: Author, index: int) -> bool | None:
    """What the set says of a trace."""
    for column in author.flags:
        word = str(_at(row, column, index)).strip().lower()
        if word in _YES or word in _NO:
            return word in _YES
    return author.claim


def _is_complete(row: Mapping[str, Any], author: Author, index: int) -> bool:
    """Whether the text has an end, as far as the set tells."""
    return not any(str(_at(row, column, index)).strip().lower() in ("false", "length") for column in author.ends)
