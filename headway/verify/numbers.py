r"""What an expression's tree is worth: an exact fraction, or complex numbers at fixed sample points.

    x^2 - 1  and  (x-1)(x+1):  equal at every sample point, so they are the same expression
    1/2004!  and  1/2006!:     rational, so compared as fractions and never as floats

An analytic identity that holds at random points holds everywhere, except for points of measure zero. Where floats
cannot tell (a value cancelled, a term was absorbed, a branch differs, undefined) the answer is None: undecided. Sizes
are bounded before anything is evaluated: digits, exponents, factorials.

It does not know how an expression is written.
"""

from __future__ import annotations

import cmath
import hashlib
import math
import zlib
from collections.abc import Callable
from fractions import Fraction

from headway.verify.expression import Tree

MAX_BITS = 24_000  # size of an exact number
MAX_FACTORIAL = 2_100
MAX_RESIDUE_POWER = 1_000_000
MAX_POWER = 5_000  # exponent of a sample-point evaluation
SAME = 1e-12  # relative difference below which two floats are the same value
DIFFERENT = 1e-9  # and above which they are not; in between is undecided
ROUGH = 4  # a sample point for searching roots: sums may cancel there
ABSORBED = 1e-11  # a term so much smaller than its sum is invisible in floats


def variables(tree: Tree) -> set[str]:
    """The names of all symbols in `tree`."""
    if tree[0] == "var":
        return {tree[1]}
    return {name for part in tree[1:] if isinstance(part, tuple) for name in variables(part)}


def exact(tree: Tree) -> Fraction | None:
    """The rational value of `tree`, or None where it has variables, is irrational, or is too large to compute.

    Raises ZeroDivisionError for 1/0.
    """
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "mixable":
        return Fraction(tree[1], tree[2])
    if kind in ("var", "const"):
        return None
    if kind == "pow":
        return _exact_power(tree)
    parts = [exact(part) for part in tree[1:] if isinstance(part, tuple)]
    values = [part for part in parts if part is not None]
    if len(values) != len(parts) or sum(_bits(value) for value in values) > MAX_BITS:
        return None
    if kind == "neg":
        return -values[0]
    if kind == "sum":
        return sum(values, Fraction(0))
    if kind == "prod":
        return math.prod(values, start=Fraction(1))
    if kind == "binom":
        n, k = values
        fits = n.denominator == k.denominator == 1 and k >= 0 and 0 <= n <= MAX_FACTORIAL
        return Fraction(math.comb(int(n), int(k))) if fits else None
    if tree[1] in _LISTED:
        return _exact_list_function(tree[1], values)
    return _exact_function(tree[1], values[0])


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


_LISTED = frozenset({"gcd", "lcm", "max", "min", "mod"})


def _exact_list_function(name: str, values: list[Fraction]) -> Fraction | None:
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    if name == "mod":
        return values[0] % values[1]
    if any(value.denominator != 1 for value in values):
        return None
    return Fraction((math.gcd if name == "gcd" else math.lcm)(*(value.numerator for value in values)))


def _exact_function(name: str, value: Fraction) -> Fraction | None:
    if name == "abs":
        return abs(value)
    if name in ("floor", "ceil"):
        return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
    if name == "factorial" and value.denominator == 1 and 0 <= value <= MAX_FACTORIAL:
        return Fraction(math.factorial(int(value)))
    return None


