"""A run's folder: what makes the same command go on after a kill at any moment, and end with the same bytes.

    runs/NAME/
      .lock                         held (flock) by the process at work; the kernel lets go of it, also after kill -9
      recipe.json                   the resolved recipe; another recipe under the same name is refused
      environment.json              versions, platform, threads: at the start and where a resume differs
      metrics/STAGE.jsonl           one JSON object a row, each with its `step`
      tokenizer/                    of a model that starts from scratch
      selections/NAME.json          what a query selected, frozen
      checkpoints/STAGE/step-000120/   resume points: the last two
      checkpoints/STAGE/final/      the stage's weights
      stages/STAGE.json             the record of a finished stage
      usage.json                    seconds a stage and peak memory, added up over restarts (never compared)
      results.json                  the record of the whole run

The order that resume relies on: metric rows reach the disk before the resume point that covers them, and a stage's
final weights before its record. Going on at step s is then: drop the rows after s, load the point, continue.

It does not know what a stage computes, what is in a checkpoint, or where rollouts are stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.config import Recipe
from headway.durable import (
    check_folder,
    discard,
    read_json,
    refusing,
    sweep,
    write_atomic,
    write_folder_atomic,
    write_json,
)
from headway.errors import CheckpointError, RunError
from headway.journal import Metrics
from headway.lock import FolderLock
from headway.machine import Clock, environment, peak_memory_bytes
from headway.types import content_id

__all__ = [
    "Checkpoints",
    "Clock",
    "Metrics",
    "ResumePoint",
    "Run",
    "check_folder",
    "peak_memory_bytes",
    "write_atomic",
    "write_folder_atomic",
]

_KEPT_POINTS = 2


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A whole resume point. Example: ``ResumePoint(step=120, path=Path("runs/tiny/checkpoints/rl/step-000120"))``."""

    step: int
    path: Path


