"""The fast path: exact equality of answers, without a computer algebra system."""

import random
from fractions import Fraction

import pytest

from headway.verify import numbers
from headway.verify.equal import same_answer
from headway.verify.expression import Unreadable, parse


@pytest.mark.parametrize(
    ("reference", "answer", "same", "reason"),
    [
        ("42", "42", True, "equal"),
        ("42", "43", False, "numbers_differ"),
        ("-0", "0", True, "equal"),
        ("12345678901234567890", "12345678901234567891", False, "numbers_differ"),  # floats cannot tell
        ("2/4", r"\frac{1}{2}", True, "equal"),  # unreduced fractions are equal
        ("1,234", r"1{,}234", True, "equal"),
        ("10,\\!080", "10080", True, "equal"),
        ("1,22", "1.22", True, "decimal_comma"),
        (r"1\frac{4}{5}", "9/5", True, "equal"),
        ("10%", "10", True, "percent_as_number"),
        ("10%", "0.1", True, "percent_as_share"),
        ("10%", "100", False, "numbers_differ"),
        ("0.333", "1/3", True, "rounded"),  # |1/3 - 0.333| = 0.00033 <= 0.0005
        ("0.333", "0.3336", False, "numbers_differ"),  # 0.0006 > 0.0005
        ("1/3", "0.333", False, "numbers_differ"),  # only the reference may be rounded
        ("8.0", "8.04", False, "numbers_differ"),  # a whole number written as a float
        ("3.46", r"2\sqrt{3}", True, "rounded"),  # 3.4641
        (r"\frac{1}{12}", "0.0833333333333333", True, "rounded"),  # a printed float
        ("5 cm", "5", True, "equal"),
        ("5 hours", r"5 \text{ minutes}", False, "units_differ"),
        ("\\$18.90", "18.9", True, "equal"),
        ("x=5", "5", True, "equal"),
        ("x=5", "y=5", False, "names_differ"),
        ("42", "7=42", False, "kinds_differ"),
        ("1/2", r"\frac{1}{2} = 0.5", True, "equal"),
        ("11", r"x \approx 11", True, "equal"),
        ("1024", "2^10", True, "equal"),
        ("42", "42 or 43", False, "counts_differ"),
        ("1,-2", "-2, 1", True, "equal"),  # a bare list is a multiset
        ("(1,3)", "(3,1)", False, "numbers_differ"),  # a tuple is ordered
        ("(1,3)", r"\{1,3\}", False, "brackets_differ"),
        ("[0,1)", "[0,1]", False, "brackets_differ"),
        (r"3 \pm 2\sqrt{2}", r"3-2\sqrt2, 3+2\sqrt2", True, "equal"),
        (r"\text{Evelyn}", "evelyn", True, "same_words"),
        ("even", "odd", False, "words_differ"),
        ("C", "C) 42", True, "choice"),
        ("C", "c", False, "values_differ"),
        ("3x-y+13=0", "2y=6x+26", True, "equal"),  # the same line, times -2
        ("3x-y+13=0", "3x+4y+14=0", False, "values_differ"),
        ("x<3", "3>x", True, "equal"),
        ("x<1", "x>-1", False, "relations_differ"),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False, "numbers_differ"),
        ("2^{-99}", "2^{-98}", False, "numbers_differ"),
        (r"10^{-20}\pi", r"2\cdot 10^{-20}\pi", False, "values_differ"),
        (r"\tan^2(y)+1", r"\sec^2(y)", True, "equal"),
        ("x^{100000}-1", "(x-1)(x^{99999}+1)", False, "values_differ"),
        (r"1-\frac{1}{\mathrm{e}}", r"1+\frac{1}{\mathrm{e}}", False, "values_differ"),
        ("52_8", "52", False, "values_differ"),
        ("", "", False, "empty"),
        ("42", r"\int_0^1 x dx", None, "unread"),
        ("1/0", "2/0", None, "unread"),
        (r"10^{10}+\sqrt{2}", r"10^{10}+\sqrt{3}", None, "undecided"),
    ],
)
def test_conventions(reference, answer, same, reason):
    found = same_answer(reference, answer)
    assert found.same is same, found
    if same is not False:
        assert found.reason == reason


def _answers(seed: int) -> list[str]:
    draw = random.Random(seed)
    a, b, c = (draw.randint(-50, 50) for _ in range(3))
    d = draw.randint(1, 30)
    return [
        str(a), f"{a}/{d}", f"{a}.{d:02}", f"\\frac{{{a}}}{{{d}}}", f"({a}, {b})", f"{a}, {b}, {c}", f"\\{{{a}, {b}\\}}",
        f"[{a}, \\infty)", f"{a}x^2 + {b}x + {c}", f"{d}\\sqrt{{{d + 1}}}", f"x = {a}", f"{d}\\%", f"y = {a}x + {b}",
        f"\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}}", f"{d}^\\circ", "\\text{east}", f"x > {a}",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_every_answer_equals_itself_and_no_other_order_matters(seed):
    answers = _answers(seed)
    for answer in answers:
        assert same_answer(answer, answer.replace(" ", "")).same is True, answer
        assert same_answer(f"${answer}$", answer).same is True, answer
    for left in answers:
        for right in answers:
            forth, back = same_answer(left, right), same_answer(right, left)
            if "rounded" not in (forth.reason, back.reason):  # only a decimal reference may be rounded
                assert forth.same == back.same, (left, right)


def test_fractions_agree_with_the_fractions_module():
    draw = random.Random(7)
    for _ in range(500):
        a, b, c, d = (draw.randint(1, 40) for _ in range(4))
        assert same_answer(f"{a}/{b}", f"\\frac{{{c}}}{{{d}}}").same is (Fraction(a, b) == Fraction(c, d))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5!7!", 604800),  # 120 * 5040
        (r"\sqrt{\sqrt{16}}", 2),
        (r"\binom{16+2}{\frac{4}{2}}", 153),  # 18 * 17 / 2
        (r"-1\mod 2", 1),
        (r"\gcd(24, 36)", 12),
        ("1500\\times 10^{-1}", 150),
        (r"3.1 \frac{1}{2}", Fraction(31, 20)),  # no mixed number: a product
        ("2^{-3}", Fraction(1, 8)),
        (r"\lfloor{3.5}\rfloor", 3),
    ],
)
def test_exact_values(text, value):
    assert numbers.exact(parse(text)) == value


@pytest.mark.parametrize("text", ["10^{10^{10}}", "9^{9^{9^9}}", "0.5^{10^9}", "(-1)^{10^{30}+1}", "99999!", "x+1", r"\sqrt{2}"])
def test_what_is_too_large_or_irrational_has_no_exact_value(text):
    assert numbers.exact(parse(text)) is None


@pytest.mark.parametrize(
    "text", ["(" * 5000 + "1", "-" * 5000 + "1", "1" * 5000, "", "()", "1)", "\\frac", "__import__('os')", "99999!!"]
)
def test_unreadable_expressions_are_refused(text):
    with pytest.raises(Unreadable):
        parse(text)


@pytest.mark.parametrize(
    "unit",
    [
        "(1,2),",
        "\\{",
        "\\cup[0,1]",
        "\\pm 1",
        "\\begin{pmatrix}",
        "%",
        "^{x",
        "-",
        "5 hours ",
        "a b-",
        "x_1:",
        "\\frac{1}{1+",
        "x=",
    ],
)
@pytest.mark.parametrize("times", [3, 200, 20_000])
def test_hostile_answers_are_no_crash_and_not_equal(unit, times):
    assert same_answer("42", unit * times).same is not True
    assert same_answer(unit * times, "42").same is not True
