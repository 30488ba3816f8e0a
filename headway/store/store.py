"""The store: problems, rollouts, verdicts and labels as Delta tables on Parquet, written by batch, read with DuckDB.

    append   batch name + rows --> one Parquet file and one commit; a batch that is there already is a no-op
    read     the files of one version --> DuckDB views --> records, or Arrow for `sql`

A commit carries two Delta application transactions: the batch's name, so that a batch is appended once however often a killed
process repeats it, and the table's number of rows, so that two writers cannot number their rows alike: one of them meets a
conflict, reads again and repeats. Old versions stay readable for good: no file is removed and no log is cleaned up; `compact`
writes many small files once more as few large ones, in the same order.

This file does not know what the rows are for: the data sets are in `queries`. It never touches a network.
"""

# pyright: basic
# (the types of deltalake, duckdb and pyarrow are partial)

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from headway.durable import need_space
from headway.errors import StoreError
from headway.ranks import by_first, first, size
from headway.store.connection import File, connect, spilling
from headway.store.schema import HEAVY, LATER, PLACE, TABLES
from headway.types import Label, Problem, Rollout, Split, Verdict, content_id

_ROWS = "rows"  # application transaction whose version is the table's number of rows
_SETTINGS = {"delta.enableExpiredLogCleanup": "false", "delta.logRetentionDuration": "interval 36500 days"}
_UNFIT = set("[]^|\\\n\r\t")  # the table engine takes a path for a URL and dies of these
_LARGE = 256 * 2**20  # bytes of a file after `compact`
_SORTING = 2**30  # bytes that it may hold; it spills to disk beyond
_ALWAYS = [name for name in TABLES if name not in LATER]
_TRIES = 100  # of a commit, when other writers keep being faster


