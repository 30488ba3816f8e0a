"""The training loop: stopped anywhere and resumed is straight through, byte for byte, whatever is learned."""

import json
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from test_preference import pairs_of
from tiny_policy import STOP, ragged, tiny
from torch import Tensor

from headway.config import Recipe
from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.errors import CheckpointError
from headway.model.transformer import Decoder
from headway.recipe import parse_recipe
from headway.runs import Run
from headway.stage_config import DpoConfig, RlConfig, StageConfig
from headway.train.advantages import group_advantages
from headway.train.batching import Document, epochs, flatten
from headway.train.fit import Fitted, fit
from headway.train.likelihood import Likelihood
from headway.train.optim import learning_rate
from headway.train.policy import PolicyGradient, Sampled, Trajectory
from headway.train.preference import Preference, reference_logprobs
from headway.train.resume import StageFolder
from headway.types import Request

TIMINGS = {"seconds", "tokens_per_s"}
STEPS = 5
OPTIMIZER = {"lr": 0.01, "weight_decay": 0.1}


class Stop(Exception):
    """Stands for a kill."""


class Game:
    """Groups of four fresh samples; the more even tokens the better. Its state says how far its prompts have come."""

    def __init__(self, model: Decoder):
        self._engine, self._place = Engine(model, [STOP]), 0

    def sample(self, step: int) -> Sampled:
        self._place += 1
        prompts = [(10 + self._place,), (5, 20 + self._place), (9, 8, 7)]
        keys = [[sample_key(step, prompt, i) for i in range(4)] for prompt in prompts]
        requests = [Request(p, tuple(k), 12, 0.8) for p, k in zip(prompts, keys, strict=True)]
        trajectories = []
        for prompt, group in zip(prompts, self._engine.generate(requests), strict=True):
            rewards = [sum(i % 2 == 0 for i in c.token_ids) / len(c.token_ids) for c in group]
            for completion, advantage in zip(group, group_advantages(rewards), strict=True):
                trajectories.append(
                    Trajectory(Document(prompt + completion.token_ids, len(prompt)), completion.logprobs, advantage)
                )
        return Sampled(trajectories, 0.8, {"place": self._place})

    def state(self) -> dict[str, Any]:
        return {"place": self._place}

    def restore(self, state: dict[str, Any]) -> None:
        self._place = state["place"]


class Homesick(Likelihood):
    """Its validation loss is how far the weights are from the start: every step makes it worse."""

    def validation_loss(self) -> float:
        pairs = zip(self._model.parameters(), tiny(0).parameters(), strict=True)
        return sum(float((p - start).detach().square().sum()) for p, start in pairs)


def likelihood(model: Decoder, kind: type[Likelihood] = Likelihood, **settings: Any) -> tuple[Likelihood, StageConfig]:
    documents, held = ragged(11), ragged(3, seed=50)
    made = kind(model, documents, lambda: epochs(11, 4, 1), 64, held, 2, settings.pop("patience", 0), STEPS)
    return made, StageConfig.model_validate({"optimizer": OPTIMIZER, "checkpoint_seconds": 1e-9} | settings)


def early(model: Decoder) -> tuple[Likelihood, StageConfig]:
    """Ends after step 4, the second look at the validation loss."""
    return likelihood(model, Homesick, patience=1)


def muon(model: Decoder) -> tuple[Likelihood, StageConfig]:
    return likelihood(model, optimizer=OPTIMIZER | {"name": "muon"})


def rare(model: Decoder) -> tuple[Likelihood, StageConfig]:
    """No resume point but the last: a restart begins again."""
    return likelihood(model, checkpoint_seconds=1e9)


def preference(model: Decoder) -> tuple[Preference, DpoConfig]:
    pairs = pairs_of(9)
    config = DpoConfig.model_validate({"optimizer": OPTIMIZER, "checkpoint_seconds": 1e-9, "micro_batch_tokens": 128})
    return Preference(model, pairs, lambda: epochs(9, 4, 1), config, reference_logprobs(tiny(), pairs)), config


def policy(model: Decoder) -> tuple[PolicyGradient, RlConfig]:
    settings = {"optimizer": OPTIMIZER, "checkpoint_seconds": 1e-9, "micro_batch_tokens": 64, "minibatches": 2}
    config = RlConfig.model_validate(settings)
    return PolicyGradient(model, Game(model), config), config


Make = Callable[[Decoder], tuple[Any, StageConfig]]


def recipe() -> Recipe:
    values = {"name": "small", "problems": {"sources": [{"family": "chain_sum", "count": 3}]}, "base": {}}
    return parse_recipe(values, "small.toml")


def trained(root: Path, make: Make, stop_at: float = math.inf, where: str = "after the row") -> tuple[Fitted, dict[str, Any]]:
    """Train in `root/small`; stop at a step. What is left: weights, the newest resume point, metric rows, the best weights."""
    model = tiny(0)
    objective, config = make(model)
    finish = objective.finish_step

    def show(step: int, steps: int, row: dict[str, Any]) -> None:
        assert steps == STEPS
        if where == "after the row" and step >= stop_at:
            raise Stop

    def finish_step(step: int, row: dict[str, Any]) -> bool:
        if where == "before the row" and step >= stop_at:
            raise Stop
        return finish(step, row)

    objective.finish_step = finish_step
    with Run.open(root, recipe(), "small.toml") as run:
        fitted = fit(model, objective, config, STEPS, StageFolder(run, "base"), show)
        point = run.checkpoints("base").latest()
        assert point is not None
        left = {
            "weights": {name: p.detach().numpy().tobytes() for name, p in model.named_parameters()},
            "point": {path.name: path.read_bytes() for path in point.path.iterdir()},
            "rows": [{k: v for k, v in row.items() if k not in TIMINGS} for row in run.metrics("base").rows()],
        }
        if isinstance(objective, Likelihood):
            left["best"] = objective.take_best(), {n: p.detach().numpy().tobytes() for n, p in model.named_parameters()}
    return fitted, left


