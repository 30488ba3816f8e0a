"""Every recipe that is shipped parses, names itself after its file, and holds something out."""

from itertools import pairwise
from pathlib import Path

import pytest

from headway.recipe import load_recipe
from headway.types import Split

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def test_there_are_recipes():
    assert {"tiny", "smollm2-gsm8k"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    splits = {source.split for source in recipe.problems.sources}
    assert {Split.TRAIN, Split.HELDOUT} <= splits


def test_the_small_values_of_smollm2_are_a_recipe():
    """The `--set` values of docs/smollm2.md, as they stand there."""
    text = (RECIPES[0].parents[1] / "docs" / "smollm2.md").read_text(encoding="utf-8")
    command = text.split("On two CPU cores")[1].split("```console\n$ ")[1].split("```")[0].replace("\\\n", " ")
    words = command.split()
    assert words[:3] == ["headway", "run", "recipes/smollm2-gsm8k.toml"]
    overrides = [word for before, word in pairwise(words) if before == "--set"]
    assert len(overrides) == words.count("--set") > 20
    recipe = load_recipe(RECIPES[0].parent / "smollm2-gsm8k.toml", overrides)
    assert recipe.stages == ("midtrain", "sft", "dpo", "rl")
    assert recipe.evaluate.problems == 24
    assert recipe.model.gguf_file.endswith(".gguf")


PUBLISHED = {  # recipe-facts, section 1.3 and 1.4: what the paper or the card says of each stage
    "midtrain": {"seq_len": 16_384, "batch_rows": 128, "max_epochs": 5, "train_on_prompt": True},
    "midtrain.optimizer": {"lr": 1e-5, "warmup": 0.1},
    "sft": {"max_tokens": 20_480, "batch_examples": 128, "epochs": 5},
    "sft.optimizer": {"lr": 1e-5},
    "dpo": {"max_tokens": 16_384, "epochs": 1, "teacher_pairs": True, "nll_weight": 0.0, "length_normalised": False},
    "dpo.optimizer": {"lr": 5e-7},
    "rl": {
        "max_tokens": 25_600, "temperature_start": 1.0, "temperature_end": 0.6, "anneal_share": 0.5, "uniform_length": True,
        "rebalance": True, "drop_above": 0.5, "loss_level": "sequence", "scale_by_std": True,
    },
    "rl.optimizer": {"lr": 5e-7},
    "evaluate": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 32_768, "samples": 3},
}  # fmt: skip


def test_phi4_mini_has_the_published_settings_and_says_of_each_whose_it_is():
    path = RECIPES[0].parent / "phi4-mini.toml"
    recipe = load_recipe(path)
    assert recipe.stages == ("midtrain", "sft", "dpo", "rl")
    assert recipe.model.checkpoint == "microsoft/Phi-4-mini-instruct"
    for place, values in PUBLISHED.items():
        section = recipe
        for name in place.split("."):
            section = getattr(section, name)
        assert {key: getattr(section, key) for key in values} == values, place
    text = path.read_text(encoding="utf-8")
    own = {"name", "data", "seed", "split", "data_split", "data_config", "solutions", "strip", "answered_only", "traces_only"}
    keys = [line for line in text.splitlines() if "=" in line and line[0] not in "#["]
    told = [line for line in keys if line.split("=")[0].strip() not in own]
    assert len(told) > 55
    assert [line for line in told if not {"paper", "card", "our choice", "team's"} & set(_tags(line))] == []
    for place, values in PUBLISHED.items():  # and what is published is not called our choice
        section = text.split(f"[{place}]")[1].split("\n[")[0]
        for key in values:
            [line] = [line for line in section.splitlines() if line.startswith(f"{key} =")]
            assert "paper" in _tags(line), line


def _tags(line: str) -> list[str]:
    comment = line.partition(" # ")[2]
    return [tag for tag in ("paper", "card", "our choice", "team's") if tag in comment]
