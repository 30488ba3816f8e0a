"""LoRA: a product's frozen weight and, beside it, one of low rank that learns (Hu et al., arXiv 2106.09685).

    y = W x + (alpha / rank) B A x          A [rank, in] random, B [out, rank] zero at the start

Our products are fused: rows of `qkv` are q_proj, k_proj and v_proj, rows of `gate_up` are gate_proj and up_proj. Each target has
an A and a B of its own, as in a checkpoint whose projections lie apart. A fused product computes them together:

    A = A_q | A_k | A_v one above the other [3 rank, in],     B = B_q, B_k, B_v down the diagonal [out, 3 rank]

Where a gradient is recorded the low rank stands beside the frozen weight, which no step touches. Whoever reads `weight` (the
sampler's products, hashing, saving) gets W + (alpha / rank) B A: a copy, made when it is first asked for after A or B changed and
let go by the next training step. So sampling costs what it costs without adapters, and the frozen weight is never added to and
subtracted from. The layers are peft's. This file does not know what is trained, nor peft's files (`adapter_folder`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.errors import ConfigError
from headway.model.products import laid_out, on_cuda
from headway.model.transformer import Block, Decoder
from headway.types import content_id

_NAME = "default"  # what peft calls its only adapter


class Adapted(nn.Linear):
    """A product with adapters on some of its rows. `parts` are peft's layers by target, `rows` (begin, end) in the product."""

    def __init__(self, base: nn.Linear, parts: Mapping[str, nn.Module], rows: Mapping[str, tuple[int, int]]):
        nn.Module.__init__(self)  # a Linear that holds no weight of its own
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base, self.parts, self.rows = base, nn.ModuleDict(parts), dict(rows)
        scales = {cast(Any, part).scaling[_NAME] for part in parts.values()}
        assert len(scales) == 1, "all adapters of a product have one scale"
        self.scale = float(scales.pop())
        self._merged: tuple[tuple[int, ...], Tensor] | None = None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """What the product multiplies with, [out, in]: the frozen weight itself as long as every B is zero."""
        versions = tuple(p._version for p in self.parts.parameters())
        if self._merged is None or self._merged[0] != versions:
            with torch.inference_mode(False), torch.no_grad():
                a, b = self.factors()
                merged = torch.addmm(self.base.weight, b, a, alpha=self.scale) if bool(b.any()) else self.base.weight
            merged.halves = getattr(self.base.weight, "halves", False)  # type: ignore[attr-defined]
            self._merged = versions, merged
        return self._merged[1]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """The frozen bias [out]."""
        return self.base.bias

    def pair(self, target: str) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [its rows, rank] of a target."""
        part = cast(Any, self.parts[target])
        return part.lora_A[_NAME].weight, part.lora_B[_NAME].weight

    def factors(self) -> tuple[Tensor, Tensor]:
        """A [n rank, in] and B [out, n rank] of all n targets together."""
        pairs = [self.pair(target) for target in self.parts]
        if len(pairs) == 1 and pairs[0][1].shape[0] == self.out_features:
            return pairs[0]
        rank = pairs[0][0].shape[0]
        columns: list[Tensor] = []
        for place, (target, (_, b)) in enumerate(zip(self.parts, pairs, strict=True)):
            begin, end = self.rows[target]
            sides = (place * rank, (len(pairs) - 1 - place) * rank)
            columns.append(F.pad(b, (*sides, begin, self.out_features - end)))
        return torch.cat([a for a, _ in pairs]), torch.stack(columns).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, in] -> [T, out], the low rank beside the frozen weight."""
        if torch.is_grad_enabled():
            self._merged = None
        a, b = self.factors()
        weight = laid_out(self.base.weight) if on_cuda(x) and not torch.is_grad_enabled() else self.base.weight
        y = F.linear(x, weight, self.base.bias)
        return torch.addmm(y, F.linear(x, a), b.t(), alpha=self.scale)


