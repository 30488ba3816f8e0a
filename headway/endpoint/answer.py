"""The body of a chat completion, read with suspicion: an answer, a rejection, or a fault.

    {"choices": [{"message": {"content": ..., "reasoning_content": ...}, "finish_reason": "stop"}], "usage": {...}}

    stop, length               answered; text that is not Unicode (a lone surrogate) is rejected, it could not be stored
    content filter, refusal,   rejected: asking again would give the same
    tool calls
    anything else              a fault (`faults`): the next try may be good

A stream is first joined to the body that it would have been in one piece.

It does not know how the body came here, nor what the text is for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headway.endpoint.faults import Fault, line, malformed

State = Literal["answered", "rejected", "failed"]

_FINISHED = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop",
    "length": "length", "max_tokens": "length",
}  # fmt: skip
_REJECTED = {"content_filter", "refusal", "tool_calls", "function_call"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request.

    Example: ``Answer("answered", text="4", finish_reason="stop", prompt_tokens=9, completion_tokens=2, tries=1)``

    `reason` says why a request was rejected or failed ("content_filter", "http 500"), `said` what the server said of it.
    Tokens are those of the try that was answered; `is_estimated` where the server did not count them (four characters each).
    `finish_reason` is "stop" or "length" where it is answered. `cost` is in the currency of the prices.
    """

    state: State
    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimated: bool = False
    cost: float = 0.0
    tries: int = 0
    reason: str = ""
    said: str = ""


def read(body: bytes, num_prompt_characters: int) -> Answer | Fault:
    """The first choice of a response's body. Never raises for what a server sent."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return malformed("not JSON")
    if not isinstance(value, dict):
        return malformed("not a JSON object")
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    said = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(said, dict):
        error = value.get("error")
        return malformed(f"an error under status 200: {line(str(error))}" if error else "no choices")
    finish = choice.get("finish_reason")
    text, thought = said.get("content"), said.get("reasoning_content") or said.get("reasoning")
    if said.get("refusal"):
        finish = "refusal"
    if finish in _REJECTED:
        return _counted(Answer("rejected", reason=str(finish), said=line(str(said.get("refusal") or ""))), value, "", 0)
    if not isinstance(finish, str) or finish not in _FINISHED:
        return malformed(f"finish_reason {finish!r}"[:80])
    if not isinstance(text, str | None) or not isinstance(thought, str | None) or (text is None and not thought):
        return malformed("no text")
    answer = Answer("answered", text or "", thought or "", _FINISHED[finish])
    if not _is_unicode(answer.text + answer.reasoning):
        answer = Answer("rejected", reason="not Unicode")
    return _counted(answer, value, (text or "") + (thought or ""), num_prompt_characters)


def joined(body: bytes) -> bytes:
    """The events of a stream as the body that would have come in one piece; a body that is no stream as it is.

    A stream that broke off has no finish_reason, which `read` takes for what it is.
    """
    if not body.lstrip().startswith((b"data:", b":", b"event:")):
        return body
    told: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
    finish: Any = None
    usage: Any = None
    for event in body.splitlines():
        if not event.startswith(b"data:") or event[5:].strip() == b"[DONE]":
            continue
        try:
            value = json.loads(event[5:])
            usage = value.get("usage") or usage
            if "error" in value:
                return json.dumps({"error": value["error"]}).encode()
            for choice in value.get("choices", [])[:1]:
                delta = choice.get("delta") or {}
                finish = choice.get("finish_reason") or finish
                delta["reasoning_content"] = delta.get("reasoning_content") or delta.get("reasoning")
                for key in told:
                    told[key] += [delta[key]] if delta.get(key) else []
        except (ValueError, AttributeError, TypeError, RecursionError):
            return b"a stream with an event that is none"
    message = {key: "".join(parts) for key, parts in told.items()}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage}).encode()


def _counted(answer: Answer, value: Mapping[str, Any], text: str, num_prompt_characters: int) -> Answer:
    """The answer with the server's own counts, or with estimates where it gives none that make sense."""
    usage = value.get("usage")
    counts = [usage.get(key) if isinstance(usage, dict) else None for key in ("prompt_tokens", "completion_tokens")]
    is_estimated = not all(type(count) is int and 0 <= count < 2**40 for count in counts)
    prompt, completion = (num_prompt_characters // 4, len(text) // 4) if is_estimated else counts
    return Answer(
        answer.state, answer.text, answer.reasoning, answer.finish_reason, prompt or 0, completion or 0, is_estimated,
        reason=answer.reason, said=answer.said,
    )  # fmt: skip


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
