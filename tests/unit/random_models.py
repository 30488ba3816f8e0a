"""Small random checkpoints written by transformers, and our decoder read from them: for the tests of parity.

Every variant is a family, and each is drawn again for every seed: sizes, heads, groups, layers, windows, rope kinds, biases and
ties are random, and so are the values of biases and norms, so that a swapped row or a forgotten bias cannot hide.
HEADWAY_CONFIGURATIONS=20 draws twenty of each and compares 256 greedy tokens instead of 64.
"""

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from headway.model.checkpoint import load_decoder
from headway.model.transformer import Decoder

SEEDS = range(int(os.environ.get("HEADWAY_CONFIGURATIONS", "3")))
GREEDY = 256 if "HEADWAY_CONFIGURATIONS" in os.environ else 64
VARIANTS = ("llama", "smollm3", "mistral", "qwen2", "qwen3", "phi3", "phi3-longrope", "gemma3_text", "olmo2")
CLASSES = {
    "llama": "Llama", "smollm3": "SmolLM3", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "phi3": "Phi3",
    "gemma3_text": "Gemma3Text", "olmo2": "Olmo2",
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
POSITIONS = 512

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def _rope(draw: random.Random, theta: float) -> dict[str, Any]:
    kind = draw.choice([{"rope_type": "default"}, {"rope_type": "linear", "factor": draw.choice([2.0, 8.0])}, LLAMA3])
    return kind | {"rope_theta": theta}


def _of_family(family: str, draw: random.Random, layers: int) -> dict[str, Any]:
    """What only this family has."""
    window = draw.choice([2, 7, 33])  # at 1 the cache of transformers 5.23 keeps [-0:], which is everything
    theta = draw.choice([100.0, 10_000.0])
    plain = {"rope_parameters": _rope(draw, theta), "attention_bias": draw.random() < 0.4}
    if family == "llama":
        return plain | {"mlp_bias": draw.random() < 0.4}
    if family == "smollm3":
        pattern = {"no_rope_layers": [draw.choice([0, 1]) for _ in range(layers)]}
        if draw.random() < 0.5:
            pattern = {"no_rope_layer_interval": draw.choice([2, 3, 4])}
        sliding = {"use_sliding_window": True, "sliding_window": window} if draw.random() < 0.5 else {}
        return plain | {"mlp_bias": draw.random() < 0.4} | pattern | sliding
    if family == "mistral":
        return {"rope_parameters": plain["rope_parameters"], "sliding_window": draw.choice([None, window, window])}
    if family in ("qwen2", "qwen3"):
        if family == "qwen2":
            plain.pop("attention_bias")
        sliding = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": draw.choice([0, 1, layers])}
        types = {"layer_types": [draw.choice(["sliding_attention", "full_attention"]) for _ in range(layers)]}
        return plain | draw.choice([{}, sliding, sliding | types])
    if family == "phi3":
        rope = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": draw.choice([0.5, 0.75, 1.0])}
        return {"rope_parameters": rope, "sliding_window": draw.choice([None, window])}
    if family == "gemma3_text":
        sliding = {"rope_type": "default", "rope_theta": draw.choice([50.0, 1000.0])}
        pattern = {"sliding_window_pattern": draw.choice([2, 3, 6])}
        if draw.random() < 0.5:
            pattern = {"layer_types": [draw.choice(["sliding_attention", "full_attention"]) for _ in range(layers)]}
        rope = {"full_attention": _rope(draw, theta), "sliding_attention": sliding}
        return pattern | {
            "rope_parameters": rope,
            "attention_bias": plain["attention_bias"],
            "sliding_window": window,
            "query_pre_attn_scalar": draw.choice([5, 16, 40]),
            "attn_implementation": "eager",
        }
    return plain  # olmo2


def _longrope(draw: random.Random, pairs: int) -> dict[str, Any]:
    """LongRoPE where transformers and we choose alike: all positions are short ones, or any sequence is a long one."""
    is_long = draw.random() < 0.5
    original = 3 if is_long else draw.choice([POSITIONS, 2 * POSITIONS])
    factors = {name: [draw.uniform(1.0, 8.0) for _ in range(pairs)] for name in ("short_factor", "long_factor")}
    explicit = draw.choice([{}, {"attention_factor": 1.3}, {"factor": 4.0}])
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75} | factors | explicit
    return {"rope_parameters": rope, "original_max_position_embeddings": original}


def random_settings(variant: str, seed: int) -> dict[str, Any]:
    """The settings of a random model, as its config class takes them."""
    draw = random.Random(f"{variant} {seed}")
    family = variant.partition("-")[0]
    kv_heads = draw.choice([1, 2, 3])
    heads = kv_heads * draw.choice([1, 2, 3])
    head_dim = draw.choice([8, 16] if family == "phi3" else [4, 8, 16])
    layers = draw.choice([1, 2, 3] if family in ("llama", "olmo2", "phi3") else [2, 3, 4])
    follows = variant == "phi3-longrope" or draw.random() < 0.5  # width = heads x head_dim; else head_dim is free
    settings = {
        "vocab_size": draw.randrange(60, 120),
        "hidden_size": heads * (head_dim if follows else draw.choice([6, 10])),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": draw.choice([20, 48]),
        "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": draw.random() < 0.5,
        "initializer_range": 0.1,
        "pad_token_id": None,  # a pad token gets no gradient there
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    settings |= _of_family(family, draw, layers)
    if variant == "phi3-longrope":
        settings |= _longrope(draw, int(head_dim * 0.75) // 2)
    return settings


def random_model(variant: str, seed: int) -> Any:
    """A random transformers model of the variant, in float32."""
    name = CLASSES[variant.partition("-")[0]]
    config = getattr(transformers, f"{name}Config")(**random_settings(variant, seed))
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 1:
                is_one = "norm" in key and name != "Gemma3Text"
                weight.copy_(0.2 * torch.randn_like(weight) + (1.0 if is_one else 0.0))
    return model.eval()


def both(variant: str, seed: int, folder: Path) -> tuple[Any, Decoder]:
    """Theirs, and ours read from what theirs saved into `folder`."""
    theirs = random_model(variant, seed)
    theirs.save_pretrained(folder)
    return theirs, load_decoder(folder)
