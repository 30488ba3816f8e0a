"""The only training loop. A stage hands it an objective: what a step's batches are, and their loss.

    for step:  for update in objective.updates(step):  for micro in update:  loss(micro).backward();   AdamW
               row of metrics;  objective.finish_step;  now and then a resume point

A resume point holds the weights that learn, the optimizer, the step and the objective's own state; the learning rate, batches and
every draw are functions of (seed, step), so a run that was killed goes on with the same bytes. It does not know stages,
rollouts or rewards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from headway.errors import CheckpointError
from headway.machine import keep_freed_memory
from headway.model.adapters import frozen_hash
from headway.model.precision import autocast
from headway.model.transformer import Decoder
from headway.ranks import gather, rank, together
from headway.stage_config import StageConfig
from headway.train.activations import policy_for
from headway.train.budget import lowered, replayed
from headway.train.health import RATIO_EVERY, Movement
from headway.train.optim import (
    Optimizer,
    learning_rate,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
    planned_tensors,
    trained,
    update,
)
from headway.train.resume import Below, StageFolder
from headway.train.sharding import collect, evened, hand_out, idle_loss, learner, moved, release, summed
from headway.watchdog import at

Micro = TypeVar("Micro")


class Objective(Protocol[Micro]):
    """What a stage teaches."""

    max_tokens: int  # of a micro-batch at most (a longer document stands alone); lowered where memory runs out

    def updates(self, step: int) -> Iterable[Sequence[Micro]]:
        """The optimizer updates of one step, each a list of micro-batches whose losses add up to the step's loss."""
        ...

    def again(self) -> Sequence[Micro]:
        """The micro-batches of the update that `updates` gave last, laid out anew under `max_tokens`."""
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

    Where memory runs out, an update is split further and made again (`budget`). Raises FloatingPointError when a gradient is not
    finite: the weights are then those before that step; MemoryError where a single document does not fit.
    """
    keep_freed_memory()
    optimizer = make_optimizer(learner(model), config.optimizer)
    frozen = frozen_hash(model)
    model.recompute = learner(model).recompute = policy_for(model, config)
    with together():
        step, tokens, ended = _resume(model, optimizer, objective, folder, frozen)
    folder.rewind(step)
    hand_out(model)
    if step < steps and not ended:
        folder.need_room(planned_tensors(optimizer, learner(model)))
    saved_at, pause, took = time.monotonic(), config.checkpoint_seconds, 0.0
    while step < steps and not ended:
        started, allowed = time.monotonic(), objective.max_tokens
        movement = _movement(model) if step % RATIO_EVERY == 0 else None
        with at("update"):
            row, seen = _one_step(model, optimizer, objective, config, step, steps)
        if movement is not None:
            collect(model)
            row |= movement.ratios(model)
        if objective.max_tokens < allowed:
            row["micro_batch_tokens"] = objective.max_tokens
        tokens += seen
        step += 1
        ended = objective.finish_step(step, row)
        row["tokens"] = tokens
        row["seconds"] = round(time.monotonic() - started, 4)
        row["tokens_per_s"] = round(seen / max(1e-9, time.monotonic() - started), 1)
        folder.log(row)
        show(step, steps, row | lowered(allowed, objective.max_tokens) | ({"save_seconds": took} if took > 1 else {}))
        if ended or step == steps or gather(time.monotonic() - saved_at > pause)[0]:
            with at("saving"):
                took = _save(model, optimizer, objective, folder, (step, tokens, ended), config.checkpoints_kept, frozen)
            saved_at, pause = time.monotonic(), pause_after(took, config.checkpoint_seconds)
    release(model)
    return Fitted(step, tokens)


def _movement(model: Decoder) -> Movement:
    """Before a step whose movement is measured."""
    collect(model)
    return Movement(model)


def _one_step(
    model: Decoder, optimizer: Optimizer, objective: Objective[Any], config: StageConfig, step: int, steps: int
) -> tuple[dict[str, Any], int]:
    """One step: its updates, and the row of metrics (means over updates)."""
    rate = learning_rate(config.optimizer, step, steps)
    sums: dict[str, float] = {}
    norms: list[float] = []
    seen = 0
    model.train()
    learner(model).train()
    for micros in objective.updates(step):
        sums, tokens = replayed(partial(gradient_of, model, objective, sums), model, objective, micros)
        seen += tokens
        norms.append(update(optimizer, learner(model), rate, config.optimizer.clip_norm))
        moved(model)
    row: dict[str, Any] = {"step": step + 1, "lr": rate}
    row |= {name: value / max(1, len(norms)) for name, value in sums.items()}
    row["grad_norm"] = sum(norms) / max(1, len(norms))
    return row, seen


def gradient_of(
    model: Decoder, objective: Objective[Any], before: dict[str, float], micros: Sequence[Any]
) -> tuple[dict[str, float], int]:
    """Add up the gradient of an update; its numbers added to those `before` it, and its tokens."""
    sums, seen = dict(before) if rank() == 0 else {}, 0
    for micro in evened(micros):
        if micro is None:
            idle_loss(model).backward()
            continue
        with autocast(model):
            loss, numbers = objective.loss(micro)
        loss.backward()
        seen += objective.tokens(micro)
        for name, value in {"loss": float(loss.detach()), **numbers}.items():
            sums[name] = sums.get(name, 0.0) + value
    return summed(sums), sum(gather(seen))


def pause_after(save_seconds: float, checkpoint_seconds: float) -> float:
    """Seconds until the next resume point: as the recipe says, but at least nine times what the last one took.

    So saving takes a tenth of the time at most, unless that would stretch the recipe's pause more than thirtyfold.
    """
    return min(max(checkpoint_seconds, 9 * save_seconds), 30 * checkpoint_seconds)


def _save(
    model: Decoder,
    optimizer: Optimizer,
    objective: Objective[Any],
    folder: StageFolder,
    reached: tuple[int, int, bool],
    kept: int,
    frozen: str,
) -> float:
    """Write the resume point of what is reached (step, tokens, ended), let go of all but the last `kept`; the seconds it took."""
    step, tokens, ended = reached
    weights = {f"model.{name}": p.detach() for name, p in trained(learner(model)).items()}
    moments = {f"optimizer.{name}": value for name, value in optimizer_tensors(optimizer, learner(model)).items()}
    extra = {f"objective.{name}": value for name, value in objective.kept_tensors().items()}
    state: dict[str, Any] = {"step": step, "tokens": tokens, "ended": ended, "objective": objective.state()}
    state["micro_batch_tokens"] = objective.max_tokens
    if frozen:  # adapters learn beside weights that are not in here
        state["frozen"] = frozen
    return folder.save(step, weights | moments | extra, state, kept)


def _resume(
    model: Decoder, optimizer: Optimizer, objective: Objective[Any], folder: StageFolder, frozen: str
) -> tuple[int, int, bool]:
    """Load the newest resume point into model, optimizer and objective: (step, tokens, ended); zeros if there is none.

    Tensors are read one by one and go where they belong, so nothing of the point is held twice. Every rank reads all of it; the
    learner's weights are still to be handed out.
    """
    found = folder.load()
    if found is None:
        return 0, 0, False
    tensors, state = found
    names: dict[str, list[str]] = {"model": [], "optimizer": [], "objective": []}
    for name in tensors:
        part, _, rest = name.partition(".")
        names[part].append(rest)
    if frozen != state.get("frozen", ""):
        raise CheckpointError(f"the resume point in {folder.path} holds adapters of other frozen weights than the model's")
    own = trained(model)
    if own.keys() != set(names["model"]) or any(own[n].shape != tensors.shapes[f"model.{n}"] for n in own):
        raise CheckpointError(f"the resume point in {folder.path} is of another model")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[f"model.{name}"])
    load_optimizer(optimizer, learner(model), Below(tensors, "optimizer."))
    kept = {n: tensors[f"objective.{n}"].to(model.device) for n in names["objective"]}
    objective.restore(state["objective"] | {"tensors": kept})
    objective.max_tokens = min(objective.max_tokens, state.get("micro_batch_tokens", objective.max_tokens))
    return state["step"], state["tokens"], state["ended"]
