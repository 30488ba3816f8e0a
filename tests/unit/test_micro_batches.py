"""Eight examples as 8 x 1, 4 x 2, 2 x 4, 1 x 8, the prompt computed once or each time: one loss and one gradient, in float32."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_policy import STOP, VOCABULARY, tiny
from torch import Tensor

from headway.model.attention import lay_out
from headway.model.transformer import Decoder
from headway.stage_config import DpoConfig
from headway.train.batching import Document, Flat
from headway.train.likelihood import Likelihood
from headway.train.preference import DocumentPair, Preference, reference_logprobs

EXAMPLES, PROMPT, COMPLETION = 8, 6, 12
BOUND = 1e-6
LOSSES: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"length_normalised": True},
    {"nll_weight": 1.0},
    {"loss": "ipo"},
    {"loss": "hinge"},
    {"loss": "robust"},
]


def documents(seed: int) -> list[tuple[Document, Document]]:
    """Two completions of each prompt; every prompt stands at two examples."""
    chance = random.Random(seed)

    def words(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(4, VOCABULARY) for _ in range(count))

    def document(prompt: tuple[int, ...], first: int) -> Document:
        return Document((*prompt, first, *words(COMPLETION - 1), STOP), PROMPT)

    prompts = [words(PROMPT) for _ in range(EXAMPLES // 2)] * 2
    return [(document(p, 4), document(p, 5)) for p in prompts]  # the two part at their first token


def apart(documents: list[Document]) -> Flat:
    """The documents end to end, each with a prompt of its own."""
    lengths = [len(d.ids) - 1 for d in documents]
    starts = [sum(lengths[:i]) for i in range(len(documents))]
    return Flat(
        torch.tensor([token for d in documents for token in d.ids[:-1]]),
        torch.tensor([s + i for s, d in zip(starts, documents, strict=True) for i in range(d.first_target - 1, len(d.ids) - 1)]),
        torch.tensor([token for d in documents for token in d.ids[d.first_target :]]),
        torch.tensor([number for number, d in enumerate(documents) for _ in range(d.num_targets)]),
        lay_out(lengths),
        len(documents),
    )


def gradient(model: Decoder, objective: Any, count: int, lay_apart: Callable[[Any], Any] | None) -> tuple[float, Tensor]:
    """The step's loss and its gradient, in `count` micro-batches, which are laid out again by `lay_apart`."""
    (micros,) = objective.updates(0)
    assert len(micros) == count
    model.zero_grad()
    losses = []
    for micro in micros:
        loss, _ = objective.loss(lay_apart(micro) if lay_apart else micro)
        loss.backward()
        losses.append(float(loss.detach()))
    return sum(losses), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def compare(found: list[tuple[float, Tensor]]) -> None:
    loss, whole = found[0]
    assert float(whole.norm()) > 1e-3  # there is something to compare
    for other_loss, other in found[1:]:
        assert abs(other_loss - loss) <= BOUND * max(1.0, abs(loss))
        assert float((other - whole).norm() / whole.norm()) <= BOUND


@pytest.mark.parametrize("seed", [0, 1])
def test_nll(seed: int) -> None:
    model, learned = tiny(seed, 2.0), [chosen for chosen, _ in documents(seed)]
    order = [number for pair in zip(range(4), range(4, 8), strict=True) for number in pair]  # those of one prompt side by side
    learned = [learned[number] for number in order]

    def laid_apart(flat: Flat) -> Flat:
        """The same documents, found by their targets."""
        targets = [tuple(flat.targets[flat.owner == number].tolist()) for number in range(flat.num_documents)]
        mine = apart([next(d for d in learned if d.ids[PROMPT:] == found) for found in targets])
        assert mine.num_tokens == flat.num_documents * (PROMPT + COMPLETION) >= flat.num_tokens
        return mine

    found = []
    for count in (1, 2, 4, 8):
        budget = EXAMPLES // count * (PROMPT + COMPLETION + 1)
        for lay_apart in (None, laid_apart):
            objective = Likelihood(model, learned, lambda: iter([list(range(EXAMPLES))]), budget)
            found.append(gradient(model, objective, count, lay_apart))
    compare(found)


@pytest.mark.parametrize("settings", LOSSES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_loss_of_the_dpo_family(settings: dict[str, Any], seed: int) -> None:
    model = tiny(seed, 2.0)
    pairs = [DocumentPair(chosen, rejected) for chosen, rejected in documents(seed)]
    reference = reference_logprobs(tiny(seed + 2, 2.0), pairs)  # another model: margins of both signs

    def laid_apart(micro: Any) -> Any:
        sides = [pairs[i].chosen for i in micro.numbers] + [pairs[i].rejected for i in micro.numbers]
        mine = apart(sides)
        assert mine.num_tokens > micro.flat.num_tokens
        return replace(micro, flat=mine)

    found = []
    for count in (1, 2, 4, 8):
        config = DpoConfig.model_validate({"micro_batch_tokens": EXAMPLES // count * pairs[0].num_tokens} | settings)
        for lay_apart in (None, laid_apart):
            objective = Preference(model, pairs, lambda: iter([list(range(EXAMPLES))]), config, reference)
            found.append(gradient(model, objective, count, lay_apart))
    compare(found)
