"""Small random checkpoints written by transformers, and our decoder read from them: for the tests of parity.

Every variant is drawn again for each seed: widths, heads, groups, layers and vocabulary are random, and so are biases and
norms, so that a swapped row or a forgotten bias cannot hide.
"""

import os
import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from headway.model.checkpoint import load_decoder
from headway.model.transformer import Decoder

SEEDS = range(int(os.environ.get("HEADWAY_PARITY_SEEDS", "3")))
VARIANTS = ("llama-tied", "llama-untied", "llama-scaled-rope", "qwen2-tied", "qwen2-untied")
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def random_model(variant: str, seed: int) -> LlamaForCausalLM | Qwen2ForCausalLM:
    """A random transformers model of the variant, in float32."""
    draw = random.Random(f"{variant} {seed}")
    kv_heads = draw.choice([1, 2, 3])
    heads = kv_heads * draw.choice([1, 2, 3])
    head_dim = draw.choice([4, 8, 16])
    settings = {
        "vocab_size": draw.randrange(60, 120),
        "hidden_size": heads * (head_dim if variant.endswith("-tied") else draw.choice([6, 10])),  # else head_dim is free
        "num_hidden_layers": draw.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": draw.choice([20, 48]),
        "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "rope_parameters": {"rope_theta": draw.choice([100.0, 10_000.0]), "rope_type": "default"},
        "max_position_embeddings": 256,
        "tie_word_embeddings": variant.endswith("-tied"),
        "initializer_range": 0.1,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    if variant == "llama-scaled-rope":
        settings["rope_parameters"] = LLAMA3 | {"rope_theta": 100.0}
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(**settings)) if "qwen2" in variant else LlamaForCausalLM(LlamaConfig(**settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.copy_(0.2 * torch.randn_like(weight) + (1.0 if "norm" in name else 0.0))
    return model.eval()


def both(variant: str, seed: int, folder: Path) -> tuple[LlamaForCausalLM | Qwen2ForCausalLM, Decoder]:
    """Theirs, and ours read from what theirs saved into `folder`."""
    theirs = random_model(variant, seed)
    theirs.save_pretrained(folder)
    return theirs, load_decoder(folder)
