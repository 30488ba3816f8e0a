"""Checkpoints there and back, byte for byte; and every way a folder can be wrong, in one line that names the place."""

import json
import os
from pathlib import Path

import pytest
import torch
from random_models import both, every_seed, every_variant, random_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from headway.engine.engine import Engine
from headway.errors import CheckpointError
from headway.model.checkpoint import load_decoder, load_state, read_extra, save_decoder, state_tensors, weights_hash
from headway.model.config import DecoderConfig
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import initialise
from headway.types import Request

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG = DecoderConfig(vocab_size=300, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24)
TOKENIZER = Tokenizer.train([f"{a} + {b} = {a + b}" for a in range(30) for b in range(30)], 300)


def checkpoint(folder: Path, **more: object) -> Path:
    """A small whole checkpoint of ours, untied, without a tokenizer."""
    folder.mkdir(exist_ok=True)
    config = DecoderConfig(vocab_size=20, width=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp_width=12, tied=False)
    save_decoder(initialise(config, seed=0), folder)
    change_json(folder / "config.json", **more)
    return folder


def change_json(path: Path, **more: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def change_tensors(folder: Path, drop: str = "", **more: Tensor) -> None:
    tensors = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if name != drop}
    save_file(tensors | {name.replace("__", "."): tensor for name, tensor in more.items()}, folder / WEIGHTS)


