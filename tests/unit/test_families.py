"""A config.json of every family: what it may leave out, what is refused, where its windows are, and Phi-4-mini's own values."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from random_models import CLASSES, LLAMA3, every_variant, random_model, random_settings
from safetensors.torch import load_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from headway.errors import CheckpointError
from headway.model.attention import lay_out
from headway.model.checkpoint import load_decoder, read_extra, save_decoder, state_tensors, weights_hash
from headway.model.config import LOCAL_ROPE, NO_ROPE, ROPE
from headway.model.families import FAMILIES, from_hf, to_hf
from headway.model.transformer import Decoder

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 20,
}  # fmt: skip
PHI4_MINI = {  # microsoft/Phi-4-mini-instruct; of the 48 long factors only the first and the last are known to us
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 199_999,
    "embd_pdrop": 0.0, "eos_token_id": 199_999, "full_attn_mod": 1, "hidden_act": "silu", "hidden_size": 3072,
    "initializer_range": 0.02, "intermediate_size": 8192, "interpolate_factor": 1, "lm_head_bias": False,
    "max_position_embeddings": 131_072, "mlp_bias": False, "model_type": "phi3", "num_attention_heads": 24,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "original_max_position_embeddings": 4096, "pad_token_id": 199_999,
    "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "long_factor": [1.0 + 46.77 * number / 47 for number in range(48)], "short_factor": [1.0] * 48, "type": "longrope",
    },
    "rope_theta": 10_000.0, "sliding_window": 262_144, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "use_cache": True, "vocab_size": 200_064,
}  # fmt: skip


def settings(family: str = "llama", **more: Any) -> dict[str, Any]:
    return SIZES | {"model_type": family} | more


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as caught:
        from_hf(values)
    return str(caught.value)


# -- what a config.json may leave out


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_out_is_what_transformers_fills_in(family: str) -> None:
    """A config.json may hold nothing but what differs from the class's defaults."""
    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    sizes |= {"hidden_size": 64, "num_attention_heads": 32}
    full = getattr(transformers, f"{CLASSES[family]}Config")(**sizes).to_dict()
    short, whole = (from_hf(values) for values in (sizes | {"model_type": family}, full))
    for name in short.__dataclass_fields__:
        if name != "source":
            assert getattr(short, name) == getattr(whole, name), name


def test_no_number_of_groups_is_one_a_head() -> None:
    assert from_hf(settings(num_key_value_heads=None, head_dim=2)).kv_heads == 8
    assert from_hf(settings(head_dim=None, num_attention_heads=8)).head_dim == 4


