"""Live progress of a run in the terminal: one bar for what is going on, one line for what is done.

    midtrain  ━━━━━━━━━━╸        412/800   loss 0.312   validation loss 0.355   19,800 tokens/s   0:00:21 left

In a pipe or a log file it prints a plain line now and then instead. It does not know what the numbers mean.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from headway.report.markup import clean

_SHOWN = (  # the numbers worth a glance, in order, and how they are written
    ("table", "{}"),
    ("loss", "loss {:.3f}"),
    ("validation_loss", "validation loss {:.3f}"),
    ("accuracy", "accuracy {:.1%}"),
    ("pair_accuracy", "pairs {:.0%}"),
    ("mean_tokens", "{:.0f} tokens long"),
    ("tokens_per_s", "{:,.0f} tokens/s"),
    ("save_seconds", "saved in {:.1f} s"),
    ("cost", "cost {:.4g}"),
    ("in_flight", "{} in flight"),
    ("faults", "tried again: {}"),
)
_EVERY = 10.0  # seconds between plain lines


class Display:
    """A context manager; call it with (stage, done, in all, numbers)."""

    def __init__(self, console: Console):
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self._stage = ""
        self._task: TaskID | None = None
        self._kept: dict[str, float | str] = {}
        self._printed = self._started = time.monotonic()
        self._first = 0  # where the stage stood when it was first shown: not 0 when it is resumed

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:  # stopping one that was never started prints an empty line
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int, numbers: dict[str, Any]) -> None:
        """Show where a stage stands."""
        if stage != self._stage:
            self._begin(stage, done, total)
        for line in (numbers.get("alarm"), numbers.get("note")):
            if isinstance(line, str):
                self._console.print(Text(f"{clean(stage)}: {clean(line)}"), soft_wrap=True)
        self._kept |= {k: clean(v) if isinstance(v, str) else v for k, v in numbers.items() if isinstance(v, int | float | str)}
        text = "   ".join(form.format(self._kept[name]) for name, form in _SHOWN if self._kept.get(name, "") != "")
        if self._console.is_terminal:
            assert self._task is not None
            self._progress.update(self._task, completed=done, total=total, numbers=text)
            return
        now = time.monotonic()
        if now - self._printed >= _EVERY or done == total:
            self._printed = now
            spent = now - self._started
            gained = done - self._first
            left = f"   {spent / gained * (total - done):.0f} s left" if gained > 0 and done < total else ""
            self._console.print(Text(f"{clean(stage)}  {done}/{total}   {text}{left}"), soft_wrap=True)

    def _begin(self, stage: str, done: int, total: int) -> None:
        self._stage, self._kept = stage, {}
        self._started, self._first = time.monotonic(), done
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(clean(stage), total=total, completed=done, numbers="")
