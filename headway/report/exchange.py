"""The verbs `import` and `export`: data sets into a table and out of it, with a funnel of what became of every row.

It does not know columns: `problems/columns`, `problems/traces` and `store/export` do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from headway.config import SourceConfig
from headway.errors import ConfigError
from headway.report.markup import clean, percent
from headway.report.progress import Display
from headway.stages.import_record import Imported
from headway.stages.imports import import_data
from headway.store.store import Store
from headway.types import Split
from headway.verify.judge import VERIFIER, Verifier

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def import_store(values: Mapping[str, str], folder: Path, max_row_errors: int, strip: str, as_json: bool) -> None:
    """Import a data set into the tables of `folder` and print what became of its rows and traces."""
    source = _source(values)
    if (folder / "recipe.json").is_file():
        folder = folder / "store"
    console = Console(stderr=as_json)
    with Display(console) as display, Verifier(workers=os.cpu_count() or 1) as verifier:
        found = import_data(source, Store(folder), verifier, max_row_errors=max_row_errors, strip=strip, tell=display)
    if as_json:
        print(json.dumps(_record(found, source)))
    else:
        _render(found, source, folder, console)


def _source(values: Mapping[str, str]) -> SourceConfig:
    if values["split"] not in set(Split):
        raise ConfigError(f"--split {values['split']!r}: the splits are {', '.join(Split)}")
    try:
        source = SourceConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"import: {error.errors()[0]['msg']}") from None
    if not _NAME.fullmatch(source.label):
        raise ConfigError(f"--name {source.label!r}: a source's name is made of letters, digits and . _ -")
    return source


def _record(found: Imported, source: SourceConfig) -> dict[str, Any]:
    """What `headway import --json` prints."""
    rows, traces = found.funnels
    return {
        "source": source.label,
        "verifier": VERIFIER,
        **{
            funnel.name: {"considered": funnel.considered, "kept": funnel.kept, "dropped": funnel.dropped}
            for funnel in (rows, traces)
        },
        "outcomes": dict(found.outcomes),
        "claims": dict(found.claims),
        "disagreements": found.disagreements,
    }


def _render(found: Imported, source: SourceConfig, folder: Path, console: Console) -> None:
    def say(text: str) -> None:
        console.print(Text(clean(text)), soft_wrap=True)

    for funnel in found.funnels:
        say(str(funnel))
    judged = found.outcomes.total()
    if judged:
        shares = ", ".join(f"{n:,} {name.replace('_', ' ')} ({percent(n / judged)})" for name, n in found.outcomes.most_common())
        say(f"judged by {VERIFIER}: {shares}")
    if claimed := found.claims.total():
        pairs = ", ".join(
            f"{n:,} called {key.split('/')[0]} are {key.split('/')[1].replace('_', ' ')}" for key, n in found.claims.most_common()
        )
        say(f"the data set speaks of {claimed:,} of them and we disagree on {found.disagreements:,}: {pairs}")
    say(f"{source.label} is in {folder}; `headway data {folder}` shows what the table holds")
