"""Problems from a data set: a JSONL, JSON or Parquet file, a folder of them, or a data set of the hub.

    load(SourceConfig(data="gsm8k_train.jsonl", count=1000, seed=0)) -> 1,000 problems

Which columns are understood says `columns`. A row that cannot be a problem is an error that names the file, the line
(from 1; in Parquet the row) and what is wrong: a set is never silently smaller than its file.

A draw (`count` below the size) takes the problems with the smallest hash of (seed, problem id), so it does not depend
on the order of the rows or files, and a larger count contains the smaller one.

In a folder whose files are named after splits (train.jsonl, test-00000-of-00001.parquet) only those of `data_split` are
read: a set's test problems must not slip into training. This file does not remove duplicates (`clean` does).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from headway.config import SourceConfig
from headway.errors import DataError
from headway.problems.columns import COLUMNS, Convention, NoReference, Row, RowError, read_row, recognise
from headway.types import Problem, content_id

LARGEST_ROW = 1_000_000  # bytes of one JSON row: longer ones are damaged files, not problems
LARGEST_TRACES = 32_000_000  # bytes of one with all its traces
SUFFIXES = (".jsonl", ".json", ".parquet")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SPLIT_NAME = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])")
_log = logging.getLogger(__name__)

RowOrError = Mapping[str, Any] | RowError


def load(source: SourceConfig, *, max_row_errors: int = 0, unanswered: list[str] | None = None) -> list[Problem]:
    """The problems of `source.data`, or `source.count` of them drawn by `source.seed` (all where there are fewer).

    With `source.answered_only` rows that name no answer are left out; the place of each is added to `unanswered`. Up to
    `max_row_errors` broken rows are left out, each with a logged warning; one more raises DataError naming file, line and fault.
    DataError also for a missing or unreadable file, unknown columns, and an empty set.
    """
    problems: list[Problem] = []
    num_broken = 0
    for origin, unit, rows in _parts(source):
        convention: Convention | None = None
        for number, row in rows:
            try:
                if isinstance(row, RowError):
                    raise row
                convention = convention or recognise(row)
                problems.append(problem_of(read_row(row, convention), convention, source))
            except RowError as error:
                if source.answered_only and isinstance(error, NoReference):
                    if unanswered is not None:
                        unanswered.append(f"{origin}, {unit} {number}")
                    continue
                num_broken += 1
                message = f"{origin}, {unit} {number}: {error}"
                if num_broken > max_row_errors:
                    raise DataError(message) from None
                _log.warning("left out %s", message)
    if not problems:
        raise DataError(f"{source.data} holds no problem")
    return _draw(problems, source.count, source.seed) if source.count else problems


def problem_of(read: Row, convention: Convention, source: SourceConfig) -> Problem:
    """The problem that a row says. RowError where the row names another split than the source is read for."""
    if read.split and read.split != source.split:
        raise RowError(f"is a problem of the split {read.split!r}, and the source is read as {source.split.value!r}")
    return Problem.make(
        source.label,
        read.family or convention.family or source.label,
        stripped(read.question, source.strip),
        read.reference,
        source.split,
        difficulty=read.difficulty,
        solution=read.solution,
        metadata=asking(read.metadata, source),
    )


def stripped(question: str, text: str) -> str:
    """A question without `text` at its beginning and end; as it was where nothing else would be left.

    >>> stripped("Box it. 2 + 2?", "Box it.")
    '2 + 2?'
    """
    rest = question.strip()
    if text.strip():
        rest = rest.removeprefix(text.strip()).removesuffix(text.strip()).strip()
    return rest or question


def asking(metadata: str, source: SourceConfig) -> str:
    """A problem's metadata with what its source asks of the verifier."""
    return json.dumps(json.loads(metadata) | {"last_number": True}, ensure_ascii=False) if source.last_number else metadata


def numbered_rows(source: SourceConfig, columns: Collection[str] = COLUMNS) -> Iterator[tuple[str, RowOrError]]:
    """Every row of the source's files in their order, each with its place in words ("set.jsonl, line 7").

    One row, or a few hundred of a Parquet file, is in memory at a time (a JSON array is read whole). Of a Parquet
    file or a hub data set only `columns` are read. DataError as for `load`.
    """
    for origin, unit, rows in _parts(source, columns, LARGEST_TRACES):
        for number, row in rows:
            yield f"{origin}, {unit} {number}", row


def count_rows(source: SourceConfig) -> int:
    """About how many rows `numbered_rows` will give, for a progress display; 0 where only reading would tell."""
    path = Path(source.data).expanduser()
    return sum(_count(file) for file in _files(path, source)) if path.exists() else 0


