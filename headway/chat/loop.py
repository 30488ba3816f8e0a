"""`headway chat`: one question from a pipe, or a conversation with commands in a terminal.

    > 2+2?               a question; a line that ends in \\ goes on in the next
    > /set top_p 0.9     a command, see HELP
    Ctrl-C               while an answer comes: it ends there; at the prompt: the chat ends (as with Ctrl-D and /quit)

It does not know how an answer is sampled (`talk`) or shown (`screen`).
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType

from headway.chat.screen import PipeScreen, Screen, terminal
from headway.chat.settings import Settings, changed, checked
from headway.chat.talk import Talk
from headway.errors import ConfigError, HeadwayError
from headway.model.checkpoint import read_extra
from headway.serve.loading import load_engine

HELP = """/set NAME VALUE   change a setting; /set alone shows all
/system TEXT      the system turn; /system alone takes it away
/retry            the last question again, with other noise
/reset            forget the conversation
/save FILE        add the conversation to FILE as a line of JSON
/help, /quit"""

Read = Callable[[str], str]  # prompt -> line; EOFError at the end


def chat(checkpoint: str, settings: Settings, instruction: str | None, device: str = "auto") -> None:
    """Load a checkpoint and talk. `instruction` None: what the checkpoint was trained with, where it says so.

    Raises what loading raises; ConfigError for settings out of range, a template that refuses them, an empty standard input.
    """
    checked(settings)
    question = "" if sys.stdin.isatty() else _piped()
    tokenizer, engine = load_engine(checkpoint, device)
    if instruction is None:
        instruction = str(read_extra(checkpoint).get("instruction", ""))
    talk = Talk(checkpoint, tokenizer, engine, replace(settings, instruction=instruction))
    if question:
        answer_once(talk, question)
    else:
        screen = terminal()
        read = _prompt(screen)
        Loop(talk, screen, read).run()


def answer_once(talk: Talk, question: str) -> None:
    """Print the answer to one question as it comes."""
    screen = PipeScreen(talk.settings.show_thinking)
    answer = talk.ask(question, talk.prompt(question), screen.hear)
    screen.end(answer)


def _piped() -> str:
    try:
        question = sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None
    if not question:
        raise ConfigError("standard input is empty: it should hold a question (in a terminal, headway chat asks for them)")
    return question


def _prompt(screen: Screen) -> Read:
    """Lines with the editing and history that the system offers."""
    try:
        import readline  # noqa: F401 - input() uses it once it is there
    except ImportError:
        screen.note("no line editing: this Python has no readline")
    return input


class Loop:
    """A conversation in a terminal; `read` gives the next line."""

    def __init__(self, talk: Talk, screen: Screen, read: Read):
        self._talk, self._screen, self._read = talk, screen, read
        self._commands: dict[str, Callable[[str], None]] = {
            "set": self._set,
            "system": lambda text: self._change(replace(self._talk.settings, system=text)),
            "retry": lambda _: self._ask(self._talk.take_back()),
            "reset": self._reset,
            "save": self._save,
            "help": lambda _: self._screen.note(HELP),
        }

    def run(self) -> None:
        """Until /quit, Ctrl-D, or Ctrl-C at the prompt."""
        self._greet()
        while True:
            try:
                line = self._line().strip()
            except (EOFError, KeyboardInterrupt):
                self._screen.console.print()
                return
            command, _, rest = line.removeprefix("/").partition(" ")
            try:
                if not line.startswith("/"):
                    if line:
                        self._ask(line)
                elif command == "quit":
                    return
                elif command in self._commands:
                    self._commands[command](rest.strip())
                else:
                    raise ConfigError(f"there is no command /{command}; /help lists them")
            except HeadwayError as error:
                self._screen.refuse(error)
            except KeyboardInterrupt:  # the second one of an answer
                self._screen.drop()
                self._screen.note("broken off; this question is not remembered")

    def _greet(self) -> None:
        settings, who = self._talk.settings, "the chat template" if self._talk.drops_thinking else "headway"
        self._screen.note(f"{self._talk.name}: ask, or /help. Thoughts of earlier turns are left out of the context by {who}.")
        if settings.instruction:
            self._screen.note(f'behind each question (/set instruction "" takes it away): {settings.instruction}')

    def _line(self) -> str:
        line = self._read("> ")
        while line.endswith("\\"):
            line = f"{line[:-1]}\n{self._read('. ')}"
        return line

    def _ask(self, question: str) -> None:
        prompt = self._talk.prompt(question)
        if prompt.fresh:
            self._screen.note(f"the context is full: the first {prompt.left_out} exchanges are left out of it now")
        self._screen.show_thinking = self._talk.settings.show_thinking
        with _interrupts() as times:
            answer = self._talk.ask(question, prompt, self._screen.hear, lambda: bool(times))
        self._screen.end(answer)

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not name:
            own = self._talk.settings
            self._screen.note("\n".join(f"{field.name} {getattr(own, field.name)!r}" for field in fields(own)))
        elif not value.strip():
            raise ConfigError(f"/set {name} needs a value")
        else:
            self._change(changed(self._talk.settings, name, value))

    def _change(self, settings: Settings) -> None:
        self._talk.change(settings)

    def _reset(self, _: str) -> None:
        self._talk.reset()
        self._screen.note("forgotten")

    def _save(self, text: str) -> None:
        if not text:
            raise ConfigError("/save needs a file's name")
        if not self._talk.turns:
            raise ConfigError("nothing has been said yet")
        self._screen.note(f"line {self._talk.save(Path(text).expanduser())} of {text}")


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that is not empty any more after Ctrl-C; the second one breaks off at once. Only the main thread hears it."""
    times: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield times
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        times.append(number)
        if len(times) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield times
    finally:
        signal.signal(signal.SIGINT, before)
