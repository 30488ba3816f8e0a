"""Training adapters: stopped anywhere and resumed is straight through, and the resume point holds nothing that is frozen."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_fit import STEPS, STOPS, Make, Stop, likelihood, policy, preference, recipe, trained
from tiny_policy import tiny

from headway.errors import CheckpointError
from headway.model.adapters import adapt, frozen_hash
from headway.model.transformer import Decoder
from headway.runs import Run
from headway.stage_config import StageConfig
from headway.train.fit import fit
from headway.train.likelihood import Likelihood
from headway.train.optim import trained as learning
from headway.train.resume import StageFolder

TARGETS = ("q_proj", "v_proj", "down_proj")


class Timid(Likelihood):
    """Its validation loss is the size of the adapters: every step makes it worse."""

    def validation_loss(self) -> float:
        return sum(float(p.detach().square().sum()) for p in learning(self._model).values())


def early(model: Decoder) -> tuple[Likelihood, StageConfig]:
    return likelihood(model, Timid, patience=1)


def beside_adapters(make: Make) -> Make:
    def made(model: Decoder) -> tuple[Any, StageConfig]:
        adapt(model, 2, 4, TARGETS, ("test",))
        return make(model)

    made.__name__ = make.__name__
    return made


@pytest.mark.parametrize("make", [likelihood, early, preference, policy], ids=lambda make: make.__name__)
def test_adapters_stopped_anywhere_and_resumed_are_straight_through(tmp_path: Path, make: Make) -> None:
    with_adapters = beside_adapters(make)
    fitted, straight = trained(tmp_path / "straight", with_adapters)
    for stop_at, where in STOPS:
        with pytest.raises(Stop):
            trained(tmp_path / str(stop_at), with_adapters, stop_at, where)
        assert trained(tmp_path / str(stop_at), with_adapters) == (fitted, straight)
    plain = dict(tiny(0).named_parameters())
    for name, value in straight["weights"].items():
        whole = name.replace(".base.", ".")
        assert (whole in plain) != ("lora_" in name)
        if whole in plain:
            assert value == plain[whole].detach().numpy().tobytes(), name  # frozen
    rows = straight["rows"]
    assert all(row["grad_norm"] > 0 for row in rows)


def test_a_resume_point_holds_the_adapters_and_the_hash_of_what_is_frozen(tmp_path: Path) -> None:
    trained(tmp_path, beside_adapters(early))
    folder = tmp_path / "small/checkpoints/base/step-000004"
    names = load_file(folder / "tensors.safetensors").keys()
    parts = {part: {n.removeprefix(f"{part}.") for n in names if n.startswith(f"{part}.")} for part in ("model", "objective")}
    assert parts["model"] == parts["objective"]  # the best weights so far are adapters, too
    assert len(parts["model"]) == 2 * 2 * len(TARGETS)
    assert all(".lora_" in name for name in names)
    model = tiny(0)
    adapt(model, 2, 4, TARGETS, ("test",))
    assert json.loads((folder / "state.json").read_text())["frozen"] == frozen_hash(model)


def test_adapters_of_other_frozen_weights_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, beside_adapters(likelihood))
    other = tiny(0)
    with torch.no_grad():
        other.embedding.weight[3, 3] += 1e-3
    objective, config = beside_adapters(likelihood)(other)
    with (
        Run.open(tmp_path, recipe(), "small.toml") as run,
        pytest.raises(CheckpointError, match=r"base holds adapters of other frozen weights than the model's$"),
    ):
        fit(other, objective, config, STEPS, StageFolder(run, "base"), lambda *_: None)


def test_full_fine_tuning_names_no_frozen_weights(tmp_path: Path) -> None:
    _, left = trained(tmp_path, likelihood, math.inf)
    assert "frozen" not in json.loads(left["point"]["state.json"])
    assert frozen_hash(tiny(0)) == ""
