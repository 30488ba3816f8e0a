"""A `config.json` as somebody else wrote it: every value is checked where it is read, and named in the error.

It does not know which settings a family has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway.errors import CheckpointError

# The most that is believed: some twenty times what any model has, so that a size made up is refused before it is allocated.
_MOST = {
    "vocab_size": 1 << 23, "hidden_size": 1 << 18, "intermediate_size": 1 << 20, "num_hidden_layers": 1024,
    "num_attention_heads": 4096, "num_key_value_heads": 4096, "head_dim": 1 << 14,
}  # fmt: skip
_MOST_POSITIONS = 1 << 40


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of a config.json of `family`, its defaults filled in; `where` stands before keys in errors ("rope_scaling.")."""

    values: Mapping[str, Any]
    family: str
    where: str = ""

    def get(self, key: str, default: Any = None) -> Any:
        """The value itself, unchecked."""
        return self.values.get(key, default)

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least `least`; `default`, where there is one, for null or nothing. Raises CheckpointError."""
        value, most = self.values.get(key), _MOST.get(key, _MOST_POSITIONS)
        if value is None and default is not None:
            value = default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"must be a whole number from {least} to {most}")
        return value

    def number(self, key: str, least: float = 0.0) -> float:
        """A finite number above `least`. Raises CheckpointError."""
        value = self.values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= least:
            raise self.wrong(key, f"must be a number above {least:g}")
        return float(value)

    def numbers(self, key: str, count: int) -> list[float]:
        """`count` finite numbers above zero. Raises CheckpointError."""
        values = self.values.get(key)
        if not isinstance(values, list) or len(values) != count:
            found = f"{len(values)} of them" if isinstance(values, list) else self.shown(key)
            raise CheckpointError(f"{self.where}{key} of {self.family} must be {count} numbers, not {found}")
        entries = Settings({str(number): value for number, value in enumerate(values)}, self.family, f"{self.where}{key}.")
        return [entries.number(str(number)) for number in range(count)]

    def flag(self, key: str) -> bool:
        """True or false; nothing and null are false. Raises CheckpointError."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return bool(value)

    def shown(self, key: str) -> str:
        """The value for an error: short, whatever it is."""
        value = self.values.get(key)
        if value is None:
            return "nothing"
        return f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)[:60]

    def wrong(self, key: str, rule: str) -> CheckpointError:
        """The error of a value that is none."""
        return CheckpointError(f"{self.where}{key} of {self.family} {rule}, not {self.shown(key)}")
