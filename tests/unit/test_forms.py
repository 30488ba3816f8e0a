"""How answers are read, as one line."""

import pytest

from headway.types import Problem, Rollout, Split, StopReason
from headway.verify import grade
from headway.verify.forms import form
from headway.verify.judge import Verifier


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("", ""), ("42", "42"), ("007", "7"), ("0.50", "1/2"), (r"\dfrac{6}{4}", "3/2"), ("1,234", "1234"), ("-3/6", "-1/2"),
        (r"50\%", "50%"), ("٤٢", "42"), ("2x+1 ", "2x+1"), ("x = 3", "x = 3"), ("x>2", "2 < x"), (r"(1,\ 0.5)", "(1, 1/2)"),
        (r"\{3,1\}", "{3, 1}"), ("[2,5)", "[2, 5)"), ("6/4", "3/2"), ("0/5", "0"),
        (r"(-\infty,2)\cup(3,4]", r"(-\infty, 2) ∪ (3, 4]"), (r"\text{east}", "east"), ("-0", "0"), ("1/0", "? 1/0"),
        (r"\begin{pmatrix}1&2\\3&0.5\end{pmatrix}", "[[1, 2], [3, 1/2]]"), ("a garbled ( thing [[", "? a garbled ( thing [["),
    ],
)  # fmt: skip
def test_form(answer, shown):
    assert form(answer) == shown


def test_a_form_is_never_long():
    assert len(form("x+" * 5000)) <= 200
    assert len(form("7" * 300)) <= 200
    assert form("2^{40000}") == "2^{40000}"  # twelve thousand digits: not written out
    assert form("2^{600}") == str(2**600)


def test_a_verdict_says_how_both_sides_were_read():
    verdict = grade(r"#### \frac{2}{4}", r"\boxed{0.5}")
    assert (verdict.extracted, verdict.parsed, verdict.parsed_reference) == ("0.5", "1/2", "1/2")
    nothing = grade("7", "I do not say")
    assert (nothing.parsed, nothing.parsed_reference) == ("", "7")
    problem = Problem.make("s", "f", "q", "7", Split.TRAIN)
    rollout = Rollout.make(problem.id, "teacher", 0, 0, "t", r"\boxed{14/2}", stop_reason=StopReason.STOP)
    with Verifier() as verifier:
        (stored,) = verifier.verdicts([(problem, rollout)])
    assert (stored.rollout_id, stored.parsed, stored.parsed_reference) == (rollout.id, "7", "7")
