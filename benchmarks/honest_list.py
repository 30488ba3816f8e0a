"""Programs that a model would write for a word problem, by family, with the parameters filled in: (family, body, expression).

The body computes, the expression is the answer. `forms` writes both as the three kinds of program that the sandbox knows: one
that prints, one that ends in an expression, one that defines `solution()`. Nothing here holds an expected value: CPython says.
"""

# ruff: noqa: E501  (a program is one literal)

from collections.abc import Iterator

# family -> [(body, expression, [parameters, ...])]; {0}, {1}, ... are replaced
TEMPLATES: dict[str, list[tuple[str, str, list[tuple[object, ...]]]]] = {
    "arithmetic": [
        ("eggs = {0}\neaten = {1}\nsold = eggs - eaten", "sold * {2}", [(16, 7, 2), (120, 31, 3)]),
        ("price = {0}\ndiscount = price * {1} / 100", "price - discount", [(80, 15), (59.99, 20)]),
        ("total = {0} + {1} * {2}", "total / {3}", [(12, 3, 4, 8), (7, 5, 9, 3)]),
        ("hours, minutes = divmod({0}, 60)", "(hours, minutes)", [(135,), (61,)]),
        ("a = {0} // {1}\nb = {0} % {1}", "a * 100 + b", [(-17, 5), (1234, 7)]),
        ("x = {0} ** {1}", "x % {2}", [(7, 13, 1000), (2, 100, 97)]),
        ("import math", "math.gcd({0}, {1}), math.lcm({0}, {1})", [(84, 36), (17, 51)]),
    ],
    "floats": [
        ("x = 0.1 + 0.2", "x * {0}", [(1,), (3,)]),
        ("radius = {0}\nimport math\narea = math.pi * radius ** 2", "area", [(5,), (2.5,)]),
        ("balance = {0}\nfor year in range({1}):\n    balance *= 1 + {2} / 100", "round(balance, 2)", [(1000, 5, 3), (250, 12, 7)]),
        ("speed = {0} / {1}", "speed * 3.6", [(100, 9.58), (42195, 7299)]),
        ("values = {0}\nmean = sum(values) / len(values)", "mean", [([3, 5, 7, 10],), ([1.5, 2.5, 9],)]),
        ("values = [2, 4, 4, 4, 5, 5, 7, {0}]\nm = sum(values) / 8", "(sum((v - m) ** 2 for v in values) / 8) ** 0.5", [(9,), (13,)]),
        ("import math", "math.sqrt({0}) + math.log({1})", [(2, 10), (50, 3)]),
        ("import math", "math.hypot({0}, {1})", [(3, 4), (1, 1)]),
        ("import math\nangle = math.radians({0})", "round(math.sin(angle), 6)", [(30,), (77,)]),
        ("import math", "math.floor({0}) + math.ceil({0}) + math.trunc(-{0})", [(2.5,), (7.01,)]),
        ("x = {0}", "round(x), round(x, 1), int(x)", [(2.5,), (3.75,)]),
        ("lo, hi = 0.0, {0}\nfor _ in range(60):\n    mid = (lo + hi) / 2\n    if mid ** 3 < {0}:\n        lo = mid\n    else:\n        hi = mid",
         "round(lo, 8)", [(10.0,), (77.0,)]),
    ],
    "loops": [
        ("total = 0\nfor i in range(1, {0} + 1):\n    if i % {1} == 0:\n        total += i", "total", [(100, 7), (999, 3)]),
        ("n = {0}\nsteps = 0\nwhile n != 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n    steps += 1", "steps", [(27,), (97,)]),
        ("n = {0}\ndigits = 0\nwhile n:\n    digits += n % 10\n    n //= 10", "digits", [(98765,), (2**40,)]),
        ("count = 0\nfor a in range(1, {0}):\n    for b in range(a, {0}):\n        c = {0} - a - b\n        if a < c and b <= c and a * a + b * b == c * c:\n"
         "            count += 1", "count", [(120,), (60,)]),
        ("height = {0}\nbounces = 0\nwhile height > 1:\n    height *= 0.6\n    bounces += 1", "bounces", [(100,), (7,)]),
        ("money = {0}\nmonth = 0\nwhile True:\n    month += 1\n    money -= {1}\n    if money < {1}:\n        break", "month, money", [(1000, 130), (99, 12)]),
        ("for n in range(1, 10000):\n    if n % {0} == 1 and n % {1} == 2 and n % 5 == 3:\n        break\nelse:\n    n = -1", "n", [(3, 7), (4, 9)]),
    ],
    "primes": [
        ("def is_prime(n):\n    if n < 2:\n        return False\n    i = 2\n    while i * i <= n:\n        if n % i == 0:\n            return False\n"
         "        i += 1\n    return True", "sum(1 for n in range({0}) if is_prime(n))", [(100,), (1000,)]),
        ("sieve = [True] * {0}\nsieve[0] = sieve[1] = False\nfor i in range(2, {0}):\n    if sieve[i]:\n        for j in range(i * i, {0}, i):\n"
         "            sieve[j] = False", "[i for i, p in enumerate(sieve) if p][-3:]", [(200,), (1000,)]),
        ("n, factors, d = {0}, [], 2\nwhile n > 1:\n    while n % d == 0:\n        factors.append(d)\n        n //= d\n    d += 1", "factors", [(360,), (9699690,)]),
        ("def phi(n):\n    result, p = n, 2\n    while p * p <= n:\n        if n % p == 0:\n            while n % p == 0:\n                n //= p\n"
         "            result -= result // p\n        p += 1\n    return result - result // n if n > 1 else result", "phi({0})", [(36,), (997,)]),
        ("divisors = [d for d in range(1, {0} + 1) if {0} % d == 0]", "len(divisors), sum(divisors)", [(360,), (496,)]),
    ],
    "fractions": [
        ("def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\ndef add(p, q):\n    n = p[0] * q[1] + q[0] * p[1]\n    d = p[1] * q[1]\n"
         "    g = gcd(n, d)\n    return n // g, d // g\ntotal = (0, 1)\nfor k in range(1, {0}):\n    total = add(total, (1, k))",
         "str(total[0]) + '/' + str(total[1])", [(5,), (12,)]),
        ("from math import gcd\nn, d = {0}, {1}\ng = gcd(n, d)", "str(n // g) + '/' + str(d // g)", [(84, 36), (1001, 77)]),
        ("from decimal import Decimal\nx = Decimal('{0}') + Decimal('{1}')", "str(x)", [("0.1", "0.2"), ("1.10", "2.25")]),
        ("whole, n, d = {0}", "str(whole * d + n) + '/' + str(d)", [((2, 3, 4),), ((5, 1, 7),)]),
    ],
    "dynamic programming": [
        ("coins = {0}\nways = [1] + [0] * {1}\nfor c in coins:\n    for v in range(c, {1} + 1):\n        ways[v] += ways[v - c]", "ways[{1}]", [([1, 2, 5], 50), ([1, 5, 10, 25], 100)]),
        ("from functools import lru_cache\n@lru_cache(maxsize=None)\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)", "f({0})", [(50,), (90,)]),
        ("a, b = '{0}', '{1}'\nt = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]\nfor i in range(len(a)):\n    for j in range(len(b)):\n"
         "        t[i + 1][j + 1] = t[i][j] + 1 if a[i] == b[j] else max(t[i][j + 1], t[i + 1][j])", "t[len(a)][len(b)]", [("ABCBDAB", "BDCABA"), ("kitten", "sitting")]),
        ("weights, values = {0}, {1}\nbest = [0] * {2}\nfor w, v in zip(weights, values):\n    for c in range({2} - 1, w - 1, -1):\n"
         "        best[c] = max(best[c], best[c - w] + v)", "best[-1]", [([1, 3, 4, 5], [1, 4, 5, 7], 8), ([2, 5, 7], [3, 8, 12], 13)]),
        ("memo = {{}}\ndef paths(r, c):\n    if r == 0 or c == 0:\n        return 1\n    if (r, c) not in memo:\n        memo[r, c] = paths(r - 1, c) + paths(r, c - 1)\n"
         "    return memo[r, c]", "paths({0}, {1})", [(6, 4), (15, 15)]),
        ("s = {0}\nbest = here = s[0]\nfor v in s[1:]:\n    here = max(v, here + v)\n    best = max(best, here)", "best", [([-2, 1, -3, 4, -1, 2, 1, -5, 4],), ([3, -1, 4],)]),
        ("def partitions(n, m):\n    if n == 0:\n        return 1\n    if n < 0 or m == 0:\n        return 0\n    return partitions(n - m, m) + partitions(n, m - 1)",
         "partitions({0}, {0})", [(10,), (20,)]),
    ],
    "strings": [
        ("s = '{0}'", "s[::-1].upper()", [("headway",), ("a man a plan",)]),
        ("s = '{0}'", "sum(1 for c in s if c in 'aeiou')", [("education",), ("rhythm and blues",)]),
        ("words = '{0}'.split()", "' '.join(sorted(w.capitalize() for w in words))", [("the quick brown fox",), ("to be or not",)]),
        ("n = {0}", "str(n) == str(n)[::-1]", [(12321,), (1231,)]),
        ("count = 0\nfor n in range({0}):\n    if '7' in str(n):\n        count += 1", "count", [(1000,), (777,)]),
        ("s = '{0}'\nshifted = ''.join(chr((ord(c) - 97 + {1}) % 26 + 97) for c in s)", "shifted", [("hello", 3), ("zebra", 13)]),
        ("n = {0}", "bin(n)[2:] + ' ' + hex(n) + ' ' + oct(n)", [(255,), (1000,)]),
        ("import re\ntext = '{0}'", "sum(int(x) for x in re.findall(r'\\d+', text))", [("3 cats, 12 dogs and 1 cow",), ("room 101, floor 7",)]),
        ("x = {0}", "f'{{x:.2f}} {{x:,}} {{x:>12.3f}}'", [(1234567.891,), (0.5,)]),
        ("s = '{0}'", "s.replace('a', 'o').title().count('o'), s.find('n'), len(s.strip())", [("banana split ",), (" anagram",)]),
    ],
    "collections": [
        ("ages = {{'Ann': {0}, 'Bob': {1}, 'Cy': {2}}}", "max(ages, key=lambda name: ages[name])", [(31, 28, 40), (5, 9, 7)]),
        ("from collections import Counter\nc = Counter('{0}')", "sorted(c.items(), key=lambda kv: (-kv[1], kv[0]))[:3]", [("mississippi",), ("abracadabra",)]),
        ("from collections import defaultdict\nd = defaultdict(list)\nfor n in range({0}):\n    d[n % {1}].append(n)", "[sum(d[k]) for k in sorted(d)]", [(20, 3), (50, 7)]),
        ("a, b = set({0}), set({1})", "sorted(a & b), sorted(a | b), sorted(a - b), len(a ^ b)", [([1, 2, 3, 4], [3, 4, 5]), ([2, 4, 6, 8], [4, 8, 12])]),
        ("squares = {{n: n * n for n in range({0})}}", "sum(squares.values()), squares[{1}]", [(10, 7), (30, 29)]),
        ("m = {0}\nt = [list(row) for row in zip(*m)]", "t", [([[1, 2, 3], [4, 5, 6]],), ([[7, 8], [9, 10], [11, 12]],)]),
        ("people = {0}\npeople.sort(key=lambda p: (p[1], p[0]))", "[p[0] for p in people]", [([("Zoe", 3), ("Al", 3), ("Mo", 1)],), ([("b", 2), ("a", 2)],)]),
        ("queue = {0}\nwhile len(queue) > 1:\n    queue.append(queue.pop(0))\n    queue.pop(0)", "queue[0]", [(list(range(1, 42)),), (list(range(10)),)]),
        ("stack = []\nfor t in '{0}'.split():\n    if t in '+-*':\n        b, a = stack.pop(), stack.pop()\n        stack.append(a + b if t == '+' else a - b if t == '-' else a * b)\n"
         "    else:\n        stack.append(int(t))", "stack[-1]", [("3 4 + 2 *",), ("5 1 2 + 4 * + 3 -",)]),
        ("x = {0}", "x[1:-1], x[::2], x[-1], min(x), max(x), sum(x)", [([5, 3, 8, 1, 9],), ([2, 7, 1, 8, 2, 8],)]),
    ],
    "combinatorics": [
        ("from itertools import permutations\ncount = sum(1 for p in permutations(range({0})) if all(p[i] != i for i in range({0})))", "count", [(4,), (6,)]),
        ("from itertools import combinations", "len([c for c in combinations(range(1, {0}), 3) if sum(c) == {1}])", [(10, 15), (13, 20)]),
        ("from itertools import product\nrolls = list(product(range(1, 7), repeat={0}))", "sum(1 for r in rolls if sum(r) == {1}), len(rolls)", [(2, 7), (3, 10)]),
        ("import math", "math.comb({0}, {1}), math.perm({0}, {1}), math.factorial({1})", [(10, 3), (52, 5)]),
        ("from itertools import accumulate", "list(accumulate({0}))", [([1, 2, 3, 4],), ([5, -2, 8],)]),
        ("def choose(n, k):\n    return 1 if k in (0, n) else choose(n - 1, k - 1) + choose(n - 1, k)", "[choose({0}, k) for k in range({0} + 1)]", [(5,), (8,)]),
    ],
    "recursion": [
        ("def hanoi(n):\n    return 0 if n == 0 else 2 * hanoi(n - 1) + 1", "hanoi({0})", [(10,), (64,)]),
        ("def power(b, e, m):\n    if e == 0:\n        return 1\n    half = power(b, e // 2, m)\n    return half * half * (b if e % 2 else 1) % m", "power({0}, {1}, {2})", [(3, 200, 13), (7, 1000, 101)]),
        ("def queens(n, row=0, cols=(), d1=(), d2=()):\n    if row == n:\n        return 1\n    total = 0\n    for c in range(n):\n"
         "        if c not in cols and row + c not in d1 and row - c not in d2:\n            total += queens(n, row + 1, cols + (c,), d1 + (row + c,), d2 + (row - c,))\n"
         "    return total", "queens({0})", [(5,), (6,)]),
        ("def depth(x):\n    return 1 + max([depth(i) for i in x] or [0]) if isinstance(x, list) else 0", "depth({0})", [([1, [2, [3]]],), ([[], [[]]],)]),
        ("def ack(m, n):\n    if m == 0:\n        return n + 1\n    return ack(m - 1, 1) if n == 0 else ack(m - 1, ack(m, n - 1))", "ack(2, {0})", [(3,), (7,)]),
    ],
    "classes": [
        ("class Account:\n    def __init__(self, balance):\n        self.balance = balance\n    def deposit(self, amount):\n        self.balance += amount\n        return self\n"
         "account = Account({0}).deposit({1})", "account.deposit(5).balance", [(100, 50), (0, 7)]),
        ("from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n    y: int\np, q = Point({0}, {1}), Point(1, 1)", "(p.x - q.x) ** 2 + (p.y - q.y) ** 2", [(4, 5), (-2, 3)]),
    ],
    "control": [
        ("try:\n    x = int('{0}')\nexcept ValueError:\n    x = -1\nfinally:\n    y = 10", "x + y", [("12",), ("twelve",)]),
        ("def grade(score: int) -> str:\n    if score >= 90:\n        return 'A'\n    elif score >= 80:\n        return 'B'\n    return 'C'", "''.join(grade(s) for s in {0})", [([95, 83, 12],), ([80, 89, 90],)]),
        ("match {0}:\n    case 0:\n        kind = 'zero'\n    case 1 | 2 | 3:\n        kind = 'few'\n    case _:\n        kind = 'many'", "kind", [(2,), (9,)]),
        ("def f(*args, scale=1, **rest):\n    return sum(args) * scale + sum(rest.values())", "f(1, 2, {0}, scale=3, extra={1})", [(3, 4), (10, 20)]),
        ("if (n := len('{0}')) > 5:\n    r = n * 2\nelse:\n    r = n", "r", [("abcdef",), ("abc",)]),
        ("first, *middle, last = {0}", "first + last, middle", [([1, 2, 3, 4],), ([9, 8],)]),
        ("compose = lambda f, g: lambda x: f(g(x))\nh = compose(lambda x: x + {0}, lambda x: x * {1})", "[h(i) for i in range(4)]", [(1, 2), (5, 3)]),
        ("import math\nassert math.isclose(0.1 + 0.2, 0.3)\npairs = [(i, j) for i in range({0}) for j in range(i) if (i + j) % {1} == 0]", "len(pairs), pairs[-1]", [(6, 3), (9, 4)]),
    ],
    "linear": [
        ("a, b, e, c, d, f = {0}\ndet = a * d - b * c", "(e * d - b * f) / det, (a * f - e * c) / det", [((2, 3, 8, 1, -1, -1),), ((1, 1, 10, 2, -1, 2),)]),
        ("a, b, c = {0}\nd = b * b - 4 * a * c\nroots = sorted([(-b - d ** 0.5) / (2 * a), (-b + d ** 0.5) / (2 * a)])", "roots", [((1, -5, 6),), ((2, 1, -3),)]),
        ("m = {0}\ndef det(m):\n    if len(m) == 1:\n        return m[0][0]\n    return sum((-1) ** j * m[0][j] * det([r[:j] + r[j + 1:] for r in m[1:]]) for j in range(len(m)))",
         "det(m)", [([[2, 0, 1], [1, 3, 2], [1, 1, 1]],), ([[1, 2], [3, 4]],)]),
        ("a, b = {0}, {1}\nc = [[sum(x * y for x, y in zip(row, col)) for col in zip(*b)] for row in a]", "c", [([[1, 2], [3, 4]], [[5, 6], [7, 8]]), ([[1, 0], [0, 1]], [[9, 9], [1, 2]])]),
        ("x = {0}\nfor _ in range(30):\n    x = x - (x * x - {1}) / (2 * x)", "round(x, 10)", [(1.0, 2), (3.0, 7)]),
    ],
    "graphs": [
        ("g = {0}\nseen, todo = set(), [1]\nwhile todo:\n    n = todo.pop()\n    if n not in seen:\n        seen.add(n)\n        todo.extend(g.get(n, []))",
         "sorted(seen)", [({1: [2, 3], 2: [4], 5: [6]},), ({1: [2], 2: [1]},)]),
        ("g = {0}\ndist = {{'a': 0}}\nqueue = [(0, 'a')]\nwhile queue:\n    queue.sort()\n    d, n = queue.pop(0)\n    for m, w in g[n].items():\n        if m not in dist or d + w < dist[m]:\n"
         "            dist[m] = d + w\n            queue.append((d + w, m))", "dist['d']", [({"a": {"b": 1, "c": 4}, "b": {"c": 2, "d": 7}, "c": {"d": 1}, "d": {}},), ({"a": {"d": 9, "b": 2}, "b": {"d": 3}, "d": {}},)]),
    ],
    "dates and units": [
        ("days = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]\nleap = {0} % 4 == 0 and ({0} % 100 != 0 or {0} % 400 == 0)\ndays[1] += leap", "sum(days[:{1} - 1])", [(2024, 3), (1900, 3)]),
        ("from datetime import date\nd = date({0}, {1}, {2})", "(date(2025, 1, 1) - d).days", [(2000, 1, 1), (2024, 2, 29)]),
        ("seconds = {0}\nh, rest = divmod(seconds, 3600)\nm, s = divmod(rest, 60)", "f'{{h}}:{{m:02d}}:{{s:02d}}'", [(3661,), (86399,)]),
        ("fahrenheit = {0}", "round((fahrenheit - 32) * 5 / 9, 1)", [(98.6,), (-40,)]),
    ],
    "word problems": [
        ("# Natalia sold clips to friends in April, then half as many in May.\napril = {0}\nmay = april / 2\ntotal = april + may", "int(total)", [(48,), (96,)]),
        ("workers, days = {0}, {1}\nrate = 1 / (workers * days)", "1 / (rate * {2})", [(6, 10, 4), (3, 8, 12)]),
        ("apples = {0}\nfor friend in range(3):\n    apples -= apples // 4", "apples", [(64,), (100,)]),
        ("cost = 0\nfor item, (price, count) in {{'pen': ({0}, 4), 'book': ({1}, 2)}}.items():\n    cost += price * count", "cost", [(1.25, 7.5), (2, 13)]),
        ("distance = {0}\nspeed_a, speed_b = {1}, {2}\ntime = distance / (speed_a + speed_b)", "speed_a * time", [(300, 60, 40), (210, 35, 70)]),
        ("chickens = None\nfor c in range({0} + 1):\n    if 2 * c + 4 * ({0} - c) == {1}:\n        chickens = c", "chickens, {0} - chickens", [(35, 94), (20, 56)]),
    ],
}  # fmt: skip

