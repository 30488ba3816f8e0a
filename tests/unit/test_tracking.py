"""Rows reach TensorBoard once each, also when a run is killed and makes rows again; other trackers where they are installed."""

import importlib.util
import os
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
