"""What a question says, without how it is dressed."""

import random

import pytest

from headway.problems.likeness.reading import read_question, sentences, stem

PLAIN = "Jean has 30 lollipops. She eats half of them. How many lollipops are left?"


@pytest.mark.parametrize(
    "text",
    [
        f"1. {PLAIN}",
        f"(a) {PLAIN}",
        f"Problem 12: {PLAIN}",
        f"Exercise 3.2: {PLAIN}",
        f"[5 points] {PLAIN}",
        f"Solve the following problem: {PLAIN}",
        f"Read the problem below carefully and reason step by step. Problem 7. {PLAIN}",
        f"{PLAIN} Give your answer as a single number.",
        f"{PLAIN}\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
        f"{PLAIN}\nRound your answer\nto two decimal places.",
        PLAIN.replace(" ", "  ").replace("?", "？"),
        PLAIN.replace("30", "thirty").replace("half", "50%"),
        PLAIN.replace("30", "$30$"),
        f"{PLAIN}\n[asy] draw((0,0)--(3,4)); [/asy]",
        PLAIN + r" $\textbf{(A)}\ 5 \qquad \textbf{(B)}\ 10 \qquad \textbf{(C)}\ 15$",
    ],
)
def test_dressing_is_gone(text):
    assert read_question(text).tokens == read_question(PLAIN).tokens


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"$x^2 + \frac{x+1}{x-2} \le \sqrt{3}$", "x² + (x+1)/(x-2) ≤ √3"),
        (r"\[\left|x - 2\right| \leq 5.6\]", "|x − 2| <= 5.6"),
        (r"$2 \cdot 3 \div 4$", "2 × 3 ÷ 4"),
        (r"$10^{\circ}$", "10°"),
        (r"$5\%$", "5 percent"),
    ],
)
def test_latex_and_plain_formulas_read_alike(left, right):
    assert read_question(f"Find {left}").tokens == read_question(f"Find {right}").tokens


def test_a_minus_is_an_operator_and_a_hyphen_is_not():
    assert "-" in read_question("Factor ab-5b").tokens
    assert "-" not in read_question("a 10-foot, well-known t-shirt").tokens


def test_the_base_that_an_answer_is_asked_in_belongs_to_the_question():
    assert read_question("Add 5 and 6. Express your answer in base 8.").keys != read_question("Add 5 and 6.").keys
    assert read_question("Add 5 and 6. Express your answer as an integer.").keys == read_question("Add 5 and 6.").keys


def test_small_numbers_that_come_and_go_are_not_in_every_key():
    four = read_question("Four numbers, 7, 9 and 10 among them, are given.")
    assert {*four.keys} & {*read_question("7, 9 and 10 are among the numbers given.").keys}
    assert not {*four.keys} & {*read_question("7, 9 and 11 are among the numbers given.").keys}
    assert read_question("both squared, one, 0, 1, 2").keys == ("",)


def test_the_clause_that_asks_comes_last():
    reading = read_question("How many are left if Jean has 30 lollipops and eats two?")
    assert reading.asked == ("how", "many", "are", "left")


def test_a_text_of_nothing_but_dressing_is_kept():
    assert sentences("Show your work.") == ["Show your work."]
    assert read_question("").tokens == ()
    assert read_question("1.").keys


def test_stems_meet():
    assert {stem("bought"), stem("buys"), stem("buying")} == {"buy"}
    assert stem("glass") == "glass"


def test_no_text_breaks_it():
    chance = random.Random(0)
    pieces = [
        "\\frac",
        "{",
        "}",
        "12",
        "٣",
        "፩",
        "²",
        "1/0",
        "(A)",
        "(B)",
        "(C)",
        "hundred",
        "and",
        "a",
        "half",
        "-",
        "$",
        "\\",
        "%",
        "x",
        ":",
        ".",
        "third",
    ]
    for _ in range(400):
        read_question("".join(chance.choice(pieces) + chance.choice(["", " "]) for _ in range(30)))
    read_question("(A) " * 5000 + "(B) 5 " * 5000)
    read_question("9" * 100_000)
