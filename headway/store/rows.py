"""The rows that a query kept, read from the store when they are looked at: texts are most of the bytes.

    places of rollouts, in the order of the selection --join, sort--> Example | Pair, a few thousand in memory at once

Rows are those of one version of the tables, so that reading them twice gives the same. This file does not know how rows were
chosen.
"""

# pyright: basic, reportMissingTypeStubs=false
# (the types of duckdb and pyarrow are partial)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, TypeVar, overload

import duckdb
import numpy as np
import pyarrow as pa

from headway.errors import StoreError
from headway.store.binned import rows_of
from headway.store.schema import TABLES
from headway.store.store import Store
from headway.types import Example, Funnel, Pair, Problem

Row = TypeVar("Row")

_PROBLEM = ", ".join(f"p.{column.name}" for column in TABLES["problems"].fields)
_NUM = len(TABLES["problems"].fields)


@dataclass(frozen=True, slots=True)
class Selection(Generic[Row]):
    """What a query kept: the rows, their ids (the frozen selection), the funnel, and the table versions read.

    Rows with texts are read from the table when they are iterated over (see `Rows`), so ten million fit.
    """

    rows: Sequence[Row]
    ids: list[str]
    funnel: Funnel
    versions: dict[str, int]

    @property
    def name(self) -> str:
        """The query's name."""
        return self.funnel.name

    @staticmethod
    def of(name: str, rows: Sequence[Row], ids: list[str], dropped: dict[str, int], versions: dict[str, int]) -> Selection[Row]:
        """A selection whose funnel counts its rows. StoreError, with the funnel, where it keeps nothing."""
        return Selection.checked(rows, ids, Funnel(name, len(rows) + sum(dropped.values()), len(rows), dict(dropped)), versions)

    @staticmethod
    def checked(rows: Sequence[Row], ids: list[str], funnel: Funnel, versions: dict[str, int]) -> Selection[Row]:
        """A selection with its funnel. StoreError, with the funnel, where it keeps nothing."""
        if not ids:
            raise StoreError(f"the selection keeps nothing: {funnel}")
        return Selection(rows, ids, funnel, versions)


class Rows(Sequence[Row], Generic[Row]):
    """A sequence of selected rows. Iterating streams them in order; `list(rows)` holds them all.

    Equal to any sequence with equal rows. Subclasses say how a row is read.
    """

    def __init__(self, store: Store, *places: Sequence[int] | np.ndarray):
        """`places[i][n]` is the place of the i-th rollout of row n in the (frozen) store's table."""
        self._store = store
        self._places = [np.asarray(one, dtype=np.int64) for one in places]

    _columns = ""  # after the problem's
    _joins = ""

    def _row(self, problem: Problem, values: tuple[Any, ...]) -> Row:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._places[0])

    def __iter__(self) -> Iterator[Row]:
        return self._read(slice(None))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return list(self._read(index))
        first = range(len(self))[index]
        return next(self._read(slice(first, first + 1)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def _read(self, part: slice) -> Iterator[Row]:
        chosen = {f"place_{i}": one[part] for i, one in enumerate(self._places)}
        number = np.arange(len(chosen["place_0"]))
        with self._store.connect(ordered=False) as con:
            con.register("chosen", pa.table({"number": number, **chosen}))
            query = f"SELECT {_PROBLEM}, {self._columns} FROM chosen c {self._joins} ORDER BY c.number"
            try:
                for own, group in groupby(rows_of(con, query), itemgetter(slice(_NUM))):
                    problem = TABLES["problems"].to_record(own)
                    yield from (self._row(problem, values[_NUM:]) for values in group)
            except duckdb.Error as error:
                raise StoreError(f"cannot read {self._store.path}: {str(error).splitlines()[0]}") from None


class Examples(Rows[Example]):
    """Examples, one a rollout."""

    _columns = "r.id, r.text"
    _joins = "JOIN rollouts r ON r.place = c.place_0 JOIN problems p ON p.id = r.problem_id"

    def _row(self, problem: Problem, values: tuple[Any, ...]) -> Example:
        return Example(problem, values[0], values[1])


class Pairs(Rows[Pair]):
    """Pairs, one a chosen and a rejected rollout."""

    _columns = "r.text, w.text, r.id, w.id, r.policy, w.policy"
    _joins = """JOIN rollouts r ON r.place = c.place_0 JOIN rollouts w ON w.place = c.place_1
                JOIN problems p ON p.id = r.problem_id"""

    def _row(self, problem: Problem, values: tuple[Any, ...]) -> Pair:
        return Pair(problem, *values)
