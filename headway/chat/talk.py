"""A conversation with a checkpoint: what it remembers, how it is asked, and an answer token by token.

    question --template over what is remembered--> prompt ids --engine's session--> tokens --wording--> text as it comes

    remembered   the turns of the conversation, without the thoughts of earlier answers, and without the oldest exchanges where
                 the model's positions do not hold them all
    cached       the tokens of the last turns in the model's cache: of the next prompt only what is new is computed
    noise        a function of (seed, number of the question, try): the same questions under the same seed get the same answers

It does not know what is shown of an answer (`screen`) nor the commands (`loop`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from headway.chat.folding import OPEN, Folding, Piece, parted
from headway.chat.settings import Settings
from headway.durable import write_atomic
from headway.engine.engine import Engine, InFlight, Session
from headway.engine.sampling import sample_key
from headway.errors import ConfigError, DataError, EngineError
from headway.model.tokenizer import Tokenizer
from headway.problems.prompt import asked
from headway.serve.wording import Wording
from headway.types import Request

_ROOM = 4  # a question is asked with at least a fourth of the positions left, or `max_tokens` if that is less

Hear = Callable[[Piece, int], None]  # (new text, tokens so far)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came. Example: ``Answer("4", tokens=2, thought_tokens=0, seconds=0.1, ended="stopped")``.

    `text` is all of it, with the mark that opens a thought where the prompt wrote that. `ended`: stopped, length or interrupted.
    """

    text: str
    tokens: int
    thought_tokens: int
    seconds: float
    ended: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as the model gets it. `left_out` exchanges do not fit any more, `fresh` of them since the last question."""

    ids: tuple[int, ...]
    room: int
    left_out: int
    fresh: int


class Talk:
    """One conversation. Raises CheckpointError where the template cannot ask, as with a system turn that it does not have."""

    def __init__(self, name: str, tokenizer: Tokenizer, engine: Engine, settings: Settings):
        self.name, self.settings, self.turns = name, settings, list[dict[str, str]]()
        self._tokenizer, self._engine = tokenizer, engine
        self._positions = engine.model.config.max_positions
        self._opens, self.drops_thinking = tokenizer.opens_thinking, tokenizer.drops_thinking
        self._questions: list[str] = []  # as typed
        self._left_out = 0
        self._tries: dict[int, int] = {}  # how often a question, by its number, was asked again
        self._session: Session | None = None
        self._hears: Callable[[list[InFlight]], None] = lambda _: None
        self.change(settings)

    def _hear(self, sequences: list[InFlight]) -> None:
        self._hears(sequences)

    def change(self, settings: Settings) -> None:
        """Go on with other settings; where the template refuses them, the old ones stay."""
        self._tokenizer.prompt_ids([*_system(settings), {"role": "user", "content": asked("x", settings.instruction)}])
        self.settings = settings

    def reset(self) -> None:
        """Forget everything said."""
        self.turns, self._questions, self._left_out, self._tries = [], [], 0, {}

    def prompt(self, question: str) -> Prompt:
        """The question behind what is remembered. EngineError where not even the question alone fits."""
        said = {"role": "user", "content": asked(question, self.settings.instruction)}
        wanted = min(self.settings.max_tokens or self._positions, max(1, self._positions // _ROOM))
        first = before = self._left_out
        while True:
            ids = self._tokenizer.prompt_ids([*_system(self.settings), *map(self._remembered, self.turns[2 * first :]), said])
            if len(ids) + wanted <= self._positions or 2 * first >= len(self.turns):
                break
            first += 1
        if len(ids) >= self._positions:
            raise EngineError(f"the question has {len(ids)} tokens; the model has {self._positions} positions in all")
        room = self._positions - len(ids)
        return Prompt(ids, min(room, self.settings.max_tokens or room), first, first - before)

    def ask(self, question: str, prompt: Prompt, hear: Hear, is_stopped: Callable[[], bool] = lambda: False) -> Answer:
        """Sample the answer to a `prompt(question)` and remember both. `hear` gets each piece; `is_stopped` ends it early."""
        settings = self.settings
        number = len(self._questions)
        key = sample_key(settings.seed, "chat", number, self._tries.get(number, 0))
        own = settings.temperature, settings.top_p, settings.top_k, settings.min_p
        answer = self._sample(Request(prompt.ids, (key,), prompt.room, *own), hear, is_stopped)
        self._left_out = prompt.left_out
        said = {"role": "user", "content": asked(question, settings.instruction)}
        self.turns += [said, {"role": "assistant", "content": answer.text}]
        self._questions.append(question)
        return answer

    def take_back(self) -> str:
        """Forget the last exchange and return its question; asked again, it gets another answer. ConfigError without one."""
        if not self._questions:
            raise ConfigError("nothing has been asked yet")
        question = self._questions.pop()
        del self.turns[-2:]
        number = len(self._questions)
        self._tries[number] = self._tries.get(number, 0) + 1
        return question

    def save(self, path: Path) -> int:
        """Add the conversation as one line of a JSONL file, with the settings; the number of lines it has then."""
        messages = [*_system(self.settings), *self.turns]
        row: dict[str, Any] = {"messages": messages, "model": self.name, "settings": asdict(self.settings)}
        try:
            before = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}") from None
        text = before + ("\n" if before and not before.endswith("\n") else "") + json.dumps(row, ensure_ascii=False) + "\n"
        write_atomic(path, text)
        return text.count("\n")

    def _remembered(self, turn: dict[str, str]) -> dict[str, str]:
        """A turn as later ones see it: an answer without its thought, unless the template leaves that out by itself."""
        text = turn["content"]
        if turn["role"] == "user" or (self.drops_thinking and not self._tokenizer.names_special(text)):
            return turn
        return turn | {"content": parted(text)[1]}

    @torch.inference_mode()
    def _sample(self, request: Request, hear: Hear, is_stopped: Callable[[], bool]) -> Answer:
        wording, folding = Wording(self._tokenizer.decode), Folding(self._opens)
        text = f"{OPEN}\n" if self._opens else ""
        tokens = thought_tokens = 0
        ended = "length"

        def say(new: str, pieces: list[Piece]) -> None:
            nonlocal text
            text += new
            for piece in pieces:
                hear(piece, tokens)

        def watch(sequences: list[InFlight]) -> None:
            nonlocal tokens, thought_tokens, ended
            token = sequences[0].tokens[-1]
            tokens += 1
            if token in self._tokenizer.stop_ids:
                ended = "stopped"
                return
            was_thinking = folding.is_thinking
            new = wording.add(token)
            say(new, folding.add(new))
            thought_tokens += was_thinking or folding.is_thinking

        started = time.monotonic()
        session, self._session = self._session or self._engine.session(1, self._hear, keeps=True), None
        self._hears = watch
        session.add(0, request)
        while session.step():
            if is_stopped():
                ended, self._hears = "interrupted", lambda _: None
                session.drop(0, 0)
        session.collect()
        session.forget(0)
        self._session = session  # not where something was raised: it would be in the middle of a step
        seconds = time.monotonic() - started
        new = wording.finish()
        say(new, folding.add(new) + folding.finish())
        return Answer(text, tokens, thought_tokens, seconds, ended)


def _system(settings: Settings) -> list[dict[str, str]]:
    return [{"role": "system", "content": settings.system}] if settings.system else []