class Store:
    """The tables under one folder.

    >>> store = Store("runs/tiny/store")                  # doctest: +SKIP
    >>> store.add_problems(problems, "problems")          # doctest: +SKIP
    >>> store.sql("SELECT count(*) FROM problems")        # doctest: +SKIP

    Raises StoreError, in one line, for everything that is wrong with the folder or a request.
    """

    def __init__(self, path: str | Path, *, create: bool = True):
        """Open the tables, or make empty ones; with `create=False` a folder without them is a StoreError."""
        if bad := set(str(Path(path).absolute())) & _UNFIT:
            raise StoreError(f"a table cannot lie at {str(path)!r}: its path may not hold {' '.join(map(repr, sorted(bad)))}")
        self.path = Path(path).absolute()
        self._pinned: dict[str, int] | None = None
        self._lock = threading.RLock()  # a handle must not move on between a look at it and its commit
        if create and size() > 1:
            first(self._make)
        self._tables = {name: self._open(name, create and name not in LATER) for name in TABLES}

    def _make(self) -> None:
        """The tables that every store has, where they are not there yet."""
        for name in TABLES:
            if name not in LATER:
                self._open(name, create=True)

    def _open(self, name: str, create: bool) -> DeltaTable | None:
        folder = self.path / name
        try:
            if not DeltaTable.is_deltatable(str(folder)):
                if not create and name in LATER:
                    return None
                if not create:
                    raise StoreError(f"{self.path} holds no table of {name}; a run's table lies in runs/NAME/store")
                folder.mkdir(parents=True, exist_ok=True)
                DeltaTable.create(str(folder), TABLES[name].schema, mode="ignore", name=name, configuration=dict(_SETTINGS))
            table = DeltaTable(str(folder))
        except (DeltaError, OSError) as error:
            raise StoreError(f"cannot open the table {folder}: {_line(error)}") from None
        _check_columns(name, folder, table)
        return table

    def at(self, versions: Mapping[str, int]) -> Store:
        """The store as it was at `versions()`: read only."""
        frozen = Store.__new__(Store)
        frozen.path, frozen._lock = self.path, self._lock
        frozen._pinned = {}
        frozen._tables = dict.fromkeys(TABLES, cast("DeltaTable | None", None))
        for name in [name for name in TABLES if name in versions or name not in LATER]:
            if name not in versions:
                raise StoreError(f"versions lack {name}: a frozen selection names {', '.join(_ALWAYS)}")
            try:
                frozen._tables[name] = DeltaTable(str(self.path / name), version=versions[name])
            except (DeltaError, OSError, OverflowError) as error:
                raise StoreError(f"{name} has no version {versions[name]} in {self.path}: {_line(error)}") from None
            frozen._pinned[name] = versions[name]
        return frozen

    # -- writing ---------------------------------------------------------------------------------------------------

    def add_problems(self, problems: Sequence[Problem], batch: str = "") -> int:
        """Append the problems whose id is new (the first of equal ids wins). Returns how many were new; atomic."""
        return self._append("problems", problems, batch)

    def add_rollouts(self, rollouts: Sequence[Rollout], batch: str = "") -> int:
        """Append rollouts in the given order. Returns how many rows were written: none if the batch is there; atomic."""
        return self._append("rollouts", rollouts, batch)

    def add_verdicts(self, verdicts: Sequence[Verdict], batch: str = "") -> int:
        """Append verdicts in the given order. Returns how many rows were written: none if the batch is there; atomic."""
        return self._append("verdicts", verdicts, batch)

    def add_labels(self, labels: Sequence[Label], batch: str = "") -> int:
        """Append labels in the given order. Returns how many rows were written: none if the batch is there; atomic."""
        return self._append("labels", labels, batch)

    def has_batch(self, table: str, batch: str) -> bool:
        """Whether `table` ("problems", "rollouts", "verdicts", "labels") holds the batch."""
        return (found := self._now(table)) is not None and found.transaction_version(_app(batch)) is not None

    @by_first
    def _append(self, name: str, records: Sequence[Any], batch: str) -> int:
        """One commit with the batch's rows. A batch without a name is named by its content. RunError where the disk is full."""
        if self._pinned is not None:
            raise StoreError(f"{self.path} is open at a frozen version: nothing can be added to {name}")
        batch = batch or content_id(*records)
        with self._lock:
            for attempt in range(_TRIES):
                table = self._now(name) or self._open(name, create=True)
                assert table is not None
                self._tables[name] = table
                if table.transaction_version(_app(batch)) is not None:
                    return 0
                version, first = table.version(), table.transaction_version(_ROWS) or 0
                new = self._new_problems(records) if name == "problems" else records
                if table.version() != version:  # reading the known ids met a newer version: number the rows from that
                    continue
                rows = TABLES[name].to_arrow(new, first)
                need_space(self.path / name, rows.nbytes)
                try:
                    self._commit(table, rows, batch, first + len(new))
                    return len(new)
                except CommitFailedError:  # another writer was faster: look again
                    time.sleep(0.002 * min(attempt, 25))
                except (DeltaError, OSError) as error:
                    raise StoreError(f"cannot write to {self.path / name}: {_line(error)}") from None
        raise StoreError(f"cannot write to {self.path / name}: other writers were faster {_TRIES} times")

    @staticmethod
    def _commit(table: DeltaTable, rows: pa.Table, batch: str, total: int) -> None:
        present = {field.name for field in table.schema().fields}
        write_deltalake(
            table,
            rows,
            mode="append",
            schema_mode=None if present.issuperset(rows.column_names) else "merge",
            commit_properties=CommitProperties(
                app_transactions=[Transaction(_app(batch), 0), Transaction(_ROWS, total)], max_commit_retries=0
            ),
            writer_properties=WriterProperties(compression="ZSTD"),
        )

    def compact(self, tell: Callable[[str], None] = lambda table: None) -> dict[str, tuple[int, int]]:
        """Join small files into large ones: table -> (files before, files after). Rows, their order and old versions stay.

        Writers may go on meanwhile; killed at any moment the table is as before. The old files stay on the disk, since frozen
        selections name old versions. What the sort cannot hold lies beside the tables. `tell` hears of each table that begins.
        """
        if self._pinned is not None:
            raise StoreError(f"{self.path} is open at a frozen version: it cannot be compacted")
        counts: dict[str, tuple[int, int]] = {}
        for name in TABLES:
            with self._lock:
                if (table := self._now(name)) is None:
                    continue
                before = len(table.file_uris())
                tell(name)
                try:
                    sizes = pa.table(table.get_add_actions(flatten=True)).column("size_bytes").to_pylist()
                    if before > 1 + sum(sizes) / _LARGE:  # `optimize.compact` would interleave the rows of the files it joins
                        with spilling(self.path):
                            table.optimize.z_order(
                                [PLACE],
                                target_size=_LARGE,
                                max_concurrent_tasks=1,
                                max_spill_size=_SORTING,
                                writer_properties=WriterProperties(compression="ZSTD"),
                            )
                    table.create_checkpoint()
                except (DeltaError, OSError) as error:
                    raise StoreError(f"cannot compact {self.path / name}: {_line(error)}") from None
                counts[name] = before, len(table.file_uris())
        return counts

    def _new_problems(self, problems: Sequence[Problem]) -> list[Problem]:
        first: dict[str, Problem] = {}
        for problem in problems:
            first.setdefault(problem.id, problem)
        known = self._arrow("SELECT id FROM problems WHERE id IN (SELECT unnest(?::VARCHAR[]))", [list(first)])
        for problem_id in known.column("id").to_pylist():
            del first[problem_id]
        return list(first.values())

    # -- reading ---------------------------------------------------------------------------------------------------

    def problems(
        self,
        where: str = "",
        *,
        split: Split | str | None = None,
        source: str | Sequence[str] | None = None,
        family: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[Problem]:
        """The problems that meet all given conditions, in the order of the table. `where` is an SQL condition of ours."""
        return self._records("problems", {"split": split, "source": source, "family": family, "id": ids}, where=where)

    def rollouts(
        self,
        sampler: str | Sequence[str] | None = None,
        *,
        step: int | None = None,
        problem_ids: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        tokens: bool = False,
    ) -> list[Rollout]:
        """The rollouts that meet all given conditions, in the order of the table.

        `token_ids` and `logprobs` are () unless `tokens`: they are most of the bytes.
        """
        conditions = {"sampler": sampler, "step": step, "problem_id": problem_ids, "id": ids}
        return self._records("rollouts", conditions, () if tokens else HEAVY)

    def verdicts(self, verifier: str | None = None, *, rollout_ids: Sequence[str] | None = None) -> list[Verdict]:
        """The verdicts that meet all given conditions, in the order of the table."""
        return self._records("verdicts", {"verifier": verifier, "rollout_id": rollout_ids})

    def verdicts_of(self, rollout_id: str) -> list[Verdict]:
        """All verdicts of one rollout."""
        return self.verdicts(rollout_ids=[rollout_id])

    def labels(self, labeller: str | None = None) -> list[Label]:
        """The labels, in the order of the table; of one (problem, labeller) the newest alone."""
        found = self._records("labels", {"labeller": labeller})
        return list({(label.problem_id, label.labeller): label for label in found}.values())

    def find(self, id_prefix: str) -> Problem | Rollout:
        """The one problem or rollout (with its tokens) whose id begins so. StoreError where there is none or several."""
        prefix = id_prefix.strip().lower()
        if not prefix:
            raise StoreError("an id, or the beginning of one, is needed")
        found: list[tuple[str, str]] = []
        for name in ("problems", "rollouts"):
            rows = self._arrow(f"SELECT DISTINCT id FROM {name} WHERE starts_with(id, ?) ORDER BY id LIMIT 4", [prefix])
            found += [(name, key) for key in rows.column("id").to_pylist()]
        if not found:
            raise StoreError(f"no problem or rollout has an id that begins with {prefix!r}")
        if len(found) > 1:
            some = ", ".join(f"{key} ({name.removesuffix('s')})" for name, key in found[:4])
            raise StoreError(f"{prefix!r} is the beginning of several ids: {some}{' ...' if len(found) > 4 else ''}")
        name, key = found[0]
        return self._records(name, {"id": key})[0]

    def sql(self, query: str, values: Sequence[Any] = ()) -> pa.Table:
        """The rows of one SELECT over `problems`, `rollouts`, `verdicts`, `labels` (docs/store.md); `values` are its `?`.

        It can read nothing else: no other file, no network, no writing, no settings. A bad query is a one-line StoreError.
        """
        with self.connect() as con:
            try:
                statements = con.extract_statements(query)
                if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                    raise StoreError("sql takes one SELECT over problems, rollouts and verdicts")
                return con.sql(query, params=list(values)).to_arrow_table()
            except duckdb.Error as error:
                raise StoreError(f"sql: {_line(error)}") from None

    def versions(self) -> dict[str, int]:
        """The version of each table now (or the frozen ones). `at` opens them again."""
        if self._pinned is not None:
            return dict(self._pinned)
        return {name: table.version() for name in TABLES if (table := self._now(name)) is not None}

    def connect(self, *, ordered: bool = True) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection whose views are the tables' rows now, shut off from everything else. For `queries`.

        Its own memory may hold temporary tables; they end with it. Close it, or use it in a `with`. Without `ordered`, rows
        come in any order where a query asks for none, which takes less memory.
        """
        files = {name: self._files(name) for name in TABLES}
        try:
            return connect(self.path, files, ordered)
        except duckdb.Error as error:
            raise StoreError(f"cannot read {self.path}: {_line(error)}") from None

    def _now(self, name: str) -> DeltaTable | None:
        """The table at its newest version, or at the frozen one; None for one of LATER that nobody has made yet."""
        if name not in TABLES:
            raise StoreError(f"there is no table {name!r}: the tables are {', '.join(TABLES)}")
        table = self._tables[name]
        if table is None and self._pinned is None:
            table = self._tables[name] = self._open(name, create=False)
        if table is not None and self._pinned is None:
            try:
                with self._lock:
                    table.update_incremental()
            except (DeltaError, OSError) as error:
                raise StoreError(f"cannot read the table {self.path / name}: {_line(error)}") from None
        return table

    def files(self, name: str) -> list[str]:
        """The Parquet files of the table, in the order of their rows."""
        return [file.path for file in self._files(name)]

    def _files(self, name: str) -> list[File]:
        later = {column.name: f"null_count.{column.name}" for column in TABLES[name].columns if column.default is not None}
        with self._lock:
            if (table := self._now(name)) is None:
                return []
            added = pa.table(table.get_add_actions(flatten=True))
            total = table.transaction_version(_ROWS) or 0
        wanted = {"path", "num_records", f"min.{PLACE}", *later.values()}
        found = added.select([column for column in added.column_names if column in wanted]).to_pylist()
        rows = sorted((row for row in found if row["num_records"]), key=lambda row: row[f"min.{PLACE}"])
        if sum(row["num_records"] for row in rows) != total:
            raise StoreError(f"the table {self.path / name} is damaged: its files do not hold the rows that its log counts")
        return [
            File(str(self.path / name / row["path"]), frozenset(n for n, count in later.items() if row.get(count) is None))
            for row in rows
        ]

    def _arrow(self, query: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The rows of one of our own queries."""
        with self.connect() as con:
            try:
                return con.sql(query, params=list(parameters)).to_arrow_table()
            except duckdb.Error as error:
                raise StoreError(f"cannot read {self.path}: {_line(error)}") from None

    def _records(self, name: str, conditions: Mapping[str, Any], without: Sequence[str] = (), where: str = "") -> list[Any]:
        table = TABLES[name]
        columns = ", ".join(f'"{column.name}"' for column in table.fields if column.name not in without)
        condition, parameters = _where(conditions, where)
        return table.to_records(self._arrow(f"SELECT {columns} FROM {name}{condition} ORDER BY {PLACE}", parameters))


def _where(conditions: Mapping[str, Any], where: str = "") -> tuple[str, list[Any]]:
    """`where`, and column = value (or column in values) for all that are not None."""
    parts: list[str] = [f"({where})"] if where else []
    parameters: list[Any] = []
    for column, value in conditions.items():
        if value is None:
            continue
        if isinstance(value, str | int):
            parts.append(f'"{column}" = ?')
            parameters.append(value if isinstance(value, int) else str(value))
        else:
            parts.append(f'"{column}" IN (SELECT unnest(?::VARCHAR[]))')
            parameters.append([str(one) for one in value])
    return (" WHERE " + " AND ".join(parts) if parts else ""), parameters


def _check_columns(name: str, folder: Path, table: DeltaTable) -> None:
    """StoreError where the stored table is not the one that `schema` declares."""
    stored = {field.name: str(field.type) for field in table.schema().fields}
    missing = [column.name for column in TABLES[name].columns if column.name not in stored and column.default is None]
    if missing:
        raise StoreError(f"{folder} is not a table of {name} of this version of headway: it has no column {missing[0]!r}")


def _app(batch: str) -> str:
    return f"batch:{batch}"


def _line(error: Exception) -> str:
    """The first line of a library's message, and the causes that it draws as a tree below."""
    first, *more = (re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__).splitlines()
    return ": ".join([first, *(line.strip(" ↳") for line in more if line.lstrip().startswith("↳"))])
