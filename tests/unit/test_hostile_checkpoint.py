"""Checkpoints made to harm: each is refused in one line that names the place, or loads and does nothing of what it wanted."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headway.errors import CheckpointError
from headway.model.checkpoint import load_decoder, save_decoder
from headway.model.config import DecoderConfig
from headway.model.families import from_hf
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import initialise

CONFIG = DecoderConfig(vocab_size=300, width=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp_width=12, tied=False)
TOKENIZER = Tokenizer.train([f"{a} + {b}" for a in range(30) for b in range(30)], 300)
HEAD, EMBEDDING, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"
CANARY = "canary-of-a-checkpoint"
EVIL = f"from pathlib import Path\nPath(__file__).with_name('{CANARY}').touch()\nclass Model: pass\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint, whole and harmless."""
    save_decoder(initialise(CONFIG, seed=0), tmp_path, TOKENIZER)
    return tmp_path


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def refusal(folder: Path) -> str:
    """The line that loading is refused with."""
    with pytest.raises(CheckpointError) as caught:
        load_decoder(folder)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 600
    return line


# -- headers of safetensors


def pack(header: bytes | dict[str, Any], body: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def renamed(header: dict[str, Any], name: str) -> dict[str, Any]:
    return {name if key == HEAD else key: value for key, value in header.items()}


def said_twice(header: dict[str, Any]) -> bytes:
    return (json.dumps(header)[:-1] + f", {json.dumps(HEAD)}: {json.dumps(header[HEAD])}}}").encode()


Header = dict[str, Any]
DAMAGED: dict[str, Callable[[Header, bytes], bytes]] = {
    "length 2^63": lambda h, b: pack(h, b, 2**63),
    "length 2^64 - 1": lambda h, b: pack(h, b, 2**64 - 1),
    "length 10^9": lambda h, b: pack(h, b, 10**9),
    "length 3 MB of a small file": lambda h, b: pack(h, b, 3 << 20),
    "overlapping": lambda h, b: pack(h | {HEAD: h[HEAD] | {"data_offsets": h[EMBEDDING]["data_offsets"]}}, b),
    "out of range": lambda h, b: pack(h | {HEAD: h[HEAD] | {"data_offsets": [0, 10**12]}}, b),
    "negative offset": lambda h, b: pack(h | {HEAD: h[HEAD] | {"data_offsets": [-4, 9596]}}, b),
    "backward offsets": lambda h, b: pack(h | {HEAD: h[HEAD] | {"data_offsets": [9600, 0]}}, b),
    "a hole": lambda h, b: pack({key: value for key, value in h.items() if key != HEAD}, b),
    "a name twice": lambda h, b: pack(said_twice(h), b),
    "no UTF-8": lambda h, b: pack(b'{"\xff\xfe": 1}', b),
    "no JSON": lambda h, b: pack(b"hello world.....", b),
    "no object": lambda h, b: pack(b"[]", b),
    "nested": lambda h, b: pack(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b),
    "a number of 100,000 digits": lambda h, b: pack(json.dumps(h).replace("[0,", f"[{'9' * 100_000},").encode(), b),
    "a shape of 2^63": lambda h, b: pack(h | {HEAD: h[HEAD] | {"shape": [2**63, 2]}}, b),
    "a shape that overflows": lambda h, b: pack(h | {HEAD: h[HEAD] | {"shape": [2**62, 4]}}, b),
    "a negative shape": lambda h, b: pack(h | {HEAD: h[HEAD] | {"shape": [-300, -8]}}, b),
    "a type that lies": lambda h, b: pack(h | {HEAD: h[HEAD] | {"dtype": "F64"}}, b),
    "a type that is none": lambda h, b: pack(h | {HEAD: h[HEAD] | {"dtype": "X9"}}, b),
    "whole numbers": lambda h, b: pack(h | {HEAD: h[HEAD] | {"dtype": "I32"}}, b),
    "bytes of eight bits": lambda h, b: pack(h | {HEAD: {"dtype": "F8_E4M3", "shape": [300, 32], "data_offsets": [0, 9600]}}, b),
    "a name with a line break": lambda h, b: pack(renamed(h, "a\nb\x1b[31m"), b),
    "a name of 100,000 letters": lambda h, b: pack(renamed(h, "a" * 100_000), b),
    "60,000 tensors": lambda h, b: pack(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(60_000)}, b
    ),
    "cut off": lambda h, b: pack(h, b[:-4]),
    "something behind": lambda h, b: pack(h, b + b"more"),
    "nothing": lambda h, b: b"",
    "zeros": lambda h, b: bytes(100_000),
    "a page": lambda h, b: b"<!DOCTYPE html><html>404</html>",
    "a pointer of git": lambda h, b: b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_header(kind: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    assert header[HEAD]["data_offsets"] == [0, 9600]  # 300 x 8 numbers of 4 bytes
    path.write_bytes(DAMAGED[kind](header, raw[8 + length :]))
    assert refusal(folder).startswith(str(path))


# -- settings


@pytest.mark.parametrize(
    "more",
    [
        {"hidden_size": 10**9},
        {"hidden_size": 10**400},
        {"vocab_size": 2**40},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 1000},  # within bounds, but there are 21 tensors
        {"intermediate_size": 1 << 20},  # the file has no such tensors
        {"vocab_size": 1 << 22, "hidden_size": 1 << 17},  # two terabytes
        {"num_attention_heads": 4096},
        {"num_attention_heads": True},
        {"hidden_size": "8"},
        {"hidden_size": -8},
        {"hidden_size": 8.5},
        {"hidden_size": [8]},
        {"hidden_size": None},
        {"head_dim": 0},
        {"rms_norm_eps": float("nan")},
        {"rms_norm_eps": float("inf")},
        {"rms_norm_eps": "1e-5"},
        {"rms_norm_eps": -1e-5},
        {"rope_theta": 0},
        {"rope_theta": float("nan")},
        {"rope_scaling": {"rope_type": "linear", "factor": float("inf")}},
        {"rope_scaling": {"rope_type": {"a": 1}}},
        {"max_position_embeddings": 10**30},
        {"max_position_embeddings": float("nan")},
        {"tie_word_embeddings": "yes"},
        {"model_type": None},
        {"model_type": "x" * 10_000},
        {"model_type": ["llama"]},
        {"model_type": "gemma3", "text_config": []},
    ],
    ids=str,
)
def test_a_setting_that_is_none(more: dict[str, Any], folder: Path) -> None:
    change(folder / "config.json", **more)
    assert refusal(folder).startswith(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        '{"model_type":' * 100_000,
        '{"model_type": "llama", "a": ' + "[" * 200_000 + "]" * 200_000 + "}",
        '{"hidden_size": ' + "9" * 10_000 + "}",
        '{"model_type": "llama", "a": "' + "x" * (17 << 20) + '"}',
        "\x00" * 100,
        "null",
    ],
    ids=["nested", "nested lists", "10,000 digits", "17 MB", "NUL", "null"],
)
def test_a_config_that_is_none(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    assert refusal(folder).startswith(f"{folder / 'config.json'}: ")


def test_positions_that_are_none(folder: Path) -> None:
    change(folder / "headway.json", max_positions="many")
    assert "max_positions" in refusal(folder)


# -- code


def test_pickle_is_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    touch = f"cpathlib\nPath\n(S'{folder / CANARY}'\ntR.".encode()
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"):
        (folder / name).write_bytes(touch)
    assert "weights only as pickle (model.ckpt)" in refusal(folder)
    assert not (folder / CANARY).exists()


def test_code_of_its_own_is_refused(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text(EVIL)
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Model", "AutoConfig": "modeling_evil.Model"})
    assert "runs no remote code" in refusal(folder)
    assert not (folder / CANARY).exists()


def test_code_beside_the_weights_lies_idle(folder: Path) -> None:
    for name in ("modeling_evil.py", "__init__.py", "conftest.py", "tokenization_evil.py", "sitecustomize.py", "json.py"):
        (folder / name).write_text(EVIL)
    load_decoder(folder)
    assert Tokenizer.load(folder).fingerprint == TOKENIZER.fingerprint
    assert not (folder / CANARY).exists()
    assert str(folder) not in sys.path


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "EvilTokenizer"])
def test_a_tokenizer_with_code_of_its_own(name: str, folder: Path) -> None:
    """Refused, or read from tokenizer.json alone; never run."""
    (folder / "tokenization_evil.py").write_text(EVIL.replace("Model", name))
    map_ = {"AutoTokenizer": [f"tokenization_evil.{name}", f"tokenization_evil.{name}"]}
    change(folder / "tokenizer_config.json", auto_map=map_, tokenizer_class=name)
    said = f"{folder}: the tokenizer cannot be loaded"
    try:
        assert Tokenizer.load(folder).fingerprint == TOKENIZER.fingerprint
    except CheckpointError as error:
        said = str(error)
    assert said.startswith(f"{folder}: the tokenizer cannot be loaded")
    assert "\n" not in said
    assert not (folder / CANARY).exists()
    assert "tokenization_evil" not in sys.modules


# -- paths


@pytest.mark.parametrize(
    "shard", ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", "..", ".", "", "..\\x", "a\x00b", "~/x", "\n"]
)
def test_a_shard_elsewhere(shard: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NORM: shard}}))
    assert refusal(folder).startswith(str(folder))


def test_a_shard_that_is_a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model-1.safetensors").mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NORM: "model-1.safetensors"}}))
    assert "there is no model-1.safetensors" in refusal(folder)


def test_no_memory_is_given_before_the_headers_agree(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config that asks for 3 GiB where the file holds a few kilobytes."""
    change(folder / "config.json", intermediate_size=1 << 20, hidden_size=256)
    asked: list[int] = []
    empty = torch.empty

    def counted(*sizes: Any, **more: Any) -> torch.Tensor:
        result = empty(*sizes, **more)
        if result.device.type != "meta":
            asked.append(result.numel())
        return result

    monkeypatch.setattr(torch, "empty", counted)
    refusal(folder)
    assert sum(asked) < 1000


def test_the_harmless_one_loads(folder: Path) -> None:
    assert load_decoder(folder).config.width == 8
    assert from_hf(json.loads((folder / "config.json").read_text())).width == 8
