"""Tokens to text as they come, up to the first stop string. One object a sample.

A token may end within a character, and the text of a token may depend on the one before: so a piece is what the last few tokens
say with the new one beyond what they say without it, once that is whole. Text that may be the beginning of a stop string is held
back. All pieces together are the text, cut before the stop string. It does not know what a token costs or who listens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HELD = 12  # tokens after which a character that is still not whole is taken as it is


class Wording:
    """`decode` turns token ids into text (stop tokens into nothing); `stops` are stop strings, none empty."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()):
        self._decode, self._stops = decode, stops
        self._tokens: list[int] = []
        self._from = self._told = 0  # tokens[from:told] are the context, tokens[told:] not in the text yet
        self._held = ""  # text that may begin a stop string
        self.is_stopped = False

    def add(self, token: int) -> str:
        """The text that is certain now; "" where none is. After a stop string: always ""."""
        if self.is_stopped:
            return ""
        self._tokens.append(token)
        whole = self._decode(self._tokens[self._from :])
        if whole.endswith("\ufffd") and len(self._tokens) - self._told < _HELD:
            return ""
        return self._release(self._piece(whole), is_last=False)

    def finish(self) -> str:
        """The rest of the text, at the sample's end."""
        if self.is_stopped:
            return ""
        return self._release(self._piece(self._decode(self._tokens[self._from :])), is_last=True)

    def _piece(self, whole: str) -> str:
        before = self._decode(self._tokens[self._from : self._told])
        self._from, self._told = self._told, len(self._tokens)
        return whole[len(before) :]

    def _release(self, piece: str, is_last: bool) -> str:
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        keep = 0 if is_last else max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`, without being all of it."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