def need_peft() -> None:
    """Raises ConfigError where peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("[lora] trains adapters with peft, which is not installed: pip install 'headway[lora]'")


def adapt(model: Decoder, rank: int, alpha: int, targets: Sequence[str], key: Sequence[Any]) -> None:
    """Freeze the decoder and put fresh adapters beside the targets of every layer; undone by `merge`.

    `targets` are names of Hugging Face's projections: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj. The random A
    of a target is a function of `key`, its layer and its name.
    """
    need_peft()
    assert not any(True for _ in adapted(model)), "the adapters of the stage before are merged"
    model.requires_grad_(False)
    device, dtype = model.device, model.embedding.weight.dtype
    for number, module in enumerate(model.blocks):
        block = cast(Block, module)
        for place, base, rows in _products(block):
            wanted = [name for name in rows if name in targets]
            if not wanted:
                continue
            parts = _peft_layers({name: (rows[name][1] - rows[name][0], base.in_features) for name in wanted}, rank, alpha)
            for name, part in parts.items():
                seed = int(content_id(*key, number, name), 16) & (2**63 - 1)
                _initialise(part, rank, base.in_features, rows[name][1] - rows[name][0], seed, device, dtype)
            parent, _, leaf = place.rpartition(".")
            setattr(block.get_submodule(parent), leaf, Adapted(base, parts, {name: rows[name] for name in wanted}))


def _products(block: Block) -> list[tuple[str, nn.Linear, dict[str, tuple[int, int]]]]:
    """The four products of a block: where they are, what they are, and which rows each projection has."""
    attention = block.attention
    q, kv, m = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim, block.down.in_features
    qkv = {"q_proj": (0, q), "k_proj": (q, q + kv), "v_proj": (q + kv, q + 2 * kv)}
    return [
        ("attention.qkv", attention.qkv, qkv),
        ("attention.out", attention.out, {"o_proj": (0, attention.out.out_features)}),
        ("gate_up", block.gate_up, {"gate_proj": (0, m), "up_proj": (m, 2 * m)}),
        ("down", block.down, {"down_proj": (0, block.down.out_features)}),
    ]


def _peft_layers(shapes: Mapping[str, tuple[int, int]], rank: int, alpha: int) -> dict[str, nn.Module]:
    """peft's LoRA layers of these shapes (out, in), without memory, and without the weights that they usually wrap."""
    from peft import LoraConfig, inject_adapter_in_model

    holder = nn.ModuleDict({name: nn.Linear(n, out, bias=False, device="meta") for name, (out, n) in shapes.items()})
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(shapes))
    with torch.random.fork_rng(devices=[]):  # it draws what it then throws away
        inject_adapter_in_model(config, holder, _NAME, low_cpu_mem_usage=True)
    for layer in holder.values():
        layer.base_layer = nn.Identity()  # ours is fused, and multiplied once
    return {name: holder[name] for name in shapes}


def _initialise(
    part: nn.Module, rank: int, inputs: int, outputs: int, seed: int, device: torch.device, dtype: torch.dtype
) -> None:
    """peft's start: A uniform in +- 1 / sqrt(in), here by key, and B zero."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.empty(rank, inputs).uniform_(-1, 1, generator=generator).mul_(1 / math.sqrt(inputs))
    layer = cast(Any, part)
    layer.lora_A[_NAME].weight = nn.Parameter(a.to(device, dtype))
    layer.lora_B[_NAME].weight = nn.Parameter(torch.zeros(outputs, rank, device=device, dtype=dtype))


def adapted(model: Decoder) -> Iterator[tuple[int, str, Adapted]]:
    """The products that have adapters: their layer, their place in it ("attention.qkv"), themselves."""
    for number, block in enumerate(model.blocks):
        for place, product, _ in _products(cast(Block, block)):
            if isinstance(product, Adapted):
                yield number, place, product


def merge(model: Decoder) -> None:
    """Write what the adapters learned into the weights, bit for bit what the sampler used, and take the adapters away."""
    for number, place, product in list(adapted(model)):
        with torch.no_grad():
            if product.weight is not product.base.weight:
                product.base.weight.copy_(product.weight)
        parent, _, leaf = place.rpartition(".")
        setattr(model.blocks[number].get_submodule(parent), leaf, product.base)
    model.requires_grad_(True)


def frozen_hash(model: nn.Module) -> str:
    """16 hex digits over the weights that do not learn; "" where all do."""
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in frozen:
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest() if frozen else ""
