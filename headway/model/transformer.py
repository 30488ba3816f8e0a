"""The decoder: token ids in, hidden states out. Trainer and sampler are this one module, on the same weights.

    x = E[ids];  per block:  x += O attend(rope(QKV norm(x)));  x += D (act(G norm(x)) * U norm(x));   h = norm(x)

What a family norms, scales or leaves out is a setting (`config`): there is one block for all. `hidden` is the only forward pass,
and its caller says who sees whom: `forward` whole documents that lie end to end (training, scoring, prefill), `decode` one new
token of many sequences, which see their cached keys and values. It does not know about problems, sampling or losses; logits are
made in `head`, in chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headway.model import fused, products
from headway.model.attention import Layout, attend
from headway.model.config import LOCAL_ROPE, NO_ROPE, DecoderConfig
from headway.model.products import Turn
from headway.model.rope import frequencies, rotate, rotation

See = Callable[[Tensor, Tensor, Tensor], Tensor]  # q [T, heads, d], k and v [T, kv_heads, d] -> [T, heads, d]
Recompute = Literal["none", "gates", "mlp", "blocks"]  # what the backward pass makes again instead of keeping it
# nothing is drawn inside, so there is no generator to put back
recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu_tanh": partial(F.gelu, approximate="tanh")}


class KeyValues(Protocol):
    """What `decode` needs of a cache: attention of one new token a sequence, which it also stores."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, heads, d], k and v [B, kv_heads, d] -> [B, heads, d]."""
        ...


class Norm(nn.RMSNorm):
    """x / rms(x) * (offset + weight); in float32 where there is an offset, or x is of another type than the weight."""

    def __init__(self, size: int, eps: float, offset: float):
        super().__init__(size, eps=eps)
        self.offset = offset
        nn.init.constant_(self.weight, 1.0 - offset)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] -> [..., size], of the type of x."""
        if products.is_direct(x):
            return products.rms_norm(x, self.weight, self.offset, self.eps or 0.0)
        if self.weight.dtype == torch.float32 and fused.kernel_for(x) is not None:
            return fused.rms_norm(x, self.weight, self.offset, self.eps or 0.0)
        if not self.offset and x.dtype == self.weight.dtype:
            return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float() + self.offset, self.eps).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention; query, key and value are one product."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.qkv = nn.Linear(config.width, q + 2 * kv, bias=config.qkv_bias)
        self.out = nn.Linear(q, config.width, bias=config.out_bias)
        sizes = {"": (), "head": (config.head_dim, config.head_dim), "all": (q, kv)}[config.qk_norm]
        self.norms = nn.ModuleList(Norm(size, config.norm_eps, config.norm_offset) for size in sizes)  # of q and k, or none
        self.norms_heads = config.qk_norm == "head"

    def project(self, x: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, width] -> normed and rotated q [T, heads, d] and k [T, kv_heads, d], plain v [T, kv_heads, d]."""
        both = products.linear(x, self.qkv).view(x.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)
        if turn is not None and not self.norms and torch.is_grad_enabled() and fused.kernel_for(both) is not None:
            return fused.turn(both, *turn, self.heads, self.kv_heads)
        qk, v = both[:, : self.heads + self.kv_heads], both[:, self.heads + self.kv_heads :]
        if self._turns_in_place(both, turn):
            return qk[:, : self.heads], qk[:, self.heads :], v
        if self.norms:
            parts = (qk[:, : self.heads], qk[:, self.heads :])
            if self.norms_heads:
                qk = torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], dim=1)
            else:
                flat = [norm(part.flatten(1)).view(part.shape) for norm, part in zip(self.norms, parts, strict=True)]
                qk = torch.cat(flat, dim=1)
        if turn is not None and not products.rotate_in_place(qk, *turn):
            qk = rotate(qk, *turn)
        return qk[:, : self.heads], qk[:, self.heads :], v

    def _turns_in_place(self, both: Tensor, turn: Turn) -> bool:
        """Norm and rotate the heads of q and k in both [T, heads + 2 kv_heads, d], if there is a kernel for it."""
        if self.norms and not self.norms_heads:
            return False
        q, k = cast(tuple[Norm, Norm], self.norms) if self.norms else (None, None)
        weights = (q.weight, k.weight) if q is not None and k is not None else None
        offset, eps = (q.offset, q.eps or 0.0) if q is not None else (0.0, 0.0)
        return products.turn_heads(both, self.heads, self.kv_heads, weights, offset, eps, turn)


