"""The verbs that let a model behind a server add to a table: a second opinion, new problems, labels.

They only translate; the work is imported inside each verb.
"""

from __future__ import annotations

from typing import Annotated

import typer

from headway.cli.folders import store_folder
from headway.cli.options import JsonOption, RunOption, StoreArgument, app

UrlOption = Annotated[str, typer.Option("--base-url", help="An OpenAI-compatible server, up to /v1.")]
ModelOption = Annotated[str, typer.Option("--model", help="What the server calls the model.")]
NameOption = Annotated[str, typer.Option("--name", help="Its name in the table; default: the model's.")]
CostOption = Annotated[float, typer.Option("--max-cost", min=0, help="Over all calls under this name; needs the prices.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Each request gets a seed made of it; -1: none is sent.")]
ServerOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the server, such as completion_price=1.5; may be repeated."),
]


@app.command()
def judge(
    store: StoreArgument = "",
    run: RunOption = "",
    base_url: UrlOption = "",
    model: ModelOption = "",
    name: NameOption = "",
    votes: Annotated[int, typer.Option("--votes", min=1, help="On each comparison; odd.")] = 3,
    attempts: Annotated[int, typer.Option("--attempts", min=0, help="How often a vote that is none is asked again.")] = 2,
    outcome: Annotated[
        list[str] | None, typer.Option("--outcome", help="wrong (default), unverifiable; may be repeated.")
    ] = None,
    references: Annotated[str, typer.Option("--references", help="hard: no plain numbers; or all.")] = "hard",
    sampler: Annotated[list[str] | None, typer.Option("--sampler", help="Only its rollouts; may be repeated.")] = None,
    source: Annotated[list[str] | None, typer.Option("--source", help="Only its problems; may be repeated.")] = None,
    reason: Annotated[list[str] | None, typer.Option("--reason", help="Only verdicts of this reason; may be repeated.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="How many rollouts; 0: all.")] = 0,
    control: Annotated[int, typer.Option("--control", min=0, help="Rollouts of each known outcome, asked about first.")] = 50,
    seed: SeedOption = 0,
    max_cost: CostOption = 0.0,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a model for a second opinion on rollouts that the rules reject; its verdicts lie beside theirs."""
    from headway.report.judging import Order, choice_of, judge_store
    from headway.report.teacher import server_settings

    choice = choice_of(outcome or ["wrong"], references, sampler or [], source or [], reason or [], limit, control)
    settings = server_settings(base_url, model, max_cost, server or [])
    judge_store(Order(store_folder(store, run), settings, name, votes, attempts, seed, choice), as_json)
