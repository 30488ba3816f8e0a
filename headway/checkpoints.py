"""A stage's folder of checkpoints: the last resume points, and in the end its final weights, each with a manifest of hashes.

    save -->  rows on the disk, space looked up  -->  written aside, renamed  -->  all but the last few removed

A damaged one is never passed over in silence: it is refused by name, and what there is to go back to is offered. It does not
know what a checkpoint holds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headway.durable import RESERVE, check_folder, discard, free_space, need_space, write_folder_atomic
from headway.errors import CheckpointError
from headway.journal import Metrics

FROM_PREVIOUS = "--from-previous"  # the option of the command line that sets damaged checkpoints aside


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A whole resume point. Example: ``ResumePoint(step=120, path=Path("runs/tiny/checkpoints/rl/step-000120"))``."""

    step: int
    path: Path


class Owner(Protocol):
    """The run that checkpoints belong to."""

    folder: Path
    fingerprint: str

    def metrics(self, stage: str) -> Metrics:
        """The stage's metric rows."""
        ...

    def save_usage(self, saved: str = "", seconds: float = 0.0) -> None:
        """Write down that a save took so long."""
        ...


class Checkpoints:
    """The folder `checkpoints/STAGE/`: the last resume points, and in the end the stage's final weights."""

    def __init__(self, run: Owner, stage: str):
        self.folder = run.folder / "checkpoints" / stage
        self.final = self.folder / "final"
        self._run = run
        self._stage = stage
        self._label = f"{run.fingerprint}/{stage}"

    @contextmanager
    def save(self, step: int, size: int = 0, kept: int = 2) -> Iterator[Path]:
        """Yield an empty folder for the state after `step`; then it is a resume point, and all but the last `kept` are removed.

        The rows of `run.metrics(stage)` are on the disk first. A stage that writes elsewhere (the table of rollouts)
        does that before. RunError, and nothing changed, where the disk has no room for `size` bytes: the points before the last
        one make room, the last one never does.
        """
        self._run.metrics(self._stage).sync()
        earlier = self._points()
        while len(earlier) > 1 and free_space(self.folder) < size + RESERVE:
            discard(earlier.pop(0).path)
        need_space(self.folder, size, f"cannot save {self.folder / f'step-{step:06d}'}")
        started = time.monotonic()
        with write_folder_atomic(self.folder / f"step-{step:06d}", f"{self._label}/{step}") as folder:
            yield folder
        self._run.save_usage(self._stage, time.monotonic() - started)
        for point in self._points()[:-kept]:
            discard(point.path)

    def need_room(self, size: int) -> None:
        """RunError where the disk has no room for a resume point of `size` bytes beside the last one: asked before any work."""
        more = 1 if self._points() else 2
        need_space(self.folder, more * size, f"cannot keep {more} more resume points of {self._stage} in {self.folder}")

    @contextmanager
    def save_final(self, size: int = 0) -> Iterator[Path]:
        """Yield an empty folder for the stage's final weights of `size` bytes; afterwards it is `final`."""
        need_space(self.folder, size, f"cannot save {self.final}")
        with write_folder_atomic(self.final, f"{self._label}/final") as folder:
            yield folder

    def latest(self) -> ResumePoint | None:
        """The newest resume point, or None where there is none yet.

        A damaged one is never passed over in silence: CheckpointError names the file and what there is to go back to.
        """
        points = self._points()
        if not points:
            return None
        try:
            self._check(points[-1])
        except CheckpointError as error:
            raise self.refusal(error, points[-1]) from None
        return points[-1]

    def check_final(self) -> Path:
        """The folder of the final weights, compared with its manifest; CheckpointError where missing or damaged."""
        try:
            check_folder(self.final, f"{self._label}/final")
        except CheckpointError as error:
            if not self.final.exists():
                raise
            again = f"delete {self.final} to make it again from {self._before(self._points())}"
            raise CheckpointError(f"{error}; {again}, or run once with {FROM_PREVIOUS}") from None
        return self.final

    def refusal(self, error: Exception, point: ResumePoint) -> CheckpointError:
        """The line that refuses a damaged resume point and offers the one before."""
        before = self._before([one for one in self._points() if one.step < point.step])
        return CheckpointError(f"{error}; delete {point.path} to go on from {before}, or run once with {FROM_PREVIOUS}")

    def labelled(self) -> list[tuple[Path, str]]:
        """Every resume point and the final weights that are there, each with the label that its manifest must carry."""
        found = [(point.path, f"{self._label}/{point.step}") for point in self._points()]
        return [*found, *([(self.final, f"{self._label}/final")] if self.final.exists() else [])]

    def _check(self, point: ResumePoint) -> None:
        check_folder(point.path, f"{self._label}/{point.step}")

    def _points(self) -> list[ResumePoint]:
        """All resume points by step; whole or not."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else ()
        matches = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in found)
        return sorted((ResumePoint(int(match[1]), path) for match, path in matches if match), key=lambda point: point.step)

    def _before(self, points: list[ResumePoint]) -> str:
        """What is left to go on from, in words."""
        for point in reversed(points):
            with suppress(CheckpointError):
                self._check(point)
                return f"{point.path.name}, which is whole"
        return f"the start of {self._stage}"
