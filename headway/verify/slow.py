r"""The slow path: Math-Verify (sympy) on one pair of answers, in a process that may be killed at any time.

    parent --{"reference": "...", "answer": "..."}-->  this  --"R" (the reference reads), "same"-->  parent

`python -m headway.verify.slow MEMORY_MB` reads JSON lines from standard input until it closes, and answers each with
one word. It sets its own memory limit and writes no file. Math-Verify is called without its signal-based time limits: the
parent watches the clock.

Known false positives of Math-Verify 0.9 that are refused here: a number found inside LaTeX that failed, true and false
as answers, undefined values, constants so small that rounding makes them equal, and equality in one direction only.

It does not know completions, outcomes or time.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from typing import Any

from headway.verify.service import serve

_LETTERS = re.compile(r"\\?[A-Za-z]+")
_ALLOWED = re.compile(
    r"\\(?:frac|sqrt|cdot|times|div|pi|left|right|ln|log|a?r?c?(?:sin|cos|tan|sec|csc|cot)h?|exp|binom|[lr]floor|[lr]ceil"
    r"|operatorname|b?mod|pmod|gcd|max|min|lcm|sum|prod|lim|to|int|begin|end|det|ast|infty|[lr]vert)"
    r"|floor|ceil|gcd|lcm|max|min|mod|[a-z]?matrix|d?[a-z]|e|i"
)

_WARM = (  # pairs whose kinds import the most; the first integral in a process takes 0.3 s, the second 0.01 s
    ("x+1", "1+x"),
    (r"\int_{0}^{7} 1\, dx", r"\int_0^6 dx"),
    (r"\{2\}", r"\{1,2\} \cap \{2,3\}"),
    (r"\left[1,\frac{2}{3}\right)", r"\left[1,\sqrt{2}\right)"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1&\cos 2\end{pmatrix}"),
    (r"\sum_{k=1}^{3} k", r"\sin^2 x + \cos^2 x"),
    ("x < 3", "3 > x"),
)


def read(text: str) -> Any:
    """The one sympy object that Math-Verify reads in the whole of `text`, or None."""
    from math_verify import LatexExtractionConfig, parse
    from sympy import Basic, Float, MatrixBase, Number, S, Set
    from sympy.logic.boolalg import BooleanFalse, BooleanTrue

    found = parse(
        f"${text}$",
        extraction_config=[LatexExtractionConfig()],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # type: ignore[arg-type]
    )
    if not found or not isinstance(found[0], (Basic, MatrixBase)):
        return None
    value = found[0]
    if isinstance(value, (BooleanTrue, BooleanFalse)):
        return None
    if isinstance(value, Basic) and value.has(S.NaN, S.ComplexInfinity):
        return None
    if isinstance(value, (Number, Float)) and any(not _ALLOWED.fullmatch(word) for word in _LETTERS.findall(text)):
        return None
    return value.doit() if isinstance(value, Set) else value


def compare(reference: Any, answer: Any) -> bool:
    """Whether Math-Verify calls the two objects equal, both ways, and 30 digits do not contradict it."""
    from math_verify import verify
    from sympy import Expr, N

    for gold, other in ((reference, answer), (answer, reference)):
        if not verify(gold, other, allow_set_relation_comp=True, timeout_seconds=None):
            return False
    if isinstance(reference, Expr) and isinstance(answer, Expr) and not (reference.free_symbols | answer.free_symbols):
        difference, size = abs(N(reference - answer, 30)), abs(N(reference, 30))
        if difference.is_number and size.is_number and difference.is_comparable and size.is_comparable:
            return bool(difference <= size * 1e-9) or bool(size < 1e-25 and difference < 1e-25)
    return True


def answer_one(request: dict[str, str], say: Any) -> str:
    """The verdict on one request: same, differ, reference_unread, answer_unread, memory or error."""
    try:
        reference = read(request["reference"])
        if reference is None:
            return "reference_unread"
        say("R")
        answer = read(request["answer"])
        if answer is None:
            return "answer_unread"
        return "same" if compare(reference, answer) else "differ"
    except MemoryError:
        return "memory"
    except RecursionError:
        return "too_deep"
    except Exception:
        return "error"


def _limit(memory_mb: int) -> None:
    size = memory_mb * 2**20
    with contextlib.suppress(*(() if sys.platform == "linux" else (OSError, ValueError))):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _prepare(say: Any) -> Any:
    for reference, answer in _WARM:  # imports everything, and fills sympy's caches, before the limits bite
        compare(read(reference), read(answer))
    _limit(int(sys.argv[1]))
    return lambda request: answer_one(request, say)


def main() -> None:
    """Serves requests until standard input closes, then leaves at once, also out of a running computation."""
    serve(_prepare)


if __name__ == "__main__":
    main()
