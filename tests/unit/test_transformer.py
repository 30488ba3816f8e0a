"""Our decoder against transformers, packed against alone, token by token against all at once, recomputed against kept."""

import copy
from pathlib import Path

import pytest
import torch
from random_models import GREEDY, both, every_seed, every_variant
from torch import Tensor

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.model.attention import lay_out
from headway.model.checkpoint import load_state, save_decoder, state_tensors
from headway.model.config import DecoderConfig
from headway.model.kernel import kernel
from headway.model.transformer import Decoder, Recompute, initialise
from headway.types import Request

RECOMPUTED: tuple[Recompute, ...] = ("gates", "mlp", "blocks")
TINY = DecoderConfig(vocab_size=50, width=24, layers=2, heads=4, kv_heads=2, head_dim=6, mlp_width=40, qkv_bias=True)


def logits(model: Decoder, ids: Tensor, lengths: list[int], shared: dict[int, tuple[int, int]] | None = None) -> Tensor:
    return model(ids, lay_out(lengths, shared=shared)) @ model.output_weight.t()


def gradients(model: Decoder) -> dict[str, Tensor]:
    """The gradients of a decoder under the Hugging Face names of its weights."""
    named = Decoder(model.config)  # a second decoder, whose weights are the gradients
    for into, weight in zip(named.parameters(), model.parameters(), strict=True):
        assert weight.grad is not None
        into.data = weight.grad
    return state_tensors(named)


@every_seed
@every_variant
def test_logits_and_gradients_equal_transformers(variant: str, seed: int, tmp_path: Path) -> None:
    theirs, ours = both(variant, seed, tmp_path)
    ids = torch.randint(0, ours.config.vocab_size, (70,), generator=torch.Generator().manual_seed(seed))
    expected = theirs(ids[None]).logits[0]
    found = logits(ours, ids, [70])
    assert expected.std() > 0.1  # the comparison is of something
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    targets = ids.roll(-1)
    torch.nn.functional.cross_entropy(expected, targets).backward()
    torch.nn.functional.cross_entropy(found, targets).backward()
    named = dict(theirs.named_parameters())
    for name, gradient in gradients(ours).items():
        wanted = named[name].grad
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5)
        # relative to themselves, too, where they are not what is left of what cancels (a window of one token, a bias of keys)
        assert wanted.norm() < 1e-2 or (gradient - wanted).norm() < 1e-5 * wanted.norm() or "k_proj.bias" in name, name


