"""Weights in and out: Hugging Face checkpoints <-> the decoder's fused parameters.

    q_proj, k_proj, v_proj   =  rows of   attention.qkv      (Phi-3: qkv_proj, all of it)
    gate_proj, up_proj       =  rows of   gate_up            (Phi-3: gate_up_proj, all of it)
    lm_head                  =  output, absent where it is the embedding (tied)

The Hugging Face tensors are views into the fused ones, so one table serves loading, saving, resuming and hashing. Only
safetensors are read (`weights`), never pickle, or a GGUF file (`gguf_file`). It does not know what the weights compute
(`transformer`) nor when they are saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from headway.errors import CheckpointError
from headway.model.config import DecoderConfig
from headway.model.families import from_hf, to_hf
from headway.model.folder import read_object, resolve, write_object
from headway.model.settings import Settings
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import Block, Decoder
from headway.model.weights import WEIGHTS, Header, read_headers, read_tensors, text_part, weight_files

_EXTRA, _POSITIONS = "headway.json", "max_positions"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_NORMS = {  # Hugging Face's names of a block's norms, and ours
    "before": {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"},
    "after": {"post_attention_layernorm": "after_attention", "post_feedforward_layernorm": "after_mlp"},
    "both": {
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "after_attention",
        "pre_feedforward_layernorm": "mlp_norm",
        "post_feedforward_layernorm": "after_mlp",
    },
}
_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


def load_decoder(
    folder: str | Path,
    *,
    gguf_file: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_positions: int = 0,
) -> Decoder:
    """The decoder of a checkpoint folder or a hub model "owner/name", its weights as `dtype` on `device`.

    `max_positions` is the longest sequence that it will be used with, 0 all that the checkpoint has (or was saved with): under
    LongRoPE it decides by which factors every token turns (`rope`). Headers are checked before anything is allocated, and tensors
    are read one by one: the peak is the model itself and some 64 MiB. Raises CheckpointError, naming the file and the tensor, for
    anything missing, unexpected, mis-shaped, quantised, unreadable or of an unsupported family.
    """
    path = resolve(folder, gguf_file)
    if gguf_file:
        return _load_gguf(path, gguf_file, device, dtype, max_positions)
    files = weight_files(path)
    values = read_object(path / "config.json")
    if values.get("quantization_config"):
        raise CheckpointError(f"{path / 'config.json'}: quantised weights are not supported; save them dequantised")
    max_positions = max_positions or Settings(read_extra(path), "headway.json").whole(_POSITIONS, default=0, least=0)
    config = _read_config(values, path / "config.json", max_positions)
    headers = list(read_headers(path, files))
    if values.get("model_type") == "gemma3":
        headers = text_part(headers)
    if config.layers > len(headers):
        raise CheckpointError(f"{path}: config.json asks for {config.layers} layers, but the weights are {len(headers)} tensors")
    model = _skeleton(config, dtype)
    _check(model, headers, str(path))
    _allocate(model, device)
    _fill(model, read_tensors(headers))
    return model


def save_decoder(
    model: Decoder, folder: str | Path, tokenizer: Tokenizer | None = None, extra: Mapping[str, Any] | None = None
) -> None:
    """Write a complete Hugging Face checkpoint into an existing folder: weights, configs, tokenizer and template.

    `extra` is plain JSON of the caller (`read_extra` gives it back). Same weights, same bytes. Raises CheckpointError
    where the tokenizer has more tokens than the model.
    """
    path = Path(folder)
    values = to_hf(model.config)
    values["dtype"] = str(model.embedding.weight.dtype).removeprefix("torch.")
    if tokenizer is not None:
        tokenizer.check_fits(model.config.vocab_size)
        ids: dict[str, Any] = {"pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.stop_id}
        if tokenizer.bos_id is not None:
            ids["bos_token_id"] = tokenizer.bos_id
        values = {k: v for k, v in values.items() if k != "bos_token_id"} | ids
        stops = list(tokenizer.stop_ids)
        write_object(path / "generation_config.json", ids | {"eos_token_id": stops if len(stops) > 1 else stops[0]})
        tokenizer.save(path)
    write_object(path / "config.json", values)
    positions = {} if from_hf(values).max_positions == model.config.max_positions else {_POSITIONS: model.config.max_positions}
    write_object(path / _EXTRA, {**(extra or {}), **positions, "weights": weights_hash(model)})
    tensors = {name: tensor.contiguous() for name, tensor in state_tensors(model).items()}
    save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})


def read_extra(folder: str | Path) -> dict[str, Any]:
    """What `save_decoder` was given as `extra`, and `weights`, the hash; empty for a checkpoint of someone else."""
    path = Path(folder) / _EXTRA
    return read_object(path) if path.is_file() else {}


def state_tensors(model: Decoder) -> dict[str, Tensor]:
    """The weights under their Hugging Face names: detached views into the model's own parameters, in a fixed order."""
    config = model.config
    tensors: dict[str, Tensor] = {"model.embed_tokens.weight": model.embedding.weight}
    for number, module in enumerate(model.blocks):
        block, start = cast(Block, module), f"model.layers.{number}."
        tensors |= _attention_tensors(block, config, start + "self_attn.")
        mlp = config.mlp_width
        gate_up = {"gate_up_proj": 2 * mlp} if config.is_fused else {"gate_proj": mlp, "up_proj": mlp}
        tensors |= _rows(block.gate_up, gate_up, start + "mlp.") | _rows(block.down, {"down_proj": config.width}, start + "mlp.")
        tensors |= {f"{start}{name}.weight": getattr(block, norm).weight for name, norm in _NORMS[config.norms].items()}
    tensors["model.norm.weight"] = cast(Tensor, model.norm.weight)
    if model.output is not None:
        tensors["lm_head.weight"] = model.output.weight
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _attention_tensors(block: Block, config: DecoderConfig, start: str) -> dict[str, Tensor]:
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    rows = {"qkv_proj": q + 2 * kv} if config.is_fused else {"q_proj": q, "k_proj": kv, "v_proj": kv}
    tensors = _rows(block.attention.qkv, rows, start) | _rows(block.attention.out, {"o_proj": config.width}, start)
    norms = zip(("q_norm", "k_norm"), block.attention.norms, strict=bool(config.qk_norm))
    return tensors | {f"{start}{name}.weight": cast(Tensor, norm.weight) for name, norm in norms}


