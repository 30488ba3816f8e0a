"""The verb that lets a checkpoint speak in the terminal.

It only translates; the work is imported inside the verb.
"""

from __future__ import annotations

from typing import Annotated

import typer

from headway.cli.folders import checkpoint_folder
from headway.cli.options import CheckpointArgument, DeviceOption, app


@app.command()
def chat(
    checkpoint: CheckpointArgument,
    temperature: Annotated[float, typer.Option("--temperature", help="0: always the likeliest token.")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p")] = 0.95,
    top_k: Annotated[int, typer.Option("--top-k", help="0: all tokens.")] = 0,
    min_p: Annotated[float, typer.Option("--min-p")] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Of an answer; 0: what the context has room for.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed and questions: the same answers.")] = 0,
    system: Annotated[str, typer.Option("--system", help="A system turn before the conversation.")] = "",
    instruction: Annotated[
        str | None, typer.Option("--instruction", help="Follows each question; default: what the checkpoint was trained with.")
    ] = None,
    show_thinking: Annotated[bool, typer.Option("--show-thinking", help="Thoughts whole, not folded to one line.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Talk with a checkpoint in the terminal; a question from a pipe gets its answer alone."""
    from headway.chat.loop import chat
    from headway.chat.settings import Settings

    settings = Settings(temperature, top_p, top_k, min_p, max_tokens, seed, system, "", show_thinking)
    chat(checkpoint_folder(checkpoint), settings, instruction, device)
