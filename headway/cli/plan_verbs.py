"""The verb that says what a recipe will need, before anything is paid.

It only translates; the work is imported inside the verb.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headway.cli.options import JsonOption, RecipeArgument, RootOption, SetOption, app


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    root: RootOption = Path("runs"),
    no_probe: Annotated[
        bool, typer.Option("--no-probe", help="Formulas alone: run nothing of the model, give no times.")
    ] = False,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Memory of each of so many ranks on this machine.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Estimate a recipe's memory, tokens, steps, time and disk, stage by stage, with a short probe on this machine."""
    from headway.plan.screen import plan as show_plan

    show_plan(recipe, overrides or [], root, not no_probe, as_json, ranks)
