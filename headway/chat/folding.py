"""An answer as it comes, parted into its thought and what it says.

    "<th" "ink>a" "b</thi" "nk>\\n\\nc"    -->    (thought "a") (thought "b") (answer "c")

The thought is what stands in `<think>` and `</think>` at the beginning, or before `</think>` where the prompt opened it. Marks
that come in pieces are held back until they are certain; elsewhere in an answer they are text. It knows no tokens and no screen.
"""

from __future__ import annotations

from dataclasses import dataclass

from headway.serve.wording import overlap

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the answer. Example: ``Piece("so x = 4", is_thought=True)``."""

    text: str
    is_thought: bool


class Folding:
    """One answer. `is_thinking`: it begins inside a thought. It is "thinking", "before" (either may come) or "after"."""

    def __init__(self, is_thinking: bool = False):
        self._state = "thinking" if is_thinking else "before"
        self._held = ""
        self._is_bare = True  # nothing of the answer has been said, so white space before it is left out

    @property
    def is_thinking(self) -> bool:
        """Is the thought open?"""
        return self._state == "thinking"

    def add(self, text: str) -> list[Piece]:
        """What is certain now."""
        self._held += text
        pieces: list[Piece] = []
        if self._state == "before":
            begun = self._held.lstrip()
            if begun.startswith(OPEN):
                self._state, self._held = "thinking", begun[len(OPEN) :].removeprefix("\n")
            elif OPEN.startswith(begun):
                return []
            else:
                self._state, self._is_bare = "after", False
        if self._state == "thinking":
            thought, mark, rest = self._held.partition(CLOSE)
            if mark:
                self._state = "after"
            else:
                keep = overlap(self._held, CLOSE)
                thought, rest = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
            self._held = rest
            pieces += [Piece(thought, True)] if thought else []
        return pieces + self._answer()

    def finish(self) -> list[Piece]:
        """The rest, at the answer's end."""
        if self._state == "before":
            self._state = "after"
        if self._state == "after":
            return self._answer()
        rest, self._held = self._held, ""
        return [Piece(rest, True)] if rest else []

    def _answer(self) -> list[Piece]:
        if self._state != "after":
            return []
        text = self._held.lstrip() if self._is_bare else self._held
        self._is_bare, self._held = self._is_bare and not text, ""
        return [Piece(text, False)] if text else []


def parted(text: str, is_thinking: bool = False) -> tuple[str, str]:
    """(thought, answer) of a whole text."""
    folding = Folding(is_thinking)
    pieces = folding.add(text) + folding.finish()
    return tuple("".join(piece.text for piece in pieces if piece.is_thought is which) for which in (True, False))  # type: ignore[return-value]
