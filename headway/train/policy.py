"""Learning from rewards: a policy gradient over the very tokens that were sampled.

    loss of an update = surrogate(rho, A) [+ kl_coef sum_t w_t k_t],     rho_t = p(token | now) / p(token | when sampled)

Which surrogate, ratio, normaliser and KL is the recipe's choice (docs/rl.md). "When sampled" is what the sampler recorded: it
samples from the trainer's own weights, so these are the step's start, and nothing is computed again. With `tis_cap` the ratio
is to the trainer's own log-probs of the step's start, and the rest of the way to the sampler's is a capped weight. Log-probs are
taken at the temperature of the sampling. This file asks for each step's trajectories through a function and does not know
problems, rewards or how groups were chosen.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from headway.model.transformer import Decoder
from headway.stage_config import RlConfig
from headway.train.batching import Document, Flat, flatten, micro_batches_by_prompt
from headway.train.frozen import fixed_logprobs
from headway.train.likelihood import document_logprobs, document_logprobs_and_entropy
from headway.train.policy_losses import (
    Clipped,
    clipped_surrogate,
    kl_estimate,
    kl_penalty,
    reinforce,
    sequence_log_ratio,
    token_log_ratio,
    token_weights,
    truncated_weights,
    weighted_surrogate,
)
from headway.train.sharding import collect, largest, learner, own_documents


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A sampled completion to learn from.

    Example: ``Trajectory(Document((5, 9, 31, 1), first_target=2), sampler_logprobs=(-0.7, -0.02), advantage=1.0)``

    `sampler_logprobs[i]` belongs to target token i, in nats, at the sampling temperature; so does `reference_logprobs[i]`, of
    the reference, which is () where the recipe has no KL.
    """

    document: Document
    sampler_logprobs: tuple[float, ...]
    advantage: float
    reference_logprobs: tuple[float, ...] = ()


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
    sampler: Tensor
    start: Tensor  # the trainer's log-probs of the step's start; [0] where they are this very forward pass's, or not needed
    reference: Tensor  # [0] without KL
    advantages: Tensor
    weights: Tensor
    share: float  # of the update's learned tokens


