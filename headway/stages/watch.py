"""Who looks at a stage's rows as they are logged: alarms to the terminal and to alarms.jsonl, copies to trackers.

    row --> Health.see --> Alarm + a rollout that shows it --> runs/NAME/alarms.jsonl, one line in the terminal
        --> Tracking.send

It only reads: the training's bytes are the same without it. A stage that is resumed shows the rows before to `Health` again, and
drops the alarms of the steps that are made anew. It does not know what an alarm is about (`train.health`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.durable import write_atomic
from headway.journal import Metrics
from headway.ranks import by_first
from headway.train.habits import example
from headway.train.health import Alarm, Health
from headway.types import Outcome

if TYPE_CHECKING:
    from headway.stages.workspace import Workspace

ALARMS = "alarms.jsonl"
_GAP = {"cpu": 1e-3, "cuda": 0.5}  # nats: rounding of float32, of bfloat16


class StageWatch:
    """The watch over one stage; show it each row that was logged."""

    def __init__(self, work: Workspace, stage: str):
        self._work, self._stage = work, stage
        self._config = work.recipe.health
        self._health: Health | None = None
        self._alarms = Metrics(work.run.folder / ALARMS)

    @by_first
    def see(self, row: dict[str, Any]) -> dict[str, str]:
        """Keep what the row raises, pass the row on, and give what to tell: {"alarm": its lines}, else {}."""
        lines: list[str] = []
        if self._config.alarms:
            if self._health is None:
                self._health = self._begin(row["step"])
            lines = [self._raise(alarm) for alarm in self._health.see(row)]
        self._work.tracking.send(self._stage, row, self._work.run.metrics(self._stage).rows)
        return {"alarm": "\n".join(lines)} if lines else {}

    def _begin(self, step: int) -> Health:
        """What the rows before `step` leave; alarms of this stage from `step` on are dropped: they will be raised again."""
        rewind(self._alarms, self._stage, step)
        health = Health(self._config, _GAP.get(self._work.model.device.type, 1e-3))
        if step > 1:
            for row in self._work.run.metrics(self._stage).rows():
                if row["step"] < step:
                    health.see(row)
        return health

    def _raise(self, alarm: Alarm) -> str:
        """Keep an alarm; its line."""
        found = self._example(alarm)
        how = f"headway show {found} --run {_named(self._work.run.folder)}" if found else ""
        says = f"{alarm.says} (step {alarm.step})"
        self._alarms.append(
            {
                "step": alarm.step,
                "stage": self._stage,
                "metric": alarm.metric,
                "value": alarm.value,
                "says": alarm.says,
                "examples": [found] if found else [],
                "look": how,
            }
        )
        return f"alarm: {says}" + (f"; look at one: {how}" if how else "")

    def _example(self, alarm: Alarm) -> str:
        """The id of a rollout of the step that shows what the alarm says; "" where the stage samples none."""
        if self._stage != "rl" or alarm.metric in ("grad_norm", "loss", "alarm") or alarm.metric.startswith("update_ratio"):
            return ""
        rollouts = self._work.store.rollouts(sampler="rl", step=alarm.step - 1, tokens=True)
        verdicts = self._work.store.verdicts(rollout_ids=[rollout.id for rollout in rollouts])
        outcomes: dict[str, Outcome] = {verdict.rollout_id: verdict.outcome for verdict in verdicts}
        found = example(alarm.metric, rollouts, outcomes, alarm.is_high)
        return found.id if found else ""


def _named(folder: Path) -> str:
    """What `--run` finds this run by: its name under runs/, else its folder."""
    return folder.name if folder.parent == Path("runs") else str(folder)


def rewind(alarms: Metrics, stage: str, step: int) -> None:
    """Drop the alarms of `stage` from `step` on, atomically."""
    kept = [row for row in alarms.rows() if row["stage"] != stage or row["step"] < step]
    if len(kept) < len(alarms.rows()):
        alarms.close()
        write_atomic(alarms.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
