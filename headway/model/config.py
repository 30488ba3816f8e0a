"""The settings of the decoder. One decoder covers every family: what differs between them is a number or a word here.

    norms        before: x + f(norm(x))      after: x + norm(f(x))      both: x + norm(f(norm(x)))
    windows      per layer: 0 sees everything before it, n the last n positions, itself included
    ropes        per layer: 0 the rotation of `rope_theta`, 1 that of `local_rope_theta`, -1 none (NoPE)

This file does not know Hugging Face's names (`families`), how the settings are used (`transformer`, `rope`), nor where weights
come from (`checkpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

NO_ROPE, ROPE, LOCAL_ROPE = -1, 0, 1


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A decoder: RMS norms, rotary positions, grouped-query attention, a gated MLP. The defaults are Llama's.

    Example: ``DecoderConfig(vocab_size=512, width=128, layers=4, heads=4, kv_heads=1, head_dim=32, mlp_width=384)``

    `rope_scaling` is empty or Hugging Face's dictionary of the types linear, llama3 and longrope, with every number in it.
    `max_positions` is the limit that the model is used with, perhaps below the checkpoint's own. `attention_scale` multiplies q k
    (0: head_dim ** -0.5). `source` holds the `config.json` that the settings were read from, so that saving gives back every key
    that we do not use.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    family: str = "llama"
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] = field(default_factory=dict[str, Any])
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    tied: bool = True
    max_positions: int = 1024
    source: dict[str, Any] = field(default_factory=dict[str, Any])
    rotary_share: float = 1.0  # of a head's dimensions, the first ones; the others know no position
    local_rope_theta: float = 10_000.0  # of the layers whose rope is LOCAL_ROPE; never scaled
    ropes: tuple[int, ...] = ()  # (): ROPE in every layer
    windows: tuple[int, ...] = ()  # (): no layer has one
    attention_scale: float = 0.0
    out_bias: bool = False
    mlp_bias: bool = False
    norms: Literal["before", "after", "both"] = "before"
    norm_offset: float = 0.0  # added to every norm's weight
    qk_norm: Literal["", "head", "all"] = ""  # of each head, or of all heads of a token at once
    activation: Literal["silu", "gelu_tanh"] = "silu"
    embedding_scale: float = 1.0
    is_fused: bool = False  # the checkpoint holds q, k and v as one tensor, gate and up as another

    def __post_init__(self) -> None:
        object.__setattr__(self, "ropes", self.ropes or (ROPE,) * self.layers)
        object.__setattr__(self, "windows", self.windows or (0,) * self.layers)
        object.__setattr__(self, "attention_scale", self.attention_scale or self.head_dim**-0.5)
        assert len(self.ropes) == len(self.windows) == self.layers, "one rope and one window a layer"

    @property
    def num_parameters(self) -> int:
        """How many numbers the decoder learns (a tied output matrix counts once)."""
        q, kv, d = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.width
        block = d * (q + 2 * kv) + q * d + 3 * d * self.mlp_width
        block += (q + 2 * kv) * self.qkv_bias + d * self.out_bias + (2 * self.mlp_width + d) * self.mlp_bias
        block += d * (4 if self.norms == "both" else 2) + {"": 0, "head": 2 * self.head_dim, "all": q + kv}[self.qk_norm]
        return self.layers * block + d + self.vocab_size * d * (1 if self.tied else 2)
