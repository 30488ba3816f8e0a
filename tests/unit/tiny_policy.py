"""A small random decoder, ragged documents, and what is measured on them: for the tests of training."""

import random
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from headway.model.attention import lay_out
from headway.model.config import DecoderConfig
from headway.model.head import next_logits
from headway.model.transformer import Decoder, initialise
from headway.train.batching import Document

VOCABULARY, STOP = 40, 3


def tiny(seed: int = 0, scale: float = 4.0) -> Decoder:
    """Two layers, 24 wide; `scale` takes it far from uniform, so that its log-probs differ."""
    model = initialise(DecoderConfig(VOCABULARY, 24, 2, 4, 2, 6, 32, tied=seed % 2 == 0, max_positions=128), seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale if weight.dim() > 1 else 1.0)
    return model


def ragged(count: int, seed: int = 0, longest: int = 40) -> list[Document]:
    """Documents of 2 to `longest` tokens that end in STOP, each learned from a random place on."""
    chance = random.Random(seed)
    documents = []
    for _ in range(count):
        ids = [chance.randrange(4, VOCABULARY) for _ in range(chance.randrange(1, longest))]
        documents.append(Document((*ids, STOP), chance.randrange(1, len(ids) + 1)))
    return documents


@torch.no_grad()
def naive_logprobs(model: Decoder, document: Document, temperature: float = 1.0) -> list[float]:
    """log p of every learned token, from the whole logits of the document alone."""
    ids = torch.tensor(document.ids)
    logits = next_logits(model(ids[:-1], lay_out([len(ids) - 1])), model.output_weight) / temperature
    found = logits.log_softmax(-1).gather(-1, ids[1:, None]).squeeze(-1)
    return found[document.first_target - 1 :].tolist()


def step_gradient(model: Decoder, objective: Any, step: int = 0) -> tuple[list[Tensor], list[dict[str, float]], int]:
    """The gradient of each update of a step, one flat tensor an update; its summed numbers; its micro-batches."""
    gradients: list[Tensor] = []
    numbers: list[dict[str, float]] = []
    count = 0
    for update in objective.updates(step):
        model.zero_grad()
        sums: dict[str, float] = {}
        for micro in update:
            loss, more = objective.loss(micro)
            loss.backward()
            for name, value in {"loss": float(loss.detach()), **more}.items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        numbers.append(sums)
    return gradients, numbers, count


def assert_same_gradients(one: Iterable[Tensor], other: Iterable[Tensor], bound: float = 1e-6) -> None:
    for a, b in zip(one, other, strict=True):
        assert float(b.norm()) > 1e-3  # there is something to compare
        difference = float((a - b).norm() / b.norm())
        assert difference <= bound
