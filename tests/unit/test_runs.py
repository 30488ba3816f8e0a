"""A run's folder: locked, true to its recipe, and the same bytes after any kill."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headway.config import Recipe
from headway.durable import read_json, write_folder_atomic
from headway.errors import CheckpointError, RunError
from headway.recipe import parse_recipe
from headway.runs import Run, first_difference


def recipe(**changes) -> Recipe:
    values = {"name": "small", "problems": {"sources": [{"family": "chain_sum", "count": 3}]}, "base": {"epochs": 2}}
    return parse_recipe(values | changes, "small.toml")


def start(root: Path, **changes) -> Run:
    return Run.open(root, recipe(**changes), "small.toml")


def save(run: Run, step: int, content: bytes = b"weights") -> None:
    with run.checkpoints("base").save(step) as folder:
        (folder / "model.bin").write_bytes(content)


def test_a_new_run_writes_its_recipe_and_environment(tmp_path):
    with start(tmp_path) as run:
        assert run.folder == tmp_path / "small"
        assert parse_recipe(read_json(run.folder / "recipe.json"), "recipe.json") == recipe()
        assert read_json(run.folder / "environment.json")["started_with"]["threads"] == os.cpu_count()
        assert run.notes == ()


def test_resuming_changes_no_file(tmp_path):
    start(tmp_path).close()
    before = {path: path.read_bytes() for path in (tmp_path / "small").glob("*.json")}
    start(tmp_path).close()
    assert {path: path.read_bytes() for path in (tmp_path / "small").glob("*.json")} == before
    assert len(before) == 2


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 3}, "seed: 0 -> 3"),
        ({"base": {"epochs": 5}}, "base.epochs: 2 -> 5"),
        ({"sft": {}}, "sft: null -> {"),
        ({"problems": {"sources": [{"family": "chain_sum", "count": 4}]}}, "problems.sources.0.count: 3 -> 4"),
    ],
)
def test_another_recipe_is_refused_with_the_first_key_that_differs(tmp_path, changes, difference):
    start(tmp_path).close()
    with pytest.raises(RunError) as caught:
        start(tmp_path, **changes)
    message = str(caught.value)
    assert f"different recipe than small.toml: {difference}" in message
    assert "use another name (--set name=...) or remove the folder" in message
    assert "\n" not in message
    start(tmp_path).close()  # the right recipe still goes on, and the refused one holds no lock


def test_first_difference_worked_out():
    assert first_difference({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}) == ""
    assert first_difference({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}) == "a.b.1: 2 -> 3"
    assert first_difference({"a": [1]}, {"a": [1, 2]}) == "a: [1] -> [1, 2]"
    assert first_difference({}, {"a": 1}) == "a: (absent) -> 1"
    assert first_difference({"a": 1}, {}) == "a: 1 -> (absent)"
    assert first_difference({"a": 1}, {"a": True}) == "a: 1 -> true"


def test_a_changed_environment_is_noted_and_kept(tmp_path):
    start(tmp_path).close()
    path = tmp_path / "small" / "environment.json"
    kept = read_json(path)
    kept["started_with"]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(kept))
    with start(tmp_path) as run:
        assert len(run.notes) == 1
        assert 'versions.torch: "1.0" -> ' in run.notes[0]
    with start(tmp_path) as run:
        assert run.notes == ()  # once noted, it is what later resumes compare with
    assert [len(read_json(path)["resumed_with"])] == [1]


def test_a_damaged_recipe_is_one_line(tmp_path):
    start(tmp_path).close()
    (tmp_path / "small" / "recipe.json").write_text('{"name": ')
    with pytest.raises(RunError, match=r"recipe\.json is damaged"):
        start(tmp_path)


def test_a_second_opening_is_refused_and_names_the_process(tmp_path):
    with start(tmp_path), pytest.raises(RunError, match=f"small is in use by process {os.getpid()}$"):
        start(tmp_path)
    start(tmp_path).close()


HOLDER = """
import multiprocessing, os, sys, time
sys.path.insert(0, sys.argv[2])
from test_runs import start
from pathlib import Path
run = start(Path(sys.argv[1]))
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
worker.start()
print(os.getpid(), worker.pid, flush=True)
time.sleep(60)
"""


def test_another_process_holds_the_lock_until_it_is_killed_even_if_its_workers_live(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner, worker = (int(word) for word in process.stdout.readline().split())
        with pytest.raises(RunError, match=f"in use by process {owner}$"):
            start(tmp_path)
        process.kill()
        process.wait()
        os.kill(worker, 0)  # the orphaned worker is still there
        try:
            start(tmp_path).close()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_forked_worker_that_ends_does_not_free_the_lock(tmp_path):
    with start(tmp_path):
        worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,))
        worker.start()
        worker.join()
        with pytest.raises(RunError, match="in use"):
            start(tmp_path)


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path):
    (tmp_path / "small").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*small"):
        start(tmp_path)


def test_leftovers_of_a_kill_are_removed_at_open(tmp_path):
    with start(tmp_path) as run:
        save(run, 1)
    leftover = tmp_path / "small" / "checkpoints" / "base" / "step-000002.tmp-99"
    leftover.mkdir()
    (leftover / "model.bin").write_bytes(b"half")
    with start(tmp_path) as run:
        assert not leftover.exists()
        latest = run.checkpoints("base").latest()
        assert latest is not None
        assert latest.step == 1


def test_the_newest_two_resume_points_are_kept(tmp_path):
    with start(tmp_path) as run:
        assert run.checkpoints("base").latest() is None
        for step in (999_999, 1_000_000, 1_000_001):  # a seventh digit must not upset the order
            save(run, step)
        points = run.checkpoints("base")
        assert sorted(path.name for path in points.folder.iterdir()) == ["step-1000000", "step-1000001"]
        latest = points.latest()
        assert latest is not None
        assert (latest.step, latest.path.name) == (1_000_001, "step-1000001")


def test_a_damaged_resume_point_names_the_file_and_offers_the_one_before(tmp_path):
    with start(tmp_path) as run:
        points = run.checkpoints("base")
        for step in (10, 20):
            save(run, step)
        (points.folder / "step-000020" / "model.bin").write_bytes(b"weightS")
        with pytest.raises(CheckpointError) as caught:
            points.latest()
        assert "step-000020/model.bin is damaged" in str(caught.value)
        assert f"delete {points.folder}/step-000020 to go on from step-000010, which is whole" in str(caught.value)
        (points.folder / "step-000010" / "model.bin").unlink()
        with pytest.raises(CheckpointError, match="to go on from the start of base"):
            points.latest()


@pytest.mark.parametrize("kept", [1, 3])
def test_as_many_resume_points_as_asked_are_kept(tmp_path, kept):
    with start(tmp_path) as run:
        points = run.checkpoints("base")
        for step in (1, 2, 3, 4):
            with points.save(step, kept=kept) as folder:
                (folder / "model.bin").write_bytes(b"weights")
                assert {path.name for path in points.folder.glob("step-??????")} >= {f"step-{step - 1:06d}"} - {"step-000000"}
        assert sorted(path.name for path in points.folder.iterdir()) == [f"step-{step:06d}" for step in range(5 - kept, 5)]


def test_a_disk_that_is_short_costs_the_older_points_and_never_the_last_one(tmp_path, monkeypatch):
    with start(tmp_path) as run:
        points = run.checkpoints("base")
        for step in (1, 2, 3):
            with points.save(step, kept=3) as folder:
                (folder / "model.bin").write_bytes(bytes(1000))
        real = shutil.disk_usage(tmp_path)

        def usage(path: Path):  # 500 bytes beside the reserve, and what the points that are gone leave
            gone = 3 - len(list(points.folder.glob("step-??????")))
            return real._replace(free=2**20 + 500 + 1000 * gone)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        with points.save(4, size=1000, kept=3) as folder:
            assert sorted(path.name for path in points.folder.glob("step-??????")) == ["step-000002", "step-000003"]
            (folder / "model.bin").write_bytes(bytes(1000))
        with pytest.raises(RunError, match=r"cannot save .*/step-000005: needs 1\.1 MB, .* nothing was written"):
            points.save(5, size=4000).__enter__()
        assert [path.name for path in points.folder.iterdir()] == ["step-000004"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def edit(path: Path) -> None:
    """Someone makes a manifest fit another file, and forgets the size."""
    manifest = read_json(path)
    manifest["files"]["model.bin"]["sha256"] = hashlib.sha256(b"other").hexdigest()
    path.write_text(json.dumps(manifest))


DAMAGES = {
    "truncated": (lambda f: (f / "model.bin").write_bytes(b"w"), "step-000020/model.bin is damaged: 1 bytes, should be 7"),
    "flipped": (lambda f: flip(f / "model.bin"), "step-000020/model.bin is damaged: its content is not what was written"),
    "missing": (lambda f: (f / "model.bin").unlink(), "step-000020/model.bin is missing"),
    "foreign": (lambda f: (f / "notes.txt").write_text(""), "step-000020/notes.txt does not belong there"),
    "edited": (lambda f: edit(f / "manifest.json"), "step-000020/model.bin is damaged: its content"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "step-000020/manifest.json is missing"),
    "garbled manifest": (lambda f: (f / "manifest.json").write_text("{}"), "step-000020/manifest.json is damaged"),
    "file of another point": (
        lambda f: shutil.copy(f.parent / "step-000010" / "model.bin", f / "model.bin"),
        "step-000020/model.bin is damaged: its content",
    ),
    "another point": (
        lambda f: (shutil.rmtree(f), shutil.copytree(f.parent / "step-000010", f)),
        r"step-000020 belongs to '\w+/base/10', not to '\w+/base/20'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_refused_by_name_and_set_aside_on_request(tmp_path, damage):
    make, line = DAMAGES[damage]
    with start(tmp_path) as run:
        points = run.checkpoints("base")
        save(run, 10, b"WEIGHTS")
        save(run, 20, b"weights")
        make(points.folder / "step-000020")
        with pytest.raises(CheckpointError, match=line) as caught:
            points.latest()
        offer = (
            f"; delete {points.folder}/step-000020 to go on from step-000010, which is whole, or run once with --from-previous"
        )
        assert str(caught.value).endswith(offer)
        assert "\n" not in str(caught.value)
    with Run.open(tmp_path, recipe(), "small.toml", from_previous=True) as run:
        assert len(run.notes) == 1
        assert f"kept as {points.folder}/step-000020.damaged, which may be deleted" in run.notes[0]
        latest = run.checkpoints("base").latest()
        assert latest is not None
        assert latest.path == points.folder / "step-000010"
        save(run, 20, b"weights")
    with Run.open(tmp_path, recipe(), "small.toml", from_previous=True) as run:
        assert run.notes == ()  # what is whole is left alone
        assert [path.name for path in sorted(points.folder.iterdir())] == ["step-000010", "step-000020", "step-000020.damaged"]


def test_damaged_final_weights_and_a_damaged_tokenizer_are_set_aside_too(tmp_path):
    with start(tmp_path) as run:
        points = run.checkpoints("base")
        save(run, 10)
        with points.save_final() as folder:
            (folder / "model.bin").write_bytes(b"weights")
        with write_folder_atomic(run.folder / "tokenizer", run.fingerprint) as folder:
            (folder / "tokenizer.json").write_bytes(b"{}")
        flip(points.final / "model.bin")
        flip(run.folder / "tokenizer" / "tokenizer.json")
        again = f"; delete {points.final} to make it again from step-000010, which is whole, or run once with --from-previous"
        with pytest.raises(CheckpointError, match=r"final/model\.bin is damaged") as caught:
            points.check_final()
        assert str(caught.value).endswith(again)
        with pytest.raises(
            CheckpointError, match=r"tokenizer\.json is damaged.*; run once with --from-previous to train it again"
        ):
            run.check_tokenizer()
    with Run.open(tmp_path, recipe(), "small.toml", from_previous=True) as run:
        assert len(run.notes) == 2
        assert not points.final.exists()
        assert not (run.folder / "tokenizer").exists()


def test_when_and_how_many_are_saved_may_change_between_restarts(tmp_path):
    with start(tmp_path) as run:
        save(run, 5)
    changed = {"base": {"epochs": 2, "checkpoint_seconds": 60, "checkpoints_kept": 1}}
    with start(tmp_path, **changed) as run:
        assert run.checkpoints("base").latest() is not None
    with pytest.raises(RunError, match=r"base\.epochs: 2 -> 3"):
        start(tmp_path, base={"epochs": 3, "checkpoints_kept": 1})


def test_a_resume_point_of_another_recipe_is_refused(tmp_path):
    for name in ("one", "two"):
        with start(tmp_path, name=name) as run:
            save(run, 5)
    two = tmp_path / "two" / "checkpoints" / "base" / "step-000005"
    two.rename(tmp_path / "aside")
    (tmp_path / "one" / "checkpoints" / "base" / "step-000005").rename(two)
    with start(tmp_path, name="two") as run, pytest.raises(CheckpointError, match="step-000005 belongs to"):
        run.checkpoints("base").latest()


def test_final_weights_are_checked(tmp_path):
    with start(tmp_path) as run:
        points = run.checkpoints("base")
        with pytest.raises(CheckpointError, match="final is missing"):
            points.check_final()
        with points.save_final() as folder:
            (folder / "model.bin").write_bytes(b"weights")
        assert points.check_final() == run.folder / "checkpoints" / "base" / "final"
        assert points.latest() is None
        (points.final / "model.bin").write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"final/model\.bin is damaged"):
            points.check_final()


def test_stage_records_selections_and_results(tmp_path):
    with start(tmp_path) as run:
        assert not run.done("base")
        with pytest.raises(RunError, match="the stage base is not finished"):
            run.record("base")
        run.finish("base", {"train_tokens": 12})
        assert run.frozen("sft") is None
        run.freeze("sft", {"version": 3, "ids": ["a", "b"]})
        run.write_results({"seed": 0, "stages": []})
    with start(tmp_path) as run:
        assert run.done("base")
        assert run.record("base") == {"train_tokens": 12}
        assert run.frozen("sft") == {"version": 3, "ids": ["a", "b"]}
        assert read_json(run.folder / "results.json") == {"seed": 0, "stages": []}


def test_clocks_and_memory_add_up_over_restarts(tmp_path):
    with start(tmp_path) as run:
        run.clock("base")
        save(run, 1)
    path = tmp_path / "small" / "usage.json"
    usage = read_json(path)
    assert 0 <= usage["seconds"]["base"] < 60
    path.write_text(json.dumps({"seconds": {"base": 1000.0, "sft": 5.0}, "peak_memory_bytes": 2**50}))
    with start(tmp_path) as run:
        assert 1000 <= run.clock("base").seconds < 1060
        assert run.peak_memory_bytes() == 2**50
        run.finish("base", {})
        usage = read_json(path)
        assert 1000 <= usage["seconds"]["base"] < 1060
        assert (usage["seconds"]["sft"], usage["peak_memory_bytes"]) == (5.0, 2**50)


TRAINER = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_runs import start, save
print("imported", flush=True)
run = start(Path(sys.argv[1]))
metrics, points = run.metrics("base"), run.checkpoints("base")
run.clock("base")
if not run.done("base"):
    point = points.latest()
    step, state = (0, b"") if point is None else (point.step, (point.path / "model.bin").read_bytes())
    metrics.rewind(step)
    while step < 300:
        step += 1
        state = hashlib.sha256(state + str(step).encode()).digest()
        metrics.append({"step": step, "loss": int.from_bytes(state[:4], "big") / 2**32})
        if step % 7 == 0:
            save(run, step, state)
    with points.save_final() as folder:
        (folder / "model.bin").write_bytes(state)
    run.finish("base", {"state": state.hex()})
run.write_results(run.record("base"))
"""


