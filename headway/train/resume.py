"""A stage's resume points as tensors: what `fit` writes now and then, and reads when it starts.

    save   tensors in shards of about 1 GiB, each copied to the CPU, written and let go   -> state.json -> manifest, rename
    load   one tensor at a time, copied out of the file; no file stays open or mapped

So a save holds one shard more than the training does (nothing more where the tensors are on the CPU already), and a load one
tensor. It joins a run's folder (which knows files, not tensors) with safetensors. It does not know what the tensors are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headway.checkpoints import ResumePoint
from headway.durable import refusing
from headway.errors import CheckpointError
from headway.ranks import first, first_inside, rank
from headway.runs import Run
from headway.train.shards import whole

SHARD_BYTES = 2**30
_ONE, _SHARD, _STATE = "tensors.safetensors", "tensors-{:05d}-of-{:05d}.safetensors", "state.json"
_HEADER = 256  # bytes of a file's header a tensor, at most about: its name, type, shape and place


class Tensors(Mapping[str, Tensor]):
    """The tensors of a whole resume point by name. Each look reads one from the disk into memory of its own."""

    def __init__(self, point: ResumePoint):
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(point.path.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (the file is no mapping)
                    self._files[name], self.shapes[name] = path, tuple(file.get_slice(name).get_shape())
        if not self._files:
            raise FileNotFoundError(f"it holds no {_ONE}")

    def __getitem__(self, name: str) -> Tensor:
        """Copied: what safetensors gives is the file itself, mapped, which would hold the disk's space after its removal."""
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name).clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class Below(Mapping[str, Tensor]):
    """Those of `tensors` whose names begin with `prefix`, by the rest of their names; each is still read when it is looked at."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str):
        self._tensors, self._prefix = tensors, prefix
        self._names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class StageFolder:
    """The metric rows and resume points of one stage of a run."""

    def __init__(self, run: Run, stage: str):
        self._metrics, self._points = run.metrics(stage), run.checkpoints(stage)
        self._clock = run.clock(stage)
        self.path: Path = self._points.folder

    def log(self, row: dict[str, Any]) -> None:
        """Append one step's metrics."""
        first(lambda: self._metrics.append(row))

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after `step`: they will be made again."""
        first(lambda: self._metrics.rewind(step))

    def need_room(self, tensors: Iterable[Tensor]) -> None:
        """RunError, before any work, where resume points of `tensors` do not fit on the disk."""
        size = _bytes(tensors)
        first(lambda: self._points.need_room(size))

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], kept: int = 2) -> float:
        """Write the resume point of `step`, aside and then renamed; the seconds that it took. All but the last `kept` go.

        RunError, with the points before untouched, where the disk is full; its space is looked up first. Of several ranks the
        first writes, and the others give their parts of its tensors.
        """
        started = time.monotonic()
        text = json.dumps(state).encode("utf-8")
        with first_inside(self._points.save(step, _bytes(tensors.values()) + len(text), kept)) as folder:
            parts = shards({name: tensor.nbytes for name, tensor in tensors.items()})
            for number, names in enumerate(parts, start=1):
                path = folder / (_ONE if len(parts) == 1 else _SHARD.format(number, len(parts)))
                part = {name: _on_first(tensors[name].detach()) for name in names}
                first(partial(self._write, step, save_file, part, path))
            first(partial(self._write, step, Path.write_bytes, folder / _STATE, text))
        return time.monotonic() - started

    def _write(self, step: int, write: Callable[..., Any], *what: Any) -> None:
        """Write a file of the point of `step`; where the disk refuses, all ranks are told so in the same line."""
        with refusing(self.path / f"step-{step:06d}"):
            write(*what)

    def load(self) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest resume point, or None. Raises CheckpointError where it is damaged."""
        point = self._points.latest()
        if point is None:
            return None
        try:
            return Tensors(point), json.loads((point.path / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError) as error:
            reason = CheckpointError(f"the resume point {point.path} cannot be read: {error}")
            raise self._points.refusal(reason, point) from None


def _on_first(tensor: Tensor) -> Tensor:
    """The whole tensor on rank 0, in the host's memory; nothing of it on the others."""
    found = whole(tensor)
    return found.cpu().contiguous() if rank() == 0 else found[:0] if found.dim() else found


def shards(sizes: Mapping[str, int], limit: int = 0) -> list[list[str]]:
    """Names in order, cut where the bytes of a part would pass `limit` (`SHARD_BYTES`); a larger one is a part of its own.

    >>> shards({"a": 3, "b": 3, "c": 9, "d": 1}, limit=6)
    [['a', 'b'], ['c'], ['d']]
    """
    parts: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if parts[-1] and filled + size > (limit or SHARD_BYTES):
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def _bytes(tensors: Iterable[Tensor]) -> int:
    """What they take on the disk."""
    return sum(tensor.nbytes + _HEADER for tensor in tensors)
