"""Rows of metrics, sent as they are logged to what people watch training with: TensorBoard, Weights & Biases, trackio.

    row {"step": 12, "loss": 0.4}  of stage sft   -->   sft/loss = 0.4 at step 12

The rows in the run's folder are the record; trackers get copies. Which rows a tracker has is kept beside it
(`tracking/NAME.jsonl`), so that a run that is killed and makes rows again does not send them twice, and a tracker that joins
later is told what came before. A tracker that fails stops, the training does not. Each package is needed only where the recipe
names it. It does not know what the numbers mean.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from headway.errors import ConfigError
from headway.journal import Metrics
from headway.watchdog import at

_INSTALL = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


class Tracker(Protocol):
    """Where rows go."""

    def send(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """Take one row's numbers."""
        ...

    def close(self) -> None:
        """Write out what is waiting."""
        ...


class TensorBoard:
    """Event files in `folder`; every row is flushed, so that a kill loses none that counts as sent."""

    def __init__(self, folder: Path):
        module = _package("tensorboard", "torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(folder))

    def send(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """One scalar a number, under STAGE/NAME."""
        for name, value in numbers.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases whose id is the run's fingerprint, so that a resume goes on in it; its files are in `folder`.
    Its own settings, such as WANDB_PROJECT or WANDB_MODE=offline, hold.
    """

    def __init__(self, folder: Path, run: str, identity: str, recipe: Mapping[str, Any]):
        module = _package("wandb", "wandb")
        more = {} if "WANDB_QUIET" in os.environ else {"settings": module.Settings(quiet=True)}
        self._run = module.init(
            project=None if os.environ.get("WANDB_PROJECT") else "headway",
            name=run,
            id=identity,
            resume="allow",
            dir=str(folder),
            config=dict(recipe),
            **more,
        )
        self._stages: set[str] = set()

    def send(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """One row; each stage has a step axis of its own."""
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in numbers.items()})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Trackio:
    """A run of trackio, which goes on under its name."""

    def __init__(self, run: str, recipe: Mapping[str, Any]):
        self._module = _package("trackio", "trackio")
        self._module.init(project="headway", name=run, config=dict(recipe), resume="allow")

    def send(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """One row; trackio counts its own steps, so the stage's is a number of the row."""
        self._module.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in numbers.items()})

    def close(self) -> None:
        """Finish the run."""
        self._module.finish()


def _package(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"'track' names {name!r}, which is not installed: pip install {_INSTALL[name]}, or leave it out"
        ) from None


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError where a named tracker's package is missing, before any work."""
    for name in names:
        _package(name, "torch.utils.tensorboard" if name == "tensorboard" else name)


class Tracking:
    """The trackers of a run, opened at the first row, and what each has."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        run: str,
        identity: str,
        recipe: Mapping[str, Any],
        say: Callable[[str], None] = lambda note: None,
    ):
        self._opens: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: TensorBoard(folder / "tensorboard"),
            "wandb": lambda: WandB(folder, run, identity, recipe),
            "trackio": lambda: Trackio(run, recipe),
        }
        self._names, self._folder, self._say = list(dict.fromkeys(names)), folder, say
        self._open: dict[str, Tracker] = {}
        self._sent: dict[str, Metrics] = {}
        self._last: dict[tuple[str, str], int] = {}  # (tracker, stage) -> the last step that it has
        self._joined: set[tuple[str, str]] = set()  # those that were told what came before

    def send(self, stage: str, row: Mapping[str, Any], earlier: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Send a row of `stage` to every tracker that does not have it; first the `earlier()` rows that a tracker lacks.

        Whatever a tracker raises ends the tracker, with a line, and not the training.
        """
        for name in list(self._names):
            with self._spared(name):
                if name not in self._open:
                    self._begin(name)
                if (name, stage) not in self._joined:
                    self._joined.add((name, stage))
                    self._last.setdefault((name, stage), 0)
                    for before in earlier():
                        if before["step"] < row["step"]:
                            self._send_to(name, stage, before)
                self._send_to(name, stage, row)

    @contextmanager
    def _spared(self, name: str) -> Iterator[None]:
        """What the tracker `name` raises inside is said in one line; it gets no more rows in this process."""
        try:
            with at(name):
                yield
        except Exception as error:  # a package of others may raise anything
            self._names.remove(name)
            broken = self._open.pop(name, None)
            with suppress(Exception):
                if broken is not None:
                    broken.close()
            cause = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            self._say(f"{name} fails and gets no more rows ({cause}); the run goes on, and its next start sends what is missing")

    def close(self) -> None:
        """Let all trackers write out what is waiting."""
        for name, tracker in list(self._open.items()):
            with self._spared(name):
                tracker.close()
        for sent in self._sent.values():
            sent.close()
        self._open.clear()
        self._joined.clear()

    def _begin(self, name: str) -> None:
        self._open[name] = self._opens[name]()
        self._sent[name] = Metrics(self._folder / "tracking" / f"{name}.jsonl")
        for row in self._sent[name].rows():
            key = name, str(row["stage"])
            self._last[key] = max(self._last.get(key, 0), row["step"])

    def _send_to(self, name: str, stage: str, row: Mapping[str, Any]) -> None:
        step = int(row["step"])
        if step <= self._last[name, stage]:
            return
        self._open[name].send(stage, step, numbers_of(row))
        self._sent[name].append({"stage": stage, "step": step})
        self._last[name, stage] = step


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row, but for its step.

    >>> numbers_of({"step": 3, "loss": 0.5, "note": "text", "gap": None})
    {'loss': 0.5}
    """
    return {
        name: float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
