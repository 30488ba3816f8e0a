"""Resume points as tensors: shards, what a save and a load hold, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from test_fit import likelihood, recipe, trained
from test_runs import start
from tiny_policy import tiny

import headway.train.resume
from headway.errors import CheckpointError
from headway.runs import Run
from headway.train.fit import fit, pause_after
from headway.train.optim import make_optimizer, optimizer_tensors, planned_tensors, update
from headway.train.resume import StageFolder, shards

MAPS = Path("/proc/self/maps")


def test_shards_worked_out() -> None:
    assert shards({"a": 4, "b": 2, "c": 1, "d": 9, "e": 6}, limit=6) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert shards({}, limit=6) == [[]]
    assert shards({"huge": 2**40, "small": 1}) == [["huge"], ["small"]]


def test_a_point_of_many_shards_is_the_point_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"t{i}": torch.arange(100.0 * (i + 1)) for i in range(5)}  # 400, 800, 1200, 1600, 2000 bytes
    with start(tmp_path) as run:
        stage, folder = StageFolder(run, "base"), run.checkpoints("base").folder
        for step, limit in ((1, 10_000), (2, 2000), (3, 1)):
            monkeypatch.setattr(headway.train.resume, "SHARD_BYTES", limit)
            stage.save(step, tensors, {"step": step})
            found = stage.load()
            assert found is not None
            assert found[1] == {"step": step}
            assert list(found[0]) == list(tensors)
            assert found[0].shapes == {name: tuple(value.shape) for name, value in tensors.items()}
            assert all(torch.equal(found[0][name], value) for name, value in tensors.items())
        names = [sorted(path.name for path in (folder / f"step-00000{step}").glob("*.safetensors")) for step in (2, 3)]
    assert names[0] == [f"tensors-{i:05d}-of-00004.safetensors" for i in (1, 2, 3, 4)]  # 400 + 800, 1200, 1600, 2000
    assert len(names[1]) == 5


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc to tell what is mapped")
def test_nothing_that_was_loaded_stays_mapped(tmp_path: Path) -> None:
    """A mapped file would hold the space of a resume point on the disk long after it was removed."""
    trained(tmp_path, likelihood)
    model = tiny(0)
    objective, config = likelihood(model)
    with Run.open(tmp_path, recipe(), "small.toml") as run:
        fit(model, objective, config, 5, StageFolder(run, "base"), lambda *_: None)
        assert str(tmp_path) not in MAPS.read_text()


def test_a_file_that_the_manifest_forgot_is_refused_with_the_point_before(tmp_path: Path) -> None:
    """Whoever takes a file away and its line, too, meets the reader."""
    trained(tmp_path, likelihood)
    point = tmp_path / "small/checkpoints/base/step-000005"
    manifest = json.loads((point / "manifest.json").read_text())
    for name in ("tensors.safetensors", "state.json"):
        (point / name).unlink()
        del manifest["files"][name]
        (point / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError, match=r"step-000005 cannot be read: .*; delete .* to go on from step-000004"):
            trained(tmp_path, likelihood)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_planned_bytes_are_those_of_weights_and_moments(name: str) -> None:
    model = tiny(1)
    _, config = likelihood(model, optimizer={"name": name, "lr": 0.01})
    optimizer = make_optimizer(model, config.optimizer)
    planned = sum(tensor.nbytes for tensor in planned_tensors(optimizer, model))
    sum(p.square().sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    update(optimizer, model, 0.01, 1.0)
    made = [*model.parameters(), *(t for t in optimizer_tensors(optimizer, model).values() if t.dim())]  # counters are none
    assert planned == sum(tensor.nbytes for tensor in made)


def test_the_pause_between_saves_worked_out() -> None:
    assert pause_after(0.5, 20) == 20
    assert pause_after(10, 20) == 90  # nine times the save: a tenth of the time goes to saving
    assert pause_after(100, 20) == 600  # at most thirty times what the recipe says
