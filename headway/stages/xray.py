"""`headway xray`: a stage up to its first step, and not a step further. What training would be given is checked and shown.

    the stage's own function --select, tokenize, lay out--> fit: here it looks (preflight), writes nothing, and ends the stage

A stage cannot tell that it is only looked at: selections are made but not frozen, and what would have to be sampled first is
refused. It does not know what a stage does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headway.config import Recipe
from headway.durable import read_json
from headway.errors import RunError, StoreError
from headway.runs import Run, plain
from headway.sample import Plan
from headway.stage_config import StageConfig
from headway.stages.preflight import preflight
from headway.stages.workspace import Workspace, preflight_path
from headway.store.rows import Selection
from headway.train.fit import Fitted, Objective
from headway.types import Problem


class Seen(Exception):
    """A stage came as far as its first step."""

    def __init__(self, record: dict[str, Any]):
        super().__init__("looked at")
        self.record = record


class Looking(Workspace):
    """A workspace in which a stage ends before its first step."""

    @staticmethod
    def over(work: Workspace) -> Looking:
        """A look at the same run, policy and table."""
        return Looking(work.recipe, work.run, work.store, work.tokenizer, work.model, work.sampler, work.tell)

    def look(self, stage: str, before: Sequence[str], run: Callable[[], Fitted]) -> dict[str, Any]:
        """What the stage would be given, and on whose weights it was checked."""
        try:
            run()
        except Seen as seen:
            return seen.record | {"weights": f"as {before[-1]} left them" if before else "as the recipe starts them"}
        except StoreError as error:
            waiting = [name for name in self.recipe.stages[: self.recipe.stages.index(stage)] if name not in before]
            if not waiting:
                raise
            raise RunError(f"{stage} cannot be looked at before {waiting[-1]} is done: {error}") from None
        raise AssertionError("a stage ends in fit")

    def fit(
        self, stage: str, objective: Objective[Any], config: StageConfig, steps: int, look: Objective[Any] | None = None
    ) -> Fitted:
        """Look, and end the stage."""
        raise Seen(preflight(self, stage, look or objective, config, steps))

    def freeze(self, stage: str, selection: Selection[Any], ids: Sequence[str], too_long: int = 0, **report: Any) -> None:
        """Nothing is frozen; an empty selection is refused as it would be."""
        if selection.funnel.kept - too_long <= 0:
            raise StoreError(f"the selection keeps nothing: {selection.funnel}")

    def sample_stored(self, problems: Sequence[Problem], count: int, plan: Plan, batch: str, stage: str) -> None:
        """What the table holds is used; what it lacks is not sampled for a look."""
        if problems and not self.store.has_batch("verdicts", f"{batch}/0"):
            raise RunError(
                f"{stage} first samples {len(problems) * count:,} rollouts of its own, which a look does not: `headway run` "
                "does, and checks the batches before step 1"
            )


def kept_record(folder: Path, recipe: Recipe, stage: str) -> dict[str, Any] | None:
    """What the run in `folder` kept of its own check of the stage; None without one that passed, or of another recipe."""
    path = preflight_path(folder, stage)
    if not path.exists() or not (folder / "recipe.json").exists():
        return None
    record = read_json(path)
    is_same = read_json(folder / "recipe.json") == json.loads(json.dumps(plain(recipe)))
    return record | {"weights": "as they were before the stage's first step"} if is_same and record["passed"] else None


def need_teacher(run: Run) -> None:
    """Raise RunError where a look would have to ask a server first."""
    if run.recipe.teacher.server is not None and not run.done("teacher"):
        raise RunError(
            f"{run.folder}: the teacher's server has not been asked yet: `headway run` does that, a look costs nothing"
        )
