"""The decoder: token ids in, hidden states out. Trainer and sampler are this one module, on the same weights.

    x = E[ids];  per block:  x += O attend(rope(QKV norm(x)));  x += D (silu(G norm(x)) * U norm(x));   h = norm(x)

`forward` runs whole documents that lie end to end (training, scoring, prefill); `decode` runs one new token of many
sequences against their cached keys and values. It does not know about problems, sampling or losses; logits are made in
`head`, in chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from headway.model.attention import Layout, attend
from headway.model.config import DecoderConfig
from headway.model.rope import frequencies, rotate, rotation


class KeyValues(Protocol):
    """What `decode` needs of a cache: attention of one new token a sequence, which it also stores."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, heads, d], k and v [B, kv_heads, d] -> [B, heads, d]."""
        ...


class Attention(nn.Module):
    """Grouped-query attention; query, key and value are one product."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.qkv = nn.Linear(config.width, q + 2 * kv, bias=config.qkv_bias)
        self.out = nn.Linear(q, config.width, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, width] -> rotated q [T, heads, d], rotated k and plain v [T, kv_heads, d]."""
        both = self.qkv(x).view(x.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)
        turned = rotate(both[:, : self.heads + self.kv_heads], cos, sin)
        return turned[:, : self.heads], turned[:, self.heads :], both[:, self.heads + self.kv_heads :]


class Block(nn.Module):
    """One layer."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.gate_up = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attention: Callable[..., Tensor]) -> Tensor:
        """x [T, width] -> [T, width]; `attention(q, k, v)` says who sees whom."""
        q, k, v = self.attention.project(self.attention_norm(x), cos, sin)
        x = x + self.attention.out(attention(q, k, v).reshape(x.shape[0], -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    """A decoder-only language model. `output_weight` [vocabulary, width] turns hidden states into logits."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.output = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.register_buffer("frequencies", frequencies(config), persistent=False)
        self.recompute_blocks = False  # activation checkpointing: memory for one more forward

    @property
    def output_weight(self) -> Tensor:
        """The output matrix [vocabulary, width]; the embedding itself when tied."""
        return self.embedding.weight if self.output is None else self.output.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def forward(self, ids: Tensor, layout: Layout, keep: Callable[[int, Tensor, Tensor], None] | None = None) -> Tensor:
        """Hidden states [T, width] of the documents in ids [T], after the last norm.

        `keep(layer, k, v)` is shown each layer's keys and values [T, kv_heads, d], to fill a cache.
        """

        def attention(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if keep is not None:
                keep(number, k, v)
            return attend(q, k, v, layout)

        return self.hidden(ids, layout.positions, attention)

    def decode(self, ids: Tensor, positions: Tensor, cache: KeyValues) -> Tensor:
        """Hidden states [B, width] of one new token of each of B sequences, ids and positions [B]."""
        return self.hidden(ids, positions, cache.attend)

    def hidden(self, ids: Tensor, positions: Tensor, attention: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Hidden states [T, width] after the last norm; `attention(layer, q, k, v)` says who sees whom."""
        cos, sin = rotation(self.frequencies, positions)  # type: ignore[arg-type]
        x = self.embedding(ids)
        for number, block in enumerate(self.blocks):

            def here(q: Tensor, k: Tensor, v: Tensor, number: int = number) -> Tensor:
                return attention(number, q, k, v)

            if self.recompute_blocks and torch.is_grad_enabled():
                x = recompute(block, x, cos, sin, here, use_reentrant=False)
            else:
                x = block(x, cos, sin, here)
        return self.norm(x)


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
