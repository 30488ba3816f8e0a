"""Adapters: alone in learning, the same to trainer and sampler, merged bit for bit, and what peft makes of them."""

import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import both, every_variant
from safetensors.torch import load_file
from test_policy import Given, sampled
from tiny_policy import STOP, ragged, step_gradient, tiny
from torch import Tensor
from transformers import AutoModelForCausalLM

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.model.adapter_folder import save_adapter, start_of
from headway.model.adapters import adapt, adapted, frozen_hash, merge
from headway.model.attention import lay_out
from headway.model.checkpoint import save_decoder, weights_hash
from headway.model.head import next_logits
from headway.model.transformer import Decoder, Recompute
from headway.stage_config import PROJECTIONS, OptimizerConfig, RlConfig
from headway.train.batching import flatten
from headway.train.likelihood import document_logprobs
from headway.train.optim import make_optimizer, optimizer_tensors, trained, update
from headway.train.policy import PolicyGradient
from headway.types import Request

SOME = ("q_proj", "v_proj", "up_proj", "down_proj")
every_choice = pytest.mark.parametrize("targets", [PROJECTIONS, SOME, ("k_proj",)], ids=["all", "some", "one"])


def with_adapters(model: Decoder, targets: Any = PROJECTIONS, rank: int = 3, seed: int = 0) -> Decoder:
    adapt(model, rank, 2 * rank, targets, ("test", seed))
    return model


def learned(model: Decoder, size: float = 0.1, seed: int = 0) -> Decoder:
    """As if it had trained: every adapter elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def frozen_bytes(model: Decoder) -> dict[str, bytes]:
    return {name: p.detach().numpy().tobytes() for name, p in model.named_parameters() if not p.requires_grad}


def by_hand(model: Decoder) -> Decoder:
    """A plain decoder whose weights are W + 2 B A, each target's rows by themselves, in float64."""
    plain = tiny()
    for (number, place, product), target in [(p, t) for p in adapted(model) for t in p[2].parts]:
        a, b = product.pair(target)
        begin, end = product.rows[target]
        with torch.no_grad():
            rows = plain.blocks[number].get_submodule(place).weight[begin:end]  # type: ignore[union-attr,index]
            rows.copy_(rows.double() + 2 * (b.double() @ a.double()))  # alpha / rank = 2
    return plain


# -- what learns -------------------------------------------------------------------------------------------------------


@every_choice
def test_fresh_adapters_change_nothing(targets: Any) -> None:
    plain = tiny()
    model = with_adapters(tiny(), targets)
    assert weights_hash(model) == weights_hash(plain)
    for a, b in zip(model.matrices, plain.matrices, strict=True):
        assert torch.equal(a, b)
    assert all(product.weight is product.base.weight for _, _, product in adapted(model))  # and nothing is copied
    flat = flatten(ragged(5))
    assert torch.equal(document_logprobs(model, flat), document_logprobs(plain, flat))


def test_only_adapters_learn_and_have_a_state() -> None:
    model = with_adapters(tiny(), SOME)
    targets = {name.split(".")[-4] for name in trained(model)}
    assert (targets, len(trained(model))) == (set(SOME), 2 * 2 * len(SOME))  # A and B in two layers
    before, start = frozen_bytes(model), {name: p.detach().clone() for name, p in trained(model).items()}
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.01, weight_decay=0.1))
    for seed in range(2):  # B moves in the first step, A from the second on: its gradient goes through B
        (-document_logprobs(model, flatten(ragged(5, seed))).mean()).backward()
        update(optimizer, model, 0.01, 1.0)
    assert frozen_bytes(model) == before
    assert {name.rpartition(".")[0] for name in optimizer_tensors(optimizer, model)} == set(start)
    assert all(not torch.equal(p, start[name]) for name, p in trained(model).items())


def test_frozen_weights_take_no_gradient_of_their_own() -> None:
    model = learned(with_adapters(tiny()))
    (-document_logprobs(model, flatten(ragged(5))).mean()).backward()
    assert [name for name, p in model.named_parameters() if (p.grad is None) is p.requires_grad] == []


