"""A chat: thoughts folded wherever the marks are cut, whole characters, settings, memory, commands, and the pipe."""

import io
import json
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_tokenizer import CHATML, folder_with, user
from tiny_sampler import policy, tokenizer

from headway import cli
from headway.chat.folding import Folding, Piece, parted
from headway.chat.loop import Loop
from headway.chat.screen import Screen, _last_cells
from headway.chat.settings import Settings, changed, checked
from headway.chat.talk import Talk
from headway.cli.folders import checkpoint_folder
from headway.engine.engine import Engine
from headway.errors import CheckpointError, ConfigError, EngineError, RunError
from headway.model.checkpoint import save_decoder
from headway.model.config import DecoderConfig
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import initialise
from headway.serve.wording import Wording

QUESTION = "is 7 odd or is it even, and is 8 even or is it odd?"
ODD = "is 7 odd"

# -- folding


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>\na\n</think>\n\nb", "a\n", "b"),
        ("\n <think>a</think>b\n", "a", "b\n"),
        ("plain <think>x</think>", "", "plain <think>x</think>"),  # a mark in the middle is text
        ("  plain", "", "  plain"),
        ("<thin air", "", "<thin air"),
        ("<think>never ends </thin", "never ends </thin", ""),
        ("<think>a</think>b</think>c", "a", "b</think>c"),
        ("", "", ""),
        ("<", "", "<"),
        ("\n", "", ""),
    ],
)
def test_a_thought_and_an_answer_however_the_text_is_cut(text: str, thought: str, answer: str) -> None:
    for seed in range(20):
        chance, folding, pieces = random.Random(seed), Folding(), list[Piece]()
        rest = text
        while rest:
            size = chance.randrange(1, 5)
            pieces += folding.add(rest[:size])
            rest = rest[size:]
        pieces += folding.finish()
        assert "".join(p.text for p in pieces if p.is_thought).removeprefix("\n") == thought
        assert "".join(p.text for p in pieces if not p.is_thought) == answer
        assert [p.is_thought for p in pieces] == sorted((p.is_thought for p in pieces), reverse=True)  # the thought comes first


def test_a_prompt_may_have_opened_the_thought() -> None:
    assert parted("so it is\n</think>\n\n4", is_thinking=True) == ("so it is\n", "4")
    assert parted("so it is\n</think>\n\n4") == ("", "so it is\n</think>\n\n4")


# -- settings


