"""A pre-flight record in the terminal: what was checked, and real batches token by token, in colour.

    dim      masked: the model reads it          bold green   trained: the model learns to write it

In a pipe the text is plain and trained tokens stand between ⟦ and ⟧. It does not know how anything was checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from headway.report.markup import clean

_MASKED, _TRAINED, _SHAPE = "dim", "bold green", "red"


def render_xray(record: Mapping[str, Any], console: Console) -> None:
    """Print the whole record."""
    console.print(Text(f"{record['stage']}: weights {record.get('weights', '')}".rstrip()), soft_wrap=True)
    for check in record["checks"]:
        mark = ("ok    ", "green") if check["passed"] else ("WRONG ", "bold red")
        console.print(Text.assemble(mark, (f"{check['name']:<12}", "bold"), clean(check["says"])), soft_wrap=True)
    for batch in record["batches"]:
        counts = f"{batch['documents']:,} documents, {batch['trained']:,} tokens trained, {batch['tokens']:,} through the model"
        micros = f"{batch['micro_batches']:,} micro-batch{'' if batch['micro_batches'] == 1 else 'es'}"
        console.print(Text(f"\nstep {batch['step']}: {counts}, {micros}", style="bold"), soft_wrap=True)
        for document in batch["shown"]:
            console.print(Text(_head(document), style="italic"), soft_wrap=True)
            console.print(_tokens(document["tokens"], console.is_terminal), soft_wrap=True)
    if console.is_terminal:
        console.print(Text.assemble("\n", ("masked", _MASKED), "  ", ("trained", _TRAINED)))


def _head(document: Mapping[str, Any]) -> str:
    """What stands above a document."""
    count, first = document["num_tokens"], document["first_target"]
    parts = [document.get("side", ""), f"{count} tokens, trained from token {first} on"]
    for name, words in (
        ("reference_logprob", "reference log-prob"),
        ("advantage", "advantage"),
        ("sampler_logprob", "sampler log-prob"),
    ):
        if name in document:
            parts.append(f"{words} not a number" if document[name] is None else f"{words} {document[name]:+.3f}")
    return "; ".join(filter(None, parts))


def _tokens(tokens: list[Any], is_terminal: bool) -> Text:
    """The tokens of a document; a line break is shown where one is."""
    text = Text("  ")
    was_trained = False
    for token in tokens:
        if token is None:
            text.append(" ... ", style=_SHAPE)
            continue
        piece, is_trained = token
        if not is_terminal and is_trained != was_trained:
            text.append("⟦" if is_trained else "⟧")
        was_trained = is_trained
        shown = clean(piece).replace("\n", "⏎\n  ").replace("\t", "→")
        text.append(shown, style=_TRAINED if is_trained else _MASKED)
    if not is_terminal and was_trained:
        text.append("⟧")
    return text
