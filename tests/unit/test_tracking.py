"""Rows reach TensorBoard once each, also when a run is killed and makes rows again; other trackers where they are installed."""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from headway.errors import ConfigError
from headway.tracking import Tracking, check_trackers

ROWS = [{"step": step, "loss": 1.0 / step, "note": "text", "gap": None} for step in range(1, 7)]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in all event files of the folder, in order, unfiltered."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def send(
    folder: Path, rows: list[dict[str, Any]], earlier: list[dict[str, Any]], names: tuple[str, ...] = ("tensorboard",)
) -> None:
    tracking = Tracking(names, folder, "tiny", "abc", {"name": "tiny"})
    logged = list(earlier)
    for row in rows:
        logged.append(row)
        tracking.send("sft", row, lambda: logged)
    tracking.close()


def test_tensorboard_has_each_row_once_also_after_a_resume(tmp_path: Path) -> None:
    """Steps 1 to 4 are logged, the run goes on from its resume point at step 2: steps 3 and 4 are made again."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    send(tmp_path, ROWS[:4], [])
    send(tmp_path, ROWS[2:], ROWS[:2])
    found = events(tmp_path / "tensorboard")
    assert list(found) == ["sft/loss"]
    assert [step for step, _ in found["sft/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in found["sft/loss"]] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6])


def test_a_tracker_that_joins_later_is_told_what_came_before(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    send(tmp_path, ROWS[:3], [], ())
    send(tmp_path, ROWS[3:], ROWS[:3])
    assert [step for step, _ in events(tmp_path / "tensorboard")["sft/loss"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused_before_any_work(name: str) -> None:
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(ConfigError, match=f"'track' names '{name}', which is not installed: pip install {name}, or leave it out"):
        check_trackers([name])


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_take_rows_without_a_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    send(tmp_path, ROWS[:4], [], (name,))
    send(tmp_path, ROWS[2:], ROWS[:2], (name,))
    sent = (tmp_path / "tracking" / f"{name}.jsonl").read_text().splitlines()
    assert len(sent) == 6
    assert os.listdir(tmp_path)


class Broken:
    """A tracker whose server goes away at its third row, or that cannot even begin."""

    def __init__(self, at: int):
        self.at, self.rows = at, 0
        if at == 0:
            raise OSError("no route to host\nTraceback of theirs")

    def send(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        self.rows += 1
        if self.rows == self.at:
            raise RuntimeError("503 from the server\nand a long page")

    def close(self) -> None:
        raise ValueError("not open")


@pytest.mark.parametrize(("at", "cause"), [(0, "no route to host"), (3, "503 from the server"), (9, "not open")])
def test_a_tracker_that_fails_ends_and_the_training_goes_on(tmp_path: Path, at: int, cause: str) -> None:
    """One line; the other tracker has all rows, and the next start sends to both what they lack."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    said: list[str] = []
    tracking = Tracking(("wandb", "tensorboard"), tmp_path, "tiny", "abc", {}, said.append)
    tracking._opens["wandb"] = lambda: Broken(at)
    for row in ROWS:
        tracking.send("sft", row, lambda: ROWS)
    tracking.close()
    assert said == [f"wandb fails and gets no more rows ({cause}); the run goes on, and its next start sends what is missing"]
    assert [step for step, _ in events(tmp_path / "tensorboard")["sft/loss"]] == [1, 2, 3, 4, 5, 6]
    kept = tmp_path / "tracking" / "wandb.jsonl"
    known = [json.loads(line)["step"] for line in kept.read_text().splitlines()] if kept.exists() else []
    assert known == {0: [], 3: [1, 2], 9: [1, 2, 3, 4, 5, 6]}[at]
    again = Tracking(("wandb",), tmp_path, "tiny", "abc", {}, said.append)
    later = Kept()
    again._opens["wandb"] = lambda: later
    again.send("sft", ROWS[-1] | {"step": 7}, lambda: ROWS)
    again.close()
    assert later.steps == [step for step in range(1, 8) if step not in known]


class Kept:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def send(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        self.steps.append(step)

    def close(self) -> None:
        pass
