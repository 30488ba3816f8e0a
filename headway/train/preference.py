"""Learning from pairs: DPO against log-probs of a frozen reference, computed once before the first step.

    loss of a step = mean over its pairs of  -log sigmoid( beta [ (lw - rw) - (ll - rl) ] )  [+ alpha * NLL of the chosen]

and its relatives (`losses.dpo`). What a pair's documents begin with in common, the prompt and often more, is computed once;
they learn the completion only. It does not know what made one better, nor where the reference's log-probs are kept (`reference`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headway.model.transformer import Decoder
from headway.stage_config import DpoConfig
from headway.train.batching import Document, Flat, common_inputs, flatten, micro_batches
from headway.train.collapse import WINDOW, collapse
from headway.train.likelihood import document_logprobs
from headway.train.losses import dpo, sequence_sums
from headway.train.reference import Reference, Show
from headway.train.sharding import learner, own_share


@dataclass(frozen=True, slots=True)
class DocumentPair:
    """A chosen and a rejected document of one prompt."""

    chosen: Document
    rejected: Document

    @property
    def num_tokens(self) -> int:
        """Tokens of both, a common beginning counted once."""
        both = len(self.chosen.ids) + len(self.rejected.ids)
        return both - (common_inputs(self.chosen, self.rejected) if self.chosen.prompt == self.rejected.prompt else 0)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs laid end to end: chosen documents 0 .. n-1, rejected ones n .. 2n-1; reference log-probs [2n]."""

    flat: Flat
    numbers: tuple[int, ...]
    reference: Tensor
    lengths: Tensor  # target tokens of each document, float32 [2n]


class Preference:
    """The objective of rollout DPO (see `fit.Objective`). The model's weights at construction are the reference."""

    def __init__(
        self,
        model: Decoder,
        pairs: Sequence[DocumentPair],
        batches: Callable[[], Iterator[Sequence[int]]],
        config: DpoConfig,
        reference: Tensor,
    ):
        assert reference.shape == (len(pairs), 2), "reference log-probs are one a document"
        self._model, self._pairs, self._make_batches, self._config = model, pairs, batches, config
        self._reference = reference
        self.max_tokens = config.micro_batch_tokens
        self._stream = batches()
        self._position = 0
        self._now: list[int] = []  # the step's pairs
        self._total = 1
        self._tokens = 1, 1  # of the step's chosen and of its rejected completions
        self._margins: list[float] = []  # of the last steps, with the chosen log-probs' distance to the reference
        self._shifts: list[float] = []
        self._is_alarmed = False

    def updates(self, step: int) -> Iterable[list[PairBatch]]:
        """One update: the step's pairs in micro-batches."""
        if step != self._position:
            self._stream = islice(self._make_batches(), step, None)
        self._position = step + 1
        numbers = self._now = list(next(iter(self._stream)))
        self._total = len(numbers)
        sides = ((self._pairs[i].chosen.num_targets, self._pairs[i].rejected.num_targets) for i in numbers)
        chosen, rejected = zip(*sides, strict=True)
        self._tokens = sum(chosen), sum(rejected)
        yield self.again()

    def again(self) -> list[PairBatch]:
        """The step's pairs, of several ranks this one's share, in micro-batches."""
        own = [self._now[i] for i in own_share([self._pairs[i].num_tokens for i in self._now])]
        parts = micro_batches([self._pairs[i].num_tokens for i in own], self.max_tokens)
        return [pair_batch(self._pairs, [own[i] for i in part], self._reference, self._model.device) for part in parts]

    def loss(self, micro: PairBatch) -> tuple[Tensor, dict[str, float]]:
        """The micro-batch's share of the mean loss a pair."""
        config, n = self._config, len(micro.numbers)
        sums = sequence_sums(document_logprobs(learner(self._model), micro.flat), micro.flat.owner, micro.flat.num_documents)
        by_token = config.length_normalised or config.loss == "ipo"
        scale = micro.lengths if by_token else torch.ones_like(micro.lengths)
        policy, reference = sums / scale, micro.reference / scale
        loss, terms = dpo(
            *(policy[:n], policy[n:], reference[:n], reference[n:]),
            *(config.beta, self._total, config.loss, config.label_smoothing),
        )
        if config.nll_weight:
            loss = loss - config.nll_weight * sums[:n].sum() / self._tokens[0]
        margins = terms.chosen_rewards - terms.rejected_rewards
        above = sums.detach() - micro.reference
        pairs, (chosen, rejected) = self._total, self._tokens
        shares = {  # each a sum over the micro-batch, and what it is divided by
            "pair_accuracy": ((margins > 0).float().sum(), pairs),
            "margin": (margins.sum(), pairs),
            "chosen_reward": (terms.chosen_rewards.sum(), pairs),
            "rejected_reward": (terms.rejected_rewards.sum(), pairs),
            "chosen_logprob": (sums[:n].detach().sum(), pairs),
            "rejected_logprob": (sums[n:].detach().sum(), pairs),
            "chosen_shift": (above[:n].sum(), chosen),
            "rejected_shift": (above[n:].sum(), rejected),
            "chosen_tokens": (micro.lengths[:n].sum(), pairs),
            "rejected_tokens": (micro.lengths[n:].sum(), pairs),
        }
        values = torch.stack([value for value, _ in shares.values()]).tolist()  # one wait for the device, not ten
        return loss, {name: value / by for (name, (_, by)), value in zip(shares.items(), values, strict=True)}

    def tokens(self, micro: PairBatch) -> int:
        """Tokens through the model."""
        return micro.flat.num_tokens

    def finish_step(self, step: int, row: dict[str, Any]) -> bool:
        """Look whether the chosen log-probs collapse: `alarm` in the row where they begin to."""
        self._margins = [*self._margins, row["margin"]][-2 * WINDOW :]
        self._shifts = [*self._shifts, row["chosen_shift"]][-WINDOW:]
        message = collapse(self._margins, self._shifts)
        if message and not self._is_alarmed:
            row["alarm"] = message
        self._is_alarmed = message is not None
        return False

    def state(self) -> dict[str, Any]:
        """What the alarm remembers; batches are a function of the step."""
        return {"margins": self._margins, "shifts": self._shifts, "is_alarmed": self._is_alarmed}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self._margins, self._shifts, self._is_alarmed = state["margins"], state["shifts"], state["is_alarmed"]

    def kept_tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}


def pair_batch(pairs: Sequence[DocumentPair], numbers: Sequence[int], reference: Tensor, device: torch.device) -> PairBatch:
    """Lay the pairs with these numbers end to end."""
    documents = [pairs[i].chosen for i in numbers] + [pairs[i].rejected for i in numbers]
    known = torch.cat([reference[list(numbers), 0], reference[list(numbers), 1]]).to(device)
    lengths = torch.tensor([float(d.num_targets) for d in documents], device=device)
    return PairBatch(flatten(documents, device), tuple(numbers), known, lengths)


def reference_logprobs(
    model: Decoder, pairs: Sequence[DocumentPair], *, cache: Path | None = None, show: Show = lambda done, total, numbers: None
) -> Tensor:
    """Sequence log-probs of every pair under the model as it is: float32 [pairs, 2] (chosen, rejected).

    With a `cache` folder what it holds is not computed again, and what is computed is kept there; the bytes are the same.
    """
    documents = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    return torch.cat(Reference(model, cache, show=show).logprobs(documents)).view(-1, 2)
