"""What the README and the pages beside it name is there: paths, links, and commands that the command line understands."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from headway.cli import app
from headway.recipe import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "dev" / "RUNBOOK.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [page for page in PAGES if page.name not in ("cli.md", "metrics.md", "store.md")]  # the others are generated
FOLDERS = "headway|recipes|docs|dev|tests|benchmarks"


def by_name(page: Path) -> str:
    return page.name


def paths(text: str) -> set[str]:
    """Paths into the repository that a text names, in its code or as the first word of a line of a file map."""
    return set(re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*[\w/])", text))


def links(text: str) -> set[str]:
    return {target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target}


def commands(text: str) -> list[str]:
    """Every `headway ...` command: a line of a console block after "$ ", or inline code."""
    text = text.replace("\\\n", " ")
    inline = re.findall(r"`(headway [^`]+)`", text)
    lines = re.findall(r"^\$ (headway .+)$", text, re.MULTILINE)
    return [re.sub(r"\s{2,}#.*", "", command) for command in inline + lines if "..." not in command]


def parsed(command: str) -> str:
    """The command's verb, once its arguments are parsed as the command line would; nothing is run."""
    words = shlex.split(command)[1:]
    group = get_command(app)
    if words[0].startswith("-"):
        assert words[0] in {"--help", "--version", "--debug"}
        return words[0]
    verbs = getattr(group, "commands")  # noqa: B009 (typer's type does not tell)
    assert words[0] in verbs, f"{words[0]} is no verb"
    parameters = verbs[words[0]].make_context(words[0], words[1:]).params
    recipe = parameters.get("recipe", "")
    if recipe and (ROOT / recipe).is_file():
        load_recipe(ROOT / recipe, parameters.get("overrides") or [])
    return words[0]


@pytest.mark.parametrize("page", WRITTEN, ids=by_name)
def test_every_path_is_there(page):
    text = page.read_text(encoding="utf-8")
    assert [path for path in sorted(paths(text)) if not (ROOT / path).exists()] == []
    assert [target for target in sorted(links(text)) if target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=by_name)
def test_every_command_is_understood(page):
    assert all(parsed(command) for command in commands(page.read_text(encoding="utf-8")))


def test_the_readme_names_enough_to_be_tested():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"run", "report", "compare", "show", "sql"} <= {parsed(command) for command in commands(text)}
    assert len(paths(text)) > 20


@pytest.mark.parametrize("command", ["headway fly", "headway run", "headway run recipes/tiny.toml --sett a=1"])
def test_a_wrong_command_is_seen(command):
    with pytest.raises(Exception, match=r"no verb|Missing|No such option"):
        parsed(command)


def test_a_wrong_key_in_a_command_is_seen():
    with pytest.raises(Exception, match="nearest key"):
        parsed("headway run recipes/tiny.toml --set rl.stepz=3")


def test_a_wrong_path_is_seen():
    assert paths("see `headway/nowhere.py`, docs/recipe.md and /elsewhere/docs/x") == {"headway/nowhere.py", "docs/recipe.md"}


def test_the_readme_sends_make_only_to_targets_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake (\w+)", re.sub(r"`?make and", "", text)))
    assert {"demo", "test"} <= targets
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
