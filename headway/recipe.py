"""A recipe's file to a checked `Recipe`: TOML, what it extends, and `--set key=value` laid over it.

    load_recipe("recipes/tiny.toml", ["rl.steps=20"]) -> Recipe

An unknown key is an error that names the nearest key; a bad value is an error that names the key and what would be right. This
file does not know the settings themselves (`config`).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from headway.config import Recipe
from headway.errors import ConfigError
from headway.stage_config import Section


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe and apply `key=value` overrides (dotted keys, TOML values; a bare word is a string).

    A recipe may say `extends = "other.toml"` (beside it): it then holds only what differs, and `without = ["rl"]` leaves
    sections of the other one out. Raises ConfigError with one line that names the file or the key and what would be right.
    """
    values = _read(Path(path), ())
    for override in overrides:
        _apply(values, override)
    return parse_recipe(values, str(path))


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The values of a recipe file, laid over those of the one that it extends."""
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no recipe at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recipe {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    other, without = own.pop("extends", None), own.pop("without", [])
    if other is None and not without:
        return own
    if not isinstance(other, str) or path in seen:
        raise ConfigError(f"{path}: 'extends' names another recipe file, and 'without' needs it; not {other!r}")
    values = _read(path.parent / other, (*seen, path))
    sections: list[Any] = cast("list[Any]", without) if isinstance(without, list) else [without]
    for section in sections:
        if not isinstance(section, str) or section not in values:
            raise ConfigError(f"{path}: 'without' lists sections of {other}; {section!r} is none")
        del values[section]
    return _overlaid(values, own)


def _overlaid(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `under`, section by section; lists and plain values replace."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _overlaid(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            merged[key] = value
    return merged


def parse_recipe(values: dict[str, Any], origin: str) -> Recipe:
    """Check plain values against the models. `origin` is named in errors."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error)}") from None


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one dotted key in place; list items by number (`problems.sources.0.count=10`)."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set takes key=value, not {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.strip().split(".")
    here: Any = values
    for part in path:
        here = _child(here, part, key)
    if isinstance(here, list):
        items = cast(list[Any], here)
        items[_index(items, last, key)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise ConfigError(f"--set {key}: {'.'.join(path)!r} is a single value, it has no {last!r}")


def _child(here: Any, part: str, key: str) -> Any:
    if isinstance(here, list):
        items = cast(list[Any], here)
        return items[_index(items, part, key)]
    if not isinstance(here, dict):
        raise ConfigError(f"--set {key}: there is nothing below a single value, so no {part!r}")
    return cast(dict[str, Any], here).setdefault(part, {})


def _index(items: list[Any], part: str, key: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(f"--set {key}: {part!r} is not one of the items 0 to {len(items) - 1}")
    return int(part)


def _explain(error: ValidationError) -> str:
    """The first problem of a validation error as one line that names the key."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = _fields_at(place[:-1])
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.0)
        return f"unknown key {key!r}" + (f"; the nearest key is {'.'.join([*place[:-1], near[0]])!r}" if near else "")
    if first["type"] == "missing":
        return f"{key!r} is missing"
    message = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    if not key or first["type"] == "value_error":
        return f"{key or 'recipe'}: {message}"
    given = repr(first["input"])
    return f"{key!r} = {given if len(given) <= 80 else given[:77] + '...'}: {message}"


def _fields_at(place: list[str]) -> list[str]:
    """The keys that the section at `place` knows."""
    section: type[Section] | None = Recipe
    for part in place:
        if section is not None and not part.isdecimal():
            section = _section_of(section.model_fields[part].annotation)
    return list(section.model_fields) if section else []


def _section_of(annotation: Any) -> type[Section] | None:
    """The section that a field's annotation holds, below unions and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in get_args(annotation):
        found = _section_of(argument)
        if found is not None:
            return found
    return None