EVERYTHING = [likelihood, muon, early, preference, policy]


STOPS = [(1, "before the row"), (2, "after the row"), (4, "before the row")]


@pytest.mark.parametrize("make", EVERYTHING, ids=lambda make: make.__name__)
def test_stopped_anywhere_and_resumed_is_straight_through(tmp_path: Path, make: Make) -> None:
    fitted, straight = trained(tmp_path / "straight", make)
    assert len(straight["rows"]) == fitted.steps == (4 if make is early else STEPS)
    for stop_at, where in STOPS:
        with pytest.raises(Stop):
            trained(tmp_path / str(stop_at), make, stop_at, where)
        assert trained(tmp_path / str(stop_at), make) == (fitted, straight)
    assert trained(tmp_path / "straight", make, stop_at=0) == (fitted, straight)  # asked again, not one step is taken


@pytest.mark.parametrize("make", [rare, policy], ids=lambda make: make.__name__)
def test_stopped_at_every_step_one_after_the_other(tmp_path: Path, make: Make) -> None:
    straight = trained(tmp_path / "straight", make)
    for stop_at in (1, 2, 2, 3, 4, 5):
        with pytest.raises(Stop):
            trained(tmp_path / "cut", make, stop_at)
    assert trained(tmp_path / "cut", make) == straight


def test_the_best_weights_are_not_the_last_ones_here(tmp_path: Path) -> None:
    """So the tests above do compare two different things."""
    _, left = trained(tmp_path, early)
    assert left["best"][0]["best_step"] == 2
    assert left["best"][1] != left["weights"]
    state = json.loads(left["point"]["state.json"])
    assert (state["step"], state["ended"]) == (4, True)


def test_rows_say_what_happened(tmp_path: Path) -> None:
    _, left = trained(tmp_path, likelihood)
    rows = left["rows"]
    documents, config = ragged(11), likelihood(tiny(0))[1]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["lr"] for row in rows] == [learning_rate(config.optimizer, step, STEPS) for step in range(STEPS)]
    sizes = [sum(len(documents[i].ids) - 1 for i in batch) for batch in islice(epochs(11, 4, 1), STEPS)]
    assert [row["tokens"] for row in rows] == [sum(sizes[: n + 1]) for n in range(STEPS)]
    assert ["validation_loss" in row for row in rows] == [False, True, False, True, True]  # the last one, too
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_rl_rows_carry_the_gap_and_the_sampling(tmp_path: Path) -> None:
    _, left = trained(tmp_path, policy)
    assert [row["place"] for row in left["rows"]] == list(range(1, STEPS + 1))
    assert all(0 < row["gap_max"] <= 1e-4 for row in left["rows"])
    assert all(row["temperature"] == 0.8 and row["grad_norm"] > 0 for row in left["rows"])


def test_at_most_two_resume_points_are_kept(tmp_path: Path) -> None:
    trained(tmp_path, likelihood)
    assert sorted(p.name for p in (tmp_path / "small/checkpoints/base").iterdir()) == ["step-000004", "step-000005"]


class Diverges:
    """An objective whose gradient is not a number in its third step."""

    max_tokens = 64

    def __init__(self, model: Decoder):
        self._model = model

    def updates(self, step: int) -> list[list[int]]:
        return [[step]]

    def loss(self, micro: int) -> tuple[Tensor, dict[str, float]]:
        flat = flatten([Document((5, 6, STOP))])
        hidden = self._model(flat.ids, flat.layout).square().mean()
        return hidden * (math.nan if micro == 2 else 1.0), {}

    def tokens(self, micro: int) -> int:
        return 2

    def finish_step(self, step: int, row: dict[str, Any]) -> bool:
        return False

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass

    def kept_tensors(self) -> dict[str, Tensor]:
        return {}


def test_a_gradient_that_is_not_finite_ends_the_training_before_that_step(tmp_path: Path) -> None:
    model, config = tiny(0), StageConfig(checkpoint_seconds=1e-9)
    with Run.open(tmp_path, recipe(), "small.toml") as run:
        folder = StageFolder(run, "base")
        with pytest.raises(FloatingPointError, match="nan"):
            fit(model, Diverges(model), config, STEPS, folder, lambda *_: None)
        assert [row["step"] for row in run.metrics("base").rows()] == [1, 2]
        found = folder.load()
        assert found is not None
        assert found[1]["step"] == 2
        assert all(torch.equal(found[0][f"model.{name}"], p) for name, p in model.named_parameters())


def test_a_resume_point_of_another_model_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, likelihood)
    other = tiny(1)
    objective, config = likelihood(other)
    with Run.open(tmp_path, recipe(), "small.toml") as run, pytest.raises(CheckpointError, match="of another model"):
        fit(other, objective, config, STEPS, StageFolder(run, "base"), lambda *_: None)


def test_a_damaged_resume_point_is_named(tmp_path: Path) -> None:
    trained(tmp_path, likelihood)
    damaged = tmp_path / "small/checkpoints/base/step-000005/tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors is damaged.*step-000004, which is whole"):
        trained(tmp_path, likelihood)
