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