@every_variant
def test_both_spellings_of_the_rope_give_the_same_decoder(variant: str, tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters, we write what all read; what we wrote is read as what theirs was."""
    model = random_model(variant, 3)
    model.save_pretrained(tmp_path)
    config = from_hf(json.loads((tmp_path / "config.json").read_text()))
    written = to_hf(config)
    assert "rope_parameters" not in written
    assert written["rope_theta"] == config.rope_theta
    again = from_hf(written)
    assert (again.rope_theta, again.rope_scaling, again.rotary_share) == (
        config.rope_theta,
        config.rope_scaling,
        config.rotary_share,
    )
    assert again.local_rope_theta == config.local_rope_theta


# -- which layers see how much, and turn how


def test_a_window_for_all() -> None:
    assert from_hf(settings("mistral", sliding_window=100)).windows == (100,) * 6
    assert from_hf(settings("mistral", sliding_window=None)).windows == (0,) * 6
    assert from_hf(settings("llama", sliding_window=100)).windows == (0,) * 6  # no Llama has one


def test_a_window_that_no_sequence_outgrows_is_none() -> None:
    assert from_hf(settings("phi3", sliding_window=4095)).windows == (4095,) * 6
    assert from_hf(settings("phi3", sliding_window=4096)).windows == (0,) * 6  # max_position_embeddings is 4096


def test_windows_of_qwen() -> None:
    window = {"use_sliding_window": True, "sliding_window": 9}
    assert from_hf(settings("qwen2", sliding_window=9, max_window_layers=2)).windows == (0,) * 6
    assert from_hf(settings("qwen2", max_window_layers=4, **window)).windows == (0, 0, 0, 0, 9, 9)
    types = ["sliding_attention", *["full_attention"] * 5]
    assert from_hf(settings("qwen3", layer_types=types, **window)).windows == (9, 0, 0, 0, 0, 0)


def test_layers_of_smollm3() -> None:
    config = from_hf(settings("smollm3", use_sliding_window=True, sliding_window=9))
    assert config.ropes == (ROPE, ROPE, ROPE, NO_ROPE, ROPE, ROPE)  # every fourth
    assert config.windows == (0, 0, 0, 9, 0, 0)
    assert from_hf(settings("smollm3", no_rope_layer_interval=3)).ropes == (ROPE, ROPE, NO_ROPE) * 2
    assert from_hf(settings("smollm3", no_rope_layers=[0, 1] * 3)).ropes == (NO_ROPE, ROPE) * 3


def test_layers_of_gemma() -> None:
    config = from_hf(settings("gemma3_text", sliding_window=9, sliding_window_pattern=3))
    assert config.windows == (9, 9, 0) * 2
    assert config.ropes == (LOCAL_ROPE, LOCAL_ROPE, ROPE) * 2
    # a local layer keeps its rope where its window is none
    config = from_hf(settings("gemma3_text", sliding_window=9, sliding_window_pattern=3, max_position_embeddings=9))
    assert (config.windows, config.ropes) == ((0,) * 6, (LOCAL_ROPE, LOCAL_ROPE, ROPE) * 2)
    assert config.attention_scale == 256**-0.5
    assert config.embedding_scale == 32**0.5


@pytest.mark.parametrize("length", [6, 7, 8])
def test_the_window_ends_where_theirs_does(length: int, tmp_path: Path) -> None:
    """Window 7: seven tokens still see each other, of eight the last no longer sees the first."""
    values = random_settings("mistral", 0) | {"sliding_window": 7, "num_hidden_layers": 1}
    torch.manual_seed(0)
    theirs = transformers.MistralForCausalLM(transformers.MistralConfig(**values)).eval()
    theirs.save_pretrained(tmp_path)
    ours, ids = load_decoder(tmp_path), torch.arange(2, 2 + length)
    other = ids.clone()
    other[0] += 20
    with torch.no_grad():
        for tokens in (ids, other):
            found = ours(tokens, lay_out([length])) @ ours.output_weight.t()
            torch.testing.assert_close(found, theirs(tokens[None]).logits[0], rtol=0, atol=1e-5)
        before, after = (ours(tokens, lay_out([length]))[-1] for tokens in (ids, other))
    assert torch.equal(before, after) == (length == 8)


# -- Phi-4-mini


def test_phi4_mini() -> None:
    config = from_hf(PHI4_MINI)
    assert config.num_parameters == 3_836_021_760
    assert (config.head_dim, config.rotary_share, config.windows) == (128, 0.75, (0,) * 32)
    # sqrt(1 + ln(131072 / 4096) / ln(4096)) = sqrt(1 + 5/12)
    assert config.rope_scaling["attention_factor"] == pytest.approx(1.190238, abs=1e-6) == (17 / 12) ** 0.5
    assert from_hf(PHI4_MINI, max_positions=4096).rope_scaling == config.rope_scaling
    assert to_hf(config)["rope_scaling"] == PHI4_MINI["rope_scaling"]
    assert to_hf(from_hf(PHI4_MINI, max_positions=4096))["max_position_embeddings"] == 131_072


def test_the_names_of_phi4_mini() -> None:
    with torch.device("meta"):
        tensors = state_tensors(Decoder(from_hf(PHI4_MINI)))
    assert len(tensors) == 1 + 32 * 6 + 1  # tied
    assert list(tensors["model.layers.31.self_attn.qkv_proj.weight"].shape) == [24 * 128 + 2 * 8 * 128, 3072]
    assert list(tensors["model.layers.0.mlp.gate_up_proj.weight"].shape) == [2 * 8192, 3072]
    assert sum(tensor.numel() for tensor in tensors.values()) == 3_836_021_760


# -- the text part of a model of text and images


def test_the_text_part_of_gemma3(tmp_path: Path) -> None:
    text = random_settings("gemma3_text", 1)
    text.pop("attn_implementation")
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    text["vocab_size"] = 300
    tokens = {"boi_token_index": 296, "eoi_token_index": 297, "image_token_index": 298, "mm_tokens_per_image": 4}
    theirs = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **tokens)).eval()
    theirs.save_pretrained(tmp_path)
    assert any("vision" in name for name in load_file(tmp_path / "model.safetensors"))
    ours, ids = load_decoder(tmp_path), torch.arange(2, 60)
    with torch.no_grad():
        expected = theirs(ids[None], token_type_ids=torch.zeros_like(ids[None])).logits[0]
        torch.testing.assert_close(ours(ids, lay_out([58])) @ ours.output_weight.t(), expected, rtol=0, atol=1e-5)
    (tmp_path / "again").mkdir()
    save_decoder(ours, tmp_path / "again")  # a model of text alone
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "gemma3_text"
    assert weights_hash(load_decoder(tmp_path / "again")) == weights_hash(ours)


# -- what is refused, by its key


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (settings("gemma3_text", final_logit_softcapping=30.0), "final_logit_softcapping = 30.0 is not supported"),
        (settings("gemma3_text", attn_logit_softcapping=50.0), "attn_logit_softcapping = 50.0 is not supported"),
        (settings("gemma3_text", use_bidirectional_attention=True), "use_bidirectional_attention = True is not"),
        (settings("gemma3_text", rope_parameters={"rope_type": "default"}), "rope_parameters.rope_type is not supported"),
        (settings("llama", num_local_experts=8), "num_local_experts = 8 is not supported for llama"),
        (settings("mistral", attention_bias=True), "attention_bias = true is not supported for mistral"),
        (settings("phi3", mlp_bias=True), "mlp_bias = true is not supported for phi3"),
        (settings("llama", partial_rotary_factor=0.5), "partial_rotary_factor = 0.5 is not supported for llama"),
        (settings("phi3", partial_rotary_factor=1.5, head_dim=8), "partial_rotary_factor = 1.5"),
        (settings("llama", rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "rope type 'dynamic' is not supported"),
        (settings("llama", rope_scaling={"rope_type": "linear"}), "rope_scaling.factor of llama must be a number above 0"),
        (settings("llama", rope_scaling=LLAMA3 | {"high_freq_factor": 1.0}), "high_freq_factor must be above"),
        (settings("llama", rope_scaling=[1]), "rope_scaling of llama must be an object, not a list"),
        (settings("smollm3", no_rope_layers=[1, 0]), "no_rope_layers must hold a 0 or a 1 for each of 6 layers"),
        (settings("smollm3", no_rope_layers=["a"] * 6), "no_rope_layers must hold a 0 or a 1"),
        (settings("qwen2", layer_types=["sliding_attention"] * 6), "but use_sliding_window is false"),
        (settings("qwen2", layer_types=["full_attention"]), "layer_types must name"),
        (settings("qwen3", layer_types=["chunked_attention"] * 6), "layer_types must name"),
        (settings("llama", layer_types=["sliding_attention"] * 6), "layer_types differ from what llama computes"),
        (settings("mistral", sliding_window=0), "sliding_window of mistral must be a whole number from 1"),
        (settings("olmo2", hidden_act="gelu"), "hidden_act 'gelu' is not supported"),
        (settings("mixtral"), "model_type 'mixtral' is not supported; supported are llama, smollm3, mistral, qwen2"),
        (settings(["llama"]), "model_type \"['llama']\" is not supported"),  # type: ignore[arg-type]
        (PHI4_MINI | {"rope_scaling": PHI4_MINI["rope_scaling"] | {"long_factor": [1.0]}}, "must be 48 numbers, not 1 of them"),
        (PHI4_MINI | {"rope_scaling": {"type": "longrope"}}, "rope_scaling.short_factor of phi3 must be 48 numbers, not nothing"),
        (
            PHI4_MINI | {"rope_scaling": PHI4_MINI["rope_scaling"] | {"short_factor": [1.0] * 47 + ["x"]}},
            "rope_scaling.short_factor.47 of phi3 must be a number above 0, not 'x'",
        ),
    ],
)
def test_a_setting_that_is_not_computed(values: dict[str, Any], says: str) -> None:
    line = refusal(values)
    assert says in line
    assert "\n" not in line


def test_more_positions_than_there_are() -> None:
    with pytest.raises(CheckpointError, match="5000 positions are asked for; the checkpoint has 4096"):
        from_hf(settings("phi3"), max_positions=5000)


# -- the positions that a run asks for


def test_longrope_equals_theirs_on_both_sides_of_the_switch(tmp_path: Path) -> None:
    """They choose the factors by the sequence at hand, we by the positions that were asked for: 24 are short, 25 are long."""
    values = random_settings("phi3-longrope", 0) | {"original_max_position_embeddings": 24}
    values["rope_parameters"] = {k: v for k, v in values["rope_parameters"].items() if k not in ("factor", "attention_factor")}
    torch.manual_seed(0)
    theirs = transformers.Phi3ForCausalLM(transformers.Phi3Config(**values)).eval()
    theirs.save_pretrained(tmp_path)
    short, long, barely = (
        load_decoder(tmp_path, max_positions=24),
        load_decoder(tmp_path),
        load_decoder(tmp_path, max_positions=25),
    )
    factor = (1 + math.log(512 / 24) / math.log(24)) ** 0.5  # in both modes
    assert short.config.rope_scaling["attention_factor"] == long.config.rope_scaling["attention_factor"] == pytest.approx(factor)
    for length, equal, other in ((24, short, long), (25, long, short), (80, long, short), (25, barely, short)):
        ids = torch.arange(length) % 50
        with torch.no_grad():
            expected = theirs(ids[None]).logits[0]
            found, wrong = (model(ids, lay_out([length])) @ model.output_weight.t() for model in (equal, other))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (wrong - expected).abs().max() > 1e-3


def test_positions_asked_for_are_kept_by_a_saved_checkpoint(tmp_path: Path) -> None:
    model = random_model("phi3-longrope", 2)
    model.config.original_max_position_embeddings = 64
    model.config.rope_parameters["original_max_position_embeddings"] = 64
    model.save_pretrained(tmp_path)
    short = load_decoder(tmp_path, max_positions=64)
    assert short.config.max_positions == 64
    (tmp_path / "again").mkdir()
    save_decoder(short, tmp_path / "again")
    assert read_extra(tmp_path / "again")["max_positions"] == 64
    assert json.loads((tmp_path / "again" / "config.json").read_text())["max_position_embeddings"] == 512
    again = load_decoder(tmp_path / "again")
    assert again.config.max_positions == 64
    assert torch.equal(again.frequencies, short.frequencies)
    assert not torch.equal(load_decoder(tmp_path).frequencies, short.frequencies)
    assert not torch.equal(load_decoder(tmp_path / "again", max_positions=65).frequencies, short.frequencies)
