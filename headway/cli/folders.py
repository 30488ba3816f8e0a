"""Which folder is meant by --run NAME or STORE.

It does not know what lies in them.
"""

from __future__ import annotations

from pathlib import Path

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
