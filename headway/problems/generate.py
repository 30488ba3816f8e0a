"""Problems made from a seed: reasoning-gym's families, `count` distinct ones of each.

    generate(SourceConfig(family="chain_sum", settings={"max_terms": 3}, count=400, seed=0, split="heldout"))

The same source always gives the same problems, and the first 100 of `count=400` are those of `count=100`. A family
draws item i from `seed + i`, so neighbouring seeds would share nearly all their problems. The family's seed is a hash
of (family, split, seed, chunk) instead: sources of different seeds or splits draw from streams of their own.

Difficulty of a problem = digits + operator signs in its expression (its metadata's, or the question where it has none):

    "12 + 7 - 305"  ->  6 digits + 2 signs = 8

It grows with the number of terms and with their size; constants of a family's wording do not matter, because
difficulties are only compared within a family.

This file does not score anything (the library's scorers give partial marks; `verify` is strict) and does not know which
problems are held out elsewhere: `clean` does. reasoning-gym takes a second to import, so it is imported on use.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

from headway.config import SourceConfig
from headway.errors import ConfigError, DataError
from headway.problems.load import asking
from headway.types import Problem, Split, content_id

CHUNK = 1_000  # items drawn from one seed of a family; some families prepare all items of a seed in advance
PATIENCE = 2_000  # repeats in a row after which a family counts as exhausted
LARGEST_VALUE = 1_000  # characters of JSON; longer metadata values (lists of primes, boards) are left out

# Families whose questions change from one process to the next although the seed is the same (they iterate over sets,
# or use the process's own random state; found with two values of PYTHONHASHSEED, reasoning-gym 0.1.25). A run that
# resumes could not draw its problems again.
NOT_REPRODUCIBLE = frozenset(
    {"isomorphic_strings", "knight_swap", "list_functions", "polynomial_multiplication", "ransom_note", "word_ladder"}
)
# Metadata that says nothing about the problem itself; the two times carry the day on which they were made
_BOOKKEEPING = ("source_dataset", "source_index", "difficulty", "start_time", "end_time")
_EXPRESSIONS = ("expression", "equation", "polynomial_expr", "integrand", "problem")  # where families keep the formula
_OPERATOR = re.compile(r"(?<=[\d\s)\w])(?:\*\*|<<|>>|[-+*/^×÷&|])(?=[\s\d(\w-])")


def generate(source: SourceConfig) -> list[Problem]:
    """Exactly `source.count` problems of the family, all with different questions.

    Raises ConfigError for an unknown family (names the nearest), a bad setting (names the key) or a family that cannot
    serve; DataError where the family has fewer than `count` problems under these settings.
    """
    make_dataset = _dataset_maker(source)
    name = source.label
    problems: list[Problem] = []
    seen: set[str] = set()
    repeats = 0
    for item in _items(source, make_dataset):
        question = item["question"].strip()
        if question in seen:
            repeats += 1
            if repeats >= PATIENCE:
                break
            continue
        repeats = 0
        seen.add(question)
        problem = _problem(name, source.family, question, item, source.split)
        problems.append(replace(problem, metadata=asking(problem.metadata, source)))
        if len(problems) == source.count:
            return problems
    raise DataError(
        f"family {source.family!r} gave only {len(problems)} different problems, {source.count} were asked for: "
        f"lower `count` or widen its settings {source.settings}"
    )


def difficulty(text: str) -> float:
    """Digits plus operator signs in an expression.

    >>> difficulty("12 + 7 - 305")
    8.0
    """
    return float(sum(c.isdigit() for c in text) + len(_OPERATOR.findall(text)))


def _problem(name: str, family: str, question: str, item: dict[str, Any], split: Split) -> Problem:
    facts = {key: value for key, value in item["metadata"].items() if key not in _BOOKKEEPING}
    formula = next((facts[key] for key in _EXPRESSIONS if isinstance(facts.get(key), str)), question)
    metadata = json.dumps(facts, default=str, ensure_ascii=False, separators=(",", ":"))
    if len(metadata) > LARGEST_VALUE:
        small = {key: value for key, value in facts.items() if len(json.dumps(value, default=str)) <= LARGEST_VALUE}
        metadata = json.dumps(small, default=str, ensure_ascii=False, separators=(",", ":"))
    return Problem.make(name, family, question, item["answer"], split, difficulty=difficulty(formula), metadata=metadata)


def _items(source: SourceConfig, make_dataset: Callable[[int], Any]) -> Iterator[dict[str, Any]]:
    """The family's items without end, chunk after chunk, each chunk from a seed of its own."""
    chunk = 0
    while True:
        # 31 bits: some families hand the seed to numpy, which takes 32, and add the item's index
        seed = int(content_id("family", source.family, source.split, source.seed, chunk), 16) >> 33
        dataset = make_dataset(seed)
        for index in range(CHUNK):
            try:
                item = dataset[index]
            except Exception as error:  # any failure of the library's own code, whatever it raises
                raise ConfigError(
                    f"family {source.family!r} cannot make a problem with settings {source.settings}: "
                    f"{type(error).__name__}: {_one_line(error)}"
                ) from error
            if not isinstance(item["answer"], str):
                raise ConfigError(f"family {source.family!r} gives no written answer, so there is nothing to verify")
            yield item
        chunk += 1


