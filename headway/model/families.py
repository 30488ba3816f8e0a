"""Which families load: a Hugging Face `config.json` to the decoder's settings and back.

A family is a row of a table: what its config.json may leave out, and what it always is. A setting that changes the numbers and
that the decoder does not compute is refused by its key, never left aside. Every number is checked before anything is allocated.
This file does not know how the settings are used (`transformer`), nor how tensors are called (`checkpoint`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from headway.errors import CheckpointError
from headway.model.config import LOCAL_ROPE, NO_ROPE, ROPE, DecoderConfig
from headway.model.rope_settings import read_ropes, write_ropes
from headway.model.settings import Settings

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop")  # Headway trains without
# What changes the numbers and is nowhere computed; absent, null, false or zero it is no setting.
_UNKNOWN = (
    "attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention", "num_experts", "num_local_experts",
    "n_routed_experts", "moe_intermediate_size", "attention_chunk_size", "attention_multiplier", "residual_multiplier",
    "logits_scaling", "embedding_multiplier", "logit_scale", "use_mrope",
)  # fmt: skip

Sliding = Callable[[Settings, int, tuple[int, ...]], list[bool]]  # (settings, layers, ropes) -> which layers have the window


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table: `defaults` are what transformers fills in, `settings` fields of DecoderConfig."""

    architecture: str
    defaults: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    biases: tuple[str, ...] = ()  # of attention_bias and mlp_bias, those that the family reads
    sliding: Sliding = lambda settings, layers, ropes: [False] * layers
    reads_layer_types: bool = False
    activation: str = "hidden_act"


def _everywhere(settings: Settings, layers: int, ropes: tuple[int, ...]) -> list[bool]:
    return [settings.get("sliding_window") is not None] * layers


def _from_a_layer_on(settings: Settings, layers: int, ropes: tuple[int, ...]) -> list[bool]:
    first = settings.whole("max_window_layers", least=0)
    return [settings.flag("use_sliding_window") and layer >= first for layer in range(layers)]


def _without_rope(settings: Settings, layers: int, ropes: tuple[int, ...]) -> list[bool]:
    is_used = settings.flag("use_sliding_window") and settings.get("sliding_window") is not None
    return [is_used and rope == NO_ROPE for rope in ropes]


def _all_but_every(settings: Settings, layers: int, ropes: tuple[int, ...]) -> list[bool]:
    pattern = settings.whole("sliding_window_pattern")
    return [(layer + 1) % pattern != 0 for layer in range(layers)]


