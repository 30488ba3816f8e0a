"""The settings of the decoder, and their translation from and to a Hugging Face `config.json`.

One decoder covers the families: what differs between Llama and Qwen2 is a bias and a few numbers. This file does not
know how the settings are used (`transformer`) nor where weights come from (`checkpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headway.errors import CheckpointError

FAMILIES = ("llama", "qwen2")
_ACTIVATIONS = ("silu", "swish")
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A decoder: pre-norm RMS, rotary positions, grouped-query attention, gated SiLU MLP.

    Example: ``DecoderConfig(vocab_size=512, width=128, layers=4, heads=4, kv_heads=1, head_dim=32, mlp_width=384)``

    `rope_scaling` is Hugging Face's own dictionary for the "llama3" type, or empty. `source` holds the `config.json` that
    the settings were read from, so that saving gives back every key that we do not use.
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

    @property
    def num_parameters(self) -> int:
        """How many numbers the decoder learns (a tied output matrix counts once)."""
        q, kv, d = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.width
        block = d * (q + 2 * kv) + (q + 2 * kv) * self.qkv_bias + q * d + 3 * d * self.mlp_width + 2 * d
        return self.layers * block + d + self.vocab_size * d * (1 if self.tied else 2)


def from_hf(values: dict[str, Any]) -> DecoderConfig:
    """Read a `config.json`. Raises CheckpointError for a family or a setting that the decoder does not compute."""
    family = values.get("model_type", "")
    if family not in FAMILIES:
        raise CheckpointError(f"model_type {family!r} is not supported; supported are {', '.join(FAMILIES)}")
    if values.get("auto_map"):
        raise CheckpointError("config.json asks for code of its own (`auto_map`): Headway runs no remote code")
    rope = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", None) or values.get("rope_theta", 10_000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise CheckpointError(f"rope type {kind!r} is not supported; supported are default and llama3")
    activation = values.get("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        raise CheckpointError(f"hidden_act {activation!r} is not supported; supported is silu")
    for key in ("attention_bias", "mlp_bias"):
        if values.get(key):
            raise CheckpointError(f"{key} = true is not supported for {family}")
    if values.get("use_sliding_window"):
        raise CheckpointError("use_sliding_window = true is not supported")
    try:
        heads = int(values["num_attention_heads"])
        width = int(values["hidden_size"])
        scaling = {key: rope[key] + 0 for key in _LLAMA3} if kind == "llama3" else {}  # + 0: they are numbers
        config = DecoderConfig(
            vocab_size=int(values["vocab_size"]),
            width=width,
            layers=int(values["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(values.get("num_key_value_heads") or heads),
            head_dim=int(values.get("head_dim") or width // heads),
            mlp_width=int(values["intermediate_size"]),
            family=family,
            rope_theta=float(theta),
            rope_scaling=rope if scaling else {},
            norm_eps=float(values.get("rms_norm_eps", 1e-6)),
            qkv_bias=family == "qwen2",
            tied=bool(values.get("tie_word_embeddings", False)),
            max_positions=int(values.get("max_position_embeddings", 2048)),
            source=dict(values),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json lacks or garbles a setting of {family}: {error}") from None
    counts = (config.vocab_size, config.width, config.layers, config.heads, config.kv_heads, config.head_dim, config.mlp_width)
    if min(counts) < 1 or config.heads % config.kv_heads or config.head_dim % 2:
        raise CheckpointError(
            f"config.json: sizes must be positive, head_dim {config.head_dim} even, "
            f"and num_attention_heads {config.heads} a multiple of num_key_value_heads {config.kv_heads}"
        )
    return config


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` of a decoder: what it was read from, overlaid with what it is."""
    values: dict[str, Any] = {k: v for k, v in config.source.items() if k not in ("rope_parameters", "quantization_config")}
    values |= {
        "model_type": config.family,
        "architectures": ["Qwen2ForCausalLM" if config.family == "qwen2" else "LlamaForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling or None,
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": config.max_positions,
        "attention_dropout": 0.0,
        "dtype": "float32",
    }
    values.pop("torch_dtype", None)
    return values