def outcome(root: Path) -> dict[str, bytes]:
    """Every file of the run that must not depend on kills, with its content."""
    folder = root / "small"
    names = ["metrics/base.jsonl", "checkpoints/base/final/model.bin", "checkpoints/base/final/manifest.json"]
    names += ["stages/base.json", "results.json", "recipe.json", "environment.json"]
    return {name: (folder / name).read_bytes() for name in names}


def test_killed_at_random_moments_and_resumed_is_the_same_bytes(tmp_path):
    def command(root: Path) -> list[str]:
        return [sys.executable, "-c", TRAINER, str(root), str(Path(__file__).parent)]

    with subprocess.Popen(command(tmp_path / "calm"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begin = time.monotonic()
        assert process.wait() == 0
    calm_seconds = time.monotonic() - begin
    expected = outcome(tmp_path / "calm")
    assert len(expected["metrics/base.jsonl"].splitlines()) == 300
    state = b""  # by hand: the chain of hashes that the trainer above makes
    for step in range(1, 301):
        state = hashlib.sha256(state + str(step).encode()).digest()
    assert json.loads(expected["stages/base.json"]) == {"state": state.hex()}

    pick, kills = random.Random(2), 0
    for _ in range(8):
        with subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(pick.uniform(0, calm_seconds / 5))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert kills >= 2  # the last ones may find it done
    subprocess.run(command(tmp_path / "killed"), check=True, stdout=subprocess.DEVNULL)
    assert outcome(tmp_path / "killed") == expected
    assert not list((tmp_path / "killed").rglob("*.tmp-*"))
