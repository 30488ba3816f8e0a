"""The command line's app, and the arguments and options that several verbs share.

It does not know the verbs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="headway",
    help="Turn a small language model into a reasoning model in four measured steps, on one table of rollouts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunOption = Annotated[str, typer.Option("--run", help="The run: its folder, or its name under runs/.")]
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A TOML file, such as recipes/tiny.toml.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe's key; may be repeated.")
]
FromPreviousOption = Annotated[
    bool, typer.Option("--from-previous", help="Set damaged checkpoints aside and go on from the ones before.")
]
RootOption = Annotated[Path, typer.Option("--root", help="The folder that runs are kept in.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CheckpointArgument = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A Hugging Face folder, a run or RUN/STAGE, or a hub name.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto (CUDA where there is one, else the CPU), cpu, cuda or mps.")]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A folder of tables, or a run.")]
