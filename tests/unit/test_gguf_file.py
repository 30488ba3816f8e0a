"""GGUF files, made here: the same weights as transformers reads, and one copy of them in memory; so for shards of safetensors."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GgufConfig

from headway.errors import CheckpointError
from headway.model.checkpoint import load_decoder, save_decoder, state_tensors, weights_hash
from headway.model.config import DecoderConfig
from headway.model.transformer import Decoder, initialise

CONFIG = DecoderConfig(64, 64, 2, 4, 2, 16, 96, tied=True, max_positions=128)
_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "model.layers": "blk",
}  # fmt: skip


def write(path: Path, model: Decoder, kind: gguf.GGMLQuantizationType) -> None:
    """A Llama in llama.cpp's names and order of rows."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("made")
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(config.vocab_size)])
    writer.add_vocab_size(config.vocab_size)
    for name, tensor in state_tensors(model).items():
        values = tensor.numpy()
        for heads, part in ((config.heads, "q_proj"), (config.kv_heads, "k_proj")):
            if part in name:  # llama.cpp turns neighbours, not halves
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        own = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(values), own), raw_dtype=own)
    writer.add_tensor("rope_freqs.weight", np.ones(config.head_dim // 2, dtype=np.float32))  # llama.cpp's own table
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
def test_an_unquantised_file_gives_the_weights_back(tmp_path: Path, tied: bool) -> None:
    model = initialise(replace(CONFIG, tied=tied), 0)
    write(tmp_path / "m.gguf", model, gguf.GGMLQuantizationType.F32)
    found = load_decoder(tmp_path, gguf_file="m.gguf")
    assert replace(found.config, norm_eps=0.0, source={}) == replace(model.config, norm_eps=0.0, source={})
    assert weights_hash(found) == weights_hash(model)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16", "BF16"])
def test_a_quantised_file_is_read_as_transformers_reads_it(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "m.gguf", initialise(CONFIG, 1), gguf.GGMLQuantizationType[kind])
    found = load_decoder(tmp_path, gguf_file="m.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).state_dict()
    for name, tensor in state_tensors(found).items():
        assert torch.equal(tensor, theirs[name]), name
    half = load_decoder(tmp_path, gguf_file="m.gguf", dtype=torch.bfloat16)
    assert torch.equal(half.embedding.weight, found.embedding.weight.bfloat16())


def test_a_file_that_is_cut_off_or_lacks_a_tensor_is_one_line(tmp_path: Path) -> None:
    model = initialise(CONFIG, 0)
    write(tmp_path / "m.gguf", model, gguf.GGMLQuantizationType.F32)
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other.gguf").write_bytes(whole.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    for name, said in (("cut", "cannot be read as GGUF"), ("other", "model.layers.1.mlp.up_proj.weight is missing")):
        with pytest.raises(CheckpointError, match=said) as caught:
            load_decoder(tmp_path, gguf_file=f"{name}.gguf")
        assert "\n" not in str(caught.value)


_PEAK = """
import sys
from pathlib import Path
from headway.model.checkpoint import load_decoder

def peak():  # ru_maxrss would be the parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

load_decoder(sys.argv[1] + "/small", gguf_file=sys.argv[2])
before = peak()
model = load_decoder(sys.argv[1] + "/large", gguf_file=sys.argv[2])
size = sum(weight.numel() * 4 for weight in model.parameters())
print((peak() - before) * 1024 / size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_loading_takes_about_one_copy(tmp_path: Path, kind: str) -> None:
    large = DecoderConfig(256, 512, 6, 8, 8, 64, 2048, tied=True, max_positions=128)  # 101 MB
    for name, config in (("small", CONFIG), ("large", large)):
        folder = tmp_path / name
        folder.mkdir()
        model = initialise(config, 0)
        if kind == "gguf":
            write(folder / "m.gguf", model, gguf.GGMLQuantizationType.F32)
        else:
            save_decoder(model, folder)
            shard(folder, model)
    words = [sys.executable, "-c", _PEAK, str(tmp_path), "m.gguf" * (kind == "gguf")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.8 < float(done.stdout) < 1.4, done.stdout


def shard(folder: Path, model: Decoder) -> None:
    """The weights in four files with an index."""
    (folder / "model.safetensors").unlink()
    tensors = {name: tensor.contiguous() for name, tensor in state_tensors(model).items()}
    weight_map = {}
    for part in range(4):
        file = f"model-{part}.safetensors"
        names = list(tensors)[part::4]
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
