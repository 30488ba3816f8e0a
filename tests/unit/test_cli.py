"""The command line's frame: exit codes, one-line errors, and no control character from foreign text."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from headway import __version__, cli
from headway.cli import table_verbs
from headway.errors import ConfigError, RunError
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict


def headway(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`headway WORDS` in a process of its own."""
    return subprocess.run([sys.executable, "-m", "headway", *words], cwd=folder, capture_output=True, text=True)


def run_here(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """`headway WORDS` in this process: exit code, output, errors."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    output = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, output.out, output.err


@pytest.fixture
def verb(monkeypatch):
    """A function that gives the command line one more verb, `try`, for the length of the test."""
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))

    def register(function):
        cli.app.command("try")(function)

    return register


def test_help_names_the_verbs():
    for words in (["--help"], ["-h"]):
        result = headway(*words)
        assert result.returncode == 0
        assert all(verb in result.stdout for verb in ("sql", "show", "--debug", "--version"))
        assert result.stderr == ""


def test_version():
    result = headway("--version")
    assert (result.returncode, result.stdout) == (0, f"headway {__version__}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sqk", "select 1"], "No such command 'sqk'"),
        (["sql"], "Missing argument 'query'"),
        (["sql", "select 1", "--jason"], "No such option: --jason"),
        (["--nonsense"], "No such option: --nonsense"),
        (["show", "a", "b"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(capsys, words, message):
    code, output, errors = run_here(capsys, *words)
    assert (code, output) == (2, "")
    assert errors.startswith("headway: ")
    assert message.lower() in errors.lower()
    assert errors.count("\n") == 1


def test_a_headway_error_is_one_line_and_exit_2(capsys, verb):
    @verb
    def fail() -> None:
        raise ConfigError("the key\n'rl.\x1b[31mstps' is unknown")

    code, output, errors = run_here(capsys, "try")
    assert (code, output) == (2, "")
    assert errors == "headway: the key 'rl.\\x1b[31mstps' is unknown\n"


@pytest.mark.parametrize("words", [("--debug", "try"), ("try", "--debug")])
def test_debug_shows_the_trace_wherever_it_stands(capsys, verb, words):
    @verb
    def fail() -> None:
        raise RunError("in use")

    code, _, errors = run_here(capsys, *words)
    assert code == 2
    assert "Traceback" in errors
    assert "in fail" in errors
    assert errors.endswith("headway: in use\n")


def test_our_own_mistake_is_not_dressed_up(verb):
    @verb
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_ctrl_c_says_that_the_command_goes_on_from_here(capsys, verb):
    @verb
    def stop() -> None:
        raise KeyboardInterrupt

    code, _, errors = run_here(capsys, "try")
    assert (code, errors) == (130, "stopped; the same command goes on from here\n")


def test_a_verb_can_set_its_exit_code(capsys, verb):
    @verb
    def leave() -> None:
        raise typer.Exit(3)

    assert run_here(capsys, "try") == (3, "", "")


def test_a_reader_that_leaves_is_no_error():
    code = (
        "from headway import cli\n@cli.app.command('try')\ndef f():\n  for _ in range(10**5): print('x' * 100)\ncli.main(['try'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_the_run_that_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"say which run with --run NAME \(under runs/: none so far\)"):
        cli.run_folder("")
    for name in ("one", "two"):
        Path("runs", name).mkdir(parents=True)
    Path("runs/one/recipe.json").write_text("{}")
    assert cli.run_folder("") == Path("runs/one")
    assert cli.run_folder("one") == Path("runs/one")
    assert cli.run_folder("runs/one") == Path("runs/one")
    with pytest.raises(RunError, match="there is no run 'two'"):
        cli.run_folder("two")
    Path("runs/two/recipe.json").write_text("{}")
    with pytest.raises(RunError, match="under runs/: one, two"):
        cli.run_folder("")


def test_a_run_without_rollouts_is_one_line(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    result = headway("sql", "select 1", "--run", str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.startswith("headway: ")
    assert "store is missing: there are no rollouts to read" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def run_with_rollouts(tmp_path: Path) -> str:
    """A run's folder with one problem and two judged rollouts, one of them hostile."""
    (tmp_path / "recipe.json").write_text("{}")
    problem = Problem.make("mine", "sums", "What is\n1 + 1?", "2", Split.TRAIN)
    texts = ("It is \\boxed{2}", "It is \x1b[31m3\x07\n\\boxed{3}")
    rollouts = [
        Rollout.make(problem.id, "rl", 4, index, "tiny/rl@4", text, stop_reason=StopReason.STOP, token_ids=(1, 2))
        for index, text in enumerate(texts)
    ]
    outcomes = (Outcome.CORRECT, Outcome.WRONG)
    store = Store(tmp_path / "store")
    store.add_problems([problem], "problems")
    store.add_rollouts(rollouts, "rl/4")
    verdicts = [Verdict(r.id, "rules@1", outcome) for r, outcome in zip(rollouts, outcomes, strict=True)]
    store.add_verdicts(verdicts, "rl/4")
    return str(tmp_path)


def test_sql_prints_rows(capsys, run_with_rollouts):
    query = "select outcome, count(*) as n from verdicts group by outcome order by outcome"
    assert run_here(capsys, "sql", query, "--run", run_with_rollouts) == (0, "outcome\tn\ncorrect\t1\nwrong\t1\n", "")
    code, output, _ = run_here(capsys, "sql", "select text from rollouts order by index", "--run", run_with_rollouts, "--json")
    assert code == 0
    assert [json.loads(line)["text"][:6] for line in output.splitlines()] == ["It is ", "It is "]
    assert "\x1b" not in output
    code, output, errors = run_here(capsys, "sql", "select nothing from nowhere", "--run", run_with_rollouts)
    assert (code, output, errors.count("\n")) == (2, "", 1)


def test_show_prints_a_rollout_with_its_verdict_and_problem(capsys, run_with_rollouts):
    _, ids, _ = run_here(capsys, "sql", "select id from rollouts where index = 1", "--run", run_with_rollouts)
    code, output, _ = run_here(capsys, "show", ids.split()[1][:12], "--run", run_with_rollouts)
    assert code == 0
    for part in ("rollout:", "verdict: rules@1 wrong", "problem:", "step: 4", "token_ids: (2)", "reference: 2"):
        assert part in output
    assert "  text: \n    It is \\x1b[31m3\\x07\n    \\boxed{3}\n" in output
    assert "  question: \n    What is\n    1 + 1?\n" in output


def test_show_prints_a_problem_with_its_rollouts(capsys, run_with_rollouts):
    problem = Problem.make("mine", "sums", "What is\n1 + 1?", "2", Split.TRAIN)
    code, output, _ = run_here(capsys, "show", problem.id, "--run", run_with_rollouts)
    assert code == 0
    assert [line.split("\t")[7] for line in output.splitlines() if "\t" in line] == ["outcome", "correct", "wrong"]


def test_show_of_an_unknown_id_is_one_line(capsys, run_with_rollouts):
    code, output, errors = run_here(capsys, "show", "zzzz", "--run", run_with_rollouts)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "'zzzz'" in errors


def test_rows_in_a_pipe_are_tab_separated_and_escaped(capsys):
    table_verbs._print_rows(["id", "text"], [["a", "x\ty\nz\x1b[31m"], [None, 0.5]])
    assert capsys.readouterr().out == "id\ttext\na\tx\\ty\\nz\\x1b[31m\n\t0.5\n"


def test_rows_in_a_terminal_carry_no_foreign_control_character():
    code = "from headway.cli.table_verbs import _print_rows; _print_rows(['id', '[red]t'], [['a', 'x\\x1b]0;evil\\x07 [bold]y']])"
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env=os.environ | {"TERM": "dumb", "COLUMNS": "80"}):
        pass
    os.close(theirs)
    output = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "x\\x1b]0;evil\\x07 [bold]y" in output
    assert "[red]t" in output
    assert "\x07" not in output
