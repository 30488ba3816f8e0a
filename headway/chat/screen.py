"""What a chat shows: answers as they come, thoughts folded to one line, notes and mistakes.

    a terminal   the end of the thought runs in one dim line, which becomes "thought for N tokens"; then the answer, a dim line
                 of how it went
    a pipe       the answer's text, nothing else

Whatever a model wrote passes through `clean`: it moves no cursor and sets no colour. It does not know how answers come about.
"""

from __future__ import annotations

import sys

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from headway.chat.folding import Piece
from headway.chat.talk import Answer
from headway.report.markup import clean

_TAIL = 400  # characters of a thought that its line may show the end of


class PipeScreen:
    """Standard output for the next program: the answer's text, its thought only where asked for."""

    def __init__(self, show_thinking: bool):
        self._show_thinking, self._is_silent = show_thinking, True

    def hear(self, piece: Piece, tokens: int) -> None:
        """Write an answer's piece at once."""
        if self._show_thinking or not piece.is_thought:
            self._is_silent = False
            print(clean(piece.text), end="", flush=True)

    def end(self, answer: Answer) -> None:
        """End the line; a thought that was all there came is told on standard error."""
        print(flush=True)
        if self._is_silent and answer.thought_tokens:
            said = f"no answer: {answer.thought_tokens} tokens of thought and no end ({answer.ended}); --show-thinking shows them"
            print(said, file=sys.stderr)


class Screen:
    """A terminal."""

    def __init__(self, console: Console):
        self.console, self.show_thinking = console, False
        self._line: Live | None = None
        self._tail, self._has_thought, self._is_midline = "", False, False

    def note(self, text: str) -> None:
        """A dim line."""
        self.console.print(Text(clean(text), style="dim"), soft_wrap=True)

    def refuse(self, error: Exception) -> None:
        """What was wrong with a command, in one line."""
        self.console.print(Text(" ".join(clean(error).split()), style="red"), soft_wrap=True)

    def hear(self, piece: Piece, tokens: int) -> None:
        """Show a piece at once."""
        if piece.is_thought:
            self._think(piece.text)
            return
        if self._has_thought:
            self._fold(tokens)
        self._write(piece.text)

    def end(self, answer: Answer) -> None:
        """Fold a thought that never ended, and say how it went."""
        if self._has_thought:
            self._fold(answer.thought_tokens)
        if self._is_midline:
            self._write("\n")
        rate = f", {answer.tokens / answer.seconds:.1f} tokens/s" if answer.seconds > 0 else ""
        self.note(f"{answer.tokens} token{'s' * (answer.tokens != 1)}{rate}, {answer.ended}")

    def drop(self) -> None:
        """Leave an answer that was broken off as it stands."""
        if self._line is not None:
            self._line.stop()
        if self._is_midline:
            self._write("\n")
        self._line, self._tail, self._has_thought = None, "", False

    def _think(self, text: str) -> None:
        self._has_thought = True
        if self.show_thinking:
            self._write(text, "dim")
            return
        self._tail = (self._tail + clean(text))[-_TAIL:]
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            return
        if self._line is None:
            self._line = Live(console=self.console, transient=True, auto_refresh=False)
            self._line.start()
        self._line.update(Text(_last_cells(self._tail, self.console.width - 1), style="dim", no_wrap=True), refresh=True)

    def _fold(self, tokens: int) -> None:
        self.drop()
        self.note(f"thought for {tokens} token{'s' * (tokens != 1)}")

    def _write(self, text: str, style: str | None = None) -> None:
        if text:
            self.console.out(clean(text), end="", style=style, highlight=False)
            self._is_midline = not text.endswith("\n")


def _last_cells(text: str, width: int) -> str:
    """The end of a text on one line that is at most `width` cells wide."""
    text = " ".join(text.split())
    start = max(0, len(text) - width)
    while cell_len(text[start:]) > width:
        start += 1
    return text[start:]


def terminal() -> Screen:
    """The screen of this process."""
    return Screen(Console(file=sys.stdout))