class PolicyGradient:
    """The objective of RL (see `fit.Objective`)."""

    def __init__(self, model: Decoder, sampling: Sampling, config: RlConfig, keeps_all: bool = False):
        """`keeps_all` lays out trajectories without an advantage, too: batches that are only looked at."""
        self._model, self._sampling, self._config, self._keeps_all = model, sampling, config, keeps_all
        self.max_tokens = config.micro_batch_tokens
        self._now: tuple[list[Trajectory], list[Tensor]] = [], []  # the update's, and their log-probs at the start of the step
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
        """Sample, then one update a minibatch, epoch by epoch. A step that teaches nothing has no update.

        A trajectory without an advantage is left out, of the model and of the normaliser, unless a KL in the loss needs it.
        """
        collect(self._model)  # which samples
        sampled, config = self._sampling.sample(step), self._config
        self._temperature, self._numbers, self._gap = sampled.temperature, dict(sampled.numbers), 0.0
        is_needed = self._keeps_all or (bool(config.kl_coef) and config.kl != "k1")
        trajectories = [t for t in sampled.trajectories if t.advantage or is_needed]
        updates = _minibatches(len(trajectories), config.minibatches, config.epochs_per_batch, step)
        documents = [t.document for t in trajectories]
        start = [torch.empty(0)] * len(trajectories)
        if config.tis_cap and len(updates) > 1:
            start = fixed_logprobs(self._model, documents, self.max_tokens, self._temperature)
        for number, chosen in enumerate(updates):
            self._first_update = number == 0
            self._now = [trajectories[i] for i in chosen], [start[i] for i in chosen]
            yield self.again()

    def again(self) -> list[PolicyBatch]:
        """The update's trajectories (of several ranks, a share) in micro-batches; what they showed before is forgotten."""
        if self._first_update:
            self._gap, self._gaps = 0.0, {}
        return self._batches(*self._now)

    def _batches(self, trajectories: Sequence[Trajectory], start: Sequence[Tensor]) -> list[PolicyBatch]:
        """An update's micro-batches, of several ranks this one's; what they are divided by is the whole update's."""
        config = self._config
        lengths = [t.document.num_targets for t in trajectories]
        constant = config.prompts * config.group_size * config.max_tokens / config.minibatches
        weights = token_weights(config.loss_level, lengths, constant)
        documents = [t.document for t in trajectories]
        own = own_documents(documents)
        parts = micro_batches_by_prompt([documents[i] for i in own], self.max_tokens)
        return [self._lay_out(trajectories, start, weights, [own[i] for i in part], sum(lengths)) for part in parts]

    def _lay_out(
        self, every: Sequence[Trajectory], start: Sequence[Tensor], weights: Sequence[float], part: Sequence[int], tokens: int
    ) -> PolicyBatch:
        device = self._model.device
        trajectories = [every[i] for i in part]
        lengths = [t.document.num_targets for t in trajectories]

        def spread(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device).repeat_interleave(torch.tensor(lengths, device=device))

        return PolicyBatch(
            flatten([t.document for t in trajectories], device),
            torch.tensor([lp for t in trajectories for lp in t.sampler_logprobs], device=device),
            torch.cat([start[i] for i in part]),
            torch.tensor([lp for t in trajectories for lp in t.reference_logprobs], device=device),
            spread([t.advantage for t in trajectories]),
            spread([weights[i] for i in part]),
            sum(lengths) / tokens,
        )

    def loss(self, micro: PolicyBatch) -> tuple[Tensor, dict[str, float]]:
        """The micro-batch's share of the update's loss."""
        config, numbers = self._config, dict[str, Tensor]()
        if config.log_entropy:
            logprobs, entropy = document_logprobs_and_entropy(learner(self._model), micro.flat, self._temperature)
            numbers["entropy"] = entropy.sum()
        else:
            logprobs = document_logprobs(learner(self._model), micro.flat, self._temperature)
        if self._first_update and config.log_gap:
            gaps = (logprobs.detach() - micro.sampler).abs()
            self._gap = max(self._gap, float(gaps.max()))
            for name, gap in gaps_by_place(gaps, micro.flat.owner).items():
                self._gaps[name] = max(self._gaps.get(name, 0.0), gap)
        old, weights = micro.sampler, micro.weights
        if config.tis_cap:
            old = micro.start if len(micro.start) else logprobs.detach()
            factors, capped = truncated_weights(old, micro.sampler, config.tis_cap)
            weights = weights * factors
            numbers["tis_capped"] = capped.sum()
        loss, clipped = self._surrogate(micro, logprobs, old, weights)
        if clipped is not None:
            numbers |= {"clipped": clipped.high + clipped.low, "clipped_high": clipped.high, "clipped_low": clipped.low}
        fixed = logprobs.detach()
        numbers["kl"] = kl_estimate("k3", micro.sampler, fixed).sum()
        if config.kl_coef:
            assert len(micro.reference) == len(logprobs), "a KL needs the reference's log-probs of every trajectory"
            numbers["kl_reference"] = kl_estimate("k3", fixed, micro.reference).sum()
            if config.kl != "k1":
                loss = loss + config.kl_coef * kl_penalty(config.kl, logprobs, micro.reference, micro.weights)
        share = micro.share / max(1, len(logprobs))
        return loss, {name: float(value) * share for name, value in numbers.items()}

    def _surrogate(self, micro: PolicyBatch, logprobs: Tensor, old: Tensor, weights: Tensor) -> tuple[Tensor, Clipped | None]:
        """The recipe's surrogate on a micro-batch; None where nothing can be clipped."""
        config = self._config
        if config.surrogate == "reinforce":
            return reinforce(logprobs, micro.advantages, weights), None
        log_ratio = token_log_ratio(logprobs, old, weights)
        if config.ratio_level == "sequence":
            log_ratio = sequence_log_ratio(log_ratio, weights, micro.flat.owner, micro.flat.num_documents)
        if config.surrogate == "weight":
            return weighted_surrogate(logprobs, log_ratio, micro.advantages, weights, config.clip_low, config.clip_high)
        return clipped_surrogate(log_ratio, micro.advantages, weights, config.clip_low, config.clip_high)

    def tokens(self, micro: PolicyBatch) -> int:
        """Tokens through the model."""
        return micro.flat.num_tokens

    def finish_step(self, step: int, row: dict[str, Any]) -> bool:
        """Add the sampling's numbers."""
        row.update(self._numbers)
        row["temperature"] = self._temperature
        if self._config.log_gap:
            row |= largest({"gap_max": self._gap, **self._gaps})
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


def _minibatches(trajectories: int, minibatches: int, epochs: int, step: int) -> list[list[int]]:
    """Which trajectories each update of a step learns from: every one once an epoch, later epochs parted anew (by step)."""
    parts = min(minibatches, trajectories)
    updates: list[list[int]] = []
    for epoch in range(epochs):
        order = list(range(trajectories))
        if epoch and parts > 1:
            random.Random(f"{step}/{epoch}").shuffle(order)
        updates += [order[number::parts] for number in range(parts)]
    return updates


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
