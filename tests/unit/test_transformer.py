"""Our decoder against transformers, packed against alone, recomputed against kept."""

import copy
from pathlib import Path

import pytest
import torch
from random_models import both, every_seed, every_variant
from torch import Tensor

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.model.attention import lay_out
from headway.model.checkpoint import load_state, save_decoder, state_tensors
from headway.model.config import DecoderConfig
from headway.model.transformer import Decoder, initialise
from headway.types import Request

TINY = DecoderConfig(vocab_size=50, width=24, layers=2, heads=4, kv_heads=2, head_dim=6, mlp_width=40, qkv_bias=True)


def logits(model: Decoder, ids: Tensor, lengths: list[int]) -> Tensor:
    return model(ids, lay_out(lengths)) @ model.output_weight.t()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@every_seed
@every_variant
def test_logits_and_gradients_equal_transformers(variant: str, seed: int, tmp_path: Path) -> None:
    theirs, ours = both(variant, seed, tmp_path)
    ids = torch.randint(0, ours.config.vocab_size, (70,), generator=torch.Generator().manual_seed(seed))
    expected = theirs(ids[None]).logits[0]
    found = logits(ours, ids, [70])
    assert expected.std() > 0.1  # the comparison is of something
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    targets = ids.roll(-1)
    torch.nn.functional.cross_entropy(expected, targets).backward()
    torch.nn.functional.cross_entropy(found, targets).backward()
    gradients = Decoder(ours.config)  # a second decoder whose weights are the gradients, to see them under their names
    for into, weight in zip(gradients.parameters(), ours.parameters(), strict=True):
        assert weight.grad is not None
        into.data = weight.grad
    named = dict(theirs.named_parameters())
    for name, gradient in state_tensors(gradients).items():
        if "k_proj.bias" in name:  # nearly cancels (softmax ignores what all keys share), so relative to itself it is noise
            torch.testing.assert_close(gradient, named[name].grad, rtol=1e-3, atol=1e-6)
        else:
            assert relative(gradient, named[name].grad) < 1e-5, name


@every_seed
@every_variant
def test_greedy_text_equals_transformers(variant: str, seed: int, tmp_path: Path) -> None:
    theirs, ours = both(variant, seed, tmp_path)
    prompt = torch.randint(2, ours.config.vocab_size, (5,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        out = theirs.generate(prompt[None], do_sample=False, max_new_tokens=64, eos_token_id=1, pad_token_id=0)[0, 5:]
    request = Request(tuple(prompt.tolist()), (sample_key(0, "greedy"),), 64, temperature=0.0)
    [[completion]] = Engine(ours, [1]).generate([request])
    assert list(completion.token_ids) == out.tolist()


@every_seed
@every_variant
def test_transformers_reads_what_we_save(variant: str, seed: int, tmp_path: Path) -> None:
    theirs, ours = both(variant, seed, tmp_path)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.mul_(1.01)  # a trained model, not the file read
    again = tmp_path / "again"
    again.mkdir()
    save_decoder(ours, again)
    reread = type(theirs).from_pretrained(again)
    ids = torch.arange(2, 42)
    torch.testing.assert_close(reread(ids[None]).logits[0], logits(ours, ids, [40]), rtol=1e-5, atol=1e-5)


def test_packed_documents_equal_each_alone() -> None:
    model = initialise(TINY, seed=3)
    for weight in model.parameters():
        weight.data.mul_(5)
    lengths = [9, 1, 17, 16, 4, 9]
    ids = torch.randint(0, 50, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    alone = copy.deepcopy(model)
    packed = model(ids, lay_out(lengths))
    parts = [alone(part, lay_out([len(part)])) for part in ids.split(lengths)]
    torch.testing.assert_close(packed, torch.cat(parts), rtol=1e-5, atol=1e-5)

    push = torch.randn(packed.shape, generator=torch.Generator().manual_seed(1))
    (packed * push).sum().backward()
    for part, gradient in zip(parts, push.split(lengths), strict=True):
        (part * gradient).sum().backward()
    for a, b in zip(model.parameters(), alone.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4 * float(b.grad.abs().max()))


@pytest.mark.parametrize("changed", range(4))
def test_a_neighbour_changes_nothing(changed: int) -> None:
    """Other content in one document leaves every bit of the others' hidden states as it was."""
    model = initialise(TINY, seed=3)
    lengths = [9, 12, 3, 12]
    ids = torch.randint(0, 50, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    documents = list(ids.split(lengths))
    before = model(ids, lay_out(lengths)).split(lengths)
    documents[changed] = (documents[changed] + 7) % 50
    after = model(torch.cat(documents), lay_out(lengths)).split(lengths)
    for number in range(4):
        assert torch.equal(before[number], after[number]) == (number != changed)


def test_the_future_changes_nothing() -> None:
    model = initialise(TINY, seed=3)
    ids = torch.arange(20)
    other = torch.cat([ids[:11], ids[11:] + 20])
    before, after = model(ids, lay_out([20])), model(other, lay_out([20]))
    assert torch.equal(before[:11], after[:11])
    assert not torch.equal(before[11], after[11])


def test_recomputed_blocks_give_the_same_gradient() -> None:
    kept, recomputed = initialise(TINY, seed=0), initialise(TINY, seed=0)
    recomputed.recompute_blocks = True
    for model in (kept, recomputed):
        model(torch.arange(12), lay_out([5, 7])).square().sum().backward()
    for a, b in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_initialise_is_a_function_of_the_seed() -> None:
    first, second, other = initialise(TINY, 0), initialise(TINY, 0), initialise(TINY, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    # small init: sqrt(2 / (5 x 24)) = 0.1291; outputs into the residual stream 0.1291 / sqrt(2 layers) = 0.0645
    assert abs(float(first.blocks[0].down.weight.detach().std()) - 0.0645) < 0.006
    assert abs(float(first.blocks[0].gate_up.weight.detach().std()) - 0.1291) < 0.006


def test_num_parameters_counts_what_is_there() -> None:
    # qkv (24 + 2 x 12) x 24 + 48, out 24 x 24, mlp 3 x 24 x 40, norms 48: 1152 + 48 + 576 + 2880 + 48 = 4704 a layer
    # 2 x 4704 + last norm 24 + embedding 50 x 24 = 1200
    assert TINY.num_parameters == 10_632
    assert sum(weight.numel() for weight in Decoder(TINY).parameters()) == 10_632


def test_load_state_into_a_model_of_another_seed_makes_it_equal() -> None:
    source, target = initialise(TINY, 0), initialise(TINY, 1)
    load_state(target, state_tensors(source))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
