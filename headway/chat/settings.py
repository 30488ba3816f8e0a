"""How a chat samples and shows: the flags of the command line, each changed inside by `/set NAME VALUE`.

It does not know what a setting does (`talk`, `screen`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from headway.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """Example: ``Settings(temperature=0.0, max_tokens=200)``. The sampling defaults are those of evaluation."""

    temperature: float = 0.6  # 0: always the likeliest token
    top_p: float = 0.95
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    max_tokens: int = 0  # of an answer; 0: as many as the context has room for
    seed: int = 0
    system: str = ""  # a system turn before the conversation
    instruction: str = ""  # follows each question on a line of its own
    show_thinking: bool = False  # whole, instead of one line


_RANGES = {
    "temperature": (0.0, 100.0, "a number from 0 to 100"),
    "top_p": (math.ulp(0.0), 1.0, "a number above 0, up to 1"),
    "top_k": (0, 2**31, "a whole number from 0 on (0: all tokens)"),
    "min_p": (0.0, 1.0, "a number from 0 to 1"),
    "max_tokens": (0, 2**31, "a whole number from 0 on (0: what there is room for)"),
    "seed": (-(2**63), 2**64, "a whole number"),
}
_WORDS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


def checked(settings: Settings) -> Settings:
    """The same settings; ConfigError names the first that is out of range, and what would be right."""
    for name, (least, most, right) in _RANGES.items():
        value = getattr(settings, name)
        if not least <= value <= most:  # NaN is in no range
            raise ConfigError(f"{name} should be {right}, not {value}")
    return settings


def changed(settings: Settings, name: str, text: str) -> Settings:
    """The settings with one of them read from a text. ConfigError for an unknown name and a value that does not fit."""
    known = {field.name: getattr(settings, field.name) for field in fields(settings)}
    name = name.replace("-", "_")
    if name not in known:
        raise ConfigError(f"there is no setting {name!r}; there are {', '.join(known)}")
    return checked(replace(settings, **{name: _read(name, text.strip(), type(known[name]))}))


def _read(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ConfigError(f"{name} should be on or off, not {text!r}")
        return _WORDS[text.lower()]
    if kind is str:
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{name} should be {_RANGES[name][2]}, not {text!r}") from None
