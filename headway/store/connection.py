"""A DuckDB connection whose views are the Parquet files of the tables, shut off from everything else.

    table -> its files  -->  views `problems`, `rollouts`, `verdicts`, `labels`; no other file, no network, no settings

What exceeds the memory goes to a folder beside the tables. This file does not know versions or batches (`store`).
"""

# pyright: basic
# (the types of duckdb are partial)

from __future__ import annotations

import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from headway.store.schema import TABLES, Table

_MEMORY = "5GB"  # what one query may hold; it spills to disk beyond
_CONNECTIONS = itertools.count()


@dataclass(frozen=True, slots=True)
class File:
    """A Parquet file of a table, and which of the table's columns it lacks: it was written before they were thought of."""

    path: str
    lacks: frozenset[str]


def connect(folder: Path, files: Mapping[str, Sequence[File]], ordered: bool) -> duckdb.DuckDBPyConnection:
    """A connection over the `files` of each table. Without `ordered`, rows come in any order where a query asks for none.

    Raises what DuckDB raises.
    """
    con = duckdb.connect(":memory:")
    try:
        con.execute(f"SET preserve_insertion_order = {ordered}")
        con.execute(f"SET memory_limit = '{_MEMORY}'")
        con.execute(f"SET temp_directory = {_literal(str(_spill(folder)))}")
        con.execute("SET streaming_buffer_size = '32MB'")  # a query goes on while its rows are looked at
        con.execute("SET python_enable_replacements = false")
        con.execute("SET autoload_known_extensions = false")
        con.execute("SET autoinstall_known_extensions = false")
        for name, table in TABLES.items():
            if files[name]:
                con.execute(f"CREATE VIEW {name} AS {_union(table, files[name])}")
            else:
                con.register(name, table.schema.empty_table())
        con.execute(f"SET allowed_paths = {_literals([file.path for name in TABLES for file in files[name]])}")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
    except BaseException:
        con.close()
        raise
    return con


def _union(table: Table, files: Sequence[File]) -> str:
    """The rows of all files, which may be of different ages, in their order."""
    parts: list[str] = []
    for lacks, group in itertools.groupby(files, lambda file: file.lacks):
        columns = ", ".join(column.selected(column.name not in lacks) for column in table.columns)
        parts.append(f"SELECT {columns} FROM read_parquet({_literals([file.path for file in group])})")
    return " UNION ALL ".join(parts)


def _spill(folder: Path) -> Path:
    """A folder of one connection (or one sort) alone for what exceeds the memory; DuckDB makes it when needed and removes it.

    It lies beside the tables, where there is room for large things (a temporary folder may be memory). What a killed process of
    this machine left is removed.
    """
    host = socket.gethostname().replace("-", "_")
    for left in folder.glob(f".spill-{host}-*-*"):
        if _has_ended(left.name.split("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    place = folder / ".spill" if os.access(folder, os.W_OK) else Path(tempfile.gettempdir()) / "headway-spill"
    return place.with_name(f"{place.name}-{host}-{os.getpid()}-{next(_CONNECTIONS)}")


def _has_ended(process: str) -> bool:
    """Whether no process of this machine has that number."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):
        pass
    return False


@contextmanager
def spilling(folder: Path) -> Iterator[None]:
    """Let a library that asks the environment for a temporary folder have such a one, which is gone afterwards."""
    place, before = _spill(folder), os.environ.get("TMPDIR")
    place.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(place)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        shutil.rmtree(place, ignore_errors=True)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _literals(texts: Sequence[str]) -> str:
    return "[" + ", ".join(_literal(text) for text in texts) + "]"