@every_seed
@every_variant
def test_greedy_text_equals_transformers(variant: str, seed: int, tmp_path: Path) -> None:
    """They go token by token, with a cache; by induction our greedy text is theirs if each of its tokens is our first choice."""
    theirs, ours = both(variant, seed, tmp_path)
    prompt = torch.randint(2, ours.config.vocab_size, (5,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        text = theirs.generate(prompt[None], do_sample=False, max_new_tokens=GREEDY, min_new_tokens=GREEDY, pad_token_id=0)[0]
        found = logits(ours, text, [5 + GREEDY])
    assert len(text) == 5 + GREEDY
    found[:, 1] = -torch.inf  # they may not end
    assert found[4:-1].argmax(-1).tolist() == text[5:].tolist()


@every_variant
def test_the_engine_samples_their_greedy_text(variant: str, tmp_path: Path) -> None:
    theirs, ours = both(variant, 0, tmp_path)
    prompt = torch.randint(2, ours.config.vocab_size, (5,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = theirs.generate(prompt[None], do_sample=False, max_new_tokens=GREEDY, eos_token_id=1, pad_token_id=0)[0, 5:]
    request = Request(tuple(prompt.tolist()), (sample_key(0, "greedy"),), GREEDY, temperature=0.0)
    [[completion]] = Engine(ours, [1]).generate([request])
    assert list(completion.token_ids) == out.tolist()


class PlainCache:
    """What a cache must do, in the fewest words: remember every key and value, and let the new token see its window."""

    def __init__(self, model: Decoder):
        self.windows, self.scale = model.config.windows, model.config.attention_scale
        self.keys: list[list[Tensor]] = [[] for _ in self.windows]
        self.values: list[list[Tensor]] = [[] for _ in self.windows]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.keys[layer].append(k)
        self.values[layer].append(v)
        seen = -self.windows[layer]  # [-0:] is everything
        keys, values = torch.stack(self.keys[layer][seen:], 1), torch.stack(self.values[layer][seen:], 1)
        group = q.shape[1] // k.shape[1]
        keys, values = keys.repeat_interleave(group, 2), values.repeat_interleave(group, 2)
        weights = (torch.einsum("bhd,bnhd->bhn", q, keys) * self.scale).softmax(-1)
        return torch.einsum("bhn,bnhd->bhd", weights, values)


@every_variant
def test_token_by_token_equals_all_at_once(variant: str, tmp_path: Path) -> None:
    _, ours = both(variant, 1, tmp_path)
    ids = torch.randint(0, ours.config.vocab_size, (2, 45), generator=torch.Generator().manual_seed(0))
    cache = PlainCache(ours)
    with torch.no_grad():
        steps = [ours.decode(ids[:, n], torch.tensor([n, n]), cache) for n in range(45)]
        whole = ours(ids.flatten(), lay_out([45, 45]))
    torch.testing.assert_close(torch.stack(steps, 1).flatten(0, 1), whole, rtol=1e-5, atol=1e-5)


@every_variant
def test_documents_packed_and_begun_together_equal_each_alone(variant: str, tmp_path: Path) -> None:
    """Hidden states and gradients of six documents; two of them begin as another, whose beginning is computed once."""
    _, ours = both(variant, 2, tmp_path)
    alone = copy.deepcopy(ours)
    lengths, shared = [40, 1, 30, 16, 9, 12], {2: (0, 11), 5: (4, 9)}  # what comes after the shared beginning
    ids = torch.randint(0, ours.config.vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    parts = list(ids.split(lengths))
    packed = logits(ours, ids, lengths, shared)
    push = torch.randn(packed.shape, generator=torch.Generator().manual_seed(1))
    (packed * push).sum().backward()
    for number, (part, found, weight) in enumerate(zip(parts, packed.split(lengths), push.split(lengths), strict=True)):
        first, count = shared.get(number, (0, 0))
        whole = torch.cat([parts[first][:count], part])
        expected = logits(alone, whole, [len(whole)])[count:]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        (expected * weight).sum().backward()
    for a, b in zip(ours.parameters(), alone.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5 * max(1.0, float(b.grad.abs().max())))


@pytest.mark.parametrize("variant", ["gemma3_text", "phi3", "olmo2"])
@pytest.mark.parametrize("policy", RECOMPUTED)
def test_recomputed_another_family_gives_the_same_gradient(variant: str, policy: Recompute, tmp_path: Path) -> None:
    _, kept = both(variant, 0, tmp_path)
    recomputed = copy.deepcopy(kept)
    recomputed.recompute = policy
    for model in (kept, recomputed):
        logits(model, torch.arange(50), [20, 30]).square().sum().backward()
    for a, b in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


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


def kept_numbers(model: Decoder) -> tuple[int, Tensor]:
    """How many numbers the forward pass keeps for the backward pass, and the loss."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes() // 4
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(torch.arange(12), lay_out([5, 7])).square().sum()
    return sum(kept.values()), loss


@pytest.mark.parametrize("policy", RECOMPUTED)
def test_recomputed_gives_the_same_loss_and_gradient_and_keeps_less(policy: Recompute) -> None:
    kept, recomputed = initialise(TINY, seed=0), initialise(TINY, seed=0)
    recomputed.recompute = policy
    (all_numbers, loss), (numbers, same) = kept_numbers(kept), kept_numbers(recomputed)
    assert torch.equal(loss, same)
    # a layer's second half keeps 3 x 24 and a scale of its norm, 2 x 40 of gate and up, 40 activated, 40 gated a token:
    # "gates" loses the last two 40s, "mlp" all of it but the 24 that it begins with. The C kernels keep 2 x 24, 2 x 40 and 40
    if policy != "blocks":
        lost = {"gates": 80, "mlp": 73 + 160 - 24} if kernel() is None else {"gates": 40, "mlp": 48 + 120 - 24}
        assert all_numbers - numbers == 2 * 12 * lost[policy]
    assert numbers < all_numbers
    loss.backward()
    same.backward()
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


@every_variant
def test_num_parameters_of_every_family(variant: str, tmp_path: Path) -> None:
    theirs, ours = both(variant, 0, tmp_path)
    assert ours.config.num_parameters == theirs.num_parameters() == sum(weight.numel() for weight in ours.parameters())


def test_num_parameters_counts_what_is_there() -> None:
    # qkv (24 + 2 x 12) x 24 + 48, out 24 x 24, mlp 3 x 24 x 40, norms 48: 1152 + 48 + 576 + 2880 + 48 = 4704 a layer
    # 2 x 4704 + last norm 24 + embedding 50 x 24 = 1200
    assert TINY.num_parameters == 10_632
    assert sum(weight.numel() for weight in Decoder(TINY).parameters()) == 10_632


def test_load_state_into_a_model_of_another_seed_makes_it_equal() -> None:
    source, target = initialise(TINY, 0), initialise(TINY, 1)
    load_state(target, state_tensors(source))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
