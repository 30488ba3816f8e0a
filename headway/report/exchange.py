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
from headway.durable import read_json
from headway.errors import ConfigError, RunError
from headway.problems.prompt import asked
from headway.report.markup import clean, percent
from headway.report.progress import Display
from headway.stages.import_record import Imported
from headway.stages.imports import import_data
from headway.store.export import KINDS, Form, export
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


FORMATS = ("trl", "jsonl", "parquet")
_SELECTED = {"sft": "sft", "midtrain": "midtrain", "dpo": "dpo", "prompts": "rl"}  # kind -> the selection of a run


def export_store(
    folder: Path, what: str, form: str, out: Path, conversational: bool, template: str, instruction: str | None, split: str
) -> None:
    """Write what a table holds, or a run selected, as a file in TRL's columns, and print the funnel.

    A run's prompts are worded with its recipe's instruction, unless `instruction` is given; a bare table's without one.
    """
    if what not in KINDS:
        raise ConfigError(f"--what {what!r}: it is one of {', '.join(KINDS)}")
    if form not in FORMATS:
        raise ConfigError(f"--format {form!r}: it is one of {', '.join(FORMATS)}")
    if form != "trl" and out.suffix != f".{form}":
        raise ConfigError(f"--out {out}: a file of the format {form} is named *.{form}")
    if split and split not in set(Split):
        raise ConfigError(f"--split {split!r}: the splits are {', '.join(Split)}")
    if conversational and template:
        raise ConfigError("--conversational and --apply-template: a template makes texts of conversations; give one of them")
    run = folder.parent if folder.name == "store" and (folder.parent / "recipe.json").is_file() else None
    store, ids = Store(folder, create=False), None
    if run is not None:
        if instruction is None:
            instruction = read_json(run / "recipe.json").get("problems", {}).get("instruction", "")
        store, ids = _selected(run, store, what, split)
    console = Console()
    with Display(console) as display:
        funnel = export(
            store,
            what,
            out,
            _form(instruction or "", conversational, template),
            is_plain=form == "trl",
            ids=ids,
            split=Split(split) if split else None,
            tell=lambda done, total: display("export", done, total, {}),
        )
    selected = f" (the run's selection {_SELECTED[what]})" if ids is not None else ""
    console.print(Text(f"{funnel}{selected}"), soft_wrap=True)
    console.print(Text(f"written: {out}"), soft_wrap=True)


def _selected(run: Path, store: Store, what: str, split: str) -> tuple[Store, list[str] | None]:
    """The table as a run's stage saw it, and the ids that it kept; all of the table where no stage selects such rows."""
    path = run / "selections" / f"{_SELECTED.get(what, what)}.json"
    if what not in _SELECTED or split or (what == "prompts" and not path.is_file()):
        return store, None
    if not path.is_file():
        raise RunError(
            f"{path} is missing: the run has not selected anything for {what} yet; give the tables {store.path} as STORE"
        )
    frozen = read_json(path)
    return store.at(frozen["versions"]), [str(one) for one in frozen["ids"]]


def _form(instruction: str, conversational: bool, template: str) -> Form:
    """How prompts are worded: as text, as turns, or as a checkpoint's chat template writes them."""

    def ask(question: str) -> str:
        return asked(question, instruction)

    if conversational:
        return Form(ask, is_conversational=True)
    if not template:  # as a tokenizer without a template is asked: the completion begins on a line of its own
        return Form(lambda question: f"{ask(question)}\n")
    from headway.model.tokenizer import Tokenizer  # slow to import

    tokenizer = Tokenizer.load(template)

    def render(question: str) -> str:
        return tokenizer.prompt_text([{"role": "user", "content": ask(question)}])

    return Form(render, stop=tokenizer.stop_text, refuses=tokenizer.names_special)
