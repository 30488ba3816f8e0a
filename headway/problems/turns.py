"""Conversations as data sets write them, down to one question and one solution.

    [{"role": "user", "content": q}, {"role": "assistant", "content": a}]      messages, TRL's prompt / completion / chosen
    [{"from": "human", "value": q}, {"from": "gpt", "value": a}]               ShareGPT's conversations
                                                    --> system, q, a

Only conversations of one question are problems: a system turn may come before it. This file does not know columns' names.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}

_THOUGHTS = ("thinking", "reasoning_content", "reasoning")  # where an assistant's turn keeps its reasoning apart


class Turns(NamedTuple):
    """One conversation; "" for what it does not hold.

    Example: ``Turns(system="", question="2 + 2?", solution="It is \\boxed{4}.")``
    """

    system: str
    question: str
    solution: str


def read_turns(value: Any) -> Turns | None:
    """A conversation of at most one system, one user and one assistant turn, in this order; None for anything else."""
    if not isinstance(value, list) or not value:
        return None
    found: dict[str, str] = {}
    for turn in value:
        if not isinstance(turn, dict):
            return None
        role = _ROLES.get(str(turn.get("role", turn.get("from"))))
        text = _content(turn.get("content", turn.get("value")))
        thought = next((turn[name] for name in _THOUGHTS if isinstance(turn.get(name), str) and turn[name].strip()), "")
        if role == "assistant" and text is not None and thought:
            text = f"<think>\n{thought.strip()}\n</think>\n\n{text.strip()}"
        if role is None or text is None or role in found or any(later in found for later in _AFTER[role]):
            return None
        found[role] = text
    return Turns(found.get("system", ""), found.get("user", ""), found.get("assistant", ""))


_AFTER = {"system": ("user", "assistant"), "user": ("assistant",), "assistant": ()}


def _content(value: Any) -> str | None:
    """A turn's text, also where it is written as a list of text parts; None where it is more than text."""
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        value = "".join(str(part.get("text", "")) for part in value)
    return value if isinstance(value, str) else None
