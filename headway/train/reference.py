"""Log-probs of a frozen reference, computed once: a cache whose keys are the content.

    function   hash of: every weight's name, type, shape and bytes; the settings; the temperature; how this machine computes
    key        hash of: function, first target, token ids                                       one a document
    FOLDER/<function>/about.json, <hash of its bytes>.safetensors ...        keys [n, 16], lengths [n], values float32

A document goes through the model alone, so its numbers depend on its key and on nothing else: not on its neighbours, not on what
the cache held. Looked up or computed, the bytes are the same. A file whose bytes are not those of its name is deleted and its
documents are computed again; every file and folder may be deleted at any moment, and several processes may write at once. What
is computed is written every few seconds, so a killed process goes on where it was. This file does not know pairs or losses.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

import headway.model
from headway.durable import write_atomic, write_json
from headway.errors import RunError
from headway.model.kernel import kernel
from headway.model.precision import autocast
from headway.model.transformer import Decoder
from headway.ranks import first, gather, size
from headway.train.batching import Document, flatten
from headway.train.likelihood import document_logprobs
from headway.train.sharding import own_share

Show = Callable[[int, int, dict[str, str]], None]  # (documents done, in all, {} or a "note" for the user)
LIMIT_BYTES = 1 << 30  # of all functions' files together: what was not used for longest goes first
_FLUSH_SECONDS = 20.0  # how much computing a kill may cost
_PIECE = 64 << 20  # bytes of a weight hashed at once
_KEY = 16  # bytes of a hash
_STALE_SECONDS = 86_400.0  # a temporary file of this age was left by a killed process


class Reference:
    """A model as it is now, and the folder that keeps what it said of documents; without a folder, nothing is kept."""

    def __init__(
        self,
        model: Decoder,
        folder: Path | None = None,
        temperature: float = 1.0,
        show: Show = lambda done, total, numbers: None,
        flush_seconds: float = _FLUSH_SECONDS,
    ):
        self._model, self._temperature, self._show = model, temperature, show
        self._flush_seconds = flush_seconds
        self._about, self._function, self._folder = dict[str, object](), b"", None
        if folder is not None:
            self._about = {
                "family": model.config.family,
                "parameters": sum(p.numel() for p in model.parameters()),
                "temperature": temperature,
                "arithmetic": _arithmetic(model.device),
            }
            about = json.dumps(self._about, sort_keys=True).encode()
            self._function = _digest(weights_hash(model), _settings(model), about, _source())
            self._folder = folder / self._function.hex()

    @torch.no_grad()
    def logprobs(self, documents: Sequence[Document], per_token: bool = False) -> list[Tensor]:
        """Of each document the log-prob of its targets together, float32 [1], or of each of them, float32 [targets].

        Several ranks share out what is missing; every one gets all numbers.
        """
        keys = [self._key(document, per_token) for document in documents]
        wanted = set(keys)
        known = first(lambda: {key: values for key, values in self._read().items() if key in wanted})
        every = {key: document for key, document in zip(keys, documents, strict=True) if key not in known}
        done, total = len(known), len(known) + len(every)
        asked = list(every.items())
        missing = [asked[i] for i in own_share([len(document.ids) for _, document in asked])]
        fresh, flushed = dict[bytes, np.ndarray](), time.monotonic()
        self._model.eval()
        try:
            with autocast(self._model):  # around all of them: the weights are rounded once
                for number, (key, document) in enumerate(missing, 1):
                    found = document_logprobs(self._model, flatten([document], self._model.device), self._temperature)
                    values = found if per_token else found.cpu().double().sum()[None]  # there are devices without float64
                    fresh[key] = values.float().cpu().numpy()
                    self._show(min(total, done + number * size()), total, {})
                    if time.monotonic() - flushed > self._flush_seconds:
                        known |= self._write(fresh)
                        fresh, flushed = {}, time.monotonic()
        finally:
            known |= self._write(fresh)
        for found in gather({key: known[key] for key, _ in missing}):
            known |= found
        return [torch.from_numpy(known[key].copy()) for key in keys]

    def _key(self, document: Document, per_token: bool) -> bytes:
        ids = np.array(document.ids, dtype=np.int64).tobytes()
        return _digest(self._function, f"{document.first_target} {per_token}".encode(), ids)

    def _read(self) -> dict[bytes, np.ndarray]:
        """Everything that the folder holds of this function."""
        known: dict[bytes, np.ndarray] = {}
        if self._folder is None:
            return known
        with suppress(OSError):
            os.utime(self._folder)  # it is in use
        make_room(self._folder.parent, LIMIT_BYTES, self._folder)
        for path in sorted(self._folder.glob("*.safetensors")):
            try:
                known |= _parsed(path.read_bytes(), path.stem)
            except FileNotFoundError:  # somebody made room
                continue
            except (OSError, ValueError) as error:
                self._note(f"the cache of reference log-probs holds a bad file, which is computed again: {path}: {error}")
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        return known

    def _write(self, fresh: dict[bytes, np.ndarray]) -> dict[bytes, np.ndarray]:
        """Keep these; a folder that cannot be written costs the time of computing them again, not the run."""
        if fresh and self._folder is not None:
            content = save(
                {
                    "keys": np.frombuffer(b"".join(fresh), dtype=np.uint8).reshape(-1, _KEY),
                    "lengths": np.array([len(values) for values in fresh.values()], dtype=np.int64),
                    "values": np.concatenate(list(fresh.values())),
                }
            )
            try:
                if not (self._folder / "about.json").is_file():
                    write_json(self._folder / "about.json", self._about)
                write_atomic(self._folder / f"{_digest(content).hex()}.safetensors", content)
            except RunError as error:
                self._note(f"the cache of reference log-probs is not kept: {error}")
        return fresh

    def _note(self, line: str) -> None:
        self._show(0, 1, {"note": line})


def weights_hash(model: torch.nn.Module) -> bytes:
    """BLAKE2b of every parameter's name, type, shape and bytes, in order of name; large ones in pieces, on torch's threads."""
    named = sorted(model.named_parameters())
    is_shared = all(weight.device.type != "mps" for _, weight in named)  # MPS takes work from one thread at a time
    with ThreadPoolExecutor(torch.get_num_threads() if is_shared else 1) as pool:
        digests = list(pool.map(_hash_piece, (piece for _, weight in named for piece in _pieces(weight))))
    shapes = json.dumps([(name, str(weight.dtype), list(weight.shape)) for name, weight in named])
    return _digest(shapes.encode(), *digests)


def make_room(root: Path, limit: int, used: Path) -> None:
    """Delete the functions' folders that were not used for longest until at most `limit` bytes are left; `used` stays.

    Also what killed processes left half written, once it is a day old.
    """
    sizes: dict[Path, int] = {}
    with suppress(OSError):
        for path in root.glob("*/*"):
            with suppress(OSError):
                if ".tmp-" in path.name and time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
                else:
                    sizes[path.parent] = sizes.get(path.parent, 0) + path.stat().st_size
    total = sum(sizes.values())
    for folder in sorted(sizes, key=lambda folder: (_used_at(folder), folder.name)):
        if total <= limit:
            return
        if folder != used:
            rmtree(folder, ignore_errors=True)
            total -= sizes[folder]


def _used_at(folder: Path) -> float:
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0


def _parsed(content: bytes, name: str) -> dict[bytes, np.ndarray]:
    """The entries of a file's bytes; ValueError where they are not those that the name promises."""
    if _digest(content).hex() != name:
        raise ValueError("its content is not what was written")
    try:
        tensors = load(content)
        keys, lengths, values = tensors["keys"], tensors["lengths"], tensors["values"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"not a file of this cache: {error}") from None
    parts = np.split(values, np.cumsum(lengths)[:-1])
    return {key.tobytes(): part for key, part in zip(keys, parts, strict=True)}


def _pieces(weight: Tensor) -> Iterator[Tensor]:
    flat = weight.detach().contiguous().view(-1).view(torch.uint8)
    return iter(flat.split(_PIECE))


def _hash_piece(piece: Tensor) -> bytes:
    return _digest(piece.cpu().numpy().data)


def _settings(model: Decoder) -> bytes:
    """The settings that the function depends on: not the file that they were read from, nor how that laid out its weights."""
    values = asdict(model.config)
    del values["source"], values["is_fused"]
    return json.dumps(values, sort_keys=True).encode()


def _arithmetic(device: torch.device) -> str:
    """What the last bits of a product depend on beside its numbers."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}, bfloat16"
    compiled = "with" if kernel() is not None else "without"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {device.type} {capability}, {torch.get_num_threads()} threads, {compiled} kernel"


def _source() -> bytes:
    """The decoder's own code: numbers that an earlier version computed are not this version's."""
    folder = Path(str(headway.model.__file__)).parent
    return _digest(*(path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".py", ".c")))


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=_KEY)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
