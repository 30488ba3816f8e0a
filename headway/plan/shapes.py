"""The shape of a recipe's model without its weights: of a new decoder, a folder, a hub's cache, or what is published of it.

    recipe.model --> DecoderConfig, and where it is known from

Nothing is fetched: `headway run` does that. It does not know memory or time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headway.config import Recipe
from headway.errors import CheckpointError
from headway.model.config import DecoderConfig
from headway.model.families import from_hf
from headway.model.folder import first_line, read_object

# Sizes of the models that our recipes name, from their config.json; what changes no size is left out.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "microsoft/Phi-4-mini-instruct": {
        "model_type": "phi3", "vocab_size": 200_064, "hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 24,
        "num_key_value_heads": 8, "intermediate_size": 8192, "max_position_embeddings": 131_072, "tie_word_embeddings": True,
    },
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-0.6B": {
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "max_position_embeddings": 40_960,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
_MORE = {"rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu"}  # no size; `from_hf` asks for them


def local_folder(recipe: Recipe) -> Path | None:
    """The checkpoint's folder, if it is on this machine: itself, or in the hub's cache."""
    name = recipe.model.checkpoint
    if not name:
        return None
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # not a hub name either
        return None
    return Path(found).parent if isinstance(found, str) else None


def shape_of_checkpoint(recipe: Recipe) -> tuple[DecoderConfig, str]:
    """The shape of the checkpoint that the recipe names, and where it is known from. CheckpointError where it is not known."""
    source, folder = recipe.model, local_folder(recipe)
    if folder is not None and (folder / "config.json").is_file():
        return _read(read_object(folder / "config.json"), source.max_positions, str(folder)), f"{source.checkpoint}/config.json"
    if folder is not None and source.gguf_file:
        return _read(_gguf(folder / source.gguf_file), source.max_positions, str(folder)), source.gguf_file
    if source.checkpoint in _PUBLISHED:
        values = _MORE | _PUBLISHED[source.checkpoint]
        return _read(
            values, source.max_positions, source.checkpoint
        ), "its published sizes; the checkpoint is not on this machine"
    raise CheckpointError(
        f"{source.checkpoint}: no such folder, and not in the hub's cache: its size is unknown; "
        "fetch it first, or give a folder that holds its config.json"
    )


def _read(values: dict[str, Any], max_positions: int, origin: str) -> DecoderConfig:
    try:
        return from_hf(values, max_positions)
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from None


def _gguf(path: Path) -> dict[str, Any]:
    """The settings in a GGUF file's header, read by transformers."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        return _MORE | dict(load_gguf_checkpoint(str(path))["config"])
    except Exception as error:  # the readers of GGUF raise whatever they meet
        raise CheckpointError(f"{path}: cannot be read as GGUF: {first_line(error)}") from None
