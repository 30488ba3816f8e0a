"""Numbers by value, however they are written."""

from fractions import Fraction

import pytest

from headway.problems.likeness.numerals import incidental, merge, value_of
from headway.problems.likeness.reading import read_question


def values(text):
    """The values of all numbers of a text, in order."""
    return [value for token in read_question(text).tokens if (value := value_of(token)) is not None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs 1,000 or 1000 or $1000 or $1,000.00.", [1000] * 4),
        ("one thousand, a thousand, 2 thousand, 3 hundred", [1000, 1000, 2000, 300]),
        (r"0.5, .5, 1/2, \frac12, $\frac{1}{2}$, \dfrac{1}{2}, ½, half, 50%, 50 percent, fifty per cent", [Fraction(1, 2)] * 11),
        (r"2 1/2, 2\frac12, two and a half, 2.5 miles", [Fraction(5, 2)] * 4),
        ("twenty-five, two hundred and five, one hundred and one hundred", [25, 205, 100, 100]),
        ("3 dozen eggs, a dozen eggs, twice, thrice, doubled", [36, 12, 2, 3, 2]),
        (
            "two-thirds of it, a third of it, one-fourth the size, 2 thirds, 1/3rd",
            [Fraction(n, d) for n, d in ((2, 3), (1, 3), (1, 4), (2, 3), (1, 3))],
        ),
        ("a minute and a half, 2 miles and a half, a dozen and a half", [Fraction(3, 2), Fraction(5, 2), 18]),
        ("at 8:00 AM and 8:30 PM", [8, Fraction(17, 2)]),
        ("five quarters and two dimes", [5, 2]),  # coins
        (r"$\$24,\!000$ and $912,\!673$", [24000, 912673]),
        ("the third box, the 2nd box, x squared, y cubed", [2, 3]),  # places are no numbers, exponents are
    ],
)
def test_one_value_whatever_the_notation(text, expected):
    assert values(text) == expected


def test_what_is_no_number_stays_a_word():
    assert merge(["a", "box", "of", "quarters", "and", "1", "/", "0"]) == ["a", "box", "of", "quarters", "and", "#1", "/", "#0"]
    assert merge(["9" * 41]) == ["9" * 41]
    assert merge(["\\frac", "{", "x", "}", "{", "2", "}"]) == ["\\frac", "{", "x", "}", "{", "#2", "}"]
    assert merge(["\\frac"]) == ["\\frac"]
    assert value_of("#") is None
    assert value_of("x") is None


@pytest.mark.parametrize(
    ("text", "unsaid"),
    [
        ("1 , 2 , 3 , , 9 , 10", [2, 3, 9]),  # dots between two commas
        ("rows 1 , 2 , 3 , 4 and 5", [2, 3, 4]),
        ("sides of 3 , 5 and 9", []),
        ("x ^ 3 and a \\angle of 90 \\circ", [3, 90]),
        ("7 , 8 or 12 of 9", []),
    ],
)
def test_numbers_that_a_rewriting_need_not_say(text, unsaid):
    tokens = merge(text.split())
    assert [int(tokens[i][1:]) for i in sorted(incidental(tokens))] == unsaid


def test_a_base_is_no_numerator_and_a_power_no_denominator():
    assert merge(["413", "_", "5", "/", "2", "_", "5"]) == ["#413", "_", "#5", "/", "#2", "_", "#5"]
    assert merge(["1", "/", "2", "^", "m"]) == ["#1", "/", "#2", "^", "m"]
