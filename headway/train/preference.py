"""Learning from pairs: DPO against log-probs of a frozen reference, computed once before the first step.

    loss of a step = mean over its pairs of  -log sigmoid( beta [ (lw - rw) - (ll - rl) ] )  [+ alpha * NLL of the chosen]

A pair's documents share their prompt, which is computed once, and learn the completion only. It does not know what made one of
them better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from headway.config import DpoConfig
from headway.model.transformer import Decoder
from headway.train.batching import Document, Flat, flatten, micro_batches
from headway.train.likelihood import document_logprobs
from headway.train.losses import dpo, sequence_sums


@dataclass(frozen=True, slots=True)
class DocumentPair:
    """A chosen and a rejected document of one prompt."""

    chosen: Document
    rejected: Document

    @property
    def num_tokens(self) -> int:
        """Tokens of both, a common prompt counted once."""
        both = len(self.chosen.ids) + len(self.rejected.ids)
        return both - (len(self.chosen.prompt) if self.chosen.prompt == self.rejected.prompt else 0)


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
        self._chosen_tokens = 1

    def updates(self, step: int) -> Iterable[list[PairBatch]]:
        """One update: the step's pairs in micro-batches."""
        if step != self._position:
            self._stream = islice(self._make_batches(), step, None)
        self._position = step + 1
        numbers = self._now = list(next(iter(self._stream)))
        self._total = len(numbers)
        self._chosen_tokens = sum(self._pairs[i].chosen.num_targets for i in numbers)
        yield self.again()

    def again(self) -> list[PairBatch]:
        """The step's pairs in micro-batches."""
        parts = micro_batches([self._pairs[i].num_tokens for i in self._now], self.max_tokens)
        return [pair_batch(self._pairs, [self._now[i] for i in part], self._reference, self._model.device) for part in parts]

    def loss(self, micro: PairBatch) -> tuple[Tensor, dict[str, float]]:
        """The micro-batch's share of the mean loss a pair."""
        sums = sequence_sums(document_logprobs(self._model, micro.flat), micro.flat.owner, micro.flat.num_documents)
        scale = micro.lengths if self._config.length_normalised else torch.ones_like(micro.lengths)
        n = len(micro.numbers)
        policy, reference = sums / scale, micro.reference / scale
        loss, terms = dpo(policy[:n], policy[n:], reference[:n], reference[n:], self._config.beta, self._total)
        if self._config.nll_weight:
            loss = loss - self._config.nll_weight * sums[:n].sum() / self._chosen_tokens
        margins = terms.chosen_rewards - terms.rejected_rewards
        shares = {
            "pair_accuracy": (margins > 0).float().sum(),
            "margin": margins.sum(),
            "chosen_reward": terms.chosen_rewards.sum(),
            "rejected_reward": terms.rejected_rewards.sum(),
            "chosen_logprob": sums[:n].detach().sum(),
            "rejected_logprob": sums[n:].detach().sum(),
        }
        return loss, {name: float(value) / self._total for name, value in shares.items()}

    def tokens(self, micro: PairBatch) -> int:
        """Tokens through the model."""
        return micro.flat.num_tokens

    def finish_step(self, step: int, row: dict[str, Any]) -> bool:
        """Nothing to add."""
        return False

    def state(self) -> dict[str, Any]:
        """Nothing: batches are a function of the step."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""

    def kept_tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}


def pair_batch(pairs: Sequence[DocumentPair], numbers: Sequence[int], reference: Tensor, device: torch.device) -> PairBatch:
    """Lay the pairs with these numbers end to end."""
    documents = [pairs[i].chosen for i in numbers] + [pairs[i].rejected for i in numbers]
    known = torch.cat([reference[list(numbers), 0], reference[list(numbers), 1]]).to(device)
    lengths = torch.tensor([float(d.num_targets) for d in documents], device=device)
    return PairBatch(flatten(documents, device), tuple(numbers), known, lengths)


@torch.no_grad()
def reference_logprobs(model: Decoder, pairs: Sequence[DocumentPair], micro_batch_tokens: int) -> Tensor:
    """Sequence log-probs of every pair under the model as it is: float32 [pairs, 2] (chosen, rejected)."""
    model.eval()
    out = torch.zeros(len(pairs), 2)
    for part in micro_batches([p.num_tokens for p in pairs], micro_batch_tokens):
        batch = pair_batch(pairs, part, out, model.device)
        sums = sequence_sums(document_logprobs(model, batch.flat), batch.flat.owner, batch.flat.num_documents).cpu()
        out[part, 0], out[part, 1] = sums[: len(part)], sums[len(part) :]
    return out