class Checkpoints:
    """The folder `checkpoints/STAGE/`: the last resume points, and in the end the stage's final weights."""

    def __init__(self, run: Run, stage: str):
        self.folder = run.folder / "checkpoints" / stage
        self.final = self.folder / "final"
        self._run = run
        self._stage = stage
        self._label = f"{run.fingerprint}/{stage}"

    @contextmanager
    def save(self, step: int) -> Iterator[Path]:
        """Yield an empty folder for the state after `step`; then it is a resume point, and the oldest are removed.

        The rows of `run.metrics(stage)` are on the disk first. A stage that writes elsewhere (the table of rollouts)
        does that before.
        """
        self._run.metrics(self._stage).sync()
        with write_folder_atomic(self.folder / f"step-{step:06d}", f"{self._label}/{step}") as folder:
            yield folder
        self._run.save_usage()
        for point in self._points()[:-_KEPT_POINTS]:
            discard(point.path)

    @contextmanager
    def save_final(self) -> Iterator[Path]:
        """Yield an empty folder for the stage's final weights; afterwards it is `final`."""
        with write_folder_atomic(self.final, f"{self._label}/final") as folder:
            yield folder

    def latest(self) -> ResumePoint | None:
        """The newest resume point, or None where there is none yet.

        A damaged one is never passed over in silence: CheckpointError names the file and what deleting it goes back to.
        """
        points = self._points()
        if not points:
            return None
        newest = points[-1]
        try:
            check_folder(newest.path, f"{self._label}/{newest.step}")
        except CheckpointError as error:
            raise CheckpointError(f"{error}; delete {newest.path} to go on from {self._before(points[:-1])}") from None
        return newest

    def check_final(self) -> Path:
        """The folder of the final weights, compared with its manifest; CheckpointError where missing or damaged."""
        check_folder(self.final, f"{self._label}/final")
        return self.final

    def _points(self) -> list[ResumePoint]:
        """All resume points by step; whole or not."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else ()
        matches = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in found)
        return sorted((ResumePoint(int(match[1]), path) for match, path in matches if match), key=lambda point: point.step)

    def _before(self, points: list[ResumePoint]) -> str:
        """What is left without the newest point, in words."""
        for point in reversed(points):
            with suppress(CheckpointError):
                check_folder(point.path, f"{self._label}/{point.step}")
                return f"{point.path.name}, which is whole"
        return f"the start of {self._stage}"


class Run:
    """One run's folder, open and locked by this process. `with Run.open(...) as run:` closes it; so does a kill."""

    def __init__(self, folder: Path, recipe: Recipe, lock: FolderLock):
        self.folder = folder
        self.recipe = recipe
        self.notes: tuple[str, ...] = ()  # what the user should know of this resume, one line each
        self.fingerprint = content_id(json.dumps(plain(recipe), sort_keys=True))
        self._lock = lock
        self._metrics: dict[str, Metrics] = {}
        self._checkpoints: dict[str, Checkpoints] = {}
        self._clocks: dict[str, Clock] = {}

    @staticmethod
    def open(root: str | Path, recipe: Recipe, recipe_text_origin: str) -> Run:
        """Create `root/NAME/` or go on with it. `recipe_text_origin` (the recipe's file) is named in errors.

        Raises RunError where another process is at work there, where the folder holds another recipe's work (the first
        key that differs is named), or where the folder cannot be written.
        """
        folder = Path(root) / recipe.name
        with refusing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        run = Run(folder, recipe, FolderLock(folder))
        try:
            sweep(folder)
            run._settle_recipe(recipe_text_origin)
            run._settle_environment()
        except BaseException:
            run.close()
            raise
        return run

    def close(self) -> None:
        """Close the files and let go of the lock."""
        for metrics in self._metrics.values():
            metrics.close()
        self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def metrics(self, stage: str) -> Metrics:
        """The stage's metric rows."""
        return self._metrics.setdefault(stage, Metrics(self.folder / "metrics" / f"{stage}.jsonl"))

    def checkpoints(self, stage: str) -> Checkpoints:
        """The stage's resume points and final weights."""
        return self._checkpoints.setdefault(stage, Checkpoints(self, stage))

    def clock(self, stage: str) -> Clock:
        """The stage's clock, started now (the first time it is asked for) on top of what earlier processes saved."""
        if stage not in self._clocks:
            self._clocks[stage] = Clock(self._usage()["seconds"].get(stage, 0.0))
        return self._clocks[stage]

    def done(self, stage: str) -> bool:
        """Is the stage's record written?"""
        return self._record_path(stage).exists()

    def finish(self, stage: str, record: Mapping[str, Any]) -> None:
        """Write the stage's record: from now on it is done. Final weights are saved before; rows are synced here."""
        self.metrics(stage).sync()
        self.save_usage()
        self._clocks.pop(stage, None)
        write_json(self._record_path(stage), dict(record))

    def record(self, stage: str) -> dict[str, Any]:
        """The record of a finished stage; RunError where it is not finished."""
        if not self.done(stage):
            raise RunError(f"{self.folder}: the stage {stage} is not finished")
        return read_json(self._record_path(stage))

    def freeze(self, name: str, selection: Mapping[str, Any]) -> None:
        """Keep what a query selected (table version, ids), so that a growing table cannot change it."""
        write_json(self.folder / "selections" / f"{name}.json", dict(selection))

    def frozen(self, name: str) -> dict[str, Any] | None:
        """The selection kept under `name`, or None."""
        path = self.folder / "selections" / f"{name}.json"
        return read_json(path) if path.exists() else None

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write `results.json`."""
        write_json(self.folder / "results.json", dict(results))

    def peak_memory_bytes(self) -> int:
        """The highest `peak_memory_bytes` of this process and of the earlier ones that worked on the run."""
        return max(peak_memory_bytes(), self._usage()["peak_memory_bytes"])

    def save_usage(self) -> None:
        """Save the clocks and the peak memory (checkpoints and `finish` do it)."""
        usage = self._usage()
        usage["seconds"] |= {stage: round(clock.seconds, 3) for stage, clock in self._clocks.items()}
        usage["peak_memory_bytes"] = max(peak_memory_bytes(), usage["peak_memory_bytes"])
        write_json(self.folder / "usage.json", usage)

    def _usage(self) -> dict[str, Any]:
        path = self.folder / "usage.json"
        return read_json(path) if path.exists() else {"seconds": {}, "peak_memory_bytes": 0}

    def _record_path(self, stage: str) -> Path:
        return self.folder / "stages" / f"{stage}.json"

    def _settle_recipe(self, origin: str) -> None:
        """Write the recipe the first time; afterwards it must be the same."""
        path = self.folder / "recipe.json"
        if not path.exists():
            write_json(path, plain(self.recipe))
            return
        change = first_difference(read_json(path), plain(self.recipe))
        if change:
            raise RunError(
                f"{self.folder} holds work of a different recipe than {origin}: {change}; "
                f"use another name (--set name=...) or remove the folder"
            )

    def _settle_environment(self) -> None:
        """Write the environment the first time; afterwards note what changed, since the bytes may change with it."""
        path = self.folder / "environment.json"
        now = environment(self.recipe.threads)
        if not path.exists():
            write_json(path, {"started_with": now, "resumed_with": []})
            return
        kept = read_json(path)
        last = (kept["resumed_with"] or [kept["started_with"]])[-1]
        change = first_difference(last, now)
        if change:
            write_json(path, kept | {"resumed_with": [*kept["resumed_with"], now]})
            self.notes += (f"the environment changed since this run began ({change}): its numbers may not repeat exactly",)


def first_difference(old: Any, new: Any, key: str = "") -> str:
    """The first place where two JSON values differ, as `key: old -> new`; "" where they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(str(name), old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new and isinstance(old, bool) == isinstance(new, bool) else f"{key}: {_show(old)} -> {_show(new)}"
    found = (first_difference(a, b, f"{key}.{name}" if key else name) for name, a, b in pairs)
    return next(filter(None, found), "")


_ABSENT = object()


def _show(value: Any) -> str:
    text = "(absent)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON, but for what may change on the way: of a teacher's server all that does not decide its rollouts
    (address, pace, caps), and who watches the run (`health`, `track`).
    """
    values = recipe.model_dump(mode="json", exclude={"health", "track"})
    server = values["teacher"].pop("server")
    if server is not None:
        values["teacher"]["server"] = {key: server[key] for key in _OF_A_SERVER}
    return values


_OF_A_SERVER = ("model", "temperature", "top_p", "max_tokens", "extra")
