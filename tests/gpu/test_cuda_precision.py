"""On CUDA: float32 master weights, bfloat16 products, norms and logits in float32; and what must not depend on any of it."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.model import varlen
from headway.model.adapters import adapt, merge
from headway.model.attention import attend, lay_out
from headway.model.checkpoint import weights_hash
from headway.model.config import DecoderConfig
from headway.model.head import next_logits, token_logprobs
from headway.model.products import wide_product
from headway.model.transformer import Decoder, initialise
from headway.recipe import parse_recipe
from headway.runs import Run
from headway.stage_config import DpoConfig, StageConfig
from headway.train.activations import POLICIES, policy_for
from headway.train.batching import Document, epochs, flatten
from headway.train.fit import autocast, fit
from headway.train.likelihood import Likelihood, document_logprobs
from headway.train.optim import make_optimizer, optimizer_tensors, trained
from headway.train.preference import DocumentPair, Preference, reference_logprobs
from headway.train.resume import StageFolder
from headway.types import Request

pytestmark = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
VOCABULARY = 400


def model(seed: int = 0) -> Decoder:
    made = initialise(DecoderConfig(VOCABULARY, 64, 3, 4, 2, 16, 160, max_positions=256), seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(3.0 if weight.dim() > 1 else 1.0)
    return made.to("cuda")


def documents(count: int, seed: int = 0, prompt: tuple[int, ...] = ()) -> list[Document]:
    draw = random.Random(seed)
    ids = [prompt + tuple(draw.randrange(VOCABULARY) for _ in range(draw.randrange(4, 100))) for _ in range(count)]
    return [Document(found, max(1, len(prompt))) for found in ids]


def gradient(made: Decoder, docs: list[Document]) -> tuple[float, Tensor]:
    made.zero_grad()
    loss = -document_logprobs(made, flatten(docs, "cuda")).mean()
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])


@needs_cuda
def test_a_product_of_16_bit_numbers_is_not_rounded_to_16_bits() -> None:
    draw = torch.Generator("cuda").manual_seed(0)
    x = 4 * torch.randn(37, 256, device="cuda", generator=draw)
    weight = torch.randn(VOCABULARY, 256, device="cuda", generator=draw).to(torch.bfloat16)
    found = wide_product(x, weight)
    exact = x.to(torch.bfloat16).double() @ weight.double().t()
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) < 1e-3  # of logits up to some 250, where bfloat16 has steps of 1
    assert float((found.to(torch.bfloat16) - exact).abs().max()) > 0.1


@needs_cuda
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("shared", [{}, {1: (0, 40), 3: (2, 7)}])
def test_attention_over_variable_lengths_is_that_of_gathered_documents(shared: dict[int, tuple[int, int]], window: int) -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = [90, 33, 64, 1, 12]
    layout = lay_out(lengths, "cuda", shared)
    q, k, v = (torch.randn(sum(lengths), n, 64, generator=draw).cuda() for n in (4, 2, 2))
    short = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    exact = [x.detach().float().requires_grad_() for x in short]
    assert varlen.can_compute(short[0])
    assert not varlen.can_compute(exact[0])
    found, expected = attend(*short, layout, window), attend(*exact, layout, window)
    push = torch.randn(found.shape, generator=draw).cuda()
    found.backward(push.bfloat16())
    expected.backward(push.bfloat16().float())
    assert float((found - expected).abs().max()) < 0.03  # values up to 4 or so in steps of 1/128
    for a, b in zip(short, exact, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert float((a.grad - b.grad).norm() / b.grad.norm()) < 0.02


@needs_cuda
def test_what_is_float32_and_what_is_not() -> None:
    made, flat = model(), flatten(documents(5), "cuda")
    with autocast(made):
        hidden = made(flat.ids, flat.layout)
        assert made.blocks[0].attention.qkv(hidden).dtype == torch.bfloat16  # type: ignore[union-attr]
        assert next_logits(hidden, made.output_weight).dtype == torch.float32
        logprobs = token_logprobs(hidden[flat.rows], made.output_weight, flat.targets)
    assert (hidden.dtype, logprobs.dtype) == (torch.float32, torch.float32)
    logprobs.sum().backward()
    assert {p.grad.dtype for p in made.parameters() if p.grad is not None} == {torch.float32}


@needs_cuda
def test_log_probs_on_cuda_are_those_of_the_cpu_up_to_bfloat16_products() -> None:
    made, docs = model(), documents(9)
    found = document_logprobs(made, flatten(docs, "cuda")).detach().cpu()
    exact = document_logprobs(made.to("cpu"), flatten(docs)).detach()
    assert float((found - exact).abs().mean()) < 0.05
    assert float((found - exact).mean().abs()) < 0.01  # and no bias


@needs_cuda
def test_packed_is_alone_and_pieces_are_the_whole() -> None:
    made, docs = model(), documents(8)
    loss, whole = gradient(made, docs)
    alone = [gradient(made, [d]) for d in docs]
    weights = [d.num_targets / sum(x.num_targets for x in docs) for d in docs]
    assert sum(w * part for w, (part, _) in zip(weights, alone, strict=True)) == pytest.approx(loss, abs=2e-3)
    parts = torch.stack([w * g for w, (_, g) in zip(weights, alone, strict=True)]).sum(0)
    assert float((parts - whole).norm() / whole.norm()) < 0.02


@needs_cuda
def test_recomputed_is_kept() -> None:
    made, docs = model(), documents(8)
    loss, whole = gradient(made, docs)
    for policy in POLICIES[1:]:
        made.recompute = policy
        again, found = gradient(made, docs)
        assert again == loss
        assert float((found - whole).norm() / whole.norm()) < 1e-3
    assert policy_for(made, StageConfig(micro_batch_tokens=1024)) == "none"  # it fits


@needs_cuda
def test_dpo_begins_at_log_2() -> None:
    """The reference is computed with the products of training: the margin of the policy at its start is 0."""
    made = model()
    docs = documents(12, prompt=(5, 9, 30))
    pairs = [DocumentPair(docs[2 * i], docs[2 * i + 1]) for i in range(6)]
    config = DpoConfig(micro_batch_tokens=4096)
    objective = Preference(made, pairs, lambda: epochs(6, 6, 0), config, reference_logprobs(made, pairs, 4096))
    (micros,) = objective.updates(0)
    with autocast(made):
        assert float(objective.loss(micros[0])[0].detach()) == pytest.approx(math.log(2), abs=1e-3)


@needs_cuda
@pytest.mark.parametrize("adapters", [False, True])
def test_the_sampler_is_the_trainer(adapters: bool) -> None:
    made = model()
    if adapters:
        adapt(made, 4, 8, ("q_proj", "v_proj", "down_proj"), ("gpu",))
        with torch.no_grad():
            for p in trained(made).values():
                p.add_(0.05 * torch.randn_like(p))
    requests = [Request((5, 9, i), tuple(sample_key(0, i, n) for n in range(4)), 40) for i in range(8)]
    groups = Engine(made, [VOCABULARY]).generate(requests)
    gaps = []
    for request, group in zip(requests, groups, strict=True):
        for completion in group:
            flat = flatten([Document(request.prompt_ids + completion.token_ids, 3)], "cuda")
            gaps.append(document_logprobs(made, flat).detach().cpu() - torch.tensor(completion.logprobs))
    assert float(torch.cat(gaps).abs().mean()) < 0.03
    if adapters:
        before = weights_hash(made)
        merge(made)
        assert weights_hash(made) == before


@needs_cuda
def test_ten_steps_at_5e_7_move_float32_master_weights(tmp_path: Path) -> None:
    made = model()
    start = {name: p.detach().clone() for name, p in made.named_parameters()}
    optimizer: dict[str, Any] = {"lr": 5e-7, "schedule": "constant", "warmup": 0.0}
    config = StageConfig.model_validate({"optimizer": optimizer, "checkpoint_seconds": 1e9})
    values = {"name": "small", "problems": {"sources": [{"family": "chain_sum", "count": 3}]}, "base": {}}
    objective = Likelihood(made, documents(12), lambda: epochs(12, 12, 0), 1024)
    with Run.open(tmp_path, parse_recipe(values, "small.toml"), "small.toml") as run:
        fit(made, objective, config, 10, StageFolder(run, "base"), lambda *_: None)
    moved = torch.cat([(p.detach() - start[name]).abs().flatten() for name, p in made.named_parameters()])
    assert float(moved.max()) < 1.2 * 10 * 5e-7
    assert float(moved.mean()) > 2 * 5e-7
    assert {p.dtype for p in made.parameters()} == {torch.float32}


@needs_cuda
def test_the_optimizer_s_state_is_float32() -> None:
    made = model()
    optimizer = make_optimizer(made, StageConfig().optimizer)
    gradient(made, documents(3))
    optimizer.step()
    state = optimizer_tensors(optimizer, made)
    assert {value.dtype for value in state.values()} == {torch.float32}
