"""Writing that a kill, a power cut or a full disk cannot leave half done: whole files and whole folders.

    file    NAME.tmp-PID  --write, fsync-->  rename to NAME  -->  fsync of the parent folder
    folder  NAME.tmp-PID/ --files, fsync, manifest.json (sha256, size)-->  rename to NAME/  -->  fsync of the parent
    size    looked up on the disk first (`need_space`): what cannot fit is refused before its first byte is written

A reader meets the old state or the new one, never a mixture. What a killed process left behind carries `.tmp-` in its
name and `sweep` clears it away. This file does not know what is written, nor when: `runs` says when,
the stages say what.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headway.errors import CheckpointError, HeadwayError, RunError

MANIFEST = "manifest.json"
CARD = "README.md"  # for people: no manifest lists it, so that it may be written later and edited by hand
_LEFTOVER = re.compile(r"^(?P<final>.+)\.tmp-(?P<who>[0-9]+|old)$")


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Replace the file at `path` by `data` (text as UTF-8), or leave it as it was.

    Missing parent folders are made. RunError in one line with the path where the disk is full or the place refuses.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    with write_file_atomic(path, len(content)) as temporary, temporary.open("wb") as file:
        file.write(content)


@contextmanager
def write_file_atomic(path: str | Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block has written it and ends well, it becomes `path` in one rename.

    For files too large to be held whole. When the block raises, `path` stays as it was; an OSError becomes a RunError, which
    names the `size` in bytes that did not fit, where it is known.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with refusing(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _fsync(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _fsync(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """`write_atomic` of indented JSON; NaN and infinity are refused (ValueError), because other readers refuse them."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON at `path`; RunError in one line where it is missing, unreadable or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged, not JSON: {error}") from error