def _rows(linear: nn.Linear, rows: Mapping[str, int], start: str) -> dict[str, Tensor]:
    """The weight of a product, and its bias where it has one, cut into named groups of rows."""
    tensors = {f"{start}{name}.weight": part for name, part in zip(rows, linear.weight.split([*rows.values()]), strict=True)}
    if linear.bias is not None:
        tensors |= {f"{start}{name}.bias": part for name, part in zip(rows, linear.bias.split([*rows.values()]), strict=True)}
    return tensors


def load_state(model: Decoder, tensors: Mapping[str, Tensor], origin: str = "weights") -> None:
    """Copy tensors under their Hugging Face names into the model. Raises CheckpointError as `load_decoder` does."""
    _check(
        model, [Header(name, origin, tuple(t.shape), _TYPES.get(t.dtype, str(t.dtype))) for name, t in tensors.items()], origin
    )
    _fill(model, ((name, origin, tensor) for name, tensor in tensors.items()))


def weights_hash(model: Decoder) -> str:
    """16 hex digits over all names, types, shapes and bytes: equal exactly where the weights are."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(state_tensors(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_config(values: dict[str, Any], path: Path, max_positions: int) -> DecoderConfig:
    """The settings, with the file's name in an error."""
    try:
        return from_hf(values, max_positions)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _skeleton(config: DecoderConfig, dtype: torch.dtype) -> Decoder:
    """A decoder without weights: names and shapes alone."""
    with torch.device("meta"):
        return Decoder(config).to(dtype)


def _allocate(model: Decoder, device: torch.device | str) -> None:
    """Give a skeleton its memory, whose content is not set. (`to_empty` does, too, but loads sympy for it.)"""
    for name, weight in list(model.named_parameters()):
        parent, _, leaf = name.rpartition(".")
        empty = torch.empty(weight.shape, dtype=weight.dtype, device=device)
        setattr(model.get_submodule(parent), leaf, nn.Parameter(empty))
    model.set_frequencies(device)


def _check(model: Decoder, headers: Sequence[Header], origin: str) -> None:
    """Raise CheckpointError unless every weight is there exactly once, in its shape, as a float."""
    targets = state_tensors(model)
    missing = set(targets)
    for header in headers:
        name, file, shape, kind = header.name, header.file, header.shape, header.kind
        if _is_idle(name):
            continue
        target = targets.get(_EMBEDDING if name == _HEAD and model.output is None else name)
        if target is None:
            raise CheckpointError(f"{file}: unexpected tensor {name} {list(shape)}")
        if shape != tuple(target.shape):
            raise CheckpointError(f"{file}: tensor {name} is {list(shape)}, config.json asks {list(target.shape)}")
        if kind not in _TYPES.values():
            raise CheckpointError(f"{file}: tensor {name} holds {kind}; supported are 16-, 32- and 64-bit floats")
        if name in targets:
            if name not in missing:
                raise CheckpointError(f"{file}: tensor {name} is there twice")
            missing.discard(name)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{origin}: tensor {next(n for n in targets if n in missing)} is missing{more}")


def _fill(model: Decoder, tensors: Iterator[tuple[str, str, Tensor]]) -> None:
    """Copy (name, file, tensor), all of them checked, into the model."""
    targets = state_tensors(model)
    copied_head: tuple[str, Tensor] | None = None
    for name, file, tensor in tensors:
        if name in targets:
            targets[name].copy_(tensor)
        elif not _is_idle(name):  # a copy of the embedding that is its output matrix, too; compared when that is there
            copied_head = file, tensor
    if copied_head is not None:
        file, head = copied_head
        embedding = targets[_EMBEDDING]
        if not torch.equal(head.to(embedding.device, embedding.dtype), embedding):
            raise CheckpointError(f"{file}: lm_head.weight differs from the embedding, but config.json ties them")


def _is_idle(name: str) -> bool:
    """Old checkpoints store rotary frequencies, which the settings say already."""
    return name.endswith("rotary_emb.inv_freq")


def _load_gguf(folder: Path, gguf_file: str, device: torch.device | str, dtype: torch.dtype, max_positions: int) -> Decoder:
    """The decoder of a GGUF file, dequantised tensor by tensor."""
    from headway.model.gguf_file import GgufFile

    file = GgufFile(folder, gguf_file)
    model = _skeleton(_read_config(file.values, folder / gguf_file, max_positions), dtype)
    _check(model, file.headers, file.path)
    _allocate(model, device)
    _fill(model, file.tensors())
    return model
