"""The command line, as it is called from outside: `main`, its `app`, and what `--run NAME` means."""

from headway.cli.entry import main
from headway.cli.folders import run_folder
from headway.cli.options import app

__all__ = ["app", "main", "run_folder"]
