"""Atomic files and folders: the old state or the new one, and every kind of damage named."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_disk import with_file_size_limit

import headway.durable
from headway.durable import (
    MANIFEST,
    check_folder,
    discard,
    in_bytes,
    read_json,
    refusing,
    sweep,
    write_atomic,
    write_folder_atomic,
    write_json,
)
from headway.errors import CheckpointError, RunError

FILES = {
    "model.safetensors": b"0123456789abcdef",
    "optimizer/state.bin": b"fedcba9876543210",
    "state.json": b'{"step": 3}',
}


def make(folder: Path, files: dict[str, bytes] | None = None, label: str = "") -> Path:
    """A sealed folder with a few files."""
    with write_folder_atomic(folder, label) as temporary:
        for name, content in (files or FILES).items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(content)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic_replaces_text_and_bytes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "größer")
    assert path.read_bytes() == "größer".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(path.parent) == ["b.txt"]


def test_files_are_synced_before_they_get_their_name(tmp_path, monkeypatch):
    seen = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append("fsync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda old, new: (seen.append("rename"), replace(old, new))[1])
    write_atomic(tmp_path / "x", b"1")
    assert seen == ["fsync", "rename", "fsync"]  # the file, its name, the folder that holds the name


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path):
    path = tmp_path / "results.json"
    write_atomic(path, b"old")

    def work() -> None:
        with pytest.raises(RunError, match=r"cannot write .*results.json \(5000 bytes\): File too large"):
            write_atomic(path, b"x" * 5000)

    with_file_size_limit(100, work)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["results.json"]


def test_a_full_disk_leaves_the_old_folder_and_no_litter(tmp_path):
    folder = make(tmp_path / "point")

    def work() -> None:
        with pytest.raises(RunError, match=r"cannot write .*point"):
            make(folder, {"model.safetensors": b"x" * 5000})

    with_file_size_limit(1000, work)
    assert names(tmp_path) == ["point"]
    check_folder(folder)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match=r"cannot write .*file/below: .*"):
        write_atomic(tmp_path / "file" / "below", b"")
    with pytest.raises(RunError, match=r"cannot write .*file/below"):
        make(tmp_path / "file" / "below")


def test_json_round_trips_and_refuses_what_others_cannot_read(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 0.1, "ü"]})
    assert read_json(tmp_path / "a.json") == {"x": [1, 0.1, "ü"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == {"x": [1, 0.1, "ü"]}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(RunError, match=r"cannot read .*b\.json"):
        read_json(tmp_path / "b.json")


def test_a_folder_appears_whole_with_its_manifest(tmp_path):
    folder = tmp_path / "point"
    with write_folder_atomic(folder, "tiny/rl/3") as temporary:
        (temporary / "a").write_bytes(b"abc")
        assert not folder.exists()
    manifest = read_json(folder / MANIFEST)
    assert manifest == {"label": "tiny/rl/3", "files": {"a": {"sha256": hashlib.sha256(b"abc").hexdigest(), "size": 3}}}
    check_folder(folder)
    check_folder(folder, "tiny/rl/3")
    assert names(tmp_path) == ["point"]


@pytest.mark.parametrize("large", [1, 2**40])
def test_many_files_are_hashed_alike_at_the_same_time_and_one_by_one(tmp_path, monkeypatch, large):
    monkeypatch.setattr(headway.durable, "_LARGE", large)
    files = {f"{number}.bin": bytes([number]) * (100 + number) for number in range(20)}
    folder = make(tmp_path / "point", files)
    listed = read_json(folder / MANIFEST)["files"]
    assert {name: entry["sha256"] for name, entry in listed.items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    (folder / "13.bin").write_bytes(bytes([13]) * 112 + b"x")
    with pytest.raises(CheckpointError, match=r"13\.bin is damaged: its content"):
        check_folder(folder)


def test_sizes_for_people():
    assert [in_bytes(n) for n in (0, 999, 1000, 1_061_346, 45_600_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.0 KB",
        "1.1 MB",
        "45.6 GB",
    ]


def test_what_libraries_in_rust_say_of_a_full_disk_is_one_line(tmp_path):
    """safetensors and tokenizers raise errors of their own that carry the system's number in their text."""
    with (
        pytest.raises(RunError, match=rf"^cannot write {tmp_path}/x \(12 bytes\): No space left on device$"),
        refusing(tmp_path / "x", 12),
    ):
        raise ValueError("Error while serializing: I/O error: whatever (os error 28)")
    with pytest.raises(ValueError, match="another"), refusing(tmp_path / "x"):
        raise ValueError("another mistake")