@contextmanager
def write_folder_atomic(final: str | Path, label: str = "") -> Iterator[Path]:
    """Yield an empty temporary folder beside `final`; when the block ends well, it becomes `final` in one rename.

    Every file is fsynced and listed in `manifest.json` with its size and sha256; `label` says there whose folder it
    is (`check_folder` compares it). An existing `final` is replaced. When the block raises, `final` stays as it was and
    the temporary folder is removed; an OSError becomes a RunError with the path.
    """
    final = Path(final)
    temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
    with refusing(final):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            _seal(temporary, label)
            _put_in_place(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_folder(folder: str | Path, label: str | None = None) -> None:
    """Compare a folder with its manifest: CheckpointError names the file that is missing, cut short, changed or extra.

    With `label`, the manifest must carry the same one: a whole folder of another run is refused, too.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing")
    listed, found_label = _read_manifest(folder)
    if label is not None and label != found_label:
        raise CheckpointError(f"{folder} belongs to {found_label!r}, not to {label!r}")
    present = _files(folder)
    for name in sorted(present.keys() - listed.keys()):
        raise CheckpointError(f"{folder / name} does not belong there: {MANIFEST} does not list it")
    for name, entry in listed.items():
        if name not in present:
            raise CheckpointError(f"{folder / name} is missing")
        size = present[name].stat().st_size
        if size != entry.get("size"):
            raise CheckpointError(f"{present[name]} is damaged: {size} bytes, should be {entry.get('size')}")
    paths = [present[name] for name in listed]
    try:
        for path, entry, found in zip(paths, listed.values(), _sha256(paths), strict=True):
            if found != entry.get("sha256"):
                raise CheckpointError(f"{path} is damaged: its content is not what was written")
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or folder}: {error.strerror}") from error


def need_space(path: Path, size: int, what: str = "", hint: str = "") -> None:
    """RunError where the disk that `path` is to lie on has less than `size` bytes free, and `RESERVE` beside them.

    The line says what is needed and what is free; `what` names the thing (default: the path), `hint` what else would help.
    """
    free, wanted = free_space(path), size + RESERVE
    if free < wanted:
        more = f" or {hint}" if hint else ""
        raise RunError(
            f"{what or f'cannot write {path}'}: needs {in_bytes(wanted)}, and its disk has {in_bytes(free)} free; "
            f"nothing was written: make room{more}, and the same command goes on"
        )


RESERVE = 2**20  # bytes left to the metric rows, the tables' commits and the records that follow


def free_space(path: Path) -> int:
    """Bytes that this user may still write on the disk that `path` lies, or will lie, on."""
    with refusing(path):
        place = next(place for place in (path, *path.absolute().parents) if place.exists())
        return shutil.disk_usage(place).free


def in_bytes(size: int) -> str:
    """A size for people: ``in_bytes(45_600_000_000) == "45.6 GB"``."""
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size} bytes"


def set_aside(folder: Path) -> Path:
    """Rename a damaged folder to NAME.damaged (an earlier one of that name goes), and return that path."""
    aside = folder.with_name(f"{folder.name}.damaged")
    with refusing(aside):
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        _fsync(folder.parent)
    return aside


def discard(folder: Path) -> None:
    """Remove a folder: a kill in the middle leaves something for `sweep`, never a folder with a part of its files."""
    leftover = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    with refusing(folder):
        folder.rename(leftover)
        shutil.rmtree(leftover, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Clear away what killed writers left below `folder`. Only its one owner may call this (`Run.open` holds the lock).

    A folder that was moved aside and whose successor never arrived goes back to its place.
    """
    with refusing(folder):
        for place, folders, files in os.walk(folder):
            for name in list(folders):
                match = _LEFTOVER.match(name)
                if match is None:
                    continue
                folders.remove(name)
                final = Path(place, match["final"])
                if match["who"] == "old" and not final.exists():
                    Path(place, name).rename(final)
                else:
                    shutil.rmtree(Path(place, name))
            for name in files:
                if _LEFTOVER.match(name):
                    Path(place, name).unlink()


@contextmanager
def refusing(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn an OSError of the block into the one-line RunError that names `path` (and the bytes that did not fit).

    So are the errors of libraries in Rust (safetensors, tokenizers), which tell the system's number in their text alone.
    """
    try:
        yield
    except HeadwayError:
        raise
    except Exception as error:
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
        if number is None and not isinstance(error, OSError):
            raise
        wanted = f" ({size} bytes)" if size is not None and number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        raise RunError(f"cannot write {path}{wanted}: {os.strerror(number) if number else error}") from error


def _seal(folder: Path, label: str) -> None:
    """Fsync all files of a folder, then write the manifest that makes it whole."""
    entries: dict[str, dict[str, Any]] = {}
    if (folder / CARD).is_file():
        _fsync(folder / CARD)
    files = dict(sorted(_files(folder).items()))
    for (name, path), found in zip(files.items(), _sha256(list(files.values())), strict=True):
        _fsync(path)
        entries[name] = {"sha256": found, "size": path.stat().st_size}
    write_json(folder / MANIFEST, {"label": label, "files": entries})
    for place, _, _ in os.walk(folder):
        _fsync(Path(place))


def _put_in_place(temporary: Path, final: Path) -> None:
    """Give the finished folder its name. The earlier one is moved aside; after a kill here `sweep` brings it back."""
    aside = final.with_name(f"{final.name}.tmp-old")
    if final.exists():
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
    try:
        temporary.rename(final)
    except OSError:
        if aside.exists():
            aside.rename(final)
        raise
    _fsync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _read_manifest(folder: Path) -> tuple[dict[str, dict[str, Any]], str]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files, label = manifest["files"], manifest["label"]
        if not all(isinstance(entry, dict) for entry in files.values()):
            raise ValueError
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {folder} is not a whole checkpoint") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is damaged") from None
    return files, label


def _files(folder: Path) -> dict[str, Path]:
    """All files below `folder` by their name relative to it, with forward slashes, but for the manifest and the card."""
    paths = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    found = {path.relative_to(folder).as_posix(): path for path in paths}
    found.pop(MANIFEST, None)
    found.pop(CARD, None)
    return found


def _sha256(paths: Sequence[Path]) -> list[str]:
    """The hash of each file; several large ones at the same time, since one core reads slower than a disk."""
    if sum(path.stat().st_size for path in paths) < _LARGE:
        return [_sha256_of(path) for path in paths]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_sha256_of, paths))


_LARGE = 2**28  # bytes below which threads would not pay


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    """Fsync a file or a folder. Some file systems cannot do it for folders (EINVAL): nothing to wait for."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)
