"""The chat template: a program that came with a checkpoint, run in a sandbox that bounds what it can reach and use.

    reach      jinja's sandbox: no attribute that begins with an underscore, nothing that changes what it was given, no files
    steps      lines of its own, and seconds of processor time
    texts      no text, list or output beyond a few million characters, counted before it is made ('a' * 10**10), nor many of them
    numbers    no product or power beyond a few hundred digits

What it sees and what it may call are what transformers gives its own templates, less what only multiplies (center, lipsum, ...).
It does not know what a tokenizer is.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import FrameType
from typing import Any

from jinja2 import Environment, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from headway.errors import CheckpointError

_MAX_TEMPLATE, MAX_RENDERED, MAX_STEPS, _MAX_SECONDS = 131_072, 8_000_000, 200_000, 0.8
_MAX_WEIGHED = 256_000_000  # characters of all texts that one rendering handles
_MAX_COUNT = 10_000  # a whole number given to a filter or a method: a width, an indent, an index
_MAX_BITS = 1024
_ELEMENT = 32  # what an element of a list weighs, in characters
_DROPPED = ("center", "wordwrap", "urlize", "xmlattr", "pprint", "batch", "slice", "format", "random", "striptags", "truncate")
_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs", "translate", "to_bytes", "encode"}
_PRODUCTS = {"replace", "join", "indent", "tojson"}  # the result may be as long as one argument times another
_WEIGHED = threading.local()  # .characters and .latest of the rendering in this thread


_GIVEN = (Context, Environment, nodes.EvalContext)  # what jinja hands a filter before its arguments


class ChatTemplate:
    """A template's source, ready to be rendered. Raises CheckpointError, without the origin, where it is huge or no template."""

    def __init__(self, source: str):
        if len(source) > _MAX_TEMPLATE:
            raise CheckpointError(f"the chat template has more than {_MAX_TEMPLATE} characters")
        self._compile = functools.cache(lambda: _Sandbox().from_string(source))

    def render(self, **values: Any) -> str:
        """The text. Raises what the template raises, SecurityError where it goes beyond a bound. Works in any thread."""
        return _bounded(lambda: self._compile().render(**values))


