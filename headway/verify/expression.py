r"""Reads one mathematical expression, in LaTeX or as a program would print it, into a tree.

    "\frac{x+2}{7}"  --parse-->  ("prod", ("sum", ("var", "x"), ("num", 2, "whole")), ("pow", ("num", 7), ("num", -1)))

A recursive-descent reader: sum > term > power > atom. Nesting, digits and length are bounded while reading.

It does not know what a tree is worth (`numbers` does), nor tuples, sets, equations, units or words (`equal` does), and
it never calls `eval` or a computer algebra system.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

MAX_DEPTH = 40  # nesting of the text
MAX_DIGITS = 1_000  # of one number as written

Tree = tuple[Any, ...]


class Unreadable(ValueError):
    """The text is no expression that this file can read, or one that is too large to evaluate."""


_NAMES = (
    r"(?:arc|a|ar)?(?:sinh|cosh|tanh|coth|sin|cos|tan|sec|csc|cot)|sqrt|log|ln|lg|exp|Abs|abs|floor|ceil(?:ing)?|binom"
    r"|factorial|gcd|lcm|max|min|pi|infinity|infty|oo"
)
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho|varrho|sigma|tau"
    "|upsilon|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|hbar|ell|infty"
)
_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?|\.[0-9]+(?:[eE][+-]?[0-9]+)?")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_FUNCTION = re.compile(_NAMES)
_GREEK_NAME = re.compile(rf"(?:{_GREEK})\Z")
_SUBSCRIPT = re.compile(r"\s*_\s*(?:\{([^{}]{1,24})\}|([0-9A-Za-z])|\\([a-zA-Z]+))")
_PRIME = re.compile(r"\s*(?:'+|\^\s*\{?\s*\\prime\s*\}?)")
_TIMES = re.compile(r"\s*(?:\*(?!\*)|\\cdot(?![a-zA-Z])|\\times(?![a-zA-Z])|\\ast(?![a-zA-Z]))")
_OVER = re.compile(r"\s*(?:/|\\div(?![a-zA-Z]))")
_MODULO = re.compile(r"\s*\\b?mod(?![a-zA-Z])")
_POWER = re.compile(r"\s*(?:\^|\*\*)")
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_TREE_NODES = 600


class _Reader:
    """A recursive-descent reader over one text; `at` is the next character."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth, self.nodes = text, 0, 0, 0

    def peek(self) -> str:
        """The next character after spaces, or "" at the end."""
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        return self.text[self.at : self.at + 1]

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Consumes what `pattern` matches here, if it does."""
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def expect(self, closer: str) -> None:
        """Consumes `closer` or fails."""
        if self.peek() == "\\" and closer in "()[]|" and self.text[self.at + 1 : self.at + 2] == closer:
            self.at += 1
        if not self.text.startswith(closer, self.at):
            raise Unreadable(f"no {closer}")
        self.at += len(closer)

    def sum(self) -> Tree:
        """term (+|- term)*"""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        terms = [self.term()]
        while True:
            sign = self.peek()
            if sign == "+" or sign == "-":
                self.at += 1
                term = self.term()
                terms.append(term if sign == "+" else ("neg", term))
            else:
                break
        self.depth -= 1
        total = terms[0] if len(terms) == 1 else ("sum", *terms)
        return ("fn", "mod", total, self.sum()) if self.take(_MODULO) else total

    def term(self) -> Tree:
        """sign* power ((* | / | nothing) power)*"""
        sign = self.peek()
        if sign in ("+", "-") and sign:
            self.at += 1
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise Unreadable("too many signs")
            inner = self.term()
            self.depth -= 1
            return inner if sign == "+" else ("neg", inner)
        factors = [self.power()]
        while True:
            if self.take(_TIMES):
                factors.append(self.signed_power())
            elif self.take(_OVER):
                factors.append(("pow", self.signed_power(), ("num", Fraction(-1))))
            elif self.starts_factor():
                factors.append(self.power())
            else:
                break
        return self.product(factors)

    def product(self, factors: list[Tree]) -> Tree:
        """The product of `factors`; a whole number before a proper fraction is a mixed number."""
        first = factors[0]
        if len(factors) > 1 and first[0] == "num" and first[1].denominator == 1 and factors[1][0] == "mixable":
            tail = factors[1]
            if first[-1] != "decimal" and tail[1] < tail[2]:
                factors[:2] = [("num", first[1] + Fraction(tail[1], tail[2]))]
        return factors[0] if len(factors) == 1 else ("prod", *factors)

    def signed_power(self) -> Tree:
        """A factor that may carry its own sign: 2*-3."""
        if self.peek() == "-":
            self.at += 1
            return ("neg", self.power())
        if self.peek() == "+":
            self.at += 1
        return self.power()

    def starts_factor(self) -> bool:
        """Whether a factor follows without a sign of multiplication."""
        head = self.peek()
        if not head:
            return False
        if head == "\\":
            command = _COMMAND.match(self.text, self.at)
            if command is None:
                return self.text[self.at + 1 : self.at + 2] in ("{", "|")
            name = command.group(1)
            return name not in {"rfloor", "rceil", "rvert", "cup", "cap", "mod", "bmod", "pmod", "rbrace", "rangle"}
        return head.isalnum() or head in "([{."

    def power(self) -> Tree:
        """atom !* (^ exponent)?"""
        self.nodes += 1
        if self.nodes > _TREE_NODES:
            raise Unreadable("too long")
        base = self.atom()
        while self.peek() == "!":
            self.at += 1
            if self.text[self.at : self.at + 1] == "!":
                raise Unreadable("double factorial")
            base = ("fn", "factorial", base)
        if self.take(_POWER):
            base = ("pow", base, self.exponent())
            while self.peek() == "!":
                raise Unreadable("factorial of a power")
        return base

    def exponent(self) -> Tree:
        """{...}, a signed number, or one atom; towers read from the right."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        exponent = self.signed_power()
        self.depth -= 1
        return exponent

    def argument(self) -> Tree:
        r"""A LaTeX argument: {...} or one character (`\frac12`, `\sqrt3`)."""
        head = self.peek()
        if head == "{":
            return self.bracketed("{")
        if head.isdigit() and head.isascii():
            self.at += 1
            return ("num", Fraction(int(head)))
        if head == "\\":
            return self.atom()
        if head.isalpha():
            return self.variable()
        raise Unreadable("no argument")

    def bracketed(self, opener: str) -> Tree:
        """The sum inside one pair of brackets."""
        self.at += 1
        inner = self.sum()
        self.expect(_CLOSERS[opener])
        return inner

    def atom(self) -> Tree:
        """A number, a variable, a bracket, a root, a fraction or a function's value."""
        head = self.peek()
        if not head:
            raise Unreadable("ends early")
        if head in "([{":
            return self.bracketed(head)
        number = self.take(_NUMBER)
        if number:
            return self.number(number.group())
        if head == "|":
            self.at += 1
            inner = self.sum()
            self.expect("|")
            return ("fn", "abs", inner)
        if head == "\\":
            return self.command()
        name = self.take(_FUNCTION)
        if name:
            return self.named(name.group())
        if head.isalpha():
            return self.variable()
        raise Unreadable(f"what is {head!r}?")

    def number(self, text: str) -> Tree:
        """A decimal number, exactly; with a base as subscript it is its own symbol."""
        base = self.take(_SUBSCRIPT)
        if base:
            return ("var", f"{text}_{base.group(1) or base.group(2)}")
        mantissa, _, exponent = text.lower().partition("e")
        if len(mantissa) > MAX_DIGITS or len(exponent) > 4 or abs(int(exponent or 0)) > 400:
            raise Unreadable("too many digits")
        kind = "decimal" if "." in text or exponent else "whole"
        return ("num", Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0), kind)

    def variable(self) -> Tree:
        """One letter with its subscript and primes; e and i are constants."""
        letter = self.text[self.at]
        self.at += 1
        return self.symbol(letter)

    def symbol(self, name: str) -> Tree:
        """A symbol of this name, with what is attached to it."""
        subscript = self.take(_SUBSCRIPT)
        prime = self.take(_PRIME)
        if subscript:
            inner = subscript.group(1) or subscript.group(2) or subscript.group(3)
            name += "_" + "".join(inner.replace("\\", "").split())
        if prime:
            name += "'" * max(1, prime.group().count("'"))
        if name == "e":
            return ("const", math.e)
        if name == "i":
            return ("const", 1j)
        return ("var", name)

    def command(self) -> Tree:
        r"""What a backslash starts."""
        match = self.take(_COMMAND)
        if match is None:
            if self.text.startswith(("\\{", "\\|"), self.at):
                raise Unreadable("a set or a norm")
            raise Unreadable("a lone backslash")
        name = match.group(1)
        if name in ("frac", "binom"):
            top, bottom = self.argument(), self.argument()
            if name == "binom":
                return ("binom", top, bottom)
            if top[0] == bottom[0] == "num" and bottom[1] and top[1].denominator == bottom[1].denominator == 1:
                return ("mixable", top[1].numerator, bottom[1].numerator)
            return ("prod", top, ("pow", bottom, ("num", Fraction(-1))))
        if name == "sqrt":
            index: Tree = ("num", Fraction(2))
            if self.peek() == "[":
                index = self.bracketed("[")
            return ("pow", self.argument(), ("pow", index, ("num", Fraction(-1))))
        if name in ("lvert", "vert"):
            return self.enclosed("abs", "\\rvert" if name == "lvert" else "\\vert")
        if name in ("lfloor", "lceil"):
            return self.enclosed("floor" if name == "lfloor" else "ceil", "\\r" + name[1:])
        if _FUNCTION.fullmatch(name) and name != "infty":
            return self.named(name)
        if _GREEK_NAME.match(name):
            return self.symbol("\\" + name)
        raise Unreadable(f"\\{name}")

    def enclosed(self, function: str, closer: str) -> Tree:
        """A function written as a pair of fences."""
        inner = self.sum()
        self.peek()
        self.expect(closer)
        return ("fn", function, inner)

    def named(self, name: str) -> Tree:
        r"""A constant or a function: `\sin^2 x`, `\log_2 8`, `sqrt(3)`."""
        if name == "pi":
            return ("const", math.pi)
        if name in ("infinity", "oo", "infty"):
            return self.symbol("\\infty")
        if name == "sqrt":
            return ("pow", self.bracketed("(") if self.peek() == "(" else self.argument(), ("num", Fraction(1, 2)))
        name = {"Abs": "abs", "ceiling": "ceil", "ln": "log"}.get(name, name)
        name = re.sub(r"^ar?(?=(sin|cos|tan|sec|csc|cot))", "arc", name)
        base: Tree | None = None
        exponent: Tree | None = None
        if self.peek() == "_" and name == "log":
            self.at += 1
            base = self.argument()
        if self.take(_POWER):
            exponent = self.exponent()
        if name in ("binom", "lg"):
            raise Unreadable(name)
        if name in ("gcd", "lcm", "max", "min"):
            return self.several(name)
        value: Tree = ("fn", name, self.function_argument())
        if base is not None:
            value = ("prod", value, ("pow", ("fn", "log", base), ("num", Fraction(-1))))
        if exponent == ("neg", ("num", Fraction(1), "whole")) and not name.startswith("arc"):
            raise Unreadable("inverse or reciprocal")
        return value if exponent is None else ("pow", value, exponent)

    def several(self, name: str) -> Tree:
        """A function of a list: gcd(24, 36)."""
        if self.peek() != "(":
            raise Unreadable(name)
        self.at += 1
        arguments = [self.sum()]
        while self.peek() == ",":
            self.at += 1
            arguments.append(self.sum())
        self.expect(")")
        return ("fn", name, *arguments)

    def function_argument(self) -> Tree:
        r"""(...), {...}, or the factors that follow: `\sin 2x`, `\cos \theta`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        head = self.peek()
        if head in ("(", "{", "[") and head:
            argument = self.bracketed(head)
        else:
            factors = [self.signed_power()]
            while self.peek() and (self.text[self.at].isalnum() or _GREEK_AHEAD.match(self.text, self.at)):
                if _FUNCTION.match(self.text, self.at) and not self.text.startswith("pi", self.at):
                    break
                factors.append(self.power())
            argument = self.product(factors)
        self.depth -= 1
        return argument


_GREEK_AHEAD = re.compile(rf"\\(?:{_GREEK}|pi|frac|sqrt)(?![a-zA-Z])")


def parse(text: str) -> Tree:
    """The tree of one expression.

    Raises `Unreadable` where `text` is no expression, or nests, or is long, beyond the limits of this file.
    """
    reader = _Reader(text)
    tree = reader.sum()
    if reader.peek():
        raise Unreadable(f"left over: {text[reader.at : reader.at + 12]!r}")
    return tree
