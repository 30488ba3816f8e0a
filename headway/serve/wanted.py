"""A request's body, checked: what is wanted, or a refusal that names the parameter.

Nothing is ignored: a parameter that this server does not have is refused, unless its value asks for nothing (null, 0 penalties,
an empty list of tools). It does not know tokens or the model's limits beyond what it is given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_SAMPLES = 128
_MOST_STOPS, _MOST_STOP = 16, 1_000
_ROLES = ("system", "user", "assistant")
_NOTHING: dict[str, tuple[Any, ...]] = {  # values of parameters that we lack, with which they ask for nothing
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"), "response_format": ({"type": "text"},), "echo": (False,), "suffix": ("",), "best_of": (1,),
    "parallel_tool_calls": (True, False), "store": (False,), "metadata": ({},), "user": (), "service_tier": ("auto", "default"),
}  # fmt: skip
_BOTH = {"model", "n", "temperature", "top_p", "max_tokens", "seed", "stop", "logprobs", "stream", "stream_options"}
_BOTH |= {"top_k", "min_p", "repetition_penalty"}  # vLLM's
_KNOWN = {"chat": _BOTH | {"messages", "max_completion_tokens", "top_logprobs"}, "text": _BOTH | {"prompt"}}


class Refusal(Exception):
    """An error in OpenAI's shape: `param` names what is wrong."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code

    @property
    def body(self) -> dict[str, Any]:
        """The response's JSON."""
        kinds = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
        kind = kinds.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checked request. `messages` for chat, else `prompt` (text or token ids); `max_tokens` 0: as many as there is room for."""

    model: str
    messages: tuple[dict[str, str], ...]
    prompt: str | tuple[int, ...]
    n: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    max_tokens: int
    seed: int | None
    stops: tuple[str, ...]
    logprobs: bool
    stream: bool
    include_usage: bool


def read(body: bytes, kind: str) -> Wanted:
    """The wanted completion of a "chat" or a "text" request's body. Raises Refusal."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal("the body is not JSON") from None
    if not isinstance(values, dict):
        raise Refusal("the body should be a JSON object")
    values = {key: value for key, value in values.items() if value is not None}
    for key, value in values.items():
        if key not in _KNOWN[kind] and not (key in _NOTHING and (key == "user" or value in _NOTHING[key])):
            raise Refusal(f"this server has no parameter {key!r} (value {_shown(value)})", key, code="unsupported_parameter")
    is_chat = kind == "chat"
    limits = [_integer(values, key, 1, 2**31) for key in ("max_tokens", "max_completion_tokens") if key in values]
    options = values.get("stream_options", {})
    if (
        not isinstance(options, dict)
        or set(options) - {"include_usage"}
        or ("stream_options" in values and not values.get("stream"))
    ):
        raise Refusal("stream_options holds include_usage alone, and needs stream", "stream_options")
    return Wanted(
        _text(values, "model"),
        _messages(values) if is_chat else (),
        "" if is_chat else _prompt(values),
        _integer(values, "n", 1, MOST_SAMPLES, 1),
        _number(values, "temperature", 0.0, 100.0, 1.0),
        _number(values, "top_p", 0.0, 1.0, 1.0, is_open=True),
        max(0, _integer(values, "top_k", -1, 2**31)),  # -1 is vLLM's older word for all
        _number(values, "min_p", 0.0, 1.0, 0.0),
        _number(values, "repetition_penalty", 0.0, 100.0, 1.0, is_open=True),
        min(limits) if limits else (0 if is_chat else 16),  # OpenAI's default for plain completions
        _integer(values, "seed", -(2**63), 2**64) if "seed" in values else None,
        _stops(values),
        _logprobs(values, is_chat),
        _flag(values, "stream"),
        _flag(options, "include_usage"),
    )


def _messages(values: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    found = values.get("messages")
    if not isinstance(found, list) or not found:
        raise Refusal("messages should be a list of at least one message", "messages")
    return tuple(_message(message, f"messages[{number}]") for number, message in enumerate(found))


def _message(message: Any, place: str) -> dict[str, str]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise Refusal(f"{place}.role should be one of {', '.join(_ROLES)}", f"{place}.role")
    if more := [key for key, value in message.items() if key not in ("role", "content", "name", "refusal") and value]:
        raise Refusal(f"{place}.{more[0]} is not supported", f"{place}.{more[0]}", code="unsupported_parameter")
    content = message.get("content")
    if isinstance(content, list):
        if not all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
        ):
            raise Refusal(f"{place}.content: only parts of type 'text' are supported", f"{place}.content")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Refusal(f"{place}.content should be a text", f"{place}.content")
    return {"role": message["role"], "content": content}


def _prompt(values: Mapping[str, Any]) -> str | tuple[int, ...]:
    prompt = values.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int and token >= 0 for token in prompt):
        return tuple(prompt)
    raise Refusal("prompt should be one text, or the token ids of one; not empty", "prompt")


def _logprobs(values: Mapping[str, Any], is_chat: bool) -> bool:
    """Whether the log-prob of each sampled token is wanted; those of other tokens are not to be had."""
    if is_chat:
        if values.get("top_logprobs", 0) != 0 or isinstance(values.get("top_logprobs"), bool):
            raise Refusal("only the sampled token's log-prob is there: top_logprobs should be 0", "top_logprobs")
        return _flag(values, "logprobs")
    if values.get("logprobs", 0) != 0 or isinstance(values.get("logprobs"), bool):
        raise Refusal("only the sampled token's log-prob is there: logprobs should be 0", "logprobs")
    return "logprobs" in values


def _stops(values: Mapping[str, Any]) -> tuple[str, ...]:
    found = values.get("stop", [])
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(stop, str) and 0 < len(stop) <= _MOST_STOP for stop in found):
        raise Refusal(f"stop should be a text, or a list of texts, each of 1 to {_MOST_STOP} characters", "stop")
    if len(found) > _MOST_STOPS:
        raise Refusal(f"stop: at most {_MOST_STOPS} texts", "stop")
    return tuple(found)


def _text(values: Mapping[str, Any], key: str) -> str:
    if not isinstance(values.get(key), str):
        raise Refusal(f"{key} should be a text", key)
    return values[key]


def _flag(values: Mapping[str, Any], key: str) -> bool:
    if not isinstance(values.get(key, False), bool):
        raise Refusal(f"{key} should be true or false, not {_shown(values[key])}", key)
    return values.get(key, False)


def _integer(values: Mapping[str, Any], key: str, least: int, most: int, default: int = 0) -> int:
    value = values.get(key, default)
    if type(value) is not int or not least <= value <= most:
        raise Refusal(f"{key} should be a whole number from {least} to {most}, not {_shown(value)}", key)
    return value


def _number(values: Mapping[str, Any], key: str, least: float, most: float, default: float, is_open: bool = False) -> float:
    value = values.get(key, default)
    is_number = type(value) in (int, float) and math.isfinite(value)
    if not is_number or not least <= value <= most or (is_open and value == least):
        raise Refusal(
            f"{key} should be a number {'above' if is_open else 'from'} {least:g} to {most:g}, not {_shown(value)}", key
        )
    return float(value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
