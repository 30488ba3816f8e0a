"""The rotary settings of a `config.json` in its two spellings, and back.

    older   rope_theta, partial_rotary_factor, rope_scaling {type or rope_type, factor, ...}, rope_local_base_freq
    newer   rope_parameters {rope_type, rope_theta, partial_rotary_factor, factor, ...}, for Gemma 3 one for each kind of layer

They are read in either and written in the older one, which every reader knows. What is made of them: `rope`.
"""

from __future__ import annotations

import math
from typing import Any

from headway.errors import CheckpointError
from headway.model.config import DecoderConfig
from headway.model.settings import Settings

_KINDS = {"default": "", "linear": "linear", "llama3": "llama3", "longrope": "longrope", "su": "longrope"}
_OTHER = ("rope_theta", "partial_rotary_factor", "type", "rope_type")


def read_ropes(settings: Settings, head_dim: int, positions: int) -> dict[str, Any]:
    """The rotary fields of DecoderConfig, for a checkpoint of `positions`. Raises CheckpointError."""
    local: dict[str, float] = {}
    if settings.family == "gemma3_text":
        rope, local_theta = _of_gemma(settings)
        local = {"local_rope_theta": local_theta}
    else:
        rope = _object(settings, "rope_scaling") or _object(settings, "rope_parameters")
    rope = {"rope_theta": settings.get("rope_theta"), "partial_rotary_factor": settings.get("partial_rotary_factor")} | rope
    inner = Settings({k: v for k, v in rope.items() if v is not None}, settings.family, "rope_scaling.")
    kind = inner.get("rope_type", inner.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise CheckpointError(
            f"rope type {str(kind)[:60]!r} is not supported; supported are default, linear, llama3 and longrope"
        )
    share = inner.number("partial_rotary_factor") if inner.get("partial_rotary_factor") is not None else 1.0
    dims = int(head_dim * share)
    if share > 1 or dims < 2 or (share != 1.0 and settings.family != "phi3"):
        raise CheckpointError(f"partial_rotary_factor = {share:g} is not supported for {settings.family}")
    scaling = _scaling(_KINDS[kind], settings, inner, -(-dims // 2), positions)
    return {"rope_theta": inner.number("rope_theta"), "rotary_share": share, "rope_scaling": scaling, **local}


def _scaling(kind: str, settings: Settings, inner: Settings, pairs: int, positions: int) -> dict[str, Any]:
    """`DecoderConfig.rope_scaling`: Hugging Face's keys, every number checked and there."""
    if not kind:
        return {}
    if kind == "linear":
        return {"rope_type": kind, "factor": inner.number("factor")}
    original = settings.get("original_max_position_embeddings", inner.get("original_max_position_embeddings", positions))
    original = Settings({"original_max_position_embeddings": original}, settings.family, "").whole(
        "original_max_position_embeddings"
    )
    found: dict[str, Any] = {"rope_type": kind, "original_max_position_embeddings": original}
    if kind == "llama3":
        found |= {key: inner.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor")}
        if found["high_freq_factor"] <= found["low_freq_factor"]:
            raise CheckpointError("rope_scaling.high_freq_factor must be above rope_scaling.low_freq_factor")
        return found
    found |= {key: inner.numbers(key, pairs) for key in ("short_factor", "long_factor")}
    stretch = inner.number("factor") if inner.get("factor") is not None else positions / original
    if inner.get("attention_factor") is not None:
        return found | {"attention_factor": inner.number("attention_factor")}
    if original < 2:
        raise CheckpointError("original_max_position_embeddings of LongRoPE must be at least 2")
    return found | {"attention_factor": 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original))}


def _of_gemma(settings: Settings) -> tuple[dict[str, Any], float]:
    """The rope of the global layers, which alone may be scaled, and the theta of the local ones."""
    both = Settings(_object(settings, "rope_parameters"), settings.family, "rope_parameters.")
    if unknown := [key for key in both.values if key not in ("full_attention", "sliding_attention")]:
        raise CheckpointError(
            f"rope_parameters.{unknown[0]} is not supported for gemma3_text, which has one for each kind of layer"
        )
    rope = _object(both, "full_attention") | _object(settings, "rope_scaling")
    local = {"rope_theta": settings.get("rope_local_base_freq")} | _object(both, "sliding_attention")
    if local.get("rope_type", "default") != "default":
        raise CheckpointError("rope_parameters.sliding_attention: local layers with a rope type are not supported")
    return rope, Settings(local, settings.family, "rope_parameters.sliding_attention.").number("rope_theta")


def _object(settings: Settings, key: str) -> dict[str, Any]:
    value = settings.get(key)
    if value is not None and not isinstance(value, dict):
        raise settings.wrong(key, "must be an object")
    return dict(value or {})


def write_ropes(config: DecoderConfig) -> dict[str, Any]:
    """The keys of a config.json, in the older spelling; none where the decoder was read from that."""
    if config.source and "rope_parameters" not in config.source:
        return {}
    scaling = dict(config.rope_scaling)
    values: dict[str, Any] = {"rope_theta": config.rope_theta}
    if config.family == "gemma3_text":
        values["rope_local_base_freq"] = config.local_rope_theta
    if config.family == "phi3":
        values["partial_rotary_factor"] = config.rotary_share
    if scaling.get("rope_type") == "longrope":  # older readers allow Phi-3 no key but these three, so derived ones stay away
        read = config.source.get("rope_parameters", {})
        values["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
        scaling = {"type" if config.family == "phi3" else "rope_type": "longrope"}
        scaling |= {key: config.rope_scaling[key] for key in ("short_factor", "long_factor")}
        scaling |= {key: read[key] for key in ("factor", "attention_factor") if read.get(key) is not None}
    return values | {"rope_scaling": scaling or None}