def _dataset_maker(source: SourceConfig) -> Callable[[int], Any]:
    """A function from a seed to the family's data set of CHUNK items, after all settings have been checked."""
    import reasoning_gym.factory  # registers the families as it is imported

    families = reasoning_gym.factory.DATASETS
    if source.family not in families:
        near = difflib.get_close_matches(source.family, list(families), n=1, cutoff=0.0)
        raise ConfigError(f"unknown family {source.family!r}; the nearest family is {near[0]!r}")
    if source.family in NOT_REPRODUCIBLE:
        raise ConfigError(f"family {source.family!r} does not give the same problems for the same seed twice")
    config_class = families[source.family][1]
    _check_settings(source, config_class)

    def make_dataset(seed: int) -> Any:
        return reasoning_gym.create_dataset(source.family, **source.settings, seed=seed, size=CHUNK)

    try:
        make_dataset(0)
    except Exception as error:  # the families check their settings with assert, ValueError, TypeError, ...
        settings = ", ".join(f"{key} = {value!r}" for key, value in source.settings.items())
        raise ConfigError(f"family {source.family!r} refuses `settings` ({settings}): {_one_line(error)}") from error
    return make_dataset


def _check_settings(source: SourceConfig, config_class: Any) -> None:
    """Every setting exists in the family's dataclass and has the kind of value that its default has."""
    defaults = {field.name: field.default for field in fields(config_class)}
    for key, value in source.settings.items():
        if key in ("seed", "size"):
            ours = "seed" if key == "seed" else "count"
            raise ConfigError(f"family {source.family!r}: set the source's own `{ours}`, not settings.{key}")
        if key not in defaults:
            near = difflib.get_close_matches(key, [name for name in defaults if name not in ("seed", "size")], 1, 0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ConfigError(f"family {source.family!r} has no setting {key!r}{hint}")
        kind = _kind(defaults[key])
        if kind and _kind(value) != kind and not (kind == "a number" and _kind(value) == "a whole number"):
            raise ConfigError(f"family {source.family!r}: settings.{key} = {value!r} should be {kind}")


def _kind(value: Any) -> str:
    """The kind of a setting in words, "" for one that is not checked."""
    if value is MISSING or value is None:
        return ""
    for kinds, words in ((bool, "true or false"), (int, "a whole number"), (float, "a number"), (str, "a text")):
        if isinstance(value, kinds):
            return words
    return "a list" if isinstance(value, list | tuple) else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
