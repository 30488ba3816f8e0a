"""Learning documents by their likelihood: base, mid-training and SFT differ only in which documents make a step.

    loss of a step = sum over its documents' target tokens of -log p / number of those tokens

With validation documents it measures their loss every so often and after the last step, keeps the best weights, and ends the
training after `patience` measurements without a new best. It does not know where documents come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from headway.model.head import token_logprobs, token_logprobs_and_entropy
from headway.model.precision import autocast
from headway.model.transformer import Decoder
from headway.ranks import gather
from headway.train.batching import Document, Flat, flatten, micro_batches
from headway.train.losses import nll
from headway.train.optim import trained
from headway.train.sharding import collect, learner, own_share
from headway.watchdog import beat

Batches = Callable[[], Iterator[Sequence[int]]]  # a fresh endless stream of document numbers, one list a step


def document_logprobs(model: Decoder, flat: Flat, temperature: float = 1.0) -> Tensor:
    """log p of every learned token of the documents, float32 [N]; on CUDA whoever asks gets the products of training."""
    beat()
    with autocast(model):
        hidden = model(flat.ids, flat.layout)
        return token_logprobs(hidden.index_select(0, flat.rows), model.output_weight, flat.targets, temperature)


def document_logprobs_and_entropy(model: Decoder, flat: Flat, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """As `document_logprobs`, and the entropy of the distribution that each learned token was drawn from, without gradient."""
    beat()
    hidden = model(flat.ids, flat.layout)
    return token_logprobs_and_entropy(hidden.index_select(0, flat.rows), model.output_weight, flat.targets, temperature)


class Likelihood:
    """The objective of a likelihood stage (see `fit.Objective`)."""

    def __init__(
        self,
        model: Decoder,
        documents: Sequence[Document],
        batches: Batches,
        micro_batch_tokens: int,
        validation: Sequence[Document] = (),
        validate_every: int = 0,
        patience: int = 0,
        last_step: int = 0,
    ):
        self._model, self._documents, self._make_batches = model, documents, batches
        self.max_tokens = micro_batch_tokens
        self._validation, self._every, self._patience = validation, validate_every, patience
        self._last_step = last_step  # its weights are candidates for the best ones, too
        self._stream = batches()
        self._position = 0
        self._now: list[Document] = []  # the step's
        self._targets = 0
        self._best: dict[str, Any] = {"loss": None, "step": 0, "waited": 0}
        self._best_weights: dict[str, Tensor] = {}

    def updates(self, step: int) -> Iterable[list[Flat]]:
        """One update: the step's documents in micro-batches."""
        if step != self._position:
            self._stream = islice(self._make_batches(), step, None)
        self._position = step + 1
        self._now = [self._documents[i] for i in next(iter(self._stream))]
        self._targets = sum(d.num_targets for d in self._now)
        yield self.again()

    def again(self) -> list[Flat]:
        """The step's documents, of several ranks this one's share, in micro-batches."""
        return self._flats([self._now[i] for i in own_share([len(d.ids) for d in self._now])])

    def _flats(self, documents: Sequence[Document]) -> list[Flat]:
        parts = micro_batches([len(d.ids) for d in documents], self.max_tokens)
        return [flatten([documents[i] for i in part], self._model.device) for part in parts]

    def loss(self, micro: Flat) -> tuple[Tensor, dict[str, float]]:
        """The micro-batch's share of the step's mean loss a token."""
        return nll(document_logprobs(learner(self._model), micro), self._targets), {}

    def tokens(self, micro: Flat) -> int:
        """Tokens through the model."""
        return micro.num_tokens

    def finish_step(self, step: int, row: dict[str, Any]) -> bool:
        """Now and then the validation loss; True when it has stopped falling."""
        if not self._validation or not self._every or (step % self._every and step != self._last_step):
            return False
        loss = self.validation_loss()
        row["validation_loss"] = loss
        best = self._best["loss"]
        if best is None or loss < best:
            self._best = {"loss": loss, "step": step, "waited": 0}
            self._best_weights = {n: p.detach().clone() for n, p in trained(self._model).items()}
        else:
            self._best["waited"] += 1
        return bool(self._patience) and self._best["waited"] >= self._patience

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean negative log-likelihood in nats a target token of the validation documents."""
        total = sum(d.num_targets for d in self._validation)
        collect(self._model)
        self._model.eval()
        flats = self._flats([self._validation[i] for i in own_share([len(d.ids) for d in self._validation])])
        return sum(gather(sum(float(nll(document_logprobs(self._model, f), total)) for f in flats)))

    def take_best(self) -> dict[str, Any]:
        """Put the best weights into the model; the best step and loss, or {} where nothing was validated."""
        if not self._best_weights:
            return {}
        with torch.no_grad():
            for name, parameter in trained(self._model).items():
                parameter.copy_(self._best_weights[name])
        return {"best_step": self._best["step"], "best_validation_loss": self._best["loss"]}

    def state(self) -> dict[str, Any]:
        """The best validation so far."""
        return dict(self._best)

    def restore(self, state: dict[str, Any]) -> None:
        """Put back the best validation and its weights."""
        tensors = state.pop("tensors")
        self._best = {key: state[key] for key in ("loss", "step", "waited")}
        self._best_weights = {name: t.to(self._model.device) for name, t in tensors.items()}

    def kept_tensors(self) -> dict[str, Tensor]:
        """The best weights so far."""
        return self._best_weights