# Honest, too, but of what the sandbox lacks: each must be called unsupported, never the program's own mistake.
BEYOND = [
    "from fractions import Fraction\nprint(Fraction(1, 3) + Fraction(1, 6))",
    "from sympy import symbols, solve\nx = symbols('x')\nprint(solve(x**2 - 4, x))",
    "import sympy as sp\nprint(sp.factorial(5))",
    "import numpy as np\nprint(np.array([1, 2]).sum())",
    "from scipy.optimize import brentq\nprint(brentq(lambda x: x - 1, 0, 2))",
    "import pandas as pd\nprint(pd.Series([1]).sum())",
    "import statistics\nprint(statistics.mean([1, 2, 3]))",
    "import heapq\nh = [3, 1, 2]\nheapq.heapify(h)\nprint(heapq.heappop(h))",
    "import operator\nprint(operator.add(1, 2))",
    "import string\nprint(len(string.ascii_lowercase))",
    "import cmath\nprint(cmath.sqrt(-1))",
    "from math import *\nprint(sqrt(16))",
    "def primes():\n    n = 2\n    while True:\n        yield n\n        n += 1\nprint(next(primes()))",
    "d = {1: 2, 3: 4}\ndel d[1]\nprint(len(d))",
    "class Shape:\n    sides = 3\nclass Square(Shape):\n    sides = 4\nprint(Square.sides)",
    "n = int(input())\nprint(n)",
    "print((37).bit_length())",
    "print('abc'.translate({97: 'x'}))",
    "import sys\nprint(6)\nsys.exit()",
    "x = 5\nprint(globals()['x'])",
]


def honest() -> Iterator[tuple[str, str, str]]:
    """Every program's family, body and expression."""
    for family, templates in TEMPLATES.items():
        for body, expression, parameters in templates:
            for values in parameters:
                yield family, body.format(*values), expression.format(*values)


def forms(body: str, expression: str) -> dict[str, str]:
    """The program as one that prints, as one that ends in an expression, and as a function that nobody calls."""
    indented = "\n".join("    " + line for line in body.split("\n"))
    return {
        "print": f"{body}\nprint(({expression}))",
        "value": f"{body}\n({expression})",
        "solution": f"def solution():\n{indented}\n    return ({expression})",
    }