def test_settings_change_by_name() -> None:
    settings = changed(changed(Settings(), "temperature", "0.7"), "max-tokens", "50")
    assert (settings.temperature, settings.max_tokens) == (0.7, 50)
    assert changed(settings, "show_thinking", "on").show_thinking
    assert changed(settings, "instruction", '""').instruction == ""
    assert checked(settings) is settings


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("temperture", "1", "there is no setting 'temperture'; there are temperature, top_p"),
        ("temperature", "warm", "temperature should be a number from 0 to 100, not 'warm'"),
        ("temperature", "nan", "temperature should be a number from 0 to 100"),
        ("top_p", "0", "top_p should be a number above 0, up to 1"),
        ("top_k", "1.5", "top_k should be a whole number"),
        ("min_p", "1.1", "min_p should be a number from 0 to 1"),
        ("max_tokens", "-1", "max_tokens should be a whole number from 0 on"),
        ("show_thinking", "maybe", "show_thinking should be on or off"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        changed(Settings(), name, value)


# -- the talk


def talk(**settings: object) -> Talk:
    return Talk("tiny", tokenizer(), Engine(policy(), tokenizer().stop_ids), replace(Settings(temperature=1.0), **settings))  # type: ignore[arg-type]


def said(one: Talk, question: str = ODD) -> str:
    pieces: list[Piece] = []
    answer = one.ask(question, one.prompt(question), lambda piece, _: pieces.append(piece))
    assert "".join(piece.text for piece in pieces) == answer.text
    return answer.text


def test_the_same_seed_gives_the_same_conversation_and_retry_another_answer() -> None:
    questions = ["is 7 odd", "is 8 odd", "is 9 odd", "is 1 odd", "is 2 odd", "is 3 odd"]
    first, second, other = talk(max_tokens=6), talk(max_tokens=6), talk(max_tokens=6, seed=5)
    answers = [said(first, question) for question in questions[:2]]
    assert [said(second, question) for question in questions[:2]] == answers
    assert [said(other, question) for question in questions[:2]] != answers
    first.reset()
    assert [said(first, question) for question in questions[:2]] == answers
    tries = set()
    for _ in range(8):
        assert first.take_back() == "is 8 odd"
        assert len(first.turns) == 2
        tries.add(said(first, "is 8 odd"))
    assert len(tries) > 1  # each try has noise of its own
    with pytest.raises(ConfigError, match="nothing has been asked"):
        talk().take_back()


def test_an_answer_is_the_engines_own_sample() -> None:
    one = talk(max_tokens=9)
    assert one.prompt(ODD).ids == tokenizer().prompt_ids(user(ODD))
    answer = one.ask(ODD, one.prompt(ODD), lambda *_: None)
    assert answer.text == "\\boxed{1}" or answer.text.startswith("\\boxed{")
    assert answer.ended == "stopped"
    assert answer.tokens == len(tokenizer().encode(answer.text)) + 1  # and the stop token
    short = talk(max_tokens=2)
    assert short.ask(ODD, short.prompt(ODD), lambda *_: None).ended == "length"


def test_the_oldest_exchanges_leave_where_the_positions_are_full() -> None:
    one = talk(max_tokens=8)  # of 64 positions
    size = len(one.prompt(ODD).ids)
    left_out = []
    for _ in range(9):
        prompt = one.prompt(ODD)
        assert len(prompt.ids) + 8 <= 64
        left_out.append(prompt.left_out)
        one.ask(ODD, prompt, lambda *_: None)
    assert left_out[0] == 0
    assert left_out[-1] > 0
    assert left_out == sorted(left_out)
    assert len(one.turns) == 18  # what left the context is still there to be saved
    assert size == len(tokenizer().prompt_ids(user(ODD)))
    with pytest.raises(EngineError, match="the model has 64 positions in all"):
        one.prompt(ODD * 30)
    wide = talk()  # no limit of its own: as much as there is room for
    assert wide.prompt(ODD).room == 64 - size


THINKER = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
OPENER = CHATML.replace("assistant\n'", "assistant\n<think>\n'")


@pytest.mark.parametrize(("template", "by_template"), [(CHATML, False), (THINKER, True)])
def test_thoughts_of_earlier_turns_are_not_asked_again(template: str, by_template: bool, tmp_path: Path) -> None:
    words = Tokenizer.load(folder_with(tmp_path, template))
    model = initialise(DecoderConfig(words.size, 16, 1, 2, 1, 8, 24, max_positions=512), 0)
    one = Talk("tiny", words, Engine(model, words.stop_ids), Settings(max_tokens=4))
    assert one.drops_thinking is by_template
    one.turns = [*user("a"), {"role": "assistant", "content": "<think>\nsecret\n</think>\n\nyes"}]
    asked = words.decode(one.prompt("b").ids)
    assert "secret" not in asked
    assert "yes" in asked
    one.turns[1] = {"role": "assistant", "content": "<think>\nsecret <|im_end|>\n</think>\n\nno <|im_end|>"}
    asked = words.decode(one.prompt("b").ids)  # a special name: the template does not see the content, so we leave it out
    assert "secret" not in asked
    assert "no <|im_end|>" in asked


def test_a_turn_computes_what_is_new_in_its_prompt_alone(tmp_path: Path) -> None:
    words = Tokenizer.load(folder_with(tmp_path, CHATML))
    model = initialise(DecoderConfig(words.size, 16, 1, 2, 1, 8, 24, max_positions=2048), 0)

    def one() -> Talk:
        return Talk("tiny", words, Engine(model, words.stop_ids), Settings(max_tokens=20, temperature=1.0, top_p=1.0))

    def ask(talk: Talk, number: int) -> str:
        stops: list[int] = []

        def hear(piece: Piece, tokens: int) -> None:
            if number == 2 and tokens > 5:  # this one is interrupted
                stops.append(tokens)

        return talk.ask(QUESTION, talk.prompt(QUESTION), hear, lambda: bool(stops)).text

    kept, fresh = one(), one()
    before = asked = 0
    for number in range(5):
        prompt = len(kept.prompt(QUESTION).ids)
        answer = ask(kept, number)
        fresh._session = None
        assert answer == ask(fresh, number)
        assert kept._session is not None
        computed = kept._session.counts.prompt_tokens - before
        assert 0 < computed <= prompt - asked  # the prompt before is a beginning of this one
        before, asked = kept._session.counts.prompt_tokens, prompt
    assert kept.turns[4:6] == fresh.turns[4:6]
    assert len(words.encode(kept.turns[5]["content"])) < len(words.encode(kept.turns[3]["content"]))  # it was interrupted


def test_a_template_that_opens_the_thought_is_noticed(tmp_path: Path) -> None:
    words = Tokenizer.load(folder_with(tmp_path, OPENER))
    assert (words.opens_thinking, tokenizer().opens_thinking) == (True, False)
    model = initialise(DecoderConfig(words.size, 16, 1, 2, 1, 8, 24, max_positions=512), 0)
    one = Talk("tiny", words, Engine(model, words.stop_ids), Settings(max_tokens=5))
    pieces: list[Piece] = []
    answer = one.ask("x", one.prompt("x"), lambda piece, _: pieces.append(piece))
    assert answer.text.startswith("<think>\n")
    assert answer.thought_tokens == answer.tokens - (answer.ended == "stopped")
    assert all(piece.is_thought for piece in pieces)


def test_characters_come_whole() -> None:
    """Each token of these characters is one byte of them: a piece waits until its character is there."""
    text = "é漢🙂</think>é🙂"
    tokens = tokenizer().encode(text)
    assert len(tokens) > len("é漢🙂é🙂") + 8
    wording, folding, pieces = Wording(tokenizer().decode), Folding(is_thinking=True), list[Piece]()
    for token in tokens:
        pieces += folding.add(wording.add(token))
    pieces += folding.add(wording.finish()) + folding.finish()
    assert [(piece.text, piece.is_thought) for piece in pieces] == [
        ("é", True), ("漢", True), ("🙂", True), ("é", False), ("🙂", False),
    ]  # fmt: skip


# -- the terminal


class Lines:
    """What is typed: texts, or exceptions that a key raises; then the end."""

    def __init__(self, lines: Sequence[str | type[BaseException]]):
        self._lines: Iterator[str | type[BaseException]] = iter(lines)

    def __call__(self, prompt: str) -> str:
        line = next(self._lines, EOFError)
        if isinstance(line, str):
            return line
        raise line


def terminal(one: Talk, *lines: str | type[BaseException]) -> str:
    """What a dumb terminal shows of a conversation."""
    output = io.StringIO()
    Loop(one, Screen(Console(file=output, width=100)), Lines(lines)).run()
    return output.getvalue()


def test_a_conversation_with_commands(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    one = talk(max_tokens=8)
    shown = terminal(
        one, "/help", ODD, "/set temperature 0", "/set warmth 3", "/set seed", "/fly", "/system You are kind.", "/retry",
        f"/save {path}", "", "/reset", "/retry", "/save x", "is 8\\", "odd", f"/save {path}", "/quit", "never read",
    )  # fmt: skip
    assert "/save FILE" in shown
    assert shown.count(" tokens/s, stopped") == 3
    for line in (
        "there is no setting 'warmth'",
        "/set seed needs a value",
        "there is no command /fly",
        "the chat template fails: roles are user and assistant",
        "forgotten",
        "nothing has been asked yet",
        "nothing has been said yet",
        f"line 2 of {path}",
    ):
        assert line in shown, line
    assert one.settings == replace(Settings(), temperature=0.0, max_tokens=8)  # the system turn was refused
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [len(row["messages"]) for row in rows] == [2, 2]
    assert rows[0]["messages"][0] == {"role": "user", "content": ODD}
    assert rows[1]["messages"][0] == {"role": "user", "content": "is 8\nodd"}
    assert rows[1]["settings"]["temperature"] == 0.0
    assert rows[0]["messages"][1]["content"] in shown


def test_the_context_says_that_it_is_full() -> None:
    shown = terminal(talk(max_tokens=8), *[ODD] * 8)
    assert "the context is full: the first " in shown
    assert "exchanges are left out of it now" in shown


def test_the_instruction_is_told_and_asked_with(tmp_path: Path) -> None:
    one = talk(instruction="Box it.", max_tokens=4)
    assert "behind each question" in terminal(one, ODD)
    assert one.turns[0]["content"] == f"{ODD}\nBox it."
    assert one.take_back() == ODD


def test_ctrl_c_ends_the_answer_and_at_the_prompt_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    one = talk(temperature=100.0)  # would go on until the positions are full
    output = io.StringIO()
    screen = Screen(Console(file=output, width=100))
    heard = screen.hear

    def hear(piece: Piece, tokens: int) -> None:
        heard(piece, tokens)
        if tokens >= 2:
            signal.raise_signal(signal.SIGINT)
            monkeypatch.setattr(screen, "hear", heard)

    monkeypatch.setattr(screen, "hear", hear)
    Loop(one, screen, Lines([ODD, KeyboardInterrupt, "never read"])).run()
    assert ", interrupted" in output.getvalue()
    assert len(one.turns) == 2  # what came of it is remembered
    assert signal.getsignal(signal.SIGINT) is before


def fold(show: bool, *pieces: Piece) -> str:
    output = io.StringIO()
    screen = Screen(Console(file=output, width=40, force_terminal=True, color_system=None))
    screen.show_thinking = show
    from headway.chat.talk import Answer

    for number, piece in enumerate(pieces, 1):
        screen.hear(piece, number)
    screen.end(Answer("", len(pieces), sum(piece.is_thought for piece in pieces), 0.5, "stopped"))
    return output.getvalue()


def test_a_thought_is_folded_to_one_line() -> None:
    thought = [Piece(f"step {n}\n", True) for n in range(3)]
    shown = fold(False, *thought, Piece("It is 4.", False))
    assert shown.endswith("thought for 4 tokens\nIt is 4.\n4 tokens, 8.0 tokens/s, stopped\n")
    assert "step 0 step 1 step 2" in shown  # while it lasted, on its one line
    assert fold(False, *thought).endswith("thought for 3 tokens\n3 tokens, 6.0 tokens/s, stopped\n")
    assert "step 0\nstep 1\nstep 2\nthought for 4 tokens\nIt is 4.\n" in fold(True, *thought, Piece("It is 4.", False))


def test_what_a_model_writes_moves_no_cursor() -> None:
    shown = fold(False, Piece("\x1b[2Jgone", True), Piece("\x1b[31mred\x07", False))
    assert "\x1b[2J" not in shown
    assert "\\x1b[31mred\\x07" in shown


def test_the_end_of_a_thought_fits_the_line() -> None:
    assert _last_cells("a b\nc", 10) == "a b c"
    assert _last_cells("abcdef", 3) == "def"
    assert _last_cells("漢字漢字", 5) == "漢字"  # two cells each


# -- the command line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine" / "checkpoints" / "sft" / "final"
    folder.mkdir(parents=True)
    save_decoder(policy(), folder, tokenizer(), {"instruction": "Box it."})
    (folder.parents[2] / "recipe.json").write_text("{}")
    return folder


class Piped(io.StringIO):
    """Standard input that is no terminal."""

    def isatty(self) -> bool:
        return False


def piped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.stdin", Piped(text))
    with pytest.raises(SystemExit) as ended:
        cli.main(["chat", *words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_pipe_gets_the_answer_alone(checkpoint, monkeypatch, capsys) -> None:
    one = Talk("x", tokenizer(), Engine(policy(), tokenizer().stop_ids), Settings(temperature=0.0, instruction="Box it."))
    answer = said(one)
    assert piped(monkeypatch, capsys, f"{ODD}\n", str(checkpoint), "--temperature", "0") == (0, f"{answer}\n", "")
    plain = Talk("x", tokenizer(), Engine(policy(), tokenizer().stop_ids), Settings(temperature=1.0, seed=3, max_tokens=7))
    words = ["--temperature", "1", "--seed", "3", "--max-tokens", "7", "--instruction", ""]
    assert piped(monkeypatch, capsys, ODD, str(checkpoint), *words) == (0, f"{said(plain)}\n", "")


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("", [], "standard input is empty"),
        (ODD, ["--top-p", "0"], "top_p should be a number above 0"),
        (ODD, ["--temperature", "-1"], "temperature should be"),
        (ODD, ["--system", "Be kind."], "roles are user and assistant"),
        (ODD * 40, [], "the model has 64 positions in all"),
        (ODD, ["--colour", "red"], "No such option"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(checkpoint, monkeypatch, capsys, text, words, message) -> None:
    code, out, err = piped(monkeypatch, capsys, text, str(checkpoint), *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_checkpoint_that_is_none_is_one_line(monkeypatch, capsys, tmp_path) -> None:
    for name in (str(tmp_path / "nowhere"), str(tmp_path)):
        code, out, err = piped(monkeypatch, capsys, ODD, name)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("headway: ")


def test_a_run_and_a_stage_name_their_weights(checkpoint, monkeypatch, tmp_path) -> None:
    run = checkpoint.parents[2]
    assert checkpoint_folder(str(run)) == str(checkpoint)
    assert checkpoint_folder(str(checkpoint)) == str(checkpoint)
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(run.parent)
    assert checkpoint_folder("mine") == "runs/mine/checkpoints/sft/final"
    assert checkpoint_folder("mine/sft") == "runs/mine/checkpoints/sft/final"
    with pytest.raises(RunError, match="the stage rl has no finished weights"):
        checkpoint_folder("mine/rl")
    assert checkpoint_folder("owner/name") == "owner/name"
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(RunError, match="no finished stage"):
        checkpoint_folder(str(tmp_path))


def test_a_refused_template_leaves_the_old_settings() -> None:
    one = talk()
    with pytest.raises(CheckpointError, match="roles are user and assistant"):
        one.change(replace(one.settings, system="x"))
    assert one.settings.system == ""
