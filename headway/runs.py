"""A run's folder: what makes the same command go on after a kill at any moment, and end with the same bytes.

    runs/NAME/
      .lock                         held (flock) by the process at work; the kernel lets go of it, also after kill -9
      recipe.json                   the resolved recipe; another recipe under the same name is refused
      environment.json              versions, platform, threads: at the start and where a resume differs
      metrics/STAGE.jsonl           one JSON object a row, each with its `step`
      tokenizer/                    of a model that starts from scratch
      selections/NAME.json          what a query selected, frozen
      checkpoints/STAGE/step-000120/   resume points: the last `STAGE.checkpoints_kept`
      checkpoints/STAGE/final/      the stage's weights
      stages/STAGE.json             the record of a finished stage
      usage.json                    seconds a stage, saves and peak memory, added up over restarts (never compared)
      results.json                  the record of the whole run

The order that resume relies on: metric rows reach the disk before the resume point that covers them, and a stage's
final weights before its record. Going on at step s is then: drop the rows after s, load the point, continue.

`Run.open(..., from_previous=True)` sets every damaged checkpoint aside (as NAME.damaged); the run goes on from the ones before.

It does not know what a stage computes, what is in a checkpoint (how they are kept: `checkpoints`), or where rollouts are stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.checkpoints import FROM_PREVIOUS, Checkpoints
from headway.config import STAGES, Recipe
from headway.durable import (
    check_folder,
    discard,
    read_json,
    refusing,
    set_aside,
    sweep,
    write_atomic,
    write_folder_atomic,
    write_json,
)
from headway.errors import CheckpointError, RunError
from headway.journal import Metrics
from headway.lock import FolderLock
from headway.machine import Clock, environment, peak_memory_bytes
from headway.ranks import by_first, first, size
from headway.types import content_id

__all__ = [
    "Clock",
    "Metrics",
    "Run",
    "check_folder",
    "peak_memory_bytes",
    "write_atomic",
    "write_folder_atomic",
]


class Run:
    """One run's folder, open and locked by this process. `with Run.open(...) as run:` closes it; so does a kill."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.folder = folder
        self.recipe = recipe
        self.notes: tuple[str, ...] = ()  # what the user should know of this resume, one line each
        self.fingerprint = recipe_id(plain(recipe))
        self._lock: FolderLock | None = None
        self._metrics: dict[str, Metrics] = {}
        self._checkpoints: dict[str, Checkpoints] = {}
        self._clocks: dict[str, Clock] = {}

    @staticmethod
    def open(root: str | Path, recipe: Recipe, recipe_text_origin: str, from_previous: bool = False) -> Run:
        """Create `root/NAME/` or go on with it. `recipe_text_origin` (the recipe's file) is named in errors.

        With `from_previous` damaged checkpoints are set aside first (`notes` says which), so that the ones before count. Of
        several ranks the first one owns the folder and writes in it; the others read.

        Raises RunError where another process is at work there, where the folder holds another recipe's work (the first
        key that differs is named), or where the folder cannot be written.
        """
        run = Run(Path(root) / recipe.name, recipe)
        run.notes = first(lambda: run._take(recipe_text_origin, from_previous))
        return run

    def _take(self, origin: str, from_previous: bool) -> tuple[str, ...]:
        """Lock the folder, and settle whose it is; what the user should know of it."""
        with refusing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.folder)
        try:
            sweep(self.folder)
            self._settle_recipe(origin)
            self._settle_environment()
            if from_previous:
                self._set_aside_damaged()
        except BaseException:
            self.close()
            raise
        return self.notes

    def close(self) -> None:
        """Close the files and let go of the lock."""
        for metrics in self._metrics.values():
            metrics.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def metrics(self, stage: str) -> Metrics:
        """The stage's metric rows."""
        return self._metrics.setdefault(stage, Metrics(self.folder / "metrics" / f"{stage}.jsonl"))

    def begin_anew(self) -> None:
        """Let go of the recipe and the problems gathered for it, where nothing else was done: the next start may have another."""
        records = {path.stem for path in (self.folder / "stages").glob("*.json")}
        if records <= {"problems"} and not any((self.folder / name).exists() for name in ("checkpoints", "metrics", "teacher")):
            for name in ("stages", "selections", "store"):
                if (self.folder / name).exists():
                    discard(self.folder / name)
            (self.folder / "recipe.json").unlink(missing_ok=True)

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

    @by_first
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

    @by_first
    def freeze(self, name: str, selection: Mapping[str, Any]) -> None:
        """Keep what a query selected (table version, ids), so that a growing table cannot change it."""
        write_json(self.folder / "selections" / f"{name}.json", dict(selection))

    def frozen(self, name: str) -> dict[str, Any] | None:
        """The selection kept under `name`, or None."""
        path = self.folder / "selections" / f"{name}.json"
        return read_json(path) if path.exists() else None

    @by_first
    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write `results.json`."""
        write_json(self.folder / "results.json", dict(results))

    def peak_memory_bytes(self) -> int:
        """The highest `peak_memory_bytes` of this process and of the earlier ones that worked on the run."""
        return max(peak_memory_bytes(), self._usage()["peak_memory_bytes"])

    @by_first
    def save_usage(self, saved: str = "", seconds: float = 0.0) -> None:
        """Save the clocks and the peak memory (checkpoints and `finish` do it), and what one save of the stage `saved` took."""
        usage = self._usage()
        if saved:
            saves = usage.setdefault("saves", {}).setdefault(saved, {"count": 0, "seconds": 0.0})
            saves |= {"count": saves["count"] + 1, "seconds": round(saves["seconds"] + seconds, 3)}
        usage["seconds"] |= {stage: round(clock.seconds, 3) for stage, clock in self._clocks.items()}
        usage["peak_memory_bytes"] = max(peak_memory_bytes(), usage["peak_memory_bytes"])
        write_json(self.folder / "usage.json", usage)

    def _usage(self) -> dict[str, Any]:
        path = self.folder / "usage.json"
        return read_json(path) if path.exists() else {"seconds": {}, "peak_memory_bytes": 0}

    def _record_path(self, stage: str) -> Path:
        return self.folder / "stages" / f"{stage}.json"

    def check_tokenizer(self) -> Path:
        """The folder `tokenizer/`, compared with its manifest; CheckpointError where missing or damaged."""
        try:
            check_folder(folder := self.folder / "tokenizer", self.fingerprint)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; run once with {FROM_PREVIOUS} to train it again, which gives the same one") from None
        return folder

    def _set_aside_damaged(self) -> None:
        """Rename every damaged checkpoint and a damaged tokenizer to NAME.damaged; `notes` says so, one line each."""
        found = [pair for stage in STAGES for pair in self.checkpoints(stage).labelled()]
        if (tokenizer := self.folder / "tokenizer").exists():
            found.append((tokenizer, self.fingerprint))
        for path, label in found:
            try:
                check_folder(path, label)
            except CheckpointError as error:
                self.notes += (f"{error}: kept as {set_aside(path)}, which may be deleted",)

    def _settle_recipe(self, origin: str) -> None:
        """Write the recipe the first time; afterwards it must be the same."""
        path = self.folder / "recipe.json"
        if not path.exists():
            write_json(path, plain(self.recipe))
            return
        change = first_difference(_decisive(read_json(path)), _decisive(plain(self.recipe)))
        if change:
            raise RunError(
                f"{self.folder} holds work of a different recipe than {origin}: {change}; "
                f"use another name (--set name=...) or remove the folder"
            )

    def _settle_environment(self) -> None:
        """Write the environment the first time; afterwards note what changed, since the bytes may change with it."""
        path = self.folder / "environment.json"
        now = environment(self.recipe.threads) | ({"ranks": size()} if size() > 1 else {})
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
    (address, pace, caps), what the sampler takes of the machine (`engine`), and who watches the run (`health`, `track`).
    """
    values = recipe.model_dump(mode="json", exclude={"engine", "health", "track"})
    server = values["teacher"].pop("server")
    if server is not None:
        values["teacher"]["server"] = {key: server[key] for key in _OF_A_SERVER}
    return values


_OF_A_SERVER = ("model", "temperature", "top_p", "max_tokens", "extra")


def recipe_id(values: dict[str, Any]) -> str:
    """The id of a plain recipe, as `recipe.json` has it: what a manifest's label begins with, and a model card names."""
    return content_id(json.dumps(_decisive(values), sort_keys=True))


def _decisive(values: dict[str, Any]) -> dict[str, Any]:
    """A plain recipe without what changes no number and so may change between restarts: when, and how many, are saved."""
    return {
        name: {key: value for key, value in section.items() if key not in _OF_SAVING} if name in STAGES and section else section
        for name, section in values.items()
    }


_OF_SAVING = ("checkpoint_seconds", "checkpoints_kept")
