"""A disk that is full, at every block of every write: what was there stays whole, the line says so, and it goes on with room.

The functions without `test_` run in a process of their own whose folder is a real file system of 8 MiB.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from small_disk import Ballast, on_a_small_disk
from test_runs import start
from tiny_policy import tiny

import headway.train.resume
from headway.durable import check_folder
from headway.errors import HeadwayError, RunError
from headway.model.checkpoint import load_decoder, save_decoder, weights_hash
from headway.model.tokenizer import Tokenizer
from headway.store.store import Store
from headway.train.resume import StageFolder
from headway.types import Outcome, Rollout, StopReason, Verdict


def litter(folder: Path) -> list[Path]:
    return list(folder.rglob("*.tmp-*"))


def refused(work: Callable[[], object]) -> str:
    """The one line that `work` is refused with; "" where it is not."""
    line = ""
    try:
        work()
    except HeadwayError as error:
        line = str(error)
    assert "\n" not in line
    return line


@contextmanager
def space_that_goes_away() -> Iterator[None]:
    """As where another process takes the space between our look and our write: the look finds a terabyte."""
    real, found = shutil.disk_usage, shutil.disk_usage("/")._replace(free=2**40)
    shutil.disk_usage = lambda path: found
    yield
    shutil.disk_usage = real


def test_every_write(tmp_path: Path) -> None:
    on_a_small_disk(tmp_path, 8 * 2**20, "test_full_disk.everything")


def everything(disk: Path) -> None:
    """All of the following, in one process: most of its time are imports."""
    for number, work in enumerate((append_metrics, save_resume_points, save_final_weights, append_rows)):
        folder = disk / str(number)
        folder.mkdir()
        work(folder, Ballast(disk))


def save_resume_points(folder: Path, ballast: Ballast) -> None:
    headway.train.resume.SHARD_BYTES = 8192  # three files a point
    tensors = {name: torch.full((1500,), float(i)) for i, name in enumerate("abc")}
    with start(folder) as run:
        stage, points = StageFolder(run, "base"), run.checkpoints("base")
        stage.save(1, tensors, {"step": 1})
        before = free_blocks(folder)
        stage.save(2, tensors, {"step": 2})
        needed = before - free_blocks(folder)
        assert needed >= 6  # blocks: three shards of two each, state, manifest
        shutil.rmtree(points.folder / "step-000002")
        ballast.leave(needed)  # looked up first: refused before a byte is written
        line = refused(lambda: stage.save(2, tensors, {"step": 2}))
        assert line.startswith(f"cannot save {points.folder}/step-000002: needs 1.1 MB, and its disk has "), line
        assert "nothing was written: make room, and the same command goes on" in line
        assert sorted(path.name for path in points.folder.iterdir()) == ["step-000001"]
        lines: list[str] = []
        for left in range(needed + 4):
            ballast.leave(left)
            with space_that_goes_away():
                lines.append(refused(lambda: stage.save(2, tensors, {"step": 2})))
            assert litter(folder) == [], left
            latest = points.latest()  # the old one; or the new one, where only the run's clock did not fit any more
            assert latest is not None
            assert latest.step == 2 or lines[-1], left
            if latest.step == 2:
                shutil.rmtree(latest.path)
        assert sum(line.endswith("No space left on device") for line in lines) >= needed, lines
        assert lines[-1] == ""
        ballast.remove()
        stage.save(2, tensors, {"step": 2})
        found = stage.load()
        assert found is not None
        assert found[1] == {"step": 2}
        assert all(torch.equal(found[0][name], value) for name, value in tensors.items())


def save_final_weights(folder: Path, ballast: Ballast) -> None:
    model = tiny(0)
    tokenizer = Tokenizer.train(["the quick brown fox jumps over the lazy dog"] * 3, 270)

    def save() -> None:
        with points.save_final() as place:
            save_decoder(model, place, None)
            tokenizer.save(place)

    with start(folder) as run:
        points = run.checkpoints("base")
        before = free_blocks(folder)
        save()
        needed = before - free_blocks(folder)
        lines: list[str] = []
        for left in range(needed):
            ballast.leave(left)
            with space_that_goes_away():
                lines.append(refused(save))
            assert litter(folder) == [], left
            check_folder(points.final)
        assert all(line.startswith(f"cannot write {folder}") and "No space left on device" in line for line in lines), lines
        ballast.remove()
        save()
        assert weights_hash(load_decoder(points.final)) == weights_hash(model)


def append_metrics(folder: Path, ballast: Ballast) -> None:
    with start(folder) as run:
        metrics = run.metrics("base")
        metrics.append({"step": 0, "loss": 0.0})
        for left in (0, 1):
            ballast.leave(left)
            line, step = "", len(metrics.rows())
            while not line:
                line = refused(lambda step=step: metrics.append({"step": step, "text": "x" * 300}))
                step += 1
            assert line.startswith(f"cannot write {metrics.path} (3")
            assert line.endswith(" bytes): No space left on device")
            assert [row["step"] for row in metrics.rows()] == list(range(step - 1))  # every row that was said to be there
            assert metrics.path.read_bytes().endswith(b"}\n")
            ballast.remove()
            metrics.append({"step": step - 1, "loss": 2 / 3})
        rows = metrics.rows()
        ballast.leave(0)  # going back needs room, too: refused, and nothing lost
        assert "No space left on device" in refused(lambda: metrics.rewind(len(rows) // 2))
        assert metrics.rows() == rows
        ballast.remove()
        metrics.rewind(10)
        assert metrics.rows() == rows[:11]


def append_rows(folder: Path, ballast: Ballast) -> None:
    def rollouts(step: int) -> list[Rollout]:
        texts = [f"{step} + {i} = {step + i}" for i in range(20)]
        return [Rollout.make("p", "rl", step, i, "tiny/rl", t, stop_reason=StopReason.STOP) for i, t in enumerate(texts)]

    def add(step: int) -> None:
        store.add_rollouts(rollouts(step), f"rl/{step}")
        store.add_verdicts([Verdict(r.id, "rules@1", Outcome.CORRECT, "equal", r.text) for r in rollouts(step)], f"rl/{step}")

    store = Store(folder / "store")
    add(0)
    before = free_blocks(folder)
    add(1)
    needed = before - free_blocks(folder)
    ballast.leave(needed)
    assert refused(lambda: add(2)).startswith(f"cannot write {store.path}/rollouts: needs 1.")
    lines: list[str] = []
    for step, left in enumerate(range(needed + 3), start=2):
        ballast.leave(left)
        with space_that_goes_away():
            lines.append(refused(lambda step=step: add(step)))
        ballast.remove()
        assert len(store.rollouts()) in (20 * step, 20 * step + 20), left  # all rows of the batch or none
        assert Store(folder / "store", create=False).rollouts() == store.rollouts()
        add(step)  # with room, the same again
        assert [r.step for r in store.rollouts()] == [s for s in range(step + 1) for _ in range(20)]
        assert [v.rollout_id for v in store.verdicts()] == [r.id for r in store.rollouts()]
    failed = [line for line in lines if line]
    assert len(failed) >= needed - 1, lines
    assert all("cannot write to" in line and "No space left on device" in line for line in failed), lines


def free_blocks(folder: Path) -> int:
    return os.statvfs(folder).f_bavail


def test_the_line_without_a_small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed and what is free, by hand: 3 tensors of 4000 bytes, 256 a header, the state's 2, and the reserve."""
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=1_000_000))
    with start(tmp_path) as run:
        stage = StageFolder(run, "base")
        wanted = r"needs 1\.1 MB, and its disk has 1\.0 MB free"  # 3 * 4256 + 2 + 1,048,576 = 1,061,346 bytes
        with pytest.raises(RunError, match=wanted):
            stage.save(1, {name: torch.zeros(1000) for name in "abc"}, {})
        with pytest.raises(RunError, match=r"cannot keep 2 more resume points of base in .*: needs 3\.0 GB"):
            stage.need_room([torch.empty(375_000_000, device="meta")])  # 2 * 1.5 GB and a little