@every_choice
def test_the_gradient_is_that_of_the_product_of_the_factors(targets: Any) -> None:
    """With G the gradient of a plain weight W + 2 B A: dA = 2 B^T G, dB = 2 G A^T."""
    model = learned(with_adapters(tiny(), targets))
    plain, flat = by_hand(model), flatten(ragged(7))
    for one in (model, plain):
        (-document_logprobs(one, flat).mean()).backward()
    for number, place, product in adapted(model):
        whole = plain.blocks[number].get_submodule(place).weight.grad  # type: ignore[union-attr]
        for target in product.parts:
            a, b = product.pair(target)
            begin, end = product.rows[target]
            gradient: Tensor = whole[begin:end]  # type: ignore[index]
            for found, expected in ((a.grad, 2 * b.detach().t() @ gradient), (b.grad, 2 * gradient @ a.detach().t())):
                assert found is not None
                assert float((found - expected).norm() / expected.norm()) < 2e-5


@pytest.mark.parametrize("policy", ["gates", "mlp", "blocks"])
def test_recomputed_with_adapters_is_the_same_gradient(policy: Recompute) -> None:
    found = []
    for again in ("none", policy):
        model = learned(with_adapters(tiny()))
        model.recompute = again
        (-document_logprobs(model, flatten(ragged(5))).mean()).backward()
        found.append([p.grad for p in trained(model).values()])
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_start_is_a_function_of_its_key_alone() -> None:
    one, other, third = tiny(), tiny(1), tiny()
    before = torch.random.get_rng_state()
    with_adapters(one)
    with_adapters(other, SOME)
    with_adapters(third, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    same = {name: p for name, p in trained(one).items() if name in trained(other)}
    assert all(torch.equal(p, trained(other)[name]) for name, p in same.items())
    assert len(same) == len(trained(other))
    first = [p.detach() for name, p in trained(one).items() if "lora_A" in name]
    assert len({p.numpy().tobytes() for p in first}) == len(first) == 14  # seven targets, two layers: all different
    assert all(0.9 < float(p.abs().max()) * p.shape[1] ** 0.5 <= 1 for p in first)  # uniform in +- 1 / sqrt(in)
    assert not torch.equal(next(iter(trained(third).values())), next(iter(trained(one).values())))


# -- trainer, sampler, merge -------------------------------------------------------------------------------------------


@every_choice
def test_with_and_without_a_gradient_they_compute_the_same(targets: Any) -> None:
    model = learned(with_adapters(tiny(), targets))
    flat = flatten(ragged(9))
    with_gradient = document_logprobs(model, flat).detach()
    with torch.no_grad():
        without, exact = document_logprobs(model, flat), document_logprobs(by_hand(model), flat)
        nothing_learned = document_logprobs(tiny(), flat)
    assert float((with_gradient - without).abs().max()) < 1e-4
    assert float((without - exact).abs().max()) < 1e-4
    assert float((without - nothing_learned).abs().max()) > 0.1


def test_the_sampler_follows_every_step_of_the_trainer() -> None:
    """RL's first update of each step has ratio 1: the gap is that of the sampled tokens' log-probs."""
    model = with_adapters(tiny())
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.02))
    config, before = RlConfig(micro_batch_tokens=64), weights_hash(model)
    hashes, gaps = [before], []
    for step in range(3):
        objective = PolicyGradient(model, Given(sampled(model, 0.8, seed=step), 0.8), config)
        step_gradient(model, objective)
        row: dict[str, Any] = {}
        objective.finish_step(step + 1, row)
        gaps.append(row["gap_max"])
        update(optimizer, model, 0.02, 1.0)
        hashes.append(weights_hash(model))
    assert all(0 < gap <= 1e-4 for gap in gaps)
    assert len(set(hashes)) == 4


