"""The weights of a folder: which safetensors files, what their headers say, and the tensors one by one.

Pickle is never opened, a shard is a file beside its index, and headers are read by the reader that the whole world uses. It does
not know what the tensors mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from headway.errors import CheckpointError
from headway.model.folder import first_line, read_object

WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_READ_AT_ONCE = 64 << 20
_MOST_HEADER = 2 << 20  # some 15,000 tensors
_IMAGES = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_TEXT = {"language_model.model.": "model.", "model.language_model.": "model.", "language_model.lm_head.": "lm_head."}


@dataclass(frozen=True, slots=True)
class Header:
    """A tensor that a file says it holds: `kind` is its type as safetensors calls it ("F32"), `stored` its name in the file."""

    name: str
    file: str
    shape: tuple[int, ...]
    kind: str
    stored: str = ""


def weight_files(folder: Path) -> list[str]:
    """The names of the safetensors files, in order."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / _INDEX).is_file():
        shards = read_object(folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(s, str) for s in shards.values()):
            raise CheckpointError(f"{folder / _INDEX}: `weight_map` must say which file each tensor is in")
        for shard in shards.values():
            if Path(shard).name != shard or not shard.isprintable():
                raise CheckpointError(f"{folder / _INDEX}: {shard!r} is not the name of a file beside it")
            if not (folder / shard).is_file():
                raise CheckpointError(f"{folder}: there is no {shard}, which {_INDEX} names")
        return sorted(set(shards.values()))
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(f"{folder}: weights only as pickle ({pickles[0]}); Headway loads safetensors only")
    ggufs = sorted(p.name for p in folder.glob("*.gguf"))
    hint = f"; to load {ggufs[0]} set `gguf_file`" if ggufs else ""
    raise CheckpointError(f"{folder}: there is no {WEIGHTS}{hint}")


def read_headers(folder: Path, files: list[str]) -> Iterator[Header]:
    """What all files say they hold; the reader checks that each header is sound and describes every byte of its file."""
    for file in files:
        path = str(folder / file)
        _check_size(path)
        with _reading(path) as reader:
            _check_names(path)
            for name in reader.keys():  # noqa: SIM118 - the reader is no mapping
                part = reader.get_slice(name)
                plain = name if name.isprintable() and len(name) < 200 else ascii(name[:60])
                yield Header(plain, path, tuple(part.get_shape()), part.get_dtype(), name)


def _check_size(path: str) -> None:
    """Raise CheckpointError for a header that is larger than any model's, before it is read."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _MOST_HEADER:
        raise CheckpointError(f"{path}: not a readable safetensors file: its header would be of {length} bytes")


def _check_names(path: str) -> None:
    """Raise CheckpointError for a header that is sound but says a name twice: readers may differ on which of the two counts."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise CheckpointError(f"{path}: tensor {next(n for n in names if names.count(n) > 1)[:200]!r} is there twice")
        return found

    with open(path, "rb") as file:
        json.loads(file.read(int.from_bytes(file.read(8), "little")), object_pairs_hook=unique)


def read_tensors(headers: Sequence[Header]) -> Iterator[tuple[str, str, Tensor]]:
    """(name, file, tensor), each read when it is asked for.

    A reader keeps the pages that it has read in memory, so it is opened anew after every 64 MiB.
    """
    number = 0
    while number < len(headers):
        path, size = headers[number].file, 0
        with _reading(path) as reader:
            while number < len(headers) and headers[number].file == path and size < _READ_AT_ONCE:
                yield headers[number].name, path, reader.get_tensor(headers[number].stored)
                size += 8 * math.prod(headers[number].shape)
                number += 1


@contextmanager
def _reading(path: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as reader:
            yield reader
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {first_line(error)}") from None


def text_part(headers: Sequence[Header]) -> list[Header]:
    """The language model within a model of text and images (Gemma 3), its tensors named as if it stood alone."""
    found: list[Header] = []
    for header in headers:
        if not header.stored.startswith(_IMAGES):
            start = next((start for start in _TEXT if header.stored.startswith(start)), "")
            found.append(replace(header, name=_TEXT.get(start, "") + header.stored.removeprefix(start)))
    return found