class _Namespace(Namespace):
    """As transformers': no attribute that begins with an underscore, in the beginning or later."""

    def __init__(*args: Any, **values: Any) -> None:
        for name in dict(*args[1:], **values):
            _check_name(name)
        Namespace.__init__(*args, **values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold {name!r}")


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote, for training elsewhere; here it is its content."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Generator(CodeGenerator):
    """`a ~ b` by the environment, which weighs it first."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Generator

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=_light, extensions=[_Generation, loopcontrols]
        )
        filters = {**self.filters, "tojson": _tojson}
        self.filters = {name: _weighed(name, function) for name, function in filters.items() if name not in _DROPPED}
        self.globals = {
            "range": _range,
            "dict": lambda *args, **values: dict(*args, **values),  # the class itself has methods that change what they are given
            "namespace": _Namespace,
            "raise_exception": _raise,
            "strftime_now": lambda form: datetime.now().strftime(form),
        }

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator in ("*", "**"):
            _check_product(operator, left, right)
        elif isinstance(left, str) and operator == "%":
            raise SecurityError("it formats with %")
        elif isinstance(left, str | list | tuple):
            _light((left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **values: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if name in ("format", "format_map"):  # the sandbox's own, which bounds what they reach but no width
            raise SecurityError(f"it calls {name}")
        if isinstance(owner, str | bytes | int):
            if name in _METHODS:
                raise SecurityError(f"it calls {name}")
            args = tuple(map(_listed, args))
            _check_arguments(name, (owner, *args), values)
        else:
            _light((args, values))
        return super().call(__context, __obj, *args, **values)

    def joined(self, parts: Sequence[Any]) -> str:
        """`a ~ b ~ c`."""
        return "".join(map(str, _light(parts)))

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """What the template wrote, in pieces."""
        kept: list[str] = []
        size = 0
        for part in parts:
            size += len(part)
            if size > MAX_RENDERED:
                raise SecurityError(f"it wrote more than {MAX_RENDERED} characters")
            kept.append(part)
        return "".join(kept)


def _range(*args: int) -> range:
    found = range(*args)
    if len(found) > _MAX_COUNT:
        raise SecurityError(f"a range of more than {_MAX_COUNT}")
    return found


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _weighed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that weighs its arguments first. (`wraps` keeps what jinja passes it: the environment, the context.)"""

    @functools.wraps(function)
    def filter_(*args: Any, **values: Any) -> Any:
        context = tuple(arg for arg in args if isinstance(arg, _GIVEN))
        plain = tuple(_listed(arg) for arg in args if not isinstance(arg, _GIVEN))
        _check_arguments(name, plain, values)
        result = function(*context, *plain, **values)
        return _light(result) if isinstance(result, str) else result

    return filter_


def _listed(value: Any) -> Any:
    """A lazy sequence as the list that it stands for, so that it can be weighed."""
    if isinstance(value, str | bytes | Mapping | list | tuple | set | Undefined | type(None)) or not hasattr(value, "__iter__"):
        return value
    found = list(itertools.islice(value, MAX_STEPS + 1))
    if len(found) > MAX_STEPS:
        raise SecurityError(f"a list of more than {MAX_STEPS}")
    return found


def _check_arguments(name: str, args: tuple[Any, ...], values: Mapping[str, Any]) -> None:
    given = (*args, *values.values())
    counts = [abs(arg) for arg in given if isinstance(arg, int)]
    if max(counts, default=0) > _MAX_COUNT and name not in ("string", "int", "float", "abs", "tojson", "default", "d"):
        raise SecurityError(f"{name} is given the number {max(counts)}"[:100])
    weights = sorted((_weight(arg) for arg in given if not isinstance(arg, int)), reverse=True)
    factor = max([*weights[1:], *counts, 1]) if name in _PRODUCTS else 1
    if sum(weights) * factor > MAX_RENDERED * (8 if name == "replace" else 1):
        raise SecurityError(f"{name} may make more than {MAX_RENDERED} characters")


def _check_product(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_BITS:
            raise SecurityError(f"a number of more than {_MAX_BITS} bits")
        return
    for many, count in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(count, int) and (_weight(many) + 1) * abs(count) > MAX_RENDERED:
            raise SecurityError(f"a text or a list of more than {MAX_RENDERED}")


def _light(value: Any) -> Any:
    """The value, if all that it holds is not too much to be written."""
    _weight(value)
    return value


def _weight(value: Any) -> int:
    """Characters within a value, elements and theirs included. Raises SecurityError beyond MAX_RENDERED, or out of time."""
    if isinstance(value, str):
        weight, left = len(value), []
    else:
        weight, left = 0, [value]
    while left:
        part = left.pop()
        weight += _ELEMENT
        if isinstance(part, str | bytes):
            weight += len(part)
        elif isinstance(part, Mapping):
            left += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            left += part
        if weight + len(left) * _ELEMENT > MAX_RENDERED:
            raise SecurityError(f"a text or a list of more than {MAX_RENDERED} characters")
    _WEIGHED.characters = getattr(_WEIGHED, "characters", 0) + weight
    if weight > MAX_RENDERED or _WEIGHED.characters > _MAX_WEIGHED:
        raise SecurityError(f"texts or lists of more than {MAX_RENDERED} characters")
    if time.thread_time() > getattr(_WEIGHED, "latest", math.inf):
        raise SecurityError(f"it did not end within {_MAX_SECONDS:g} seconds")
    return weight


def _bounded(render: Callable[[], str]) -> str:
    """Run `render`, but let the template's own code take at most MAX_STEPS lines, and _MAX_SECONDS of this thread."""
    left = MAX_STEPS

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != "<template>":
            return None
        left -= 1
        if left < 0:
            raise RuntimeError(f"it did not end within {MAX_STEPS} steps")
        if time.thread_time() > _WEIGHED.latest:
            raise RuntimeError(f"it did not end within {_MAX_SECONDS:g} seconds")
        return count

    _WEIGHED.characters, _WEIGHED.latest = 0, time.thread_time() + _MAX_SECONDS
    before = sys.gettrace()
    sys.settrace(count)
    try:
        return render()
    finally:
        sys.settrace(before)