def _exact_power(tree: Tree) -> Fraction | None:
    base, exponent = exact(tree[1]), exact(tree[2])
    if base is None or exponent is None:
        return None
    if exponent.denominator == 1:
        if abs(exponent) * (_bits(base) - 1) > MAX_BITS:
            return None
        if base == 0 and exponent <= 0:
            raise ZeroDivisionError
        return base ** int(exponent) if abs(exponent) <= MAX_BITS else None
    if exponent.denominator > 12 or abs(exponent.numerator) > 64 or _bits(base) > 2_000:
        return None
    if base < 0 and exponent.denominator % 2 == 0:
        return None
    root = _exact_root(abs(base), exponent.denominator)
    if root is None or (root == 0 and exponent < 0):
        return None
    return (root if base >= 0 else -root) ** exponent.numerator


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The rational `degree`-th root of a fraction >= 0, if it has one."""
    parts: list[int] = []
    for whole in (value.numerator, value.denominator):
        root = math.isqrt(whole) if degree == 2 else _integer_root(whole, degree)
        if root**degree != whole:
            return None
        parts.append(root)
    return Fraction(parts[0], parts[1])


def _integer_root(whole: int, degree: int) -> int:
    """The largest r with r**degree <= whole, by bisection."""
    low, high = 0, 1 << (whole.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= whole else (low, middle - 1)
    return low


_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda z: 1 / cmath.tan(z),
    "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z),
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "coth": lambda z: 1 / cmath.tanh(z),
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "arccot": lambda z: cmath.atan(1 / z),
    "arcsec": lambda z: cmath.acos(1 / z),
    "arccsc": lambda z: cmath.asin(1 / z),
    "arcsinh": cmath.asinh,
    "arccosh": cmath.acosh,
    "arctanh": cmath.atanh,
    "log": cmath.log,
    "exp": cmath.exp,
    "abs": lambda z: complex(abs(z)),
}


PRIME = 2**61 - 31  # a prime of the form 4k + 1, so -1 has a square root; 7 is no square modulo it
ROOT_OF_MINUS_ONE = pow(7, (PRIME - 1) // 4, PRIME)


def residue(tree: Tree) -> int | None:
    """The value of a rational expression modulo a large prime at a fixed random point; None for any other expression.

    Two rational expressions with one residue are the same one, but for a chance of about degree / 2^61: no rounding,
    no overflow. The constants pi and e count as variables of their own.
    """
    try:
        return _residue(tree)
    except (ArithmeticError, ValueError):
        return None


def _residue(tree: Tree) -> int:
    kind = tree[0]
    if kind == "num":
        return tree[1].numerator * pow(tree[1].denominator, -1, PRIME) % PRIME
    if kind == "mixable":
        return tree[1] * pow(tree[2], -1, PRIME) % PRIME
    if kind == "var" or (kind == "const" and tree[1] != 1j):
        name = tree[1] if kind == "var" else f"constant {tree[1]}"
        return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).digest(), "big") % PRIME
    if kind == "const":
        return ROOT_OF_MINUS_ONE
    if kind == "sum":
        return sum(_residue(part) for part in tree[1:]) % PRIME
    if kind == "prod":
        value = 1
        for part in tree[1:]:
            value = value * _residue(part) % PRIME
        return value
    if kind == "neg":
        return -_residue(tree[1]) % PRIME
    if kind == "pow":
        exponent = exact(tree[2])
        if exponent is None or exponent.denominator != 1 or abs(exponent) > MAX_RESIDUE_POWER:
            raise ValueError
        return pow(_residue(tree[1]), exponent.numerator, PRIME)
    raise ValueError


def _point(name: str, index: int) -> complex:
    """The value of a variable at sample point `index`: 0 and 1 are positive, 2 is negative, 3 complex."""
    noise = zlib.crc32(f"{index}:{name}".encode("utf-8", "replace")) / 2**32
    if index < 2:
        return complex(0.7 + 0.8 * noise)
    return complex(-0.6 - 0.9 * noise) if index == 2 else complex(0.3 + noise, 0.2 + noise * noise)


def sample(tree: Tree, index: int) -> complex | None:
    """The value of `tree` at sample point `index` (0 to 3), or None where it has none or cannot be computed."""
    try:
        value = _value(tree, index)
    except (ArithmeticError, ValueError):
        return None
    return value if cmath.isfinite(value) else None


def _value(tree: Tree, index: int) -> complex:
    kind = tree[0]
    if kind == "num":
        return complex(float(tree[1]))
    if kind == "mixable":
        return complex(tree[1] / tree[2])
    if kind == "const":
        return complex(tree[1])
    if kind == "var":
        return _point(tree[1], index)
    if kind == "sum":
        terms = [_value(part, index) for part in tree[1:]]
        return sum(terms, 0j) if index == ROUGH else _sum_value(terms)
    if kind == "prod":
        return math.prod((_value(part, index) for part in tree[1:]), start=1 + 0j)
    if kind == "neg":
        return -_value(tree[1], index)
    if kind == "pow":
        return _power_value(_value(tree[1], index), _value(tree[2], index))
    if kind == "binom":
        n, k = _value(tree[1], index), _value(tree[2], index)
        return _factorial(n) / (_factorial(k) * _factorial(n - k))
    if tree[1] == "factorial":
        return _factorial(_value(tree[2], index))
    if tree[1] in ("floor", "ceil"):
        value = _value(tree[2], index)
        if abs(value.imag) > 1e-12 or abs(value.real - round(value.real)) < 1e-9:
            raise ValueError
        return complex(math.floor(value.real) if tree[1] == "floor" else math.ceil(value.real))
    if tree[1] in _LISTED:
        return complex(_real_list_function(tree[1], [_value(part, index) for part in tree[2:]]))
    value = _FUNCTIONS[tree[1]](_value(tree[2], index))
    if 0 < abs(value) < 1e-12:
        raise ValueError  # sin(pi) in floats
    return value


def _real_list_function(name: str, values: list[complex]) -> float:
    if any(abs(value.imag) > 1e-12 for value in values) or name in ("gcd", "lcm"):
        raise ValueError
    reals = [value.real for value in values]
    if name == "mod":
        return reals[0] - reals[1] * math.floor(reals[0] / reals[1])
    return max(reals) if name == "max" else min(reals)


def _sum_value(terms: list[complex]) -> complex:
    sizes = [abs(term) for term in terms if term]
    if sizes and min(sizes) < ABSORBED * max(sizes):
        raise ValueError
    total = sum(terms, 0j)
    if sizes and total != 0 and abs(total) < 1e-4 * max(sizes):
        raise ValueError  # cancelled: few digits are left
    return total


def _power_value(base: complex, exponent: complex) -> complex:
    if abs(exponent) > MAX_POWER:
        raise OverflowError
    if base.imag == 0 and base.real < 0 and exponent.imag == 0 and 0 < abs(exponent.real) < 1:
        degree = 1 / exponent.real
        if abs(degree - round(degree)) < 1e-9 and round(degree) % 2:  # the real odd root
            return complex(-((-base.real) ** exponent.real))
    return base**exponent


def _factorial(value: complex) -> complex:
    if abs(value.imag) > 1e-12 or abs(value.real) > 160:
        raise ValueError
    return complex(math.gamma(value.real + 1))


def same_value(left: Tree, right: Tree) -> bool | None:
    """Whether two expressions are identical; None where sampling cannot tell (undefined, cancelled, other branch)."""
    try:
        first, second = exact(left), exact(right)
    except ZeroDivisionError:
        return None
    if first is not None and second is not None:
        return first == second
    ours, theirs = residue(left), residue(right)
    if ours is not None and theirs is not None:
        return ours == theirs
    return agree([(sample(left, index), sample(right, index)) for index in range(4)])


def agree(pairs: list[tuple[complex | None, complex | None]]) -> bool | None:
    """Whether the values at the sample points agree: all do, or one of the positive points does not."""
    compared = 0
    for index, (a, b) in enumerate(pairs):
        if a is None or b is None:
            continue
        size = max(abs(a), abs(b))
        if abs(a - b) > SAME * size:
            return False if index < 2 and abs(a - b) > DIFFERENT * size else None
        compared += 1
    return True if compared >= 2 and pairs[0][0] is not None else None