def test_a_failing_block_changes_nothing(tmp_path):
    folder = make(tmp_path / "point")

    def write_half():
        with write_folder_atomic(folder) as temporary:
            (temporary / "a").write_bytes(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    check_folder(folder)
    assert names(tmp_path) == ["point"]
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = make(tmp_path / "final")
    make(folder, {"other": b"1"})
    check_folder(folder)
    assert names(folder) == [MANIFEST, "other"]
    assert names(tmp_path) == ["final"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 1, 5, -1])
def test_a_truncated_file_is_named(tmp_path, name, length):
    folder = make(tmp_path / "point")
    (folder / name).write_bytes(FILES[name][:length])
    size = len(FILES[name][:length])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: {size} bytes, should be {len(FILES[name])}"):
        check_folder(folder)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_every_flipped_bit_is_found(tmp_path, name):
    folder = make(tmp_path / "point")
    original = (folder / name).read_bytes()
    for bit in random.Random(0).sample(range(8 * len(original)), 80):
        content = bytearray(original)
        content[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            check_folder(folder, "")
        assert "\n" not in str(caught.value)
    (folder / name).write_bytes(original)
    check_folder(folder, "")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(tmp_path, name):
    folder = make(tmp_path / "point")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        check_folder(folder)


def test_swapped_extra_and_foreign_files_are_named(tmp_path):
    folder = make(tmp_path / "point", label="tiny/rl/3")
    (folder / "model.safetensors").write_bytes(FILES["optimizer/state.bin"])  # the same size
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: its content"):
        check_folder(folder)
    folder = make(tmp_path / "point", label="tiny/rl/3")
    (folder / "more.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"more\.bin does not belong there"):
        check_folder(folder)
    folder = make(tmp_path / "point", label="other/rl/3")
    with pytest.raises(CheckpointError, match="belongs to 'other/rl/3', not to 'tiny/rl/3'"):
        check_folder(folder, "tiny/rl/3")
    with pytest.raises(CheckpointError, match="nowhere is missing"):
        check_folder(tmp_path / "nowhere")


def test_discard_and_sweep_leave_no_litter(tmp_path):
    discard(make(tmp_path / "point"))
    assert names(tmp_path) == []
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "results.json.tmp-77").write_bytes(b"half")
    (tmp_path / "deep" / "notes.tmp-mine").write_bytes(b"the user's own")
    make(tmp_path / "deep" / "kept")
    make(tmp_path / "deep" / "step-000004.tmp-77")
    make(tmp_path / "deep" / "kept.tmp-old")  # its successor arrived
    make(tmp_path / "deep" / "final.tmp-old")  # its successor did not
    sweep(tmp_path)
    assert names(tmp_path / "deep") == ["final", "kept", "notes.tmp-mine"]
    check_folder(tmp_path / "deep" / "final")


WRITER = """
import sys, itertools
from headway.durable import write_folder_atomic
for count in itertools.count(1):
    with write_folder_atomic(sys.argv[1]) as folder:
        for name in "abcd":
            (folder / name).write_bytes(str(count).encode() * 2000)
    print(count, flush=True)
"""


def test_a_kill_inside_a_save_leaves_the_old_folder_or_the_new_one(tmp_path):
    pick = random.Random(1)
    for _ in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "point")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # the first save is done; from here on there is always a whole one
            time.sleep(pick.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
        sweep(tmp_path)
        assert names(tmp_path) == ["point"]
        check_folder(tmp_path / "point")
        assert len({(tmp_path / "point" / name).read_bytes() for name in "abcd"}) == 1