def shard(folder: Path) -> dict[str, str]:
    """Split the weights of a folder over two files; returns the map of the index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def refusal(folder: Path | str, **more: str) -> str:
    """The one line that loading the folder is refused with."""
    with pytest.raises(CheckpointError) as caught:
        load_decoder(folder, **more)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- there and back


@every_seed
@every_variant
def test_their_tensors_come_back_byte_for_byte(variant: str, seed: int, tmp_path: Path) -> None:
    _, ours = both(variant, seed, tmp_path)
    (tmp_path / "again").mkdir()
    save_decoder(ours, tmp_path / "again")
    before, after = load_file(tmp_path / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert tensor.numpy().tobytes() == after[name].numpy().tobytes(), name


@every_variant
def test_their_settings_come_back(variant: str, tmp_path: Path) -> None:
    theirs, ours = both(variant, 0, tmp_path)
    (tmp_path / "again").mkdir()
    save_decoder(ours, tmp_path / "again")
    again = type(theirs.config).from_pretrained(tmp_path / "again")
    before, after = theirs.config.to_dict(), again.to_dict()
    for values in (before, after):
        values.pop("_name_or_path", None)
        values.pop("architectures", None)
        values.pop("head_dim", None)  # we always say it
        values["rope_parameters"].pop("type", None)
        values.pop("partial_rotary_factor", None)  # it is inside rope_parameters as well
    assert after == before


def test_shards_give_the_same_model(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    whole = weights_hash(load_decoder(folder))
    shard(folder)
    assert weights_hash(load_decoder(folder)) == whole


def test_saved_twice_the_bytes_are_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_decoder(initialise(CONFIG, seed=4), tmp_path / name, TOKENIZER, {"stage": "sft", "step": 3})
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    expected = ["chat_template.jinja", "config.json", "generation_config.json", "headway.json", WEIGHTS]
    assert files == [*expected, "tokenizer.json", "tokenizer_config.json"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_saved_folder_is_complete(tmp_path: Path) -> None:
    model = initialise(CONFIG, seed=4)
    save_decoder(model, tmp_path, TOKENIZER, {"stage": "sft"})
    assert read_extra(tmp_path) == {"stage": "sft", "weights": weights_hash(model)}
    assert weights_hash(load_decoder(tmp_path)) == weights_hash(model)
    assert Tokenizer.load(tmp_path).fingerprint == TOKENIZER.fingerprint
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)  # tied
    config, generation = (json.loads((tmp_path / f"{n}config.json").read_text()) for n in ("", "generation_"))
    assert (config["eos_token_id"], config["pad_token_id"]) == (1, 0)
    assert generation == {"eos_token_id": 1, "pad_token_id": 0}


def test_transformers_generates_our_greedy_text(tmp_path: Path) -> None:
    """From the saved folder alone: their tokenizer, template, weights and stop token give our text."""
    model = initialise(CONFIG, seed=4)
    for weight in model.parameters():
        weight.data.mul_(4)
    save_decoder(model, tmp_path, TOKENIZER)
    theirs, text = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    questions = [[{"role": "user", "content": f"{a} + 7"}] for a in range(8)]
    requests = [Request(ids, (0,), 30, temperature=0.0) for ids in TOKENIZER.prompt_ids_batch(questions)]
    for question, [completion] in zip(questions, Engine(model, TOKENIZER.stop_ids).generate(requests), strict=True):
        prompt = text.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = theirs.generate(**prompt, do_sample=False, max_new_tokens=30)[0, prompt["input_ids"].shape[1] :]
        assert out.tolist() == list(completion.token_ids)
        assert text.decode(out, skip_special_tokens=True) == TOKENIZER.decode(completion.token_ids)


def test_a_half_precision_checkpoint_is_read_as_float32(tmp_path: Path) -> None:
    theirs = random_model("llama", 0).bfloat16()
    theirs.save_pretrained(tmp_path)
    ours = load_decoder(tmp_path)
    assert {weight.dtype for weight in ours.parameters()} == {torch.float32}
    assert torch.equal(ours.embedding.weight, theirs.model.embed_tokens.weight.float())
    half = load_decoder(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    assert half.frequencies.dtype == torch.float32  # positions beyond 256 have no place in bfloat16
    (tmp_path / "again").mkdir()
    save_decoder(half, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / WEIGHTS).stat().st_size == (tmp_path / "again" / WEIGHTS).stat().st_size


def test_a_model_on_another_seed_has_another_hash() -> None:
    one = initialise(CONFIG, seed=0)
    assert weights_hash(one) == weights_hash(initialise(CONFIG, seed=0)) != weights_hash(initialise(CONFIG, seed=1))
    before = weights_hash(one)
    one.norm.weight.data[3] += 1e-7  # one bit of one number
    assert weights_hash(one) != before


def test_state_tensors_are_views_into_the_model() -> None:
    model = initialise(CONFIG, seed=0)
    state_tensors(model)["model.layers.1.self_attn.k_proj.weight"].fill_(7.0)
    # q has 2 heads x 8 = 16 rows, k the next 8
    assert (model.blocks[1].attention.qkv.weight[16:24] == 7).all()
    assert not (model.blocks[1].attention.qkv.weight[:16] == 7).any()
    assert sum(tensor.numel() for tensor in state_tensors(model).values()) == CONFIG.num_parameters


def test_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    model = load_decoder(checkpoint(tmp_path / "a"))
    assert all(weight.requires_grad and weight.is_leaf for weight in model.parameters())


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    small = DecoderConfig(vocab_size=TOKENIZER.size - 1, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, mlp_width=8)
    with pytest.raises(CheckpointError, match="embedding rows"):
        save_decoder(initialise(small, 0), tmp_path, TOKENIZER)


# -- what is tolerated


def test_a_stored_copy_of_a_tied_head_is_no_surprise(tmp_path: Path) -> None:
    save_decoder(initialise(CONFIG, seed=0), tmp_path)
    embedding = load_file(tmp_path / WEIGHTS)["model.embed_tokens.weight"]
    change_tensors(tmp_path, lm_head__weight=embedding.clone())
    load_decoder(tmp_path)
    change_tensors(tmp_path, lm_head__weight=embedding + 1)
    assert "lm_head.weight differs from the embedding" in refusal(tmp_path)


def test_stored_rotary_frequencies_are_left_alone(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    change_tensors(folder, **{"model__layers__0__self_attn__rotary_emb__inv_freq": torch.ones(2)})
    load_decoder(folder)


# -- what is refused


def test_no_config(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    (folder / "config.json").unlink()
    assert refusal(folder) == f"{folder}: there is no config.json"


@pytest.mark.parametrize("text", ["{", "[]", "\xff\xfe"])
def test_a_damaged_config(text: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert refusal(folder).startswith(f"{folder / 'config.json'}: ")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"model_type": "mamba"},
            "model_type 'mamba' is not supported; supported are llama, smollm3, mistral, qwen2, qwen3, phi3, gemma3_text, olmo2",
        ),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "runs no remote code"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn' is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights are not supported"),
        ({"hidden_size": None}, "hidden_size of llama must be a whole number from 1 to 262144, not nothing"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_scaling.low_freq_factor of llama must be a number above 0, not nothing",
        ),
        ({"vocab_size": "many"}, "vocab_size of llama must be a whole number from 1 to 8388608, not 'many'"),
        ({"num_attention_heads": 0}, "num_attention_heads of llama must be a whole number from 1 to 4096, not 0"),
        ({"intermediate_size": -4}, "intermediate_size of llama must be"),
        ({"head_dim": 3}, "head_dim 3 must be even"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "3 a multiple of num_key_value_heads 2"),
    ],
)
def test_unsupported_settings(change: dict[str, object], says: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a", **change)
    line = refusal(folder)
    assert line.startswith(f"{folder / 'config.json'}: ")
    assert says in line


def test_a_missing_tensor(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    change_tensors(folder, drop="model.layers.1.self_attn.v_proj.weight")
    assert refusal(folder) == f"{folder}: tensor model.layers.1.self_attn.v_proj.weight is missing"


def test_an_unexpected_tensor(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    change_tensors(folder, **{"model__layers__2__mlp__up_proj__weight": torch.ones(12, 8)})
    assert refusal(folder) == f"{folder / WEIGHTS}: unexpected tensor model.layers.2.mlp.up_proj.weight [12, 8]"


def test_a_mis_shaped_tensor(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    change_tensors(folder, **{"model__norm__weight": torch.ones(9)})
    assert refusal(folder) == f"{folder / WEIGHTS}: tensor model.norm.weight is [9], config.json asks [8]"


def test_a_shape_that_would_broadcast_is_mis_shaped(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    change_tensors(folder, **{"model__norm__weight": torch.ones(1)})
    assert "is [1], config.json asks [8]" in refusal(folder)


def test_a_tensor_of_whole_numbers(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    change_tensors(folder, **{"model__norm__weight": torch.ones(8, dtype=torch.int8)})
    assert "tensor model.norm.weight holds I8" in refusal(folder)


@pytest.mark.parametrize("length", [0, 5, 100, 4000])
def test_a_cut_off_file(length: int, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    whole = (folder / WEIGHTS).read_bytes()
    assert len(whole) > 4000
    (folder / WEIGHTS).write_bytes(whole[:length])
    assert refusal(folder).startswith(f"{folder / WEIGHTS}: not a readable safetensors file")


def test_pickle_is_never_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert "only as pickle (pytorch_model.bin)" in refusal(folder)


def test_no_weights_at_all(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    (folder / WEIGHTS).unlink()
    assert refusal(folder) == f"{folder}: there is no model.safetensors"
    (folder / "model.Q4_1.gguf").touch()
    assert refusal(folder).endswith("to load model.Q4_1.gguf set `gguf_file`")


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "there is no model-00002-of-00002.safetensors" in refusal(folder)


def test_a_shard_outside_the_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    weight_map = shard(folder)
    change_json(folder / INDEX, weight_map=weight_map | {"model.norm.weight": "../other.safetensors"})
    assert "'../other.safetensors' is not the name of a file beside it" in refusal(folder)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    weight_map = shard(folder)
    second = folder / "model-00002-of-00002.safetensors"
    name = next(name for name, file in weight_map.items() if file != second.name)
    first = load_file(folder / weight_map[name])
    save_file(load_file(second) | {name: first[name]}, second)
    assert refusal(folder) == f"{second}: tensor {name} is there twice"


@pytest.mark.parametrize("weight_map", [None, {}, {"a": 1}, "x"])
def test_a_damaged_index(weight_map: object, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    shard(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert "`weight_map` must say" in refusal(folder)


def test_load_state_names_what_is_wrong() -> None:
    model = initialise(CONFIG, seed=0)
    tensors = state_tensors(initialise(CONFIG, seed=1))
    tensors.pop("model.norm.weight")
    with pytest.raises(CheckpointError, match=r"the resume point: tensor model\.norm\.weight is missing"):
        load_state(model, tensors, "the resume point")


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    assert refusal("no/such/folder").startswith("no/such/folder: no such folder")
    assert refusal("nobody/nothing").startswith("nobody/nothing: no such folder, and the hub did not give it: ")
    (tmp_path / "weights.gguf").touch()
    assert "is a file; a checkpoint is a folder" in refusal(tmp_path / "weights.gguf")


def test_a_gguf_file_that_is_none(tmp_path: Path) -> None:
    assert refusal(tmp_path, gguf_file="model.gguf") == f"{tmp_path}: there is no model.gguf"
    (tmp_path / "model.gguf").write_bytes(b"not that")
    assert refusal(tmp_path, gguf_file="model.gguf").startswith(f"{tmp_path / 'model.gguf'}: cannot be read as GGUF")


# -- a real model


@pytest.mark.skipif("HEADWAY_SMOLLM2" not in os.environ, reason="HEADWAY_SMOLLM2 names no SmolLM2 GGUF file")
def test_smollm2_from_gguf_to_a_checkpoint_of_ours(tmp_path: Path) -> None:
    path = Path(os.environ["HEADWAY_SMOLLM2"])
    model, tokenizer = load_decoder(path.parent, gguf_file=path.name), Tokenizer.load(path.parent, path.name)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    assert tokenizer.decode([tokenizer.stop_id, *tokenizer.encode("x = 12")]) == "x = 12"
    save_decoder(model, tmp_path, tokenizer)
    again = load_decoder(tmp_path)
    assert weights_hash(again) == weights_hash(model)
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint

    theirs, text = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    question = [{"role": "user", "content": "What is 17 + 25?"}]
    ids = tokenizer.prompt_ids(question)
    assert list(ids) == text.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    [[completion]] = Engine(again, tokenizer.stop_ids).generate([Request(ids, (0,), 24, temperature=0.0)])
    out = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0, len(ids) :]
    assert out.tolist() == list(completion.token_ids)