def test_the_engine_sees_that_the_adapters_changed() -> None:
    model = with_adapters(tiny())
    engine = Engine(model, [STOP])
    requests = [Request((5, 9, 7), tuple(sample_key(0, i) for i in range(8)), 40)]  # long and many enough to be packed
    first = engine.generate(requests)
    learned(model)
    second = engine.generate(requests)
    assert first != second
    assert {c.versions for [*group] in second for c in group} == {(engine.version,)}
    assert engine.version > 0
    merge(model)
    assert engine.generate(requests)[0][0].token_ids == second[0][0].token_ids


@every_choice
def test_merged_weights_are_those_that_were_sampled_from_bit_for_bit(targets: Any) -> None:
    model = learned(with_adapters(tiny(), targets))
    before, sampled_from = frozen_bytes(model), weights_hash(model)
    assert frozen_bytes(model) == before  # reading them, and sampling, adds nothing to the frozen ones
    merge(model)
    assert weights_hash(model) == sampled_from
    assert model.state_dict().keys() == tiny().state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    assert list(adapted(model)) == []
    assert frozen_hash(model) == ""


def test_the_copy_for_sampling_lives_until_the_next_training_step() -> None:
    model = learned(with_adapters(tiny(), ("down_proj",)))
    product = next(adapted(model))[2]
    copied = product.weight
    assert copied is product.weight  # made once
    assert copied is not product.base.weight
    document_logprobs(model, flatten(ragged(2)))
    assert product._merged is None


def test_the_hash_of_what_is_frozen_leaves_the_adapters_out() -> None:
    model = with_adapters(tiny())
    before = frozen_hash(model)
    assert frozen_hash(learned(model)) == before != ""
    model.embedding.weight.data[0, 0] += 1e-6
    assert frozen_hash(model) != before


# -- peft --------------------------------------------------------------------------------------------------------------


def logits_of(theirs: Any, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return theirs(torch.tensor([ids])).logits[0]


def in_peft(start: Path, folder: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32), str(folder)).eval()


@every_variant
@pytest.mark.parametrize("targets", [PROJECTIONS, SOME], ids=["all", "some"])
def test_peft_and_the_merged_checkpoint_agree(variant: str, targets: Any, tmp_path: Path) -> None:
    """In every family, those with q, k and v in one matrix among them; and after a second stage of fresh adapters."""
    _, ours = both(variant, 1, tmp_path / "start")
    ids = [random.Random(variant).randrange(ours.config.vocab_size) for _ in range(11)]
    plain = next_logits(ours(torch.tensor(ids), lay_out([11])), ours.output_weight)
    before: Path | str = ""
    for stage in ("one", "two"):
        learned(with_adapters(ours, targets, seed=len(stage)), size=0.15)
        folder = tmp_path / stage
        folder.mkdir()
        save_adapter(ours, folder, str(tmp_path / "start"), 6, 3, before)
        merge(ours)
        (tmp_path / f"{stage}-merged").mkdir()
        save_decoder(ours, tmp_path / f"{stage}-merged")
        mine = next_logits(ours(torch.tensor(ids), lay_out([11])), ours.output_weight)
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / f"{stage}-merged", dtype=torch.float32)
        assert float((logits_of(whole, ids) - mine).abs().max()) <= 1e-5 * max(1.0, float(mine.abs().max()))
        beside = logits_of(in_peft(tmp_path / "start", folder), ids)
        assert float((beside - mine).abs().max()) <= 1e-5 * max(1.0, float(mine.abs().max()))
        assert float((mine - plain).abs().max()) > 0.05
        assert start_of(folder) == str(tmp_path / "start")
        before = folder
    ranks = {
        name.split(".")[-3]: t.shape[0]
        for name, t in load_file(tmp_path / "two" / "adapter_model.safetensors").items()
        if "lora_A" in name
    }
    parts = 1 if not ours.config.is_fused else sum(t in targets for t in ("q_proj", "k_proj", "v_proj"))
    assert ranks["qkv_proj" if ours.config.is_fused else "q_proj"] == 2 * 3 * parts


def test_the_same_adapters_give_the_same_bytes(tmp_path: Path) -> None:
    model = learned(with_adapters(tiny()))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_adapter(model, tmp_path / name, "owner/name", 6, 3)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
