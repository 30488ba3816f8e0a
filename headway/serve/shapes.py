"""Completions in OpenAI's JSON: whole, and as the pieces of a stream.

    chat   {"choices": [{"index", "message": {"role", "content"}, "logprobs", "finish_reason"}], "usage": {...}}
    text   {"choices": [{"index", "text", "logprobs", "finish_reason"}], "usage": {...}}

Log-probs are the engine's: of the sampled token, in nats, under the distribution that it was sampled from (at the request's
temperature and top_p). The stop token counts and has its entry, with an empty text. It does not know how text is made.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headway.types import StopReason

FINISH = {StopReason.STOP: "stop", StopReason.LENGTH: "length"}


@dataclass(slots=True)
class Sample:
    """One sample as it is answered: its text, its tokens with their log-probs, and why it ended ("" while it runs)."""

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    finish: str = ""


class Shape:
    """The JSON of one response. `word` gives the text of one token."""

    def __init__(self, kind: str, model: str, word: Callable[[int], str]):
        self._is_chat, self._model, self._word = kind == "chat", model, word
        self._id = f"{'chatcmpl' if self._is_chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def whole(self, samples: Sequence[Sample], prompt_tokens: int, with_logprobs: bool) -> dict[str, Any]:
        """The response of a request that is not streamed."""
        choices: list[dict[str, Any]] = []
        for sample in samples:
            told = self._logprobs(sample.tokens, sample.logprobs) if with_logprobs else None
            body = {"message": {"role": "assistant", "content": sample.text}} if self._is_chat else {"text": sample.text}
            choices.append({"index": sample.index, **body, "logprobs": told, "finish_reason": sample.finish})
        return self._head(choices, "") | {"usage": usage(samples, prompt_tokens)}

    def piece(self, sample: Sample, text: str, since: int, with_logprobs: bool, is_first: bool = False) -> str:
        """One event of a stream: new text of a sample, the log-probs of its tokens from `since` on, and its end if it ended."""
        told = self._logprobs(sample.tokens[since:], sample.logprobs[since:]) if with_logprobs else None
        delta = ({"role": "assistant"} if is_first else {}) | ({"content": text} if text or is_first else {})
        body = {"delta": delta} if self._is_chat else {"text": text}
        choice = {"index": sample.index, **body, "logprobs": told, "finish_reason": sample.finish or None}
        return event(self._head([choice], ".chunk"))

    def closing(self, samples: Sequence[Sample], prompt_tokens: int) -> str:
        """The event with the usage, which has no choices."""
        return event(self._head([], ".chunk") | {"usage": usage(samples, prompt_tokens)})

    def _head(self, choices: list[dict[str, Any]], suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self._is_chat else "text_completion"
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    def _logprobs(self, tokens: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any]:
        words = [self._word(token) for token in tokens]
        if not self._is_chat:
            return {"tokens": words, "token_logprobs": list(logprobs), "top_logprobs": None, "text_offset": None}
        content = [
            # A token that is a part of a character has no text of its own, and so no bytes that we could name.
            {"token": word, "logprob": value, "bytes": None if "\ufffd" in word else list(word.encode()), "top_logprobs": []}
            for word, value in zip(words, logprobs, strict=True)
        ]
        return {"content": content, "refusal": None}


def usage(samples: Sequence[Sample], prompt_tokens: int) -> dict[str, int]:
    """Tokens of the prompt (once, however many samples) and of all samples."""
    new = sum(len(sample.tokens) for sample in samples)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": new, "total_tokens": prompt_tokens + new}


def event(value: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value)}\n\n"
