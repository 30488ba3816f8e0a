"""The verbs that read a table of rollouts: queries and single records, for the eye or for the next program in a pipe.

They do not know what the rows are for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from headway.cli.folders import store_of
from headway.cli.options import RunOption, app

_VERDICTS_OF = (
    "select verifier, outcome, reason, extracted, parsed, parsed_reference from verdicts where rollout_id = {} order by verifier"
)
_ROLLOUTS_OF = """
    select rollouts.id as rollout, sampler, step, index, stop_reason, num_tokens, verifier, outcome, extracted
    from rollouts left join verdicts on verdicts.rollout_id = rollouts.id
    where problem_id = {} order by sampler, step, index, verifier, rollouts.id
"""


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="A query over the tables problems, rollouts and verdicts.")],
    run: RunOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Ask the table of rollouts a question in SQL (DuckDB's)."""
    import json

    from headway.store.store import Store

    rows = Store(store_of(run), create=False).sql(query)
    if as_json:
        for row in rows.to_pylist():
            print(json.dumps(row, default=str))  # ASCII: control characters are escaped
    else:
        _print_rows(rows.column_names, [list(row.values()) for row in rows.to_pylist()])


@app.command()
def show(
    prefix: Annotated[str, typer.Argument(metavar="ID", help="The id of a problem or a rollout, or its beginning.")],
    run: RunOption = "",
) -> None:
    """Show a rollout with its verdicts and its problem, or a problem with its rollouts."""
    from headway.store.store import Store
    from headway.types import Rollout

    store = Store(store_of(run), create=False)
    found = store.find(prefix)
    if isinstance(found, Rollout):
        _print_record("rollout", found)
        for verdict in store.sql(_VERDICTS_OF.format(_quoted(found.id))).to_pylist():
            print("verdict:", *(_cell(value) for value in verdict.values()))
        _print_record("problem", store.find(found.problem_id))
    else:
        _print_record("problem", found)
        rows = store.sql(_ROLLOUTS_OF.format(_quoted(found.id)))
        _print_rows(rows.column_names, [list(row.values()) for row in rows.to_pylist()])


def _quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _print_record(kind: str, record: Any) -> None:
    """Every field of a record; text of several lines is indented below its name, long lists are counted."""
    from dataclasses import fields

    from headway.report.markup import clean

    print(f"{kind}:")
    for field in fields(record):
        value = getattr(record, field.name)
        lines = (f"({len(value)})" if isinstance(value, tuple) else clean(value)).split("\n")
        print(f"  {field.name}:", lines[0] if len(lines) == 1 else "\n    " + "\n    ".join(lines))


def _print_rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for the eye in a terminal; tab-separated lines for the next program in a pipe."""
    if not sys.stdout.isatty():
        for row in (names, *rows):
            print("\t".join(map(_cell, row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in names:
        table.add_column(Text(_cell(name)))
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    Console().print(table)


def _cell(value: Any) -> str:
    """A value on one line: newlines, tabs and control characters are shown as such, nothing as nothing."""
    from headway.report.markup import clean

    return "" if value is None else clean(value).replace("\n", "\\n").replace("\t", "\\t")
