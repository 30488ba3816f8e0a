"""The learning rate of each step by hand; an optimizer that comes back as it was; gradients that are not numbers."""

import math

import pytest
import torch
from torch import Tensor, nn

from headway.stage_config import OptimizerConfig
from headway.train.optim import learning_rate, load_optimizer, make_optimizer, optimizer_tensors, update

every_optimizer = pytest.mark.parametrize("name", ["adamw", "muon"])


class Small(nn.Module):
    """Named like the parts of a decoder: a matrix at the end, two hidden ones, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Embedding(5, 3)
        self.wide, self.tall = nn.Linear(3, 4, bias=False), nn.Linear(4, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        return self.tall(torch.tanh(self.wide(self.embedding(ids)))).square().sum()


def train(model: Small, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        model(torch.tensor([step % 5, (step + 1) % 5])).backward()
        update(optimizer, model, lr=0.01 / (step + 1), clip_norm=1.0)  # type: ignore[arg-type]


def weights(model: nn.Module) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in model.parameters()]


# -- learning rate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [  # 2 of 10 steps warm up to 8; then done = 0, 1/8, 2/8 ... 7/8 of the way from 8 to a tenth of it, 0.8
        ("constant", [4.0, 8.0, 8.0, 8.0, 8.0]),
        ("linear", [4.0, 8.0, 8.0, 0.8 + 7.2 * 0.5, 0.8 + 7.2 / 8]),
        ("cosine", [4.0, 8.0, 8.0, 0.8 + 7.2 * 0.5, 0.8 + 7.2 * 0.5 * (1 + math.cos(math.pi * 7 / 8))]),
    ],
)
def test_learning_rate_by_hand(schedule: str, rates: list[float]) -> None:
    config = OptimizerConfig(lr=8.0, warmup=0.2, schedule=schedule, final_lr=0.1)  # type: ignore[arg-type]
    assert [learning_rate(config, step, 10) for step in (0, 1, 2, 6, 9)] == pytest.approx(rates)


def test_learning_rate_without_warm_up_starts_at_its_peak() -> None:
    assert learning_rate(OptimizerConfig(lr=8.0, warmup=0.0), 0, 10) == 8.0


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 19])
def test_learning_rate_is_positive_and_at_most_the_peak(warmup: float, steps: int) -> None:
    rates = [learning_rate(OptimizerConfig(lr=8.0, warmup=warmup), step, steps) for step in range(steps)]
    assert all(0 < rate <= 8.0 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])  # up, then down
    assert rates[top:] == sorted(rates[top:], reverse=True)


# -- state -------------------------------------------------------------------------------------------------------------


@every_optimizer
def test_an_optimizer_goes_on_as_if_it_had_never_stopped(name: str) -> None:
    config = OptimizerConfig(name=name, lr=0.01, weight_decay=0.1)  # type: ignore[arg-type]
    straight = Small()
    optimizer = make_optimizer(straight, config)
    train(straight, optimizer, range(7))

    before, after = Small(), Small()
    first = make_optimizer(before, config)
    train(before, first, range(3))
    kept = {key: value.clone() for key, value in optimizer_tensors(first, before).items()}
    after.load_state_dict(before.state_dict())
    second = make_optimizer(after, config)
    load_optimizer(second, after, kept)
    assert {k: v.tolist() for k, v in optimizer_tensors(second, after).items()} == {k: v.tolist() for k, v in kept.items()}
    train(after, second, range(3, 7))

    assert weights(after) == weights(straight)
    assert weights(after) != weights(before)


@every_optimizer
def test_the_state_has_every_parameter_by_name(name: str) -> None:
    model = Small()
    optimizer = make_optimizer(model, OptimizerConfig(name=name))  # type: ignore[arg-type]
    assert optimizer_tensors(optimizer, model) == {}
    train(model, optimizer, range(1))
    assert {key.rpartition(".")[0] for key in optimizer_tensors(optimizer, model)} == {n for n, _ in model.named_parameters()}


def test_vectors_do_not_decay_and_matrices_do() -> None:
    model = Small()
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.5, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # nothing but the decay moves a weight: by 1 - 0.5 x 0.5
    update(optimizer, model, lr=0.5, clip_norm=1.0)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, before[name] * (1.0 if name.endswith("bias") else 0.75))


def test_half_precision_weights_are_refused() -> None:
    with pytest.raises(AssertionError, match="float32"):
        make_optimizer(Small().to(torch.bfloat16), OptimizerConfig())


# -- update ------------------------------------------------------------------------------------------------------------


def test_update_returns_the_norm_before_clipping_and_clears_the_gradient() -> None:
    model = Small()
    optimizer = make_optimizer(model, OptimizerConfig())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    count = sum(p.numel() for p in model.parameters())
    assert update(optimizer, model, lr=0.01, clip_norm=0.5) == pytest.approx(2.0 * math.sqrt(count), rel=1e-6)
    assert all(p.grad is None for p in model.parameters())
    # Adam's first moment is (1 - beta1) times the clipped gradient, whose norm is 0.5
    moments = [value for key, value in optimizer_tensors(optimizer, model).items() if key.endswith("exp_avg")]
    assert math.sqrt(sum(float(m.square().sum()) for m in moments)) == pytest.approx(0.1 * 0.5, rel=1e-4)


@every_optimizer
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_refused_before_anything_is_touched(name: str, bad: float) -> None:
    model = Small()
    optimizer = make_optimizer(model, OptimizerConfig(name=name, lr=0.01))  # type: ignore[arg-type]
    train(model, optimizer, range(2))
    before = weights(model), {k: v.tolist() for k, v in optimizer_tensors(optimizer, model).items()}
    model(torch.tensor([0, 1])).backward()
    assert model.tall.bias.grad is not None
    model.tall.bias.grad[1] = bad
    with pytest.raises(FloatingPointError, match=r"nan|inf"):
        update(optimizer, model, lr=0.01, clip_norm=1.0)
    assert (weights(model), {k: v.tolist() for k, v in optimizer_tensors(optimizer, model).items()}) == before
