"""What stands around a question and is no part of it."""

import pytest

from headway.problems.likeness.dressing import without_choices, without_label
from headway.problems.likeness.reading import read_question

QUESTION = "Ann has 3 cats and 14 dogs. How many animals is that?"


@pytest.mark.parametrize(
    "label",
    [
        "7. ",
        "7) ",
        "(7) ",
        "#7 ",
        "#7: ",
        "Problem 7. ",
        "Problem 7: ",
        "Problem #7: ",
        "PROBLEM 7\n",
        "Exercise 3.2: ",
        "Ex. 3 - ",
        "Q7. ",
        "Q: ",
        "**Problem 7.** ",
        "### Question\n\n",
        "(a) ",
        "ii. ",
        "[5 points] ",
        "Exercise 9 (3 points). ",
        "[AIME 2024] ",
        "(2023 AMC 12A) ",
        "No. 4 - ",
        "User: ",
        "- ",
        "Problem 7 (a) ",
        "12.\n",
    ],
)
def test_a_label_is_no_part_of_a_question(label):
    assert without_label(label + QUESTION) == QUESTION
    assert read_question(label + QUESTION).keys == read_question(QUESTION).keys == ("3 14",)


@pytest.mark.parametrize(
    "text",
    [
        "3 cats and 4 dogs are there.",
        "3.5 kg of flour cost 7 dollars.",
        "(3, 4) is a point.",
        "Part 2 of the course has 7 lessons.",
        "P is prime and 7 is odd.",
        "7 - x = 3 has one root.",
        "$7$ cats.",
        "1/2 of it.",
        "No 3 dogs are alike.",
        "Question time is over.",
    ],
)
def test_what_only_looks_like_a_label_stays(text):
    assert without_label(text) == text


@pytest.mark.parametrize(
    "choices",
    [
        "\n(A) 17 (B) 18 (C) 19 (D) 20",
        "\nA. 17\nB. 18\nC. 19\nD. 20",
        " A) 17 B) 18 C) 19",
        "\n- A: 17\n- B: 18\n- C: 19",
        "\na) 17\nb) 18\nc) 19",
        "\n\nChoices:\n(A) 17\n(B) 18\n(C) 19",
        r" $\textbf{(A) } 17 \qquad \textbf{(B) } 18 \qquad \textbf{(C) } 19$",
    ],
)
def test_answer_choices_are_no_part_of_a_question(choices):
    assert without_choices(QUESTION + choices).strip() == QUESTION
    assert read_question(QUESTION + choices).keys == ("3 14",)


def test_choices_stay_where_the_question_is_about_them():
    text = "Which of the following is prime? (A) 21 (B) 33 (C) 37"
    assert without_choices(text) == text
    parts = "a) Find the sum of 3 and 14 and say why. b) Find their product. c) Find both of them."
    assert without_choices(parts) == parts
    points = "Points A, B, C and D lie on a line of 14 cm."
    assert without_choices(points) == points


def test_nothing_is_left_of_a_mere_label_and_reading_keeps_it():
    assert without_label("Problem 7.") == ""
    assert read_question("Problem 7.").tokens


def test_a_hostile_text_takes_no_time():
    for text in (
        "(A) " * 2_000,
        "Problem 7. " * 700,
        "[" * 8_000,
        "**" * 4_000,
        "A. B. C. " * 900,
        "(a) " * 2_000,
        " " * 8_000,
        "#>_- " * 1_600,
        "$*: " * 2_000,
    ):
        read_question(text)
