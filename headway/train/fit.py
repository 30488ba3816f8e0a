"""The only training loop. A stage hands it an objective: what a step's batches are, and their loss.

    for step:  for update in objective.updates(step):  for micro in update:  loss(micro).backward();   AdamW
               row of metrics;  objective.finish_step;  now and then a resume point

A resume point holds weights, optimizer, step and the objective's own state; batches are functions of (seed, step), so a run that
was killed goes on with the same bytes. It does not know stages, rollouts or rewards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from headway.config import StageConfig
from headway.errors import CheckpointError
from headway.model.transformer import Decoder
from headway.train.health import RATIO_EVERY, Movement
from headway.train.optim import Optimizer, learning_rate, load_optimizer, make_optimizer, optimizer_tensors, update
from headway.train.resume import StageFolder
from headway.watchdog import at

Micro = TypeVar("Micro")


class Objective(Protocol[Micro]):
    """What a stage teaches."""

    def updates(self, step: int) -> Iterable[Sequence[Micro]]:
        """The optimizer updates of one step, each a list of micro-batches whose losses add up to the step's loss."""
        ...

    def loss(self, micro: Micro) -> tuple[Tensor, dict[str, float]]:
        """The micro-batch's share of the loss, and numbers that add up over the update's micro-batches to metrics."""
        ...

    def tokens(self, micro: Micro) -> int:
        """Useful tokens that the micro-batch sends through the model."""
        ...

    def finish_step(self, step: int, row: dict[str, Any]) -> bool:
        """Look at the step's metrics, add to them; True ends the training here."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resume needs beside weights and step: plain JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        ...

    def kept_tensors(self) -> dict[str, Tensor]:
        """Tensors that a resume needs beside the weights (a best checkpoint so far)."""
        ...


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a training did: steps done, useful tokens sent through forward and backward, and what the stage adds."""

    steps: int
    train_tokens: int
    notes: dict[str, Any] = field(default_factory=dict[str, Any])


Show = Callable[[int, int, dict[str, Any]], None]  # (steps done, steps in all, the step's row)


def fit(model: Decoder, objective: Objective[Any], config: StageConfig, steps: int, folder: StageFolder, show: Show) -> Fitted:
    """Train `model` in place for `steps` steps, or until the objective ends it; resumes from `folder` if it can.

    Raises FloatingPointError when a gradient is not finite: the weights are then those before that step.
    """
    optimizer = make_optimizer(model, config.optimizer)
    step, tokens, ended = _resume(model, optimizer, objective, folder)
    saved_at = time.monotonic()
    while step < steps and not ended:
        started = time.monotonic()
        movement = Movement(model) if step % RATIO_EVERY == 0 else None
        with at("update"):
            row, seen = _one_step(model, optimizer, objective, config, step, steps)
        row |= movement.ratios(model) if movement else {}
        tokens += seen
        step += 1
        ended = objective.finish_step(step, row)
        row["tokens"] = tokens
        row["seconds"] = round(time.monotonic() - started, 4)
        row["tokens_per_s"] = round(seen / max(1e-9, time.monotonic() - started), 1)
        folder.log(row)
        show(step, steps, row)
        if ended or step == steps or time.monotonic() - saved_at > config.checkpoint_seconds:
            with at("saving"):
                _save(model, optimizer, objective, folder, step, tokens, ended)
            saved_at = time.monotonic()
    return Fitted(step, tokens)


def _one_step(
    model: Decoder, optimizer: Optimizer, objective: Objective[Any], config: StageConfig, step: int, steps: int
) -> tuple[dict[str, Any], int]:
    """One step: its updates, and the row of metrics (means over updates)."""
    rate = learning_rate(config.optimizer, step, steps)
    sums: dict[str, float] = {}
    norms: list[float] = []
    seen = 0
    model.train()
    for micros in objective.updates(step):
        for micro in micros:
            with autocast(model):
                loss, numbers = objective.loss(micro)
            loss.backward()
            seen += objective.tokens(micro)
            for name, value in {"loss": float(loss.detach()), **numbers}.items():
                sums[name] = sums.get(name, 0.0) + value
        norms.append(update(optimizer, model, rate, config.optimizer.clip_norm))
    row: dict[str, Any] = {"step": step + 1, "lr": rate}
    row |= {name: value / max(1, len(norms)) for name, value in sums.items()}
    row["grad_norm"] = sum(norms) / max(1, len(norms))
    return row, seen


def autocast(model: Decoder) -> torch.autocast:
    """bfloat16 products on CUDA over float32 master weights; float32 elsewhere."""
    cuda = model.device.type == "cuda"
    return torch.autocast("cuda" if cuda else "cpu", dtype=torch.bfloat16, enabled=cuda)


def _save(
    model: Decoder,
    optimizer: Optimizer,
    objective: Objective[Any],
    folder: StageFolder,
    step: int,
    tokens: int,
    ended: bool,
) -> None:
    weights = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    moments = {f"optimizer.{name}": value for name, value in optimizer_tensors(optimizer, model).items()}
    extra = {f"objective.{name}": value for name, value in objective.kept_tensors().items()}
    state = {"step": step, "tokens": tokens, "ended": ended, "objective": objective.state()}
    folder.save(step, weights | moments | extra, state)


def _resume(model: Decoder, optimizer: Optimizer, objective: Objective[Any], folder: StageFolder) -> tuple[int, int, bool]:
    """Load the newest resume point into model, optimizer and objective: (step, tokens, ended); zeros if there is none."""
    found = folder.load()
    if found is None:
        folder.rewind(0)
        return 0, 0, False
    tensors, state = found
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "objective": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    own = dict(model.named_parameters())
    if own.keys() != parts["model"].keys() or any(own[n].shape != t.shape for n, t in parts["model"].items()):
        raise CheckpointError(f"the resume point in {folder.path} is of another model")
    with torch.no_grad():
        for name, value in parts["model"].items():
            own[name].copy_(value)
    load_optimizer(optimizer, model, parts["optimizer"])
    objective.restore(state["objective"] | {"tensors": parts["objective"]})
    folder.rewind(state["step"])
    return state["step"], state["tokens"], state["ended"]
