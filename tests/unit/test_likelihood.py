"""Learning by likelihood: pieces are the whole, neighbours never meet, the end is learned, the best weights come back."""

import random
from itertools import islice

import pytest
import torch
from tiny_policy import STOP, assert_same_gradients, naive_logprobs, ragged, step_gradient, tiny

from headway.model.transformer import Decoder
from headway.train.batching import Document, epochs, flatten, micro_batches
from headway.train.likelihood import Likelihood, document_logprobs


def objective(model: Decoder, documents: list[Document], micro_batch_tokens: int, batch: int = 0) -> Likelihood:
    return Likelihood(model, documents, lambda: epochs(len(documents), batch or len(documents), 0), micro_batch_tokens)


@pytest.mark.parametrize("seed", range(4))
def test_micro_batches_do_not_change_the_gradient(seed: int) -> None:
    model, documents = tiny(seed).double(), ragged(23, seed)
    pieces, small, many = step_gradient(model, objective(model, documents, 16))
    whole, large, one = step_gradient(model, objective(model, documents, 1_000_000))
    assert many > 10
    assert one == 1
    assert_same_gradients(pieces, whole)
    assert small[0]["loss"] == pytest.approx(large[0]["loss"], rel=1e-6)


def test_the_loss_is_the_mean_over_the_tokens_of_the_step_not_over_documents() -> None:
    model, documents = tiny(), ragged(6)
    logprobs = [lp for document in documents for lp in naive_logprobs(model, document)]
    _, numbers, _ = step_gradient(model, objective(model, documents, 64))
    assert numbers[0]["loss"] == pytest.approx(-sum(logprobs) / len(logprobs), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_documents_that_are_computed_together_are_those_computed_alone(temperature: float) -> None:
    model, documents = tiny(1), ragged(12, seed=3)
    flat = flatten(documents)
    together = document_logprobs(model, flat, temperature)
    alone = [lp for document in documents for lp in naive_logprobs(model, document, temperature)]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)


def test_a_neighbour_has_no_gradient_and_no_influence() -> None:
    """Document 0's loss does not reach the embedding of tokens that only its neighbours hold, and ignores what they are."""
    model = tiny(1)  # output apart from the embedding
    assert model.output is not None
    mine, neighbour, other = Document((10, 11, 12, STOP)), Document((20, 21, 22, 23, STOP)), Document((30, 31, 32, 33, STOP))
    flat = flatten([neighbour, mine, neighbour])
    document_logprobs(model, flat)[flat.owner == 1].sum().backward()
    assert model.embedding.weight.grad is not None
    reached = model.embedding.weight.grad.abs().sum(-1).nonzero().squeeze(-1).tolist()
    assert reached == [10, 11, 12]
    with torch.no_grad():
        beside = document_logprobs(model, flat)[flat.owner == 1]
        elsewhere = flatten([other, mine, other])
        assert torch.equal(document_logprobs(model, elsewhere)[elsewhere.owner == 1], beside)


