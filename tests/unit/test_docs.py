"""The pages beside the code say what the code says."""

from pathlib import Path

import pytest
from test_house import FLOORS
from typer.main import get_command

from headway.cli import app

ROOT = Path(__file__).parents[2]


def verbs() -> dict[str, list[str]]:
    """Each verb with its long options."""
    commands = getattr(get_command(app), "commands")  # noqa: B009 (typer's type does not tell)
    return {name: [o for p in command.params for o in p.opts if o.startswith("--")] for name, command in commands.items()}


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_the_manual_of_the_command_line_is_fresh(verb):
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert f"## `headway {verb}`" in text, "run `make docs`"
    section = text.split(f"## `headway {verb}`")[1].split("\n## ")[0]
    assert [option for option in verbs()[verb] if f"`{option}" not in section and f" {option}" not in section] == []


def test_contributing_names_every_part_of_the_house():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    parts = [part for part in FLOORS if not part.startswith("__")]
    assert [part for part in parts if f"`{part}`" not in text and f"`{part}/`" not in text] == []


def test_the_makefile_has_the_targets_that_the_pages_name():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in text for target in ("demo", "test", "check", "docs", "clean"))
