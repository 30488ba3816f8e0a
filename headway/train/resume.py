"""A stage's resume points as tensors: what `fit` writes now and then, and reads when it starts.

It joins a run's folder (which knows files, not tensors) with safetensors. It does not know what the tensors are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headway.errors import CheckpointError
from headway.runs import Run

_TENSORS, _STATE = "tensors.safetensors", "state.json"


class StageFolder:
    """The metric rows and resume points of one stage of a run."""

    def __init__(self, run: Run, stage: str):
        self._metrics, self._points = run.metrics(stage), run.checkpoints(stage)
        self._clock = run.clock(stage)
        self.path: Path = self._points.folder

    def log(self, row: dict[str, Any]) -> None:
        """Append one step's metrics."""
        self._metrics.append(row)

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after `step`: they will be made again."""
        self._metrics.rewind(step)

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write the resume point of `step`, aside and then renamed."""
        with self._points.save(step) as folder:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / _TENSORS)
            (folder / _STATE).write_text(json.dumps(state), encoding="utf-8")

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest resume point, or None. Raises CheckpointError where it is damaged."""
        point = self._points.latest()
        if point is None:
            return None
        try:
            return load_file(point.path / _TENSORS), json.loads((point.path / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"the resume point {point.path} cannot be read: {error}") from None
