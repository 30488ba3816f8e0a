"""Two equations in one look: a root of the one that is no root of the other tells them apart.

    x^2 + y^2 = 1  |  x^2 + y^2 = 2     fix y, search x with f(x, y) = 0 by the secant method, look at g(x, y)

It does not know relations or names of answers, and it never proves that two equations are the same.
"""

from __future__ import annotations

from headway.verify import numbers
from headway.verify.expression import Tree


def have_different_roots(left: Tree, right: Tree) -> bool:
    """Whether some root of one is clearly no root of the other, searched in one variable from fixed starts.

    All other variables stay at their sample points. False means "none found", not "the same roots".
    """
    names = sorted(numbers.variables(left) | numbers.variables(right))
    for one, other in ((left, right), (right, left)):
        for name in names:
            if name not in numbers.variables(one):
                continue
            for start in (0.9 + 0.1j, -1.1 + 0.3j):
                root = _root(one, name, start)
                value = None if root is None else _value_at(other, name, root)
                if value is not None and abs(value) > 1e-4:
                    return True
    return False


def _value_at(tree: Tree, name: str, value: complex) -> complex | None:
    return numbers.sample(_substituted(tree, name, ("const", value)), numbers.ROUGH)


def _substituted(tree: Tree, name: str, value: Tree) -> Tree:
    if tree[0] == "var":
        return value if tree[1] == name else tree
    return tuple(_substituted(part, name, value) if isinstance(part, tuple) else part for part in tree)


def _root(tree: Tree, name: str, start: complex) -> complex | None:
    """A root of `tree` in the variable `name` by the secant method, or None."""
    before, here = start, start + 0.05
    value_before = _value_at(tree, name, before)
    for _ in range(60):
        value = _value_at(tree, name, here)
        if value is None or value_before is None:
            return None
        if abs(value) < 1e-12:
            return here
        if value == value_before:
            return None
        before, here, value_before = here, here - value * (here - before) / (value - value_before), value
        if abs(here) > 1e6:
            return None
    return None
