"""The columns of the tables, declared once: from the records of `types`. Everything else is derived from them.

    Problem, Rollout, Verdict, Label --> TABLES --> pyarrow schema, rows both ways, docs/store.md

Beside a record's fields each table has `place`: the row's number in its table (0, 1, 2, ... in the order of writing). A rollout's
text is also measured once, when it is written (`derived` columns), so that a query over millions of rollouts reads no text that
it does not keep. There are no timestamps: two runs of one recipe write equal tables, row for row.

This file does not know where the tables lie, nor how they are read or written.
"""

# pyright: basic
# (pyarrow's types are partial)

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa

from headway.errors import StoreError
from headway.store.selection import repetition
from headway.types import Label, Problem, Rollout, Verdict

PLACE = "place"
HEAVY = ("token_ids", "logprobs")  # read only when asked for
_LATER_COLUMNS = {"rollouts": ("top_k", "min_p")}  # tables of before lack them: there they hold the record's default

_MEANING: dict[str, dict[str, str]] = {
    "problems": {
        PLACE: "number of the row in the table, from 0, in the order of writing",
        "id": "content id of (question, reference): the same question from two files is one problem",
        "source": "the recipe's name of where it comes from",
        "family": "kind of problem; difficulties are only compared within one",
        "question": "the question as text, without the prompt around it",
        "reference": "the right final answer; the verifier accepted it before the problem entered",
        "split": "which work it may be used for: `train`, `validation` or `heldout`",
        "difficulty": "the source's own scale",
        "solution": "a worked solution that the source carries, or empty",
        "metadata": "what else the source knows, a JSON object as text",
    },
    "rollouts": {
        PLACE: "number of the row in the table, from 0, in the order of writing",
        "id": "content id of the rollout's coordinates and text",
        "problem_id": "`problems.id`",
        "sampler": "what asked for it: `teacher`, `import`, `dpo`, `rl`, `rl:lengths`, `eval:STAGE` or `eval:STAGE:program`",
        "step": "optimizer step of the policy; 0 outside RL",
        "index": 'which sample of its problem\'s group (a reserved word: write `"index"`)',
        "policy": "which weights, or which teacher, wrote it",
        "text": "the completion as text, without the stop token",
        "stop_reason": "`stop` (the model ended), `length` (cut at the limit) or `imported` (complete as it stands)",
        "num_tokens": "length of the completion with its stop token; 0 where it was not sampled here",
        "token_ids": "the sampled tokens; empty where it was not sampled here",
        "logprobs": "log-probability of each token under the distribution sampled from, nats (float32)",
        "temperature": "of sampling",
        "top_p": "of sampling; 1: not cut",
        "top_k": "of sampling; 0: not cut",
        "min_p": "of sampling; 0: not cut",
        "characters": "length of the text",
        "text_key": "64 bits of the text's BLAKE2b: equal texts have equal keys",
        "repetition": "share of the text's non-empty lines that stand there before, in [0, 1]",
    },
    "verdicts": {
        PLACE: "number of the row in the table, from 0, in the order of writing",
        "rollout_id": "`rollouts.id`",
        "verifier": "name@version; a better verifier adds rows and changes none",
        "outcome": "`correct`, `wrong`, `no_answer` or `unverifiable`",
        "reason": "short code",
        "extracted": "the final answer that was extracted, as text, empty where there is none",
        "parsed": "how the verifier read that answer: a value in lowest terms, or plain notation; `?` before what it cannot read",
        "parsed_reference": "how it read the problem's reference",
    },
    "labels": {
        PLACE: "number of the row in the table, from 0, in the order of writing",
        "problem_id": "`problems.id`",
        "labeller": "name@version: `model:NAME@1`, or `pass-rate:SAMPLER@1`",
        "domain": "a word of the labeller's list, or empty",
        "difficulty": "a word of the labeller's scale, or empty",
        "value": "the same as a number: a level from 1 to 5, or the mean of a pass rate's posterior",
    },
}

