"""Where a checkpoint's files lie: a folder, or a hub name that is fetched into one. And reading its JSON.

It does not know what is in the files: `checkpoint` reads the weights, `tokenizer` the text side.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from headway.errors import CheckpointError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_MOST_BYTES = 16 << 20
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "merges.txt", "vocab.txt", "README.md"]  # no pickle, no code


def resolve(name: str | Path, gguf_file: str = "") -> Path:
    """The folder that `name` means: itself where it exists, else the hub model "owner/name", fetched once and cached.

    Of a hub model only safetensors, JSON and tokenizer files are fetched (with `gguf_file`, that file alone).
    Raises CheckpointError where neither exists.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{name} is a file; a checkpoint is a folder (for GGUF: the folder, and the file by `gguf_file`)")
    if not _HUB_NAME.fullmatch(str(name)):
        raise CheckpointError(f"{name}: no such folder, and not a hub name of the form owner/name")
    from huggingface_hub import snapshot_download

    patterns = [gguf_file] if gguf_file else _PATTERNS
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns))
    except Exception as error:  # the client raises its own, the HTTP library's and OSError: all mean "not there"
        raise CheckpointError(f"{name}: no such folder, and the hub did not give it: {first_line(error)}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError naming the file where it is missing, huge or no JSON object."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes are more than any model's settings ({_MOST_BYTES})")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: there is no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: a JSON object is needed, not {type(values).__name__}")
    return values


def write_object(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object; the same values give the same bytes."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters; its type where it has no text."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