class Block(nn.Module):
    """One layer. Norms that a family does not have are the identity."""

    def __init__(self, config: DecoderConfig):
        super().__init__()

        def norm(place: str) -> nn.Module:
            return Norm(config.width, config.norm_eps, config.norm_offset) if config.norms in (place, "both") else nn.Identity()

        self.attention_norm = norm("before")
        self.attention = Attention(config)
        self.after_attention = norm("after")
        self.mlp_norm = norm("before")
        self.gate_up = nn.Linear(config.width, 2 * config.mlp_width, bias=config.mlp_bias)
        self.down = nn.Linear(config.mlp_width, config.width, bias=config.mlp_bias)
        self.after_mlp = norm("after")
        self.activation = _ACTIVATIONS[config.activation]
        self.is_silu = config.activation == "silu"
        self.swish = self.is_silu and not config.mlp_bias
        self.adds = config.norms == "before"

    def forward(self, x: Tensor, turn: Turn, see: See, again: Recompute = "none") -> Tensor:
        """x [T, width] -> [T, width]; `see(q, k, v)` says who sees whom, `again` what is made again in the backward pass."""
        q, k, v = self.attention.project(self.attention_norm(x), turn)
        x = self._add(x, see(q, k, v).reshape(x.shape[0], -1), self.attention.out, self.after_attention)
        if again == "mlp":
            return cast(Tensor, recompute(self._mlp, x))
        if again == "gates":
            both = products.linear(self.mlp_norm(x), self.gate_up)
            return x + self.after_mlp(recompute(lambda both: products.linear(self._gate(both), self.down), both))
        return self._mlp(x)

    def _mlp(self, x: Tensor) -> Tensor:
        """x [T, width] plus what the second half of the layer makes of it."""
        return self._add(x, self._gated(self.mlp_norm(x)), self.down, self.after_mlp)

    @property
    def products(self) -> tuple[nn.Linear, ...]:
        """The four matrix products of the layer."""
        return self.attention.qkv, self.attention.out, self.gate_up, self.down

    def _gated(self, x: Tensor) -> Tensor:
        if self.swish and products.is_direct(x):
            return products.swish_gate(x, self.gate_up)
        return self._gate(products.linear(x, self.gate_up))

    def _gate(self, both: Tensor) -> Tensor:
        if self.is_silu and torch.is_grad_enabled() and fused.kernel_for(both) is not None:
            return fused.gate(both)
        gate, up = both.chunk(2, dim=-1)
        return self.activation(gate) * up

    def _add(self, x: Tensor, y: Tensor, layer: nn.Linear, norm: nn.Module) -> Tensor:
        """x + norm(layer(y))."""
        if self.adds and products.is_direct(x):
            return products.linear_add(y, layer, x)
        return x + norm(products.linear(y, layer))


