"""Which folder is meant by --run NAME, STORE or CHECKPOINT.

It does not know what lies in them.
"""

from __future__ import annotations

from pathlib import Path

from headway.config import STAGES
from headway.errors import RunError


def store_of(run: str) -> Path:
    """The rollout table of the run that is meant; without a name, of the only run there is."""
    own = Path(run, "store") if run else Path()
    store = own if run and own.is_dir() else run_folder(run) / "store"  # a folder of `headway sample` has no recipe
    if not store.is_dir():
        raise RunError(f"{store} is missing: there are no rollouts to read")
    return store


def store_folder(store: str, run: str) -> Path:
    """The tables that STORE (their folder, a run's folder or a run's name) or --run means."""
    if store and run:
        raise RunError("give either STORE or --run NAME, not both")
    if store and (Path(store) / "rollouts" / "_delta_log").is_dir():
        return Path(store)
    return store_of(store or run)


def run_folder(run: str) -> Path:
    """The folder of a run given by its folder or by its name under runs/; "" means the only run there is."""
    if run:
        folder = next((path for path in (Path(run), Path("runs", run)) if (path / "recipe.json").is_file()), None)
        if folder is None:
            raise RunError(f"there is no run {run!r}: neither that folder nor runs/{run} holds a recipe.json")
        return folder
    found = sorted(path.parent for path in Path("runs").glob("*/recipe.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none so far"
        raise RunError(f"say which run with --run NAME (under runs/: {names})")
    return found[0]


def checkpoint_folder(name: str) -> str:
    """What CHECKPOINT means: a checkpoint's folder; a run, or RUN/STAGE, by folder or name; else a hub name, as it stands.

    Of a run it is the last stage's weights, RUN/STAGE is those of one stage. RunError where the run has none yet.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        return name
    for run in (folder, Path("runs", name)):
        if (run / "recipe.json").is_file():
            finals = [final for stage in STAGES if (final := run / "checkpoints" / stage / "final").is_dir()]
            if not finals:
                raise RunError(f"{run} has no finished stage yet, so no checkpoint")
            return str(finals[-1])
    for run in (folder.parent, Path("runs") / folder.parent):
        if folder.name in STAGES and (run / "recipe.json").is_file():
            final = run / "checkpoints" / folder.name / "final"
            if not final.is_dir():
                raise RunError(f"{run}: the stage {folder.name} has no finished weights")
            return str(final)
    return name
