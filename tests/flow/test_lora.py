"""A small recipe whose stages train adapters: every stage ends as a whole checkpoint, and peft loads what was learned."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_recipe import assert_survives_kills, command, done

from headway.model.attention import lay_out
from headway.model.checkpoint import load_decoder
from headway.model.head import next_logits

pytestmark = pytest.mark.flow

LORA = ("--set", "lora.rank=4", "--set", "lora.alpha=8", "--set", "sft.optimizer.lr=0.003")
IDS = [5, 9, 30, 77, 100, 4, 8]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Midtrain by full fine-tuning, the other three with adapters."""
    root = tmp_path_factory.mktemp("lora")
    done(command("run", root, *LORA, "--set", 'lora.stages=["sft", "dpo", "rl"]'))
    return root / "small"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


def test_every_stage_moved_the_weights_that_it_adapts_and_no_others(run: Path) -> None:
    finals = {
        stage: load_file(run / f"checkpoints/{stage}/final/model.safetensors") for stage in ("midtrain", "sft", "dpo", "rl")
    }
    for before, after in (("midtrain", "sft"), ("sft", "dpo"), ("dpo", "rl")):
        moved = {name for name, tensor in finals[after].items() if not torch.equal(tensor, finals[before][name])}
        assert moved == {name for name in finals[after] if name.endswith("_proj.weight")}, after


def test_resume_points_of_adapters_are_small_and_the_sampler_agreed(run: Path) -> None:
    whole = (run / "checkpoints/midtrain/final/model.safetensors").stat().st_size
    for stage in ("sft", "dpo", "rl"):
        point = sorted((run / f"checkpoints/{stage}").glob("step-*"))[-1]
        assert (point / "tensors.safetensors").stat().st_size < whole
    rows = [json.loads(line) for line in (run / "metrics/rl.jsonl").read_text().splitlines()]
    assert all(row["gap_max"] <= 1e-4 for row in rows)


def test_the_adapter_of_the_last_stage_holds_all_three(run: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    start = run / "checkpoints/midtrain/final"
    for stage, rank in (("sft", 4), ("dpo", 8), ("rl", 12)):
        folder = run / f"checkpoints/{stage}/adapter"
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (rank, 2 * rank, str(start))
        ours = load_decoder(run / f"checkpoints/{stage}/final")
        mine = next_logits(ours(torch.tensor(IDS), lay_out([len(IDS)])), ours.output_weight)
        merged = AutoModelForCausalLM.from_pretrained(run / f"checkpoints/{stage}/final")
        assert float((logits(merged) - mine).abs().max()) <= 1e-5
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start), str(folder))
        assert float((logits(beside) - mine).abs().max()) <= 1e-5


def test_killed_and_resumed_is_the_uninterrupted_run(run: Path, tmp_path: Path) -> None:
    words = command("run", tmp_path, *LORA, "--set", 'lora.stages=["sft", "dpo", "rl"]')
    assert_survives_kills(words, run, tmp_path / "small", kills=3, pause=0.05)
    for stage in ("sft", "dpo", "rl"):
        names = "adapter_model.safetensors"
        assert (tmp_path / f"small/checkpoints/{stage}/adapter/{names}").read_bytes() == (
            run / f"checkpoints/{stage}/adapter/{names}"
        ).read_bytes()


def test_adapters_from_the_first_stage_on(tmp_path: Path) -> None:
    more = ("--set", "midtrain.optimizer.name=adamw", "--set", 'lora.stages=["midtrain"]')
    done(command("run", tmp_path, *LORA, *more, "--until", "midtrain"))
    folder = tmp_path / "small/checkpoints"
    config = json.loads((folder / "midtrain/adapter/adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (4, str(folder / "base/final"))
    assert not (folder / "base/adapter").exists()