def _count(path: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".parquet":
            return pyarrow.parquet.ParquetFile(path).metadata.num_rows
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except (OSError, pyarrow.ArrowException):
        return 0  # reading it will say what is wrong


def _draw(problems: list[Problem], count: int, seed: int) -> list[Problem]:
    """`count` problems (not rows: the same problem twice counts once) in the order of their keyed hash."""
    distinct = {problem.id: problem for problem in problems}
    return sorted(distinct.values(), key=lambda problem: content_id("draw", seed, problem.id))[:count]


def _parts(
    source: SourceConfig, columns: Collection[str] = COLUMNS, largest: int = LARGEST_ROW
) -> Iterator[tuple[str, str, Iterator[tuple[int, RowOrError]]]]:
    """(origin, what a row is called, numbered rows) of each file, or of the hub data set."""
    path = Path(source.data).expanduser()
    if path.exists():
        for file in _files(path, source):
            if file.suffix.lower() == ".parquet":
                yield str(file), "row", _parquet_rows(file, columns)
            else:
                yield str(file), "line", _json_rows(file, largest)
    elif _HUB_NAME.fullmatch(source.data) and path.suffix.lower() not in SUFFIXES:
        yield f"hub data set {source.data} ({source.data_split})", "row", _hub_rows(source, columns)
    else:
        raise DataError(f"no problem file at {source.data}")


def _files(path: Path, source: SourceConfig) -> list[Path]:
    """The file itself, or a folder's files of the wanted split, by name."""
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: a problem file is named *{', *'.join(SUFFIXES)}")
        return [path]
    if source.data_config and (path / source.data_config).is_dir():
        path = path / source.data_config
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
    if not files:
        raise DataError(f"the folder {path} holds no {', '.join(SUFFIXES)} file")
    if not any(_SPLIT_NAME.match(file.name) for file in files):
        return files
    wanted = re.compile(rf"{re.escape(source.data_split)}(?![A-Za-z])")
    chosen = [file for file in files if wanted.match(file.name)]
    if not chosen:
        names = ", ".join(file.name for file in files[:8])
        raise DataError(f"the folder {path} has no file of data_split = {source.data_split!r}; it holds {names}")
    return chosen


def _json_rows(path: Path, largest: int) -> Iterator[tuple[int, RowOrError]]:
    """Numbered rows of a JSONL file, or of a file that is one JSON array."""
    try:
        with path.open("rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
            file.seek(0)
            if start.startswith(b"["):
                yield from _array_rows(file.read(), path, largest)
                return
            number = 0
            while line := file.readline(largest + 2):
                number += 1
                if len(line.rstrip(b"\r\n")) > largest:
                    raise DataError(f"{path}, line {number}: longer than {largest:,} bytes")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, _row_of(line)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _row_of(line: bytes) -> RowOrError:
    try:
        row = json.loads(line.decode("utf-8"))
    except RecursionError:
        return RowError("nested too deeply")
    except UnicodeDecodeError as error:
        return RowError(f"not UTF-8 text (byte {error.start + 1}: {error.reason})")
    except json.JSONDecodeError as error:
        return RowError(f"not JSON (column {error.colno}: {error.msg})")
    except ValueError as error:  # an integer of thousands of digits
        return RowError(f"not JSON that can be read ({str(error).split(';')[0]})")
    return row if isinstance(row, dict) else RowError(f"should be an object with columns, not {type(row).__name__}")


def _array_rows(data: bytes, path: Path, largest: int) -> Iterator[tuple[int, RowOrError]]:
    """The objects of a JSON array, each with the line on which it starts. A fault between two rows ends the file."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text ({error.reason})") from None
    decoder, space = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
    position = space.match(text, text.index("[") + 1).end()  # type: ignore[union-attr]
    line = text.count("\n", 0, position) + 1
    more = not text.startswith("]", position)
    while more:
        try:
            row, end = decoder.raw_decode(text, position)
        except RecursionError:
            raise DataError(f"{path}, line {line}: nested too deeply") from None
        except ValueError as error:
            line = getattr(error, "lineno", line)
            raise DataError(f"{path}, line {line}: not JSON ({getattr(error, 'msg', error)})") from None
        too_long = end - position > largest
        if too_long or not isinstance(row, dict):
            wrong = f"longer than {largest:,} characters" if too_long else "should be an object with columns"
            row = RowError(wrong)
        yield line, row
        comma = space.match(text, end).end()  # type: ignore[union-attr]
        if text[comma : comma + 1] not in (",", "]"):
            raise DataError(f"{path}, line {text.count(chr(10), 0, comma) + 1}: the array has no ',' or ']' here")
        more = text[comma] == ","
        start = space.match(text, comma + 1).end()  # type: ignore[union-attr]
        line += text.count("\n", position, start)
        position = start


def _parquet_rows(path: Path, columns: Collection[str]) -> Iterator[tuple[int, RowOrError]]:
    """Numbered rows of a Parquet file; of its columns only the wanted ones are read."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            number = 0
            for batch in file.iter_batches(256, columns=[name for name in names if name in columns] or names[:20]):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} as Parquet: {_one_line(error)}") from None


def _hub_rows(source: SourceConfig, columns: Collection[str]) -> Iterator[tuple[int, RowOrError]]:
    """Numbered rows of a hub data set. Only data is fetched: a set that needs its own code to load is refused."""
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise DataError(
            f"no file or folder {source.data!r} here; to read it as a hub data set: pip install headway[hub]"
        ) from None
    try:
        rows = datasets.load_dataset(source.data, source.data_config or None, split=source.data_split)
    except Exception as error:  # network, name, configuration and split faults come as many unrelated classes
        raise DataError(f"cannot load the hub data set {source.data!r}: {_one_line(error)}") from error
    known = [name for name in rows.column_names if name in columns]
    yield from enumerate(rows.select_columns(known) if known else rows, start=1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
