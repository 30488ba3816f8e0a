"""Bytes that training and sampling hold, by part: formulas over a decoder's settings and a number of tokens. No tensor is made.

    train   = weights + gradients + moments + kept + activations + vocabulary          P parameters, T tokens at once, float32
    update  = weights + gradients + moments + kept + what Muon makes orthogonal
    ranks   = weights + weights / n, gradients / n, moments / n, and gathered     of each of n ranks: a whole copy and its shards
    sample  = weights + moments (RL) + packed copies + cache + drawing
    activations = T [ layers (4 d + 3 q + 2 kv + 4 m) + 5 d ]   what is saved; d width, q, kv heads x head_dim, m mlp_width;
                                                                with the C kernels q + m less a layer, one number a head more
                + T (5 m + 3 d)                                  gradients on the way back through one layer
    vocabulary  = 2 V d + 3 chunk V                              output's and embedding's gradients, and logits of one chunk

The formulas are those of the code as it is (`model.transformer`, `model.head`, `engine.cache`); tests compare them with
autograd. It does not know recipes or machines.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from headway.engine.cache import BLOCK, bytes_per_position, default_positions
from headway.model.config import DecoderConfig
from headway.model.head import chunk_tokens
from headway.model.kernel import FEW_ROWS, kernel
from headway.model.products import MOST_ROWS, rounded

FLOAT = 4
_DRAW_COPIES = 4  # of the logits of a decode step: scaled, probabilities, what top-p sorts
_PRODUCT_BYTES = 1_100_000  # that oneDNN keeps for each number of rows it has met, of which there are few (`model.products`)


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many numbers a decoder learns, by part; `hidden` are the matrices of the layers, which Muon takes."""

    embedding: int
    output: int  # 0 where it is the embedding
    hidden: int
    vectors: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.output + self.hidden + self.vectors


def parameters(config: DecoderConfig) -> Parameters:
    """Counted from the settings; the parts add up to `config.num_parameters`."""
    q, kv, d = config.heads * config.head_dim, config.kv_heads * config.head_dim, config.width
    hidden = config.layers * (d * (q + 2 * kv) + q * d + 3 * d * config.mlp_width)
    embedding = config.vocab_size * d
    output = 0 if config.tied else embedding
    return Parameters(embedding, output, hidden, config.num_parameters - hidden - embedding - output)


@dataclass(frozen=True, slots=True)
class Training:
    """Bytes of a training step, by part."""

    weights: int
    gradients: int
    moments: int
    kept: int  # the best weights so far, or a reference's
    activations: int
    vocabulary: int
    update: int  # what the optimizer makes for the while of its step
    gathered: int = 0  # of several ranks: weights and gradients that are whole for a while

    @property
    def peak(self) -> int:
        """The most at once: on the way back, or in the optimizer's step."""
        always = self.weights + self.gradients + self.moments + self.kept + self.gathered
        return always + max(self.activations + self.vocabulary, self.update)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Bytes of sampling beside the weights, by part."""

    packed: int  # copies of the weights that lie as products read them
    cache: int
    drawing: int  # logits and probabilities of a decode step
    products: int

    @property
    def peak(self) -> int:
        """All at once."""
        return self.packed + self.cache + self.drawing + self.products


def moments(config: DecoderConfig, optimizer: str) -> int:
    """Bytes of the optimizer's state: two moments a number, one of the hidden matrices with Muon."""
    count = parameters(config)
    return FLOAT * (2 * count.total - (count.hidden if optimizer == "muon" else 0))


def activations(config: DecoderConfig, tokens: int, cuda: bool = False, saved: float = 0.0) -> int:
    """Bytes that autograd saves of a forward pass over `tokens` tokens, and of the way back through one layer.

    `saved` are its bytes a token where they were measured. On CUDA products compute in bfloat16, the residual stream in float32.
    """
    q, kv, d, m = config.heads * config.head_dim, config.kv_heads * config.head_dim, config.width, config.mlp_width
    small = 2 if cuda else FLOAT
    fused = FLOAT * (config.heads - q - m * (config.activation == "silu")) if kernel() is not None and not cuda else 0
    norms = {"": 0, "head": 2 * (q + kv), "all": 2 * (q + kv)}[config.qk_norm] + (2 * d if config.norms == "both" else 0)
    layer = FLOAT * (2 * d + norms) + small * (2 * d + 3 * q + 2 * kv + 4 * m) + fused
    formula = config.layers * layer + FLOAT * 5 * d
    return round(tokens * (saved or formula)) + tokens * small * (5 * m + 3 * d)


def training(
    config: DecoderConfig, optimizer: str, tokens: int, kept: bool = False, cuda: bool = False, saved: float = 0.0, ranks: int = 1
) -> Training:
    """A step whose largest micro-batch sends `tokens` tokens through the model, on each of so many ranks."""
    count = parameters(config)
    chunk = chunk_tokens(tokens, config.vocab_size, "cuda" if cuda else "cpu")
    logits = 3 * FLOAT * chunk * config.vocab_size  # the chunk, its exponentials, and what the product needs
    vectors = 2 * FLOAT * config.vocab_size * config.width  # of the output and of the embedding, before they are one gradient
    compute = 2 * count.total if cuda else 0  # autocast's bfloat16 copies
    return Training(
        weights=FLOAT * count.total + compute + (FLOAT * count.total // ranks if ranks > 1 else 0),
        gradients=FLOAT * count.total // ranks,
        moments=moments(config, optimizer) // ranks,
        kept=FLOAT * count.total if kept else 0,
        activations=activations(config, tokens, cuda, saved),
        vocabulary=logits + vectors,
        update=_orthogonal(config) if optimizer == "muon" else 0,
        gathered=_gathered(config) if ranks > 1 else 0,
    )


def _gathered(config: DecoderConfig) -> int:
    """Bytes of what FSDP makes whole at once: embedding and output and their gradients, two layers and the gradient of one."""
    count = parameters(config)
    return FLOAT * (2 * (count.embedding + count.output) + 3 * (count.hidden + count.vectors) // config.layers)


def _orthogonal(config: DecoderConfig) -> int:
    """Bytes of Muon's largest batch of one shape: the updates, and three more of their size on the way."""
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    rows = {"qkv": q + 2 * kv, "out": q, "gate_up": 2 * config.mlp_width, "down": config.mlp_width}
    return 5 * FLOAT * config.layers * config.width * max(rows.values())


def sampling(config: DecoderConfig, samples: int, length: int, longest: int, card: int = 0) -> Sampling:
    """`samples` at work at once, each of `length` tokens with its prompt; the longest may have `longest`.

    `card`: the bytes of the CUDA card, 0 without one.
    """
    dtype = torch.bfloat16 if card else torch.float32
    positions = min(samples * (length + BLOCK), default_positions(config, longest, dtype, card))
    matrices = parameters(config).hidden + config.vocab_size * config.width
    return Sampling(
        packed=matrices * dtype.itemsize if card or samples > FEW_ROWS else 0,
        cache=positions * bytes_per_position(config, dtype),
        drawing=_DRAW_COPIES * FLOAT * samples * config.vocab_size,
        products=0 if card else _PRODUCT_BYTES * len({rounded(rows) for rows in range(1, min(samples, MOST_ROWS) + 1)}),
    )