_ABOUT = {
    "problems": "One row a problem. A problem that is added again is kept once: the first one stays.",
    "rollouts": "One row a sampled or imported solution. Rows never change.",
    "verdicts": "One row for what one verifier says of one rollout.",
    "labels": "One row for what one labeller says of one problem; of several the newest counts. It is made with the first "
    "label: most stores have none.",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type, what it means, and how a stored value becomes a record's."""

    name: str
    type: pa.DataType
    meaning: str
    kind: Any  # the record's own type: str, int, float, a StrEnum or tuple
    default: Any = None  # a number: of a column that older tables lack

    def selected(self, is_there: bool) -> str:
        """How a view names it over files that have it, or lack it."""
        if self.default is None:
            return f'"{self.name}"'
        value = f"{self.default}::{'DOUBLE' if self.type == pa.float64() else 'BIGINT'}"
        return f'coalesce("{self.name}", {value}) AS "{self.name}"' if is_there else f'{value} AS "{self.name}"'


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its record and its columns; the first column is `place`."""

    name: str
    record: type
    columns: tuple[Column, ...]
    derived: Mapping[str, Callable[[Any], int | float]]  # the last columns: name -> value of a record; no record holds them

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema; no column is null but where a row is of a table that lacked it."""
        return pa.schema([pa.field(column.name, column.type, nullable=column.default is not None) for column in self.columns])

    @property
    def fields(self) -> tuple[Column, ...]:
        """The columns that are the record's fields, in its order."""
        return self.columns[1 : len(self.columns) - len(self.derived)]

    def to_arrow(self, records: Sequence[Any], first_place: int) -> pa.Table:
        """The records as rows numbered from `first_place`. StoreError names the row and column that cannot be stored."""
        arrays = [pa.array(range(first_place, first_place + len(records)), pa.int64())]
        for column in self.fields:
            values = [getattr(record, column.name) for record in records]
            try:
                arrays.append(pa.array(values, column.type))
            except (pa.ArrowException, UnicodeError, TypeError, ValueError, OverflowError):
                raise StoreError(self._unfit(column, values)) from None
            if arrays[-1].null_count:
                raise StoreError(self._unfit(column, values))
        for column in self.columns[len(arrays) :]:
            measure = self.derived[column.name]
            arrays.append(pa.array([measure(record) for record in records], column.type))
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _unfit(self, column: Column, values: list[Any]) -> str:
        for number, value in enumerate(values):
            try:
                fits = value is not None and pa.array([value], column.type).null_count == 0
            except (pa.ArrowException, UnicodeError, TypeError, ValueError, OverflowError):
                fits = False
            if not fits:
                shown = ascii(value)[:60]
                return f"{self.name}, row {number}: {column.name} = {shown} cannot be stored as {column.type}"
        return f"{self.name}: the values of {column.name} cannot be stored as {column.type}"

    def to_records(self, rows: pa.Table) -> list[Any]:
        """Rows as records. A heavy column that was not read becomes ()."""
        present = set(rows.column_names)
        lists = []
        for column in self.fields:
            if column.name not in present:
                assert column.name in HEAVY, f"{column.name} was not read"
                lists.append([()] * rows.num_rows)
                continue
            lists.append(_values(rows.column(column.name).to_pylist(), column.kind))
        return [self.record(*values) for values in zip(*lists, strict=True)]

    def to_record(self, values: Sequence[Any]) -> Any:
        """The values of one row, those of all `fields`, as a record."""
        return self.record(*(_values([value], column.kind)[0] for value, column in zip(values, self.fields, strict=True)))


def _values(stored: list[Any], kind: Any) -> list[Any]:
    """Stored values as the record's own."""
    if kind is tuple:
        return [tuple(value) for value in stored]
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        known = {member.value: member for member in kind}
        return [known[value] for value in stored]
    return stored


def _arrow_type(hint: Any) -> tuple[pa.DataType, Any]:
    """A field's annotation as (Arrow type, the record's own type)."""
    if get_origin(hint) is tuple:
        inner = {int: pa.int32(), float: pa.float32()}[get_args(hint)[0]]
        return pa.list_(inner), tuple
    if issubclass(hint, str):
        return pa.string(), hint
    return {int: pa.int64(), float: pa.float64()}[hint], hint


def _characters(rollout: Rollout) -> int:
    return len(rollout.text)


def _text_key(rollout: Rollout) -> int:
    digest = hashlib.blake2b(rollout.text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _repetition(rollout: Rollout) -> float:
    return repetition(rollout.text)


_DERIVED: Mapping[str, Callable[[Any], int | float]] = {
    "characters": _characters,
    "text_key": _text_key,
    "repetition": _repetition,
}


def _table(name: str, record: type) -> Table:
    hints = get_type_hints(record)
    meaning = _MEANING[name]
    columns = [Column(PLACE, pa.int64(), meaning[PLACE], int)]
    for field in fields(record):
        stored, own = _arrow_type(hints[field.name])
        default = field.default if field.name in _LATER_COLUMNS.get(name, ()) else None
        columns.append(Column(field.name, stored, meaning[field.name], own, default))
    derived = _DERIVED if record is Rollout else {}
    for key, measure in derived.items():
        kind = get_type_hints(measure)["return"]
        columns.append(Column(key, _arrow_type(kind)[0], meaning[key], kind))
    assert list(meaning) == [column.name for column in columns], f"{name}: a column is described but not declared"
    return Table(name, record, tuple(columns), derived)


_RECORDS = {"problems": Problem, "rollouts": Rollout, "verdicts": Verdict, "labels": Label}
TABLES = types.MappingProxyType({name: _table(name, record) for name, record in _RECORDS.items()})
LATER = ("labels",)  # made when the first row comes: stores and frozen selections without them have none


def markdown() -> str:
    """The page docs/store.md."""
    parts = [
        "# The table of rollouts",
        "",
        "Every solution that was ever sampled is a row; verdicts are attached, never merged in. A run keeps its tables in",
        "`runs/NAME/store/`, each a Delta table on Parquet. `headway sql \"SELECT ...\"` reads them as the views `problems`,",
        "`rollouts`, `verdicts` and `labels`. This page is generated from `headway/store/schema.py`.",
    ]  # fmt: skip
    for table in TABLES.values():
        parts += ["", f"## {table.name}", "", _ABOUT[table.name], "", "| column | type | meaning |", "| --- | --- | --- |"]
        parts += [f"| `{column.name}` | {_type_name(column.type)} | {column.meaning} |" for column in table.columns]
    return "\n".join(parts) + "\n"


def _type_name(kind: pa.DataType) -> str:
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)