_QWEN = {
    "num_key_value_heads": 32, "max_position_embeddings": 32768, "max_window_layers": 28, "sliding_window": 4096,
    "use_sliding_window": False,
}  # fmt: skip
FAMILIES = {
    "llama": Family("LlamaForCausalLM", {}, biases=("attention_bias", "mlp_bias")),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        {
            "num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": True, "rope_theta": 2_000_000.0,
            "no_rope_layer_interval": 4, "use_sliding_window": False,
        },
        biases=("attention_bias", "mlp_bias"),
        sliding=_without_rope,
        reads_layer_types=True,
    ),
    "mistral": Family(
        "MistralForCausalLM",
        {"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096},
        sliding=_everywhere,
    ),
    "qwen2": Family("Qwen2ForCausalLM", _QWEN, {"qkv_bias": True}, sliding=_from_a_layer_on, reads_layer_types=True),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _QWEN | {"head_dim": 128},
        {"qk_norm": "head"},
        biases=("attention_bias",),
        sliding=_from_a_layer_on,
        reads_layer_types=True,
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096},
        {"is_fused": True},
        sliding=_everywhere,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        {
            "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 131_072, "tie_word_embeddings": True, "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "sliding_window_pattern": 6, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0,
        },
        {"norms": "both", "norm_offset": 1.0, "qk_norm": "head"},
        biases=("attention_bias",),
        sliding=_all_but_every,
        reads_layer_types=True,
        activation="hidden_activation",
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM", {"rms_norm_eps": 1e-5}, {"norms": "after", "qk_norm": "all"}, biases=("attention_bias",)
    ),
}  # fmt: skip
_COMMON = {
    "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}  # fmt: skip


def from_hf(values: dict[str, Any], max_positions: int = 0) -> DecoderConfig:
    """Read a `config.json`; `max_positions` caps the positions that the decoder is used with (0: all that it has).

    Raises CheckpointError for a family that is not in the table, for a setting that the decoder does not compute, and for a
    number that is none or out of bounds.
    """
    if values.get("auto_map"):
        raise CheckpointError("config.json asks for code of its own (`auto_map`): Headway runs no remote code")
    if values.get("model_type") == "gemma3" and isinstance(values.get("text_config"), dict):
        values = {"dtype": "float32"} | values["text_config"] | {"model_type": "gemma3_text"}  # the text part alone
    name = values.get("model_type", "")
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(f"model_type {str(name)[:60]!r} is not supported; supported are {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    settings = Settings(_COMMON | family.defaults | values, name)
    for key in _UNKNOWN:
        if settings.get(key):
            raise CheckpointError(f"{key} = {settings.shown(key)} is not supported for {name}")
    for key in ("attention_bias", "mlp_bias"):
        if settings.flag(key) and key not in family.biases:
            raise CheckpointError(f"{key} = true is not supported for {name}")
    return _read(family, settings, values, max_positions)


def _read(family: Family, settings: Settings, values: dict[str, Any], max_positions: int) -> DecoderConfig:
    layers, width = settings.whole("num_hidden_layers"), settings.whole("hidden_size")
    heads = settings.whole("num_attention_heads")
    head_dim = settings.whole("head_dim", default=width // heads)
    positions = settings.whole("max_position_embeddings")
    if max_positions > positions:
        raise CheckpointError(
            f"{max_positions} positions are asked for; the checkpoint has {positions} (max_position_embeddings)"
        )
    activation = settings.get(family.activation)
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise CheckpointError(f"{family.activation} {settings.shown(family.activation)} is not supported; supported are {known}")
    ropes = _ropes(settings, layers)
    windows = _windows(family, settings, layers, ropes)
    is_gemma = settings.family == "gemma3_text"
    fixed: dict[str, Any] = {"qkv_bias": settings.flag("attention_bias")} | family.settings
    config = DecoderConfig(
        vocab_size=settings.whole("vocab_size"),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=settings.whole("num_key_value_heads", default=heads),
        head_dim=head_dim,
        mlp_width=settings.whole("intermediate_size"),
        family=settings.family,
        norm_eps=settings.number("rms_norm_eps"),
        tied=settings.flag("tie_word_embeddings"),
        max_positions=max_positions or positions,
        ropes=tuple(LOCAL_ROPE if window else ROPE for window in windows) if is_gemma else ropes,
        # a window that no sequence outgrows is none
        windows=tuple(0 if window >= positions else window for window in windows),
        attention_scale=settings.number("query_pre_attn_scalar") ** -0.5 if is_gemma else 0.0,
        embedding_scale=width**0.5 if is_gemma else 1.0,
        out_bias=settings.flag("attention_bias"),
        mlp_bias=settings.flag("mlp_bias"),
        activation=_ACTIVATIONS[activation],  # type: ignore[arg-type]
        source=dict(values),
        **read_ropes(settings, head_dim, positions),
        **fixed,
    )
    if config.heads % config.kv_heads or config.head_dim % 2:
        heads_and_groups = f"num_attention_heads {config.heads} a multiple of num_key_value_heads {config.kv_heads}"
        raise CheckpointError(f"head_dim {config.head_dim} must be even, and {heads_and_groups}")
    return config


def _ropes(settings: Settings, layers: int) -> tuple[int, ...]:
    """Which layers turn: all, but for SmolLM3, whose `no_rope_layers` holds a 1 for those that do."""
    if settings.family != "smollm3":
        return (ROPE,) * layers
    listed = settings.get("no_rope_layers")
    if listed is None:
        interval = settings.whole("no_rope_layer_interval")
        return tuple(ROPE if (layer + 1) % interval else NO_ROPE for layer in range(layers))
    if not isinstance(listed, list) or len(listed) < layers or any(turns not in (0, 1) for turns in listed):
        raise CheckpointError(
            f"no_rope_layers must hold a 0 or a 1 for each of {layers} layers, not {settings.shown('no_rope_layers')}"
        )
    return tuple(ROPE if turns else NO_ROPE for turns in listed[:layers])


def _windows(family: Family, settings: Settings, layers: int, ropes: tuple[int, ...]) -> list[int]:
    """Each layer's window, 0 where it sees everything."""
    is_sliding = family.sliding(settings, layers, ropes)
    types = settings.get("layer_types")
    if types is not None:
        known = {"full_attention": False, "sliding_attention": True}
        if not isinstance(types, list) or len(types) != layers or any(not isinstance(t, str) or t not in known for t in types):
            raise CheckpointError(f"layer_types must name {' or '.join(known)} for each of {layers} layers")
        listed = [known[t] for t in types]
        if listed != is_sliding and not family.reads_layer_types:
            raise CheckpointError(f"layer_types differ from what {settings.family} computes: {sum(is_sliding)} sliding layers")
        if any(listed) and settings.get("use_sliding_window", True) is False:
            raise CheckpointError("layer_types names sliding_attention, but use_sliding_window is false")
        is_sliding = listed
    if not any(is_sliding):
        return [0] * layers
    window = settings.whole("sliding_window")
    return [window if slides else 0 for slides in is_sliding]


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` of a decoder: what it was read from, or a Llama's or Qwen2's, overlaid with what it is.

    Its `max_position_embeddings` is the checkpoint's own, whatever positions the decoder is used with: the factor of LongRoPE
    depends on it.
    """
    values = {k: v for k, v in config.source.items() if k not in ("quantization_config", "torch_dtype", "rope_parameters")}
    values |= {
        "model_type": config.family,
        "architectures": [FAMILIES[config.family].architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "dtype": "float32",
        "attention_dropout": 0.0,
        **{key: 0.0 for key in _DROPOUTS if key in config.source},
        **write_ropes(config),
    }
    if not config.source:
        values |= {"hidden_act": "silu", "max_position_embeddings": config.max_positions}
    again = from_hf(values, config.max_positions)
    assert replace(again, source={}) == replace(config, source={}), "a decoder is a Llama or Qwen2, or came with its config.json"
    return values
