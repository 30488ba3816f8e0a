"""Learning from rewards: the clipped policy gradient over the very tokens that were sampled.

    loss of an update = - sum_t w_t min( rho_t A, clip(rho_t) A ),   rho_t = p(token | now) / p(token | when sampled)

Log-probs are taken at the temperature of the sampling. It asks for each step's trajectories through a function and does
not know problems, rewards or how groups were chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from headway.config import RlConfig
from headway.model.transformer import Decoder
from headway.train.batching import Document, Flat, flatten, micro_batches_by_prompt
from headway.train.likelihood import document_logprobs
from headway.train.losses import clipped_policy_gradient


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A sampled completion to learn from.

    Example: ``Trajectory(Document((5, 9, 31, 1), first_target=2), sampler_logprobs=(-0.7, -0.02), advantage=1.0)``

    `sampler_logprobs[i]` belongs to target token i, in nats, at the sampling temperature.
    """

    document: Document
    sampler_logprobs: tuple[float, ...]
    advantage: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """A step's trajectories, the temperature they were sampled at, and numbers about the sampling for the metrics."""

    trajectories: Sequence[Trajectory]
    temperature: float
    numbers: dict[str, float]


class Sampling(Protocol):
    """Where trajectories come from; its state is plain JSON."""

    def sample(self, step: int) -> Sampled:
        """Fresh trajectories of the policy at `step`."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """Trajectories laid end to end, each prompt once; every tensor but `flat`'s is float32 [N], one number a learned token."""

    flat: Flat
    old: Tensor
    advantages: Tensor
    weights: Tensor
    share: float  # of the update's learned tokens


class PolicyGradient:
    """The objective of RL (see `fit.Objective`)."""

    def __init__(self, model: Decoder, sampling: Sampling, config: RlConfig):
        self._model, self._sampling, self._config = model, sampling, config
        self._temperature = 1.0
        self._gap = 0.0
        self._gaps: dict[str, float] = {}  # by place in the completion
        self._first_update = True
        self._numbers: dict[str, float] = {}

    @property
    def temperature(self) -> float:
        """Of the step's sampling, which the trainer divides its logits by."""
        return self._temperature

    def updates(self, step: int) -> Iterable[list[PolicyBatch]]:
        """Sample, then one update a minibatch. A step whose groups all agree teaches nothing and has no update."""
        sampled = self._sampling.sample(step)
        self._temperature, self._numbers, self._gap = sampled.temperature, dict(sampled.numbers), 0.0
        self._gaps = {}
        trajectories = list(sampled.trajectories)
        parts = min(self._config.minibatches, len(trajectories))
        for number in range(parts):
            self._first_update = number == 0
            yield self._batches(trajectories[number::parts])

    def _batches(self, trajectories: Sequence[Trajectory]) -> list[PolicyBatch]:
        tokens = sum(t.document.num_targets for t in trajectories)
        parts = micro_batches_by_prompt([t.document for t in trajectories], self._config.micro_batch_tokens)
        return [self._lay_out([trajectories[i] for i in part], tokens, len(trajectories)) for part in parts]

    def _lay_out(self, trajectories: Sequence[Trajectory], tokens: int, sequences: int) -> PolicyBatch:
        device = self._model.device
        by_token = self._config.loss_level == "token"
        lengths = [t.document.num_targets for t in trajectories]
        weights = [1 / tokens if by_token else 1 / (sequences * n) for n in lengths]

        def spread(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device).repeat_interleave(torch.tensor(lengths, device=device))

        return PolicyBatch(
            flatten([t.document for t in trajectories], device),
            torch.tensor([lp for t in trajectories for lp in t.sampler_logprobs], device=device),
            spread([t.advantage for t in trajectories]),
            spread(weights),
            sum(lengths) / tokens,
        )

    def loss(self, micro: PolicyBatch) -> tuple[Tensor, dict[str, float]]:
        """The micro-batch's share of the update's loss."""
        logprobs = document_logprobs(self._model, micro.flat, self._temperature)
        config = self._config
        loss, terms = clipped_policy_gradient(
            logprobs, micro.old, micro.advantages, micro.weights, config.clip_low, config.clip_high
        )
        learned = len(logprobs)
        if self._first_update and config.log_gap:
            gaps = (logprobs.detach() - micro.old).abs()
            self._gap = max(self._gap, float(gaps.max()))
            for name, gap in gaps_by_place(gaps, micro.flat.owner).items():
                self._gaps[name] = max(self._gaps.get(name, 0.0), gap)
        share = micro.share / max(1, learned)
        return loss, {"clipped": float(terms.clipped) * share, "kl": float(terms.kl) * share}

    def tokens(self, micro: PolicyBatch) -> int:
        """Tokens through the model."""
        return micro.flat.num_tokens

    def finish_step(self, step: int, row: dict[str, Any]) -> bool:
        """Add the sampling's numbers."""
        row.update(self._numbers)
        row["temperature"] = self._temperature
        if self._config.log_gap:
            row["gap_max"] = self._gap
            row.update(self._gaps)
        return False

    def state(self) -> dict[str, Any]:
        """The sampling's state."""
        return self._sampling.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Put back the sampling's state."""
        self._sampling.restore({key: value for key, value in state.items() if key != "tensors"})

    def kept_tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}


GAP_PLACES = (0, 16, 64, 256, 1024, 4096, 16_384)  # where in a completion its bins of tokens begin


def gaps_by_place(gaps: Tensor, owner: Tensor) -> dict[str, float]:
    """`gap_at_N`: the largest of gaps [N] among a completion's tokens from place N up to the next bin; owner [N] ascends."""
    place = torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)
    found: dict[str, float] = {}
    for start, end in zip(GAP_PLACES, (*GAP_PLACES[1:], 2**62), strict=True):
        inside = gaps[(place >= start) & (place < end)]
        if len(inside):
            found[f"gap_at_{start}"] = float(inside.max())
    return found
