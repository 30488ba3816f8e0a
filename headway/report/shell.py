"""What the terminal shows of finished runs: the staircase, and two runs side by side. It loads no torch.

It does not know how the numbers come about (`tables`, `compare`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from headway.report.compare import compare, render_comparison, render_pooled
from headway.report.page import write_page
from headway.report.tables import render_staircase


def report(folders: Sequence[Path]) -> None:
    """Print the staircase of a run and write its page again; of several runs, print the pooled staircase."""
    console = Console()
    if len(folders) > 1:
        render_pooled(folders, console)
        return
    (folder,) = folders
    render_staircase(folder, console)
    console.print(Text(f"page: {write_page(folder)}"), soft_wrap=True)


def compare_runs(a: Sequence[Path], b: Sequence[Path], as_json: bool) -> None:
    """Put two runs, or two lists of runs paired in order, side by side."""
    found = compare(list(a), list(b))
    if as_json:
        print(json.dumps(found.record))
    else:
        render_comparison(found, Console())