def test_the_end_is_learned_and_the_prompt_is_not() -> None:
    model = tiny(2)
    document = Document((10, 11, 12, 13, STOP), first_target=3)
    flat = flatten([document])
    assert flat.targets.tolist() == [13, STOP]
    before = naive_logprobs(model, document), naive_logprobs(model, Document(document.ids[:3]))
    step_gradient(model, objective(model, [document], 64))
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad
    after = naive_logprobs(model, document)
    assert all(a > b for a, b in zip(after, before[0], strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_shared_prompt_gives_the_values_and_the_gradient_of_each_document_alone(seed: int) -> None:
    model, chance = tiny(seed).double(), random.Random(seed)
    documents: list[Document] = []
    for _ in range(5):
        prompt = tuple(chance.randrange(4, 40) for _ in range(chance.randrange(1, 9)))
        for _ in range(chance.randrange(1, 6)):
            completion = (chance.randrange(4, 40) for _ in range(chance.randrange(0, 20)))
            documents.append(Document((*prompt, *completion, STOP), len(prompt)))
    chance.shuffle(documents)
    weights = [chance.uniform(-1, 1) for _ in documents]

    def gradient(parts: list[list[int]]) -> tuple[dict[int, list[float]], torch.Tensor, int]:
        model.zero_grad()
        found: dict[int, list[float]] = {}
        tokens = 0
        for part in parts:
            flat = flatten([documents[i] for i in part])
            logprobs = document_logprobs(model, flat)
            (logprobs * torch.tensor([weights[i] for i in part])[flat.owner]).sum().backward()
            found |= {i: logprobs[flat.owner == place].tolist() for place, i in enumerate(part)}
            tokens += flat.num_tokens
        return found, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), tokens

    together, shared, few = gradient([list(range(len(documents)))])
    alone, apart, many = gradient([[i] for i in range(len(documents))])
    assert few < many
    for i in range(len(documents)):
        assert together[i] == pytest.approx(alone[i], abs=1e-5)
    assert_same_gradients([shared], [apart])


def test_a_batch_where_one_document_is_wholly_masked_is_finite() -> None:
    model = tiny()
    masked = Document((10, 11, 12), first_target=3)
    gradients, numbers, _ = step_gradient(model, objective(model, [masked, Document((9, 8, STOP))], 64))
    alone, _, _ = step_gradient(model, objective(model, [Document((9, 8, STOP))], 64))
    assert numbers[0]["loss"] > 0
    assert_same_gradients(gradients, alone, 1e-5)
    gradients, numbers, _ = step_gradient(model, objective(model, [masked], 64))
    assert numbers[0]["loss"] == 0
    assert not gradients[0].any()


def test_a_step_asked_for_out_of_order_is_the_step_of_the_stream() -> None:
    documents = ragged(10)
    model = tiny()

    def learned(made: Likelihood, step: int) -> list[list[int]]:
        return [flat.targets.tolist() for update in made.updates(step) for flat in update]

    straight = objective(model, documents, 64, batch=3)
    steps = [learned(straight, step) for step in range(9)]
    for step in (0, 4, 8):
        fresh = objective(model, documents, 64, batch=3)
        assert learned(fresh, step) == steps[step]
    assert learned(straight, 2) == steps[2]  # back
    asked = list(islice(epochs(10, 3, 0), 9))
    parts = [micro_batches([len(documents[i].ids) for i in batch], 64) for batch in asked]
    assert [len(step) for step in steps] == [len(part) for part in parts]


# -- validation --------------------------------------------------------------------------------------------------------


class Scripted(Likelihood):
    """A likelihood whose validation losses are given."""

    losses: list[float]

    def validation_loss(self) -> float:
        return self.losses.pop(0)


def scripted(losses: list[float], every: int, patience: int, last_step: int = 0) -> tuple[Decoder, Scripted]:
    model, documents = tiny(), ragged(4)
    made = Scripted(model, documents, lambda: epochs(4, 2, 0), 64, documents[:1], every, patience, last_step)
    made.losses = losses
    return model, made


def mark(model: Decoder, value: float) -> None:
    with torch.no_grad():
        model.norm.weight.fill_(value)


def test_training_ends_after_patience_measurements_without_a_new_best_and_the_best_weights_return() -> None:
    model, made = scripted([3.0, 2.0, 2.5, 2.0], every=2, patience=2)
    ends = []
    for step in range(1, 9):
        mark(model, float(step))
        row: dict[str, float] = {}
        ends.append(made.finish_step(step, row))
        assert ("validation_loss" in row) == (step % 2 == 0)
        if ends[-1]:
            break
    assert ends == [False] * 7 + [True]  # best at step 4; 2.5 and an equal 2.0 are no new best
    assert made.take_best() == {"best_step": 4, "best_validation_loss": 2.0}
    assert set(model.norm.weight.tolist()) == {4.0}


def test_without_patience_it_never_ends_early() -> None:
    _, made = scripted([1.0, 2.0, 3.0, 4.0], every=1, patience=0)
    assert not any(made.finish_step(step, {}) for step in (1, 2, 3, 4))


def test_the_last_step_is_measured_too() -> None:
    model, made = scripted([3.0, 2.0], every=4, patience=3, last_step=7)
    for step in range(1, 8):
        mark(model, float(step))
        made.finish_step(step, {})
    assert made.take_best() == {"best_step": 7, "best_validation_loss": 2.0}
    assert made.losses == []


def test_without_validation_documents_the_last_weights_stay() -> None:
    model, documents = tiny(), ragged(4)
    made = Likelihood(model, documents, lambda: epochs(4, 2, 0), 64, (), 1, 1)
    mark(model, 5.0)
    assert made.finish_step(1, {}) is False
    assert made.take_best() == {}
    assert set(model.norm.weight.tolist()) == {5.0}


def test_the_best_so_far_survives_a_restart() -> None:
    model, made = scripted([2.0, 3.0], every=1, patience=2)
    mark(model, 1.0)
    made.finish_step(1, {})
    mark(model, 2.0)
    made.finish_step(2, {})
    other, again = scripted([4.0], every=1, patience=2)
    again.restore(made.state() | {"tensors": {name: t.clone() for name, t in made.kept_tensors().items()}})
    mark(other, 3.0)
    assert again.finish_step(3, {}) is True  # the second measurement in a row without a new best
    assert again.take_best() == {"best_step": 1, "best_validation_loss": 2.0}
    assert set(other.norm.weight.tolist()) == {1.0}


def test_the_validation_loss_is_the_mean_over_target_tokens() -> None:
    model, documents = tiny(3), ragged(7, seed=9)
    made = Likelihood(model, documents, lambda: epochs(7, 2, 0), 32, documents, 1, 1)
    logprobs = [lp for document in documents for lp in naive_logprobs(model, document)]
    assert made.validation_loss() == pytest.approx(-sum(logprobs) / len(logprobs), rel=1e-5)
