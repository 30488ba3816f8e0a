"""The shapes that benchmarks/sampling_cuda.py times, and what it says a card allows."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

from headway.model.families import from_hf
from headway.model.transformer import Decoder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import sampling
import sampling_cuda

# Phi-4-mini's number is its card's; Qwen3-0.6B: 151,936 x 1,024, and 28 layers of 1,024 x (2,048 x 2 + 1,024 x 2 + 3 x 3,072),
# two norms of 1,024 and two of 128, and the last norm
PARAMETERS = {"phi4-mini": 3_836_021_760, "qwen3-0.6b": 151_936 * 1024 + 28 * (1024 * (6144 + 9216) + 2 * 1024 + 256) + 1024}


@pytest.mark.parametrize("shape", PARAMETERS)
def test_shapes_are_those_of_the_models(shape: str) -> None:
    with torch.device("meta"):
        model = Decoder(from_hf(sampling_cuda.values_of(shape, "full"), 1280))
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS[shape]


def test_the_limit_counts_two_bytes_a_number() -> None:
    # one layer, width 4, 2 heads of 2, one of them for keys: 4 * 4 * 2 + 4 * 2 * 2 + 3 * 4 * 8 = 144, and 10 * 4 of the output;
    # keys and values of 3 and of 4 positions, 2 * 2 each: 2 steps read 2 * (2 * 184 + 4 * 7) bytes
    config = {"hidden_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8}
    config |= {"num_hidden_layers": 1, "vocab_size": 10}
    found = sampling.limit(sampling.Job([[1, 2, 3]], [2]), config, bandwidth=1.0, rate=1e9, size=2)
    assert found == 2 * (2 * 184 + 4 * 7)


@pytest.mark.parametrize("shape", PARAMETERS)
@pytest.mark.parametrize("engine", ["headway", "generate"])
def test_a_tiny_job_gives_its_numbers(engine: str, shape: str) -> None:
    settings = {"engine": engine, "shape": shape, "scale": "tiny", "device": "cpu", "prompts": 3, "tokens": 4, "repeats": 1}
    arguments = argparse.Namespace(**settings, weights="float32", positions=None, batching="{}")
    row = sampling_cuda.row_of("many", arguments, 1e10, 1e11)
    assert "error" not in row
    assert row["new_tokens"] == 12
    assert row["new_tokens_per_s"] > 0
    assert engine == "generate" or row["steps"] == 3  # the first token of each comes from its prompt


def test_what_fails_says_so() -> None:
    settings = {"engine": "headway", "shape": "qwen3-0.6b", "scale": "tiny", "device": "cpu", "prompts": 1, "tokens": 0}
    arguments = argparse.Namespace(**settings, repeats=1, weights="float32", positions=None, batching="{}")
    row = sampling_cuda.row_of("many", arguments, 1e10, 1e11)
    assert row["error"].startswith("EngineError: request 0 has an empty prompt")
    assert "s" not in row
