"""The verbs of data: into a table, out of it, what it holds, and teachers that fill it.

They only translate; the work is imported inside each verb.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from headway.cli.folders import checkpoint_folder, store_folder
from headway.cli.options import CheckpointArgument, DeviceOption, JsonOption, RunOption, StoreArgument, app


@app.command()
def data(store: StoreArgument = "", run: RunOption = "", as_json: JsonOption = False) -> None:
    """Show what a table holds: problems, rollouts, verdicts, pass rates, lengths, and what deserves a warning."""
    from headway.report.shell import show_holdings

    show_holdings(store_folder(store, run), as_json)


@app.command("import")
def import_(
    data: Annotated[str, typer.Argument(metavar="DATA", help="JSONL, JSON or Parquet, a folder of them, or a hub data set.")],
    store: Annotated[str, typer.Option("--store", metavar="DIR", help="The tables, or a run; made where there are none.")],
    name: Annotated[str, typer.Option("--name", metavar="SOURCE", help="The source's name (default: the file's).")] = "",
    split: Annotated[str, typer.Option("--split", help="What it is for: train, validation or heldout.")] = "train",
    data_config: Annotated[str, typer.Option("--data-config", help="A hub data set's configuration.")] = "",
    data_split: Annotated[str, typer.Option("--data-split", help="A hub data set's or a folder's split.")] = "train",
    strip: Annotated[str, typer.Option("--strip", metavar="TEXT", help="An instruction to take off the questions.")] = "",
    max_row_errors: Annotated[int, typer.Option("--max-row-errors", min=0, help="How many broken rows to leave out.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Bring a data set's problems and the solutions that it carries into a table, judged. Goes on where it was stopped."""
    from headway.report.exchange import import_store

    source = {"data": data, "name": name, "split": split, "data_config": data_config, "data_split": data_split}
    import_store(source, Path(store), max_row_errors, strip, as_json)


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write: *.jsonl or *.parquet.")],
    what: Annotated[str, typer.Option("--what", help="sft, midtrain, dpo, unpaired, prompts, rollouts or problems.")],
    store: StoreArgument = "",
    run: RunOption = "",
    form: Annotated[str, typer.Option("--format", help="trl: TRL's columns alone; jsonl or parquet: all columns.")] = "trl",
    conversational: Annotated[bool, typer.Option("--conversational", help="Prompts and completions as turns.")] = False,
    template: Annotated[
        str, typer.Option("--apply-template", metavar="CHECKPOINT", help="Word prompts by its chat template.")
    ] = "",
    instruction: Annotated[
        str | None, typer.Option("--instruction", metavar="TEXT", help="Follows the question (default: the recipe's).")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="One split of prompts, rollouts or problems.")] = "",
) -> None:
    """Write what a run selected, or a table holds, as a file in TRL's columns."""
    from headway.report.exchange import export_store

    export_store(store_folder(store, run), what, form, out, conversational, template, instruction, split)


@app.command("clean")
def clean_problems(
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="Problem files, folders or hub data sets.")],
    against: Annotated[list[str], typer.Option("--against", metavar="EVAL", help="An evaluation set; may be repeated.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the problems that are kept here, as JSONL.")] = None,
    explain: Annotated[int, typer.Option("--explain", min=0, help="Show so many removals, both questions side by side.")] = 0,
    near: Annotated[bool, typer.Option("--near", help="Also keep only one of nearly equal questions.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove from problem files what evaluation sets hold, in the same or in other words, and say why."""
    from headway.report.cleaning import clean_files

    clean_files(data, against, out, explain, near, as_json)


@app.command()
def compact(store: StoreArgument = "", run: RunOption = "") -> None:
    """Join a table's many small files into few large ones; rows and old versions stay as they are."""
    from headway.report.shell import compact_store

    compact_store(store_folder(store, run))


@app.command()
def sample(
    out: Annotated[Path, typer.Option("--out", help="The folder for the table (OUT/store) and the journals (OUT/teacher).")],
    data: Annotated[str, typer.Option("--data", help="Problems: a file, a folder or a hub data set.")] = "",
    recipe: Annotated[str, typer.Option("--recipe", help="Problems: those of a recipe, cleaned as a run cleans them.")] = "",
    base_url: Annotated[str, typer.Option("--base-url", help="An OpenAI-compatible server, up to /v1.")] = "",
    model: Annotated[str, typer.Option("--model", help="What the server calls the model.")] = "",
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="Instead of a server: a folder or a hub name.")] = "",
    rollouts: Annotated[int, typer.Option("--rollouts", "-n", min=1, help="How many of each problem.")] = 4,
    problems: Annotated[int, typer.Option("--problems", min=0, help="How many problems; 0: all.")] = 0,
    split: Annotated[str, typer.Option("--split", help="train, validation or heldout.")] = "train",
    data_split: Annotated[str, typer.Option("--data-split", help="Which part of a folder or hub data set.")] = "train",
    policy: Annotated[str, typer.Option("--policy", help="Its name in the table; default: the model's.")] = "",
    temperature: Annotated[float, typer.Option("--temperature")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p")] = 0.95,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="The k likeliest tokens alone; 0: all.")] = 0,
    min_p: Annotated[
        float, typer.Option("--min-p", min=0, max=1, help="Tokens at least this likely beside the likeliest.")
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Of one rollout.")] = 32_768,
    seed: Annotated[int, typer.Option("--seed", help="Each request gets a seed made of it; -1: none is sent.")] = 0,
    instruction: Annotated[str | None, typer.Option("--instruction", help="Follows the question; default: a recipe's.")] = None,
    system: Annotated[str, typer.Option("--system", help="A system turn before the question.")] = "",
    max_cost: Annotated[float, typer.Option("--max-cost", min=0, help="Of the policy over all calls; needs the prices.")] = 0.0,
    device: DeviceOption = "auto",
    server: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the server, such as completion_price=1.5; may be repeated."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sample a teacher, behind a server or a checkpoint, into a table; verdicts beside. Goes on where it was stopped."""
    from headway.report.teacher import Order, sample, server_settings

    order = Order(
        out, rollouts, server_settings(base_url, model, max_cost, server or []), checkpoint, data, data_split, recipe, split,
        problems, policy, temperature, top_p, max_tokens, seed, instruction, system, top_k, min_p, device,
    )  # fmt: skip
    sample(order, as_json)


@app.command()
def serve(
    checkpoint: CheckpointArgument,
    host: Annotated[str, typer.Option("--host", help="The address; another than this machine's own needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: a free one.")] = 8000,
    name: Annotated[str, typer.Option("--name", help="What requests call the model; default: the folder's name.")] = "",
    key_env: Annotated[str, typer.Option("--api-key-env", help="The variable that holds the key that requests carry.")] = "",
    is_open: Annotated[bool, typer.Option("--open", help="Let others in without a key.")] = False,
    slots: Annotated[int, typer.Option("--slots", min=1, max=1024, help="Samples that run at once.")] = 32,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Requests at work or waiting; more are told to come back.")] = 256,
    device: DeviceOption = "auto",
) -> None:
    """Serve a checkpoint behind OpenAI's interface, on this machine."""
    from headway.serve.run import serve

    serve(
        checkpoint_folder(checkpoint),
        host,
        port,
        name,
        key_env,
        is_open,
        slots,
        queue,
        lambda note: print(note, file=sys.stderr, flush=True),
        device,
    )
