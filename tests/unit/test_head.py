"""Log-probs in chunks against log_softmax in float64."""

import math

import pytest
import torch
from torch import Tensor

from headway.model import head
from headway.model.head import next_logits, token_logprobs, token_logprobs_and_entropy

TOKENS, WIDTH, VOCABULARY = 23, 16, 37


@pytest.fixture(params=[8_388_608, 5 * VOCABULARY, 1], ids=["one chunk", "chunks of 5", "chunks of 1"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_CHUNK_ELEMENTS", request.param)


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = 2 * torch.randn(TOKENS, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    return hidden, weight, torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("temperature", [1.0, 0.6, torch.linspace(0.5, 2.0, TOKENS)], ids=["1", "0.6", "a token each"])
def test_value_and_gradient_equal_log_softmax(temperature: float | Tensor) -> None:
    hidden, weight, targets = example()
    mine = [x.clone().requires_grad_() for x in (hidden, weight)]
    exact = [x.double().requires_grad_() for x in (hidden, weight)]
    found = token_logprobs(*mine, targets, temperature)
    scale = temperature.double()[:, None] if isinstance(temperature, Tensor) else temperature
    expected = (exact[0] @ exact[1].t() / scale).log_softmax(-1)[torch.arange(TOKENS), targets]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    push = torch.randn(TOKENS, generator=torch.Generator().manual_seed(1))
    found.backward(push)
    expected.backward(push.double())
    for a, b in zip(mine, exact, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-5)


def test_value_by_hand() -> None:
    # logits (0, log 3): probabilities 1/4 and 3/4; at temperature 1/2 the logits double: 1/10 and 9/10
    hidden, weight = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [math.log(3)]])
    targets = torch.tensor([0, 1])
    assert token_logprobs(hidden, weight, targets).exp().tolist() == pytest.approx([0.25, 0.75])
    assert token_logprobs(hidden, weight, targets, 0.5).exp().tolist() == pytest.approx([0.1, 0.9])


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("temperature", [1.0, torch.linspace(0.5, 2.0, TOKENS)], ids=["1", "a token each"])
def test_entropy_equals_float64s_and_changes_neither_value_nor_gradient(temperature: float | Tensor) -> None:
    hidden, weight, targets = example()
    scale = temperature.double()[:, None] if isinstance(temperature, Tensor) else temperature
    exact = (hidden.double() @ weight.double().t() / scale).log_softmax(-1)
    results = []
    for with_entropy in (False, True):
        mine = [x.clone().requires_grad_() for x in (hidden, weight)]
        if with_entropy:
            found, entropy = token_logprobs_and_entropy(*mine, targets, temperature)
            assert not entropy.requires_grad
            torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(-1), rtol=1e-5, atol=1e-5)
        else:
            found = token_logprobs(*mine, targets, temperature)
        found.sum().backward()
        results.append([found.detach(), *(x.grad for x in mine)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_entropy_by_hand() -> None:
    # probabilities 1/4 and 3/4: 2 log 2 - 3/4 log 3; of two equals: log 2; of a certain token among huge logits: 0
    weight = torch.tensor([[0.0], [1.0]])
    hidden = torch.tensor([[math.log(3)], [0.0], [1e4]])
    _, entropy = token_logprobs_and_entropy(hidden, weight, torch.tensor([0, 1, 0]))
    assert entropy.tolist() == pytest.approx([2 * math.log(2) - 0.75 * math.log(3), math.log(2), 0.0], abs=1e-6)


def test_huge_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4]], requires_grad=True)
    out = token_logprobs(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    out.sum().backward()
    assert out.tolist() == pytest.approx([-2e4])
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[-2.0]]  # d lp / d h = w_1 - (1 w_0 + 0 w_1) = -1 - 1


def test_next_logits_are_the_product() -> None:
    hidden, weight, _ = example()
    torch.testing.assert_close(next_logits(hidden, weight), hidden @ weight.t())
    assert next_logits(hidden.bfloat16(), weight.bfloat16()).dtype == torch.float32
