"""How far an import is, and what came of its rows: a file beside the tables, written last, so that a killed import goes on.

    FOLDER/imports/NAME.json   {"of": id of data and options, "versions": of the tables at the start,
                                "imported": bins so far, "planned": bins of the batch in work}

A batch's bins are kept before its rows are written: once the table holds them, counting again would call them known. This file
does not know what a row or a trace is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.config import SourceConfig
from headway.durable import read_json, write_json
from headway.errors import RunError
from headway.types import Funnel, content_id


@dataclass(slots=True)
class Imported:
    """What came of the rows so far; in the end, of all.

    `claims` counts (what the set says, our outcome) of the traces of which it says something: "right/correct", "wrong/no_answer".
    """

    rows_done: int = 0
    row_errors: int = 0
    rows: Counter[str] = field(default_factory=Counter[str])
    traces: Counter[str] = field(default_factory=Counter[str])
    outcomes: Counter[str] = field(default_factory=Counter[str])
    claims: Counter[str] = field(default_factory=Counter[str])
    is_done: bool = False

    @property
    def funnels(self) -> tuple[Funnel, Funnel]:
        """Rows and traces, each in exactly one bin."""
        return _funnel("rows", self.rows), _funnel("traces", self.traces)

    @property
    def disagreements(self) -> int:
        """Traces that the set calls right and we do not, or the other way round; what we could not judge is neither."""
        ours = {"right": ("wrong", "no_answer"), "wrong": ("correct",)}
        return sum(n for key, n in self.claims.items() if key.split("/")[1] in ours[key.split("/")[0]])


def _funnel(name: str, bins: Counter[str]) -> Funnel:
    return Funnel(name, bins.total(), bins["kept"], {reason: n for reason, n in sorted(bins.items()) if reason != "kept"})


class Record:
    """The file beside the tables that says how far an import is. RunError where it was begun with other data or options."""

    def __init__(self, folder: Path, source: SourceConfig, options: str, versions: Mapping[str, int]):
        self._path = folder / f"{source.label}.json"
        self._of = content_id(source.model_dump(mode="json"), options, *_sizes(source))
        kept: dict[str, Any] = read_json(self._path) if self._path.exists() else {"of": self._of}
        if kept.get("of") != self._of:
            raise RunError(f"{self._path} is of other data or options of the same name: give another --name")
        self.versions: dict[str, int] = kept.get("versions", dict(versions))  # of the tables before the first batch
        self.planned: dict[str, Any] = kept.get("planned", {})
        self.imported = _from_plain(kept.get("imported", {}))
        if not self._path.exists():
            self._write()

    def plan(self, batch: str, bins: Mapping[str, Counter[str]], known: Sequence[str]) -> None:
        """Keep a batch's bins, and which of its rollouts the table holds already, before its rows are written."""
        self.planned = {"batch": batch, "known": list(known), **{name: dict(counts) for name, counts in bins.items()}}
        self._write()

    def save(self) -> None:
        """Keep `imported`; no batch is in work."""
        self.planned = {}
        self._write()

    def _write(self) -> None:
        state = {"versions": self.versions, "imported": _plain(self.imported), "planned": self.planned}
        write_json(self._path, {"of": self._of, **state})


def _sizes(source: SourceConfig) -> list[tuple[str, int]]:
    """Names and sizes of the files of a local data set: another file under the same name is other data."""
    path = Path(source.data).expanduser()
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return [(file.name, file.stat().st_size) for file in files if file.exists()]


def _plain(imported: Imported) -> dict[str, Any]:
    return {name: getattr(imported, name) for name in Imported.__dataclass_fields__}


def _from_plain(values: Mapping[str, Any]) -> Imported:
    plain: dict[str, Any] = {name: Counter(value) if isinstance(value, dict) else value for name, value in values.items()}
    return Imported(**plain)
