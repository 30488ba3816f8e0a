"""[lora] in a recipe: which stages train adapters, and every way to get it wrong in one line that names the key."""

import importlib.util
from typing import Any

import pytest

from headway.config import Recipe
from headway.errors import ConfigError
from headway.model import adapters
from headway.recipe import parse_recipe
from headway.stage_config import PROJECTIONS

STAGES: dict[str, Any] = {"base": {}, "midtrain": {}, "sft": {}, "rl": {}}


def recipe(lora: Any, **stages: Any) -> Recipe:
    values = {"name": "small", "problems": {"sources": [{"family": "chain_sum", "count": 3}]}, "lora": lora}
    return parse_recipe(values | (stages or STAGES), "small.toml")


def test_all_stages_but_the_base_train_adapters_unless_some_are_named() -> None:
    assert recipe({}).lora_stages == ("midtrain", "sft", "rl")
    assert recipe({"stages": ["rl", "sft"]}).lora_stages == ("sft", "rl")
    assert recipe(None).lora_stages == ()
    lora = recipe({}).lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.targets) == (16, 32, PROJECTIONS)


@pytest.mark.parametrize(
    ("lora", "more", "line"),
    [
        ({"rnak": 8}, {}, "unknown key 'lora.rnak'; the nearest key is 'lora.rank'"),
        ({"rank": 0}, {}, "'lora.rank' = 0: Input should be greater than or equal to 1"),
        ({"targets": ["q_proj", "lm_head"]}, {}, "'lora.targets.1' = 'lm_head': Input should be 'q_proj'"),
        ({"targets": []}, {}, "lora: `targets` names at least one, and each once"),
        ({"targets": ["q_proj", "q_proj"]}, {}, "lora: `targets` names at least one, and each once"),
        ({"stages": ["base"]}, {}, "'lora.stages.0' = 'base'"),
        ({"stages": ["dpo"]}, {}, "lora.stages names 'dpo', and the recipe has no section [dpo]"),
        ({"dropout": 0.1}, {}, "lora: there is no `dropout`: with it the trainer's log-probs are not the sampler's"),
        ({}, {"base": {}}, "[lora] needs one of the sections [midtrain], [sft], [dpo] or [rl]"),
        ({}, {"base": {}, "sft": {"optimizer": {"name": "muon"}}}, "sft.optimizer.name = 'muon' with [lora]"),
    ],
)
def test_a_wrong_section(lora: Any, more: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(lora, **more)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_muon_stays_right_for_stages_without_adapters() -> None:
    stages = STAGES | {"midtrain": {"optimizer": {"name": "muon"}}}
    assert recipe({"stages": ["sft"]}, **stages).lora_stages == ("sft",)


def test_without_peft_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters.need_peft()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(
        ConfigError, match=r"^\[lora\] trains adapters with peft, which is not installed: pip install 'headway\[lora\]'$"
    ):
        adapters.need_peft()
