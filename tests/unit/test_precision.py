"""Learning rate 5e-7: ten steps move float32 master weights as float64 arithmetic says; bfloat16 weights would not have moved."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fit import recipe
from tiny_policy import ragged, tiny
from torch import Tensor

from headway.model.transformer import Decoder
from headway.runs import Run
from headway.stage_config import OptimizerConfig, StageConfig
from headway.train.batching import Document, epochs, flatten
from headway.train.fit import fit
from headway.train.likelihood import Likelihood, document_logprobs
from headway.train.losses import nll
from headway.train.optim import learning_rate, make_optimizer, update
from headway.train.resume import StageFolder

RATE, STEPS, BETA1, BETA2, EPS, DECAY = 5e-7, 10, 0.9, 0.95, 1e-8, 0.1
OPTIMIZER = {"lr": RATE, "betas": (BETA1, BETA2), "eps": EPS, "weight_decay": DECAY, "clip_norm": 1e9}


def by_hand(start: Tensor, gradients: Iterable[Tensor], rates: Iterable[float], decay: float) -> Tensor:
    """AdamW in float64 (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2):

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - lr (decay w + m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps))
    """
    w, m, v = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = gradient.double()
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g * g
        w = w - rate * decay * w - rate * (m / (1 - BETA1**t)) / ((v / (1 - BETA2**t)).sqrt() + EPS)
    return w


def rounding(start: Tensor) -> float:
    """What ten steps may lose in float32: each rounds twice, by at most 2^-24 of the weight, and 1 - lr decay by 2^-25."""
    return STEPS * 2.5 * 2.0**-24 * float(start.abs().max())


def assert_moved_as_said(start: Tensor, end: Tensor, expected: Tensor) -> None:
    """The movement itself, not the weight: ten steps of 5e-7 are at most 5e-6 on weights of up to 1."""
    said, found = expected - start.double(), end.double() - start.double()
    assert float((found - said).abs().max()) <= rounding(start)
    assert float((found - said).norm()) <= 0.05 * float(said.norm())
    assert float(said.abs().mean()) > 0.3 * RATE * STEPS  # it went somewhere


def matrix(seed: int) -> Tensor:
    return 0.5 * torch.randn(64, 48, generator=torch.Generator().manual_seed(seed))


def test_the_fused_optimizer_by_hand() -> None:
    layer = torch.nn.Linear(48, 64, bias=False)
    with torch.no_grad():
        layer.weight.copy_(matrix(0))
    start = layer.weight.detach().clone()
    gradients = [matrix(0).sign() * 0.3 + 0.1 * matrix(step + 1) for step in range(STEPS)]
    optimizer = make_optimizer(layer, OptimizerConfig.model_validate(OPTIMIZER))
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        update(optimizer, layer, RATE, 1e9)
    assert_moved_as_said(start, layer.weight.detach(), by_hand(start, gradients, [RATE] * STEPS, DECAY))


def test_bfloat16_weights_would_not_have_moved() -> None:
    """A weight of 0.5 has its bfloat16 neighbours 2^-8 / 2 = 0.002 away: a step of 5e-7 rounds back, ten times over."""
    start = matrix(0)
    gradients = [start.sign() * 0.3 + 0.1 * matrix(step + 1) for step in range(STEPS)]
    narrow = torch.nn.Parameter(start.to(torch.bfloat16))
    optimizer = torch.optim.AdamW([narrow], lr=RATE, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY)
    for gradient in gradients:
        narrow.grad = gradient.to(torch.bfloat16)
        optimizer.step()
    still = narrow.detach() == start.to(torch.bfloat16)
    assert bool(still[start.abs() > 0.01].all())
    assert float(still.float().mean()) > 0.97
    expected = by_hand(start, gradients, [RATE] * STEPS, DECAY)
    assert bool((expected != start.double()).all())  # and all of them should have


class Watched(Likelihood):
    """Remembers each step's gradients, as `fit` hands them to the optimizer: they are taken when the next step begins."""

    def __init__(self, model: Decoder, documents: list[Document], batches: Any):
        super().__init__(model, documents, batches, 64)
        self.model, self.documents, self.weights = model, documents, [snapshot(model)]

    def finish_step(self, step: int, row: dict[str, Any]) -> bool:
        self.weights.append(snapshot(self.model))
        return False


def snapshot(model: Decoder) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients_at(weights: dict[str, Tensor], documents: list[Document]) -> dict[str, Tensor]:
    """The gradient of a step's whole batch in float64, at the weights that the step began with."""
    model = tiny().double()
    model.load_state_dict(weights)
    logprobs = document_logprobs(model, flatten(documents))
    nll(logprobs, sum(d.num_targets for d in documents)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_ten_steps_of_fit_by_hand(tmp_path: Path, schedule: str) -> None:
    """Gradients anew in float64 at each step's weights, then the formula: embedding, products and norms move as it says."""
    model, documents = tiny(scale=1.0), ragged(12)
    start = snapshot(model)
    settings = OPTIMIZER | {"schedule": schedule, "warmup": 0.2}
    config = StageConfig.model_validate({"optimizer": settings, "checkpoint_seconds": 1e9})
    watched = Watched(model, documents, lambda: epochs(12, 6, 0))
    with Run.open(tmp_path, recipe(), "small.toml") as run:
        fit(model, watched, config, STEPS, StageFolder(run, "base"), lambda *_: None)
    batches = epochs(12, 6, 0)
    found = [gradients_at(w, [documents[i] for i in next(batches)]) for w in watched.weights[:-1]]
    rates = [learning_rate(config.optimizer, step, STEPS) for step in range(STEPS)]
    for name, end in snapshot(model).items():
        decay = DECAY if end.dim() > 1 else 0.0
        expected = by_hand(start[name], [g[name] for g in found], rates, decay)
        said, moved = expected - start[name].double(), end.double() - start[name].double()
        # where a gradient is near nothing, its sign in float32 is chance and Adam follows it: those few are left out
        sure = torch.stack([g[name].abs() > 1e-5 for g in found]).all(0)
        assert float(sure.float().mean()) > 0.5, name
        assert float((moved - said)[sure].abs().max()) <= rounding(start[name]) + 0.05 * RATE, name
        assert float((moved - said)[sure].norm() / said[sure].norm()) < 0.06, name
        assert float(moved[sure].abs().mean()) > RATE, name
