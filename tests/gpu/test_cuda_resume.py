"""On CUDA: an optimizer that comes back as it was goes on as if it had never stopped."""

from typing import Literal

import pytest
import torch
from torch import nn

from headway.stage_config import OptimizerConfig
from headway.train.optim import load_optimizer, make_optimizer, optimizer_tensors, update

pytestmark = pytest.mark.gpu


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8)).to("cuda")


def train(made: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        made(torch.full((4, 8), 0.1 * step + 0.3, device="cuda")).square().sum().backward()
        update(optimizer, made, lr=0.01, clip_norm=1.0)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_resumed_optimizer_on_cuda(name: Literal["adamw", "muon"]) -> None:
    config = OptimizerConfig(name=name, lr=0.01, weight_decay=0.1)
    straight, before, after = model(), model(), model()
    train(straight, make_optimizer(straight, config), range(6))
    first = make_optimizer(before, config)
    train(before, first, range(3))
    kept = {key: value.cpu() for key, value in optimizer_tensors(first, before).items()}  # as a resume point holds them
    after.load_state_dict(before.state_dict())
    second = make_optimizer(after, config)
    load_optimizer(second, after, kept)
    train(after, second, range(3, 6))
    for a, b in zip(after.parameters(), straight.parameters(), strict=True):
        assert torch.equal(a, b)
