"""Weights in and out: Hugging Face checkpoints <-> the decoder's fused parameters.

    q_proj, k_proj, v_proj   =  rows of   attention.qkv      input_layernorm           =  attention_norm
    gate_proj, up_proj       =  rows of   gate_up            post_attention_layernorm  =  mlp_norm
    lm_head                  =  output, absent where it is the embedding (tied)

The Hugging Face tensors are views into the fused ones, so one table serves loading, saving, resuming and hashing. Only
safetensors are read (one file or shards), never pickle; GGUF goes through transformers. It does not know what the
weights compute (`transformer`) nor when they are saved.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from headway.errors import CheckpointError
from headway.model.config import DecoderConfig
from headway.model.families import from_hf, to_hf
from headway.model.folder import first_line, read_object, resolve, write_object
from headway.model.tokenizer import Tokenizer, require_gguf
from headway.model.transformer import Block, Decoder

_WEIGHTS, _INDEX, _EXTRA = "model.safetensors", "model.safetensors.index.json", "headway.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
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
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def load_decoder(
    folder: str | Path,
    *,
    gguf_file: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """The decoder of a checkpoint folder or a hub model "owner/name", its weights as `dtype` on `device`.

    Tensors are read one by one, so the peak is the model itself and one tensor. Raises CheckpointError, naming the file
    and the tensor, for anything missing, unexpected, mis-shaped, quantised, unreadable or of an unsupported family.
    """
    path = resolve(folder, gguf_file)
    if gguf_file:
        return _load_gguf(path, gguf_file, device, dtype)
    files = _weight_files(path)
    values = read_object(path / "config.json")
    if values.get("quantization_config"):
        raise CheckpointError(f"{path / 'config.json'}: quantised weights are not supported; save them dequantised")
    model = _empty(_read_config(values, path / "config.json"), device, dtype)
    _fill(model, _tensors(path, files), str(path))
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
    write_object(path / _EXTRA, {**(extra or {}), "weights": weights_hash(model)})
    tensors = {name: tensor.contiguous() for name, tensor in state_tensors(model).items()}
    save_file(tensors, path / _WEIGHTS, metadata={"format": "pt"})


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
        gate_up = (
            {"gate_up_proj": 2 * config.mlp_width}
            if config.is_fused
            else dict.fromkeys(("gate_proj", "up_proj"), config.mlp_width)
        )
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
    _fill(model, ((name, origin, tensor) for name, tensor in tensors.items()), origin)


def weights_hash(model: Decoder) -> str:
    """16 hex digits over all names, types, shapes and bytes: equal exactly where the weights are."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(state_tensors(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_config(values: dict[str, Any], path: Path) -> DecoderConfig:
    """The settings, with the file's name in an error."""
    try:
        return from_hf(values)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _empty(config: DecoderConfig, device: torch.device | str, dtype: torch.dtype) -> Decoder:
    """A decoder whose weights are not set, without the time and memory of random ones."""
    with torch.device("meta"):
        model = Decoder(config).to(dtype)
    model.to_empty(device=device)
    model.set_frequencies(device)
    return model


def _fill(model: Decoder, tensors: Iterator[tuple[str, str, Tensor]], origin: str) -> None:
    """Copy (name, file, tensor) into the model; every weight exactly once."""
    targets = state_tensors(model)
    missing = set(targets)
    copied_head: tuple[str, Tensor] | None = None
    for name, file, tensor in tensors:
        if name.endswith("rotary_emb.inv_freq"):  # old checkpoints store what the settings say already
            continue
        target = targets.get("model.embed_tokens.weight" if name == "lm_head.weight" and model.output is None else name)
        if target is None:
            raise CheckpointError(f"{file}: unexpected tensor {name} {list(tensor.shape)}")
        if tensor.shape != target.shape:
            raise CheckpointError(f"{file}: tensor {name} is {list(tensor.shape)}, config.json asks {list(target.shape)}")
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(f"{file}: tensor {name} holds {tensor.dtype}; supported are 16-, 32- and 64-bit floats")
        if name not in targets:  # a copy of the embedding that is its output matrix, too; compared when that is there
            copied_head = file, tensor
            continue
        if name not in missing:
            raise CheckpointError(f"{file}: tensor {name} is there twice")
        target.copy_(tensor)
        missing.discard(name)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{origin}: tensor {next(n for n in targets if n in missing)} is missing{more}")
    if copied_head is not None:
        file, head = copied_head
        embedding = targets["model.embed_tokens.weight"]
        if not torch.equal(head.to(embedding.device, embedding.dtype), embedding):
            raise CheckpointError(f"{file}: lm_head.weight differs from the embedding, but config.json ties them")


def _weight_files(folder: Path) -> list[str]:
    """The names of the safetensors files, in order."""
    if (folder / _WEIGHTS).is_file():
        return [_WEIGHTS]
    if (folder / _INDEX).is_file():
        shards = read_object(folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(s, str) for s in shards.values()):
            raise CheckpointError(f"{folder / _INDEX}: `weight_map` must say which file each tensor is in")
        for shard in shards.values():
            if Path(shard).name != shard:
                raise CheckpointError(f"{folder / _INDEX}: {shard!r} is not the name of a file beside it")
            if not (folder / shard).is_file():
                raise CheckpointError(f"{folder}: there is no {shard}, which {_INDEX} names")
        return sorted(set(shards.values()))
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(f"{folder}: weights only as pickle ({pickles[0]}); Headway loads safetensors only")
    ggufs = sorted(p.name for p in folder.glob("*.gguf"))
    hint = f"; to load {ggufs[0]} set `gguf_file`" if ggufs else ""
    raise CheckpointError(f"{folder}: there is no {_WEIGHTS}{hint}")


def _tensors(folder: Path, files: list[str]) -> Iterator[tuple[str, str, Tensor]]:
    """(name, file, tensor) of all files, each tensor read when it is asked for; the reader checks the header."""
    for file in files:
        path = str(folder / file)
        try:
            with safe_open(path, framework="pt", device="cpu") as reader:
                for name in reader.keys():  # noqa: SIM118 - the reader is no mapping
                    yield name, path, reader.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file: {first_line(error)}") from None


def _load_gguf(folder: Path, gguf_file: str, device: torch.device | str, dtype: torch.dtype) -> Decoder:
    """The decoder of a GGUF file, dequantised by transformers."""
    require_gguf(folder, gguf_file)
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        with _quiet():
            theirs = AutoModelForCausalLM.from_pretrained(
                str(folder),
                gguf_file=gguf_file,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
            )
    except Exception as error:  # the readers of GGUF raise whatever they meet
        raise CheckpointError(f"{folder / gguf_file}: cannot be read as GGUF: {first_line(error)}") from None
    values = {k: v for k, v in theirs.config.to_dict().items() if not k.startswith("_") and k != "quantization_config"}
    config = replace(_read_config(values, folder / gguf_file), source=values)
    model = _empty(config, device, dtype)
    load_state(model, theirs.state_dict(), str(folder / gguf_file))
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers inside. Its GGUF reader draws one that no setting turns off: it goes to nowhere."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
