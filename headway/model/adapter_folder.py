"""Adapters as a folder of peft's, for the Hugging Face checkpoint that they were trained on.

    adapter_config.json          rank, alpha, targets, the checkpoint's name
    adapter_model.safetensors    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight [rank, in], ...

Two forms are exact, and both are written by laying ranks one above the other (A) and side by side (B), with alpha / rank kept:

    B_1 A_1 + B_2 A_2  =  [B_1 B_2] [A_1 ; A_2]

several stages that trained adapters one after the other are one adapter of the sum of their ranks on the first one's start; and
where a checkpoint holds q, k and v as one matrix (Phi-3), their adapters are one of three times the rank on it. It does not know
stages, nor how adapters are trained (`adapters`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from headway.model.adapters import adapted
from headway.model.folder import read_object, write_object
from headway.model.transformer import Decoder

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_HOLDERS = {"attention.qkv": "self_attn", "attention.out": "self_attn", "gate_up": "mlp", "down": "mlp"}
_FUSED = {"attention.qkv": "qkv_proj", "gate_up": "gate_up_proj"}  # Phi-3's names


def save_adapter(model: Decoder, folder: str | Path, start: str, alpha: int, rank: int, before: str | Path = "") -> None:
    """Write the decoder's adapters into an existing folder, for `start`, the checkpoint that they belong to.

    `before` is the adapter folder of `start` that earlier stages trained: the new one holds both. Same adapters, same bytes.
    """
    from peft import LoraConfig

    pairs = _pairs(model)
    if before:
        pairs = _behind(load_file(Path(before) / _WEIGHTS), pairs)
    ranks = {name.rpartition(".")[2]: a.shape[0] for name, (a, _) in pairs.items()}  # equal in every layer
    usual = min(ranks.values())
    more = {name: found for name, found in sorted(ranks.items()) if found != usual}
    scale = {name: found * alpha // rank if found * alpha % rank == 0 else found * alpha / rank for name, found in ranks.items()}
    config = LoraConfig(
        r=usual,
        lora_alpha=next(scale[name] for name, found in ranks.items() if found == usual),  # type: ignore[arg-type]
        target_modules=sorted(ranks),
        rank_pattern=dict(more),
        alpha_pattern={name: scale[name] for name in more},
        base_model_name_or_path=start,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    path = Path(folder)
    write_object(path / _CONFIG, _plain(config.to_dict()))
    tensors = {
        f"base_model.model.{name}.lora_{letter}.weight": t
        for name, both in pairs.items()
        for letter, t in zip("AB", both, strict=True)
    }
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path / _WEIGHTS, metadata={"format": "pt"})


def start_of(folder: str | Path) -> str:
    """The checkpoint that an adapter folder belongs to."""
    return str(read_object(Path(folder) / _CONFIG)["base_model_name_or_path"])


def _pairs(model: Decoder) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every adapted projection, by its name in the checkpoint: "model.layers.0.self_attn.q_proj"."""
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, place, product in adapted(model):
        start = f"model.layers.{layer}.{_HOLDERS[place]}."
        if model.config.is_fused and place in _FUSED:
            pairs[start + _FUSED[place]] = product.factors()
        else:
            pairs |= {start + target: product.pair(target) for target in product.parts}
    return pairs


def _behind(earlier: Mapping[str, Tensor], pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """The adapters behind those of earlier stages: ranks added up."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (a, b) in pairs.items():
        first_a, first_b = (earlier[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
        found[name] = torch.cat([first_a, a.detach().cpu()]), torch.cat([first_b, b.detach().cpu()], dim=1)
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """peft's settings as JSON holds them: its sets sorted, its enumerations by name."""

    def text(value: Any) -> Any:
        return sorted(value) if isinstance(value, set | frozenset) else str(value)

    return json.loads(json.dumps(dict(values), default=text, sort_keys=True))
