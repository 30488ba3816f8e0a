"""What training holds: no tensor of tokens x vocabulary in any loss, and the plan's formulas beside what autograd saves."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from headway.model.config import DecoderConfig
from headway.model.head import chunk_tokens
from headway.model.kernel import kernel
from headway.model.transformer import Decoder, initialise
from headway.plan import memory
from headway.plan.probe import SavedBytes
from headway.stage_config import DpoConfig, OptimizerConfig, RlConfig
from headway.train.batching import Document, flatten
from headway.train.likelihood import Likelihood, document_logprobs
from headway.train.optim import make_optimizer, optimizer_tensors, update
from headway.train.policy import PolicyGradient, Sampled, Trajectory
from headway.train.preference import DocumentPair, Preference

VOCABULARY = 200_064


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operator gives back, and in how many dimensions of what size."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.shape = 0, ()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor) and one.numel() > self.elements:
                self.elements, self.shape = one.numel(), tuple(one.shape)
        return result


class Given:
    """Trajectories as if just sampled."""

    def __init__(self, documents: list[Document]):
        self._documents = documents

    def sample(self, step: int) -> Sampled:
        lengths = [document.num_targets for document in self._documents]
        trajectories = [
            Trajectory(document, (-12.2,) * length, (-1.0) ** number)
            for number, (document, length) in enumerate(zip(self._documents, lengths, strict=True))
        ]
        return Sampled(trajectories, 1.0, {})

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def objective(loss: str, model: Decoder) -> Any:
    """Four documents of 100 tokens, of one prompt of 4, in one micro-batch."""
    ids = [(1, 2, 3, 4, *((first * 50_021 + n * 7919) % VOCABULARY for n in range(96))) for first in range(4)]
    documents = [Document(one, 4) for one in ids]
    if loss == "nll":
        return Likelihood(model, documents, lambda: iter([range(4)]), 1000)
    if loss == "dpo":
        pairs = [DocumentPair(documents[0], documents[1]), DocumentPair(documents[2], documents[3])]
        return Preference(model, pairs, lambda: iter([range(2)]), DpoConfig(), torch.full((2, 2), -1171.0))
    return PolicyGradient(model, Given(documents), RlConfig())


@pytest.mark.parametrize("loss", ["nll", "dpo", "rl"])
def test_no_tensor_of_tokens_times_vocabulary_exists(loss: str) -> None:
    """Of 384 learned tokens the logits of 128 are there at once, and nothing is larger."""
    model = initialise(DecoderConfig(VOCABULARY, 8, 1, 2, 1, 4, 16), 0)
    made = objective(loss, model)
    [micro] = next(iter(made.updates(0)))
    assert micro.flat.targets.shape == (384,) if loss != "nll" else micro.targets.shape == (384,)
    largest = Largest()
    with largest:
        value, _ = made.loss(micro)
        value.backward()
    assert chunk_tokens(384, VOCABULARY) == 128
    assert largest.elements == 128 * VOCABULARY, largest.shape  # so the mode does see them
    assert all(p.grad is not None for p in model.parameters())


def test_chunks_by_hand() -> None:
    # 8,388,608 / 200,064 = 41.9, which is below 128, and 128 x 200,064 = 25.6 M are at most 33.5 M
    assert chunk_tokens(10_000, 200_064) == 128
    assert chunk_tokens(10_000, 1_000_000) == 33  # 33.5 M / 1 M
    assert chunk_tokens(100_000, 512) == 16_384
    assert chunk_tokens(7, 512) == 7
    assert chunk_tokens(10_000, 200_064, "cuda") == 670  # 16 x 8,388,608 / 200,064 = 670.9


SHAPES = {
    "llama": DecoderConfig(300, 64, 3, 4, 2, 16, 160),
    "wide heads": DecoderConfig(300, 48, 2, 6, 6, 16, 96, tied=False),
    "normed heads": DecoderConfig(300, 64, 2, 4, 1, 32, 128, qk_norm="head"),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_the_formula_of_activations_is_what_autograd_saves(name: str) -> None:
    shape = SHAPES[name]
    model = initialise(shape, 0)
    flat = flatten([Document(tuple(range(257)))])
    saved = SavedBytes(model)
    with saved:
        document_logprobs(model, flat)
    layer_back = 256 * 4 * (5 * shape.mlp_width + 3 * shape.width)
    formula = memory.activations(shape, 256) - layer_back
    assert saved.total == pytest.approx(formula, rel=0.12)
    assert memory.activations(shape, 256, saved=saved.total / 256) - layer_back == pytest.approx(saved.total, abs=256)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_optimizers_state_is_counted_to_the_byte(name: str, tied: bool) -> None:
    shape = DecoderConfig(300, 64, 3, 4, 2, 16, 160, tied=tied)
    model = initialise(shape, 0)
    config = OptimizerConfig.model_validate({"name": name})
    optimizer = make_optimizer(model, config)
    document_logprobs(model, flatten([Document((1, 2, 3))])).sum().backward()
    update(optimizer, model, 1e-3, 1.0)
    state = {key: t for key, t in optimizer_tensors(optimizer, model).items() if not key.endswith(".step")}
    assert memory.moments(shape, name) == sum(t.numel() * t.element_size() for t in state.values())
    count = memory.parameters(shape)
    assert count.total == shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert count.output == (0 if tied else 300 * 64)
    assert memory.training(shape, name, 64).weights == 4 * count.total


def test_peak_by_hand() -> None:
    # one layer, d 8, q 8, kv 4, m 16, V 100, 10 tokens. P = 100 8 + (8 16 + 8 8 + 3 8 16) + 3 8 = 800 + 576 + 24 = 1,400
    shape = DecoderConfig(100, 8, 1, 2, 1, 4, 16)
    found = memory.training(shape, "adamw", 10)
    assert (found.weights, found.gradients, found.moments, found.kept) == (5600, 5600, 11_200, 0)
    # saved: 4 (4 8 + 3 8 + 2 4 + 4 16) + 4 5 8 = 512 + 160 a token; on the way back 4 (5 16 + 3 8) = 416 a token.
    # the C kernels save 4 (8 + 16) = 96 less, and 4 x 2 heads more
    saved = 672 if kernel() is None else 672 - 96 + 8
    assert found.activations == 10 * (saved + 416)
    assert found.vocabulary == 4 * (3 * 10 * 100 + 2 * 100 * 8)  # three times all ten tokens' logits, two gradients
    assert found.peak == 5600 + 5600 + 11_200 + 10 * (saved + 416) + 18_400
    # a rank of two: all weights and half of them, half of gradients and moments; embedding and its gradient, three layers' worth
    of_two = memory.training(shape, "adamw", 10, ranks=2)
    assert (of_two.weights, of_two.gradients, of_two.moments) == (8400, 2800, 5600)
    assert of_two.gathered == 4 * (2 * 800 + 3 * 600)
    assert of_two.peak == 8400 + 2800 + 5600 + 13_600 + 10 * (saved + 416) + 18_400
    # 8 samples of 20 tokens, a block of 32 more each: 8 x 52 positions of 2 x 4 float32
    assert memory.sampling(shape, 8, 20, 40).cache == 8 * 52 * 2 * 4 * 4