class Decoder(nn.Module):
    """A decoder-only language model. `output_weight` [vocabulary, width] turns hidden states into logits."""

    frequencies: Tensor
    local_frequencies: Tensor

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        # not set (`initialise` or `checkpoint` does): to draw an embedding on "meta", torch loads its compiler, for a second
        self.embedding = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.width), freeze=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width, config.norm_eps, config.norm_offset)
        self.output = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.register_buffer("frequencies", frequencies(config), persistent=False)
        self.register_buffer("local_frequencies", frequencies(config, local=True), persistent=False)
        self.recompute: Recompute = "none"  # activation checkpointing: memory for a part of one more forward; same numbers

    @property
    def output_weight(self) -> Tensor:
        """The output matrix [vocabulary, width]; the embedding itself when tied."""
        return self.embedding.weight if self.output is None else self.output.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def matrices(self) -> list[Tensor]:
        """Every weight that tokens are multiplied with, the output's among them."""
        layers = [layer for block in self.blocks for layer in cast(Block, block).products]
        if self.device.type == "cuda":  # what an adapted layer learned stands beside its weight there
            layers = [getattr(layer, "base", layer) for layer in layers]
        return [*(layer.weight for layer in layers), self.output_weight]

    def forward(self, ids: Tensor, layout: Layout, keep: Callable[[int, Tensor, Tensor], None] | None = None) -> Tensor:
        """Hidden states [T, width] of the documents in ids [T], after the last norm.

        `keep(layer, k, v)` is shown each layer's keys and values [T, kv_heads, d], to fill a cache.
        """
        windows, scale = self.config.windows, self.config.attention_scale

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if keep is not None:
                keep(layer, k, v)
            return attend(q, k, v, layout, windows[layer], scale)

        return self.hidden(ids, layout.positions, attention)

    def decode(self, ids: Tensor, positions: Tensor, cache: KeyValues) -> Tensor:
        """Hidden states [B, width] of one new token of each of B sequences, ids and positions [B]."""
        rows = ids.shape[0]
        more = products.rounded(rows) - rows
        if not more:
            return self.hidden(ids, positions, cache.attend)

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.pad(cache.attend(layer, q[:rows], k[:rows], v[:rows]), (0, 0, 0, 0, 0, more))

        return self.hidden(F.pad(ids, (0, more)), F.pad(positions, (0, more)), attention)[:rows]

    def hidden(self, ids: Tensor, positions: Tensor, attention: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Hidden states [T, width] of ids [T] at positions [T], after the last norm.

        `attention(layer, q [T, heads, d], k [T, kv_heads, d], v) -> [T, heads, d]` says who sees whom and what is kept; q and k
        come normed and rotated, not scaled: `config.attention_scale` and `config.windows` are its business.
        """
        turns = self._turns(positions)
        x = self.embedding(ids)
        if self.config.embedding_scale != 1.0:  # rounded to the weights' type first, as transformers does
            x = x * _rounded(self.config.embedding_scale, x.dtype)
        for layer, block in enumerate(self.blocks):
            turn, see = turns[self.config.ropes[layer]], partial(attention, layer)
            if not torch.is_grad_enabled():
                x = block(x, turn, see)
            elif self.recompute == "blocks":
                x = cast(Tensor, recompute(block, x, turn, see))
            else:
                x = block(x, turn, see, self.recompute)
        return self.norm(x)

    def _turns(self, positions: Tensor) -> dict[int, Turn]:
        """cos and sin for each rope that some layer has."""
        turns: dict[int, Turn] = {}
        for rope in set(self.config.ropes):
            if rope == LOCAL_ROPE:
                turns[rope] = rotation(self.local_frequencies, positions)
            elif rope == NO_ROPE:
                turns[rope] = None
            else:
                turns[rope] = rotation(self.frequencies, positions, self.config.rope_scaling.get("attention_factor", 1.0))
        return turns

    def set_frequencies(self, device: torch.device | str) -> None:
        """Make the rotary frequencies anew on a device, in float32: positions beyond 256 have no place in bfloat16."""
        self.frequencies = frequencies(self.config).to(device)
        self.local_frequencies = frequencies(self.config, local=True).to(device)


@cache
def _rounded(number: float, dtype: torch.dtype) -> float:
    """The nearest number of that type."""
    return torch.tensor(number, device="cpu").to(dtype).item()


def initialise(config: DecoderConfig, seed: int) -> Decoder:
    """A decoder with random weights: normal(0, sqrt(2 / (5 width))), outputs into the residual stream scaled by 1/sqrt(2 layers).

    "Small init" of Nguyen and Salazar (arXiv 1910.05895, section 3.3); the common 0.02 starts a decoder of width 128 three times
    too small, which cost it half its learning speed on worked solutions (dev/LOG.md).
    """
    model = Decoder(config)
    generator = torch.Generator().manual_seed(seed)
    std = (2 / (5 * config.width)) ** 0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(("attention.out.weight", "down.weight"))
                weight.normal_(0.0, std / (2 * config.layers) ** 0.5 if residual else std, generator=generator)
            elif name.endswith("bias"):
                weight.zero_()
    return model
