"""The verbs that let a model behind a server add to a table: a second opinion, new problems, labels.

They only translate; the work is imported inside each verb.
"""

from __future__ import annotations

from pathlib import Path
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


@app.command()
def augment(
    data: Annotated[str, typer.Argument(metavar="DATA|STORE", help="Problems: a file, a folder of tables, or a run.")],
    out: Annotated[Path, typer.Option("--out", help="The folder for the new table (OUT/store) and the logs.")],
    kinds: Annotated[
        str, typer.Option("--kind", help="Of answers, rephrase, self-verification, fobar; with commas.")
    ] = "rephrase",
    against: Annotated[
        list[str] | None, typer.Option("--against", metavar="EVAL", help="Held-out problems; may be repeated.")
    ] = None,
    base_url: UrlOption = "",
    model: ModelOption = "",
    policy: Annotated[str, typer.Option("--policy", help="Its name in the table; default: the model's.")] = "",
    problems: Annotated[int, typer.Option("--problems", min=0, help="How many problems; 0: all.")] = 0,
    per_problem: Annotated[int, typer.Option("--per-problem", min=1, help="New ones of each problem and kind.")] = 1,
    answers: Annotated[int, typer.Option("--answers", min=1, help="Tries at each new problem; most of them must agree.")] = 4,
    rollouts: Annotated[int, typer.Option("--rollouts", "-n", min=1, help="Of each problem, for the kind answers.")] = 4,
    temperature: Annotated[float, typer.Option("--temperature")] = 0.7,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Of one answer or rewrite.")] = 32_768,
    instruction: Annotated[str | None, typer.Option("--instruction", help="Follows the question; default: a recipe's.")] = None,
    seed: SeedOption = 0,
    max_cost: CostOption = 0.0,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make new training problems of old ones with a model; each enters only where its answers agree with the known one."""
    from headway.config import ProblemsConfig
    from headway.curate.augmenting import Wish
    from headway.report.augmenting import Order
    from headway.report.augmenting import augment as make
    from headway.report.teacher import server_settings

    wording = str(ProblemsConfig.model_fields["instruction"].default) if instruction is None else instruction
    wish = Wish(tuple(kind.strip() for kind in kinds.split(",")), per_problem, answers, rollouts, policy, seed, wording)
    settings = server_settings(base_url, model, max_cost, server or [])
    settings = {"temperature": temperature, "max_tokens": max_tokens, **settings} if settings else {}
    is_store = (
        any((Path(data) / name).is_dir() for name in ("store", "problems/_delta_log")) or Path("runs", data, "store").is_dir()
    )
    store = store_folder(data, "") if is_store else None
    make(Order(out, "" if is_store else data, store, tuple(against or ()), problems, settings, wish), as_json)


@app.command("label")
def label_problems(
    store: StoreArgument = "",
    run: RunOption = "",
    by: Annotated[str, typer.Option("--by", help="model: domain and difficulty by a server's; or pass-rate.")] = "model",
    base_url: UrlOption = "",
    model: ModelOption = "",
    name: NameOption = "",
    sampler: Annotated[str, typer.Option("--sampler", help="Whose pass rates.")] = "teacher",
    split: Annotated[str, typer.Option("--split", help="Only train, validation or heldout.")] = "",
    problems: Annotated[int, typer.Option("--problems", min=0, help="How many problems; 0: all.")] = 0,
    attempts: Annotated[int, typer.Option("--attempts", min=0, help="How often a reply that is no label is asked again.")] = 2,
    seed: SeedOption = 0,
    max_cost: CostOption = 0.0,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label problems with a domain and a difficulty, by a model or by pass rates, in a table beside them."""
    from headway.report.labelling import Order, label_store
    from headway.report.teacher import server_settings

    settings = server_settings(base_url, model, max_cost, server or [])
    order = Order(store_folder(store, run), by, settings, name, sampler, split, problems, attempts, seed)
    label_store(order, as_json)
