"""The command line: `headway VERB ...`. It only translates; the work is imported inside each verb.

    exit 0    done
    exit 2    the user can put it right: one line on standard error says what is wrong (`--debug` shows where)
    exit 130  stopped by Ctrl-C; the same command goes on from there

It does not know how anything is done, and loads nothing heavy before a verb asks for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from headway import __version__
from headway.cli import chat_verbs, curate_verbs, data_verbs, plan_verbs, run_verbs, several, table_verbs
from headway.cli.options import app
from headway.errors import HeadwayError

_VERBS = (
    run_verbs,
    table_verbs,
    data_verbs,
    curate_verbs,
    chat_verbs,
    plan_verbs,
)  # importing them registers them, in this order


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; the arguments default to the process's own."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_trace = "--debug" in words  # wherever it stands
    words = [word for word in words if word != "--debug"]
    try:
        several.check(words)
        code = app(words, prog_name="headway", standalone_mode=False)
        sys.stdout.flush()
    except (HeadwayError, typer.BadParameter) as error:
        code = _refuse(error, wants_trace)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if several.has_lost(error):
            several.end(_refuse(several.LOST, wants_trace), several.NOTICED)
        if not hasattr(error, "format_message"):  # typer's own: an unknown verb or option, a missing argument
            raise
        code = _refuse(error, wants_trace)
    if code == 130 and several.speaks():
        print("stopped; the same command goes on from here", file=sys.stderr)
    code = code if isinstance(code, int) else 0
    several.end(code)
    sys.exit(code)


def _refuse(error: Any, wants_trace: bool) -> int:
    """Say in one line what is wrong."""
    from headway.report.markup import clean

    if wants_trace:
        import traceback

        traceback.print_exception(error)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    line = " ".join(clean(message).split())
    several.report(line)
    if line and several.speaks():  # a bare `headway` has printed its help and has no message
        print(f"headway: {line}", file=sys.stderr)
    return 2


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"headway {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of all verbs; `main` reads --debug itself, so that it may stand anywhere."""
