"""One problem in other words, and another problem in nearly the same."""

import json
from pathlib import Path

import pytest

from headway.problems.reading import read_question
from headway.problems.same import compare

CASES = Path(__file__).parents[1] / "cases" / "decontamination.jsonl"
STORY = "Ali picked 24 plums and 35 figs in the morning. He then sold 18 plums at the market. How many plums does he have left?"


def is_same(a, b, answers=0):
    left, right = read_question(a), read_question(b)
    return bool({*left.keys} & {*right.keys}) and compare(left, right, answers).is_same


@pytest.mark.parametrize(
    "text",
    [
        STORY.replace("Ali", "Petra").replace("He", "She").replace(" he ", " she "),
        STORY.replace("plums", "lemons").replace("figs", "limes"),
        STORY.replace("24", "twenty-four").replace("18", "$18$"),
        "How many plums does Ali have left? In the morning he picked 24 plums and 35 figs, then 18 of the plums were sold.",
        STORY.replace("picked", "gatehred").replace("market", "marekt"),
        "Solve: " + STORY + " Give your answer as an integer.",
    ],
)
def test_the_same_problem_in_other_words(text):
    assert is_same(STORY, text)
    assert is_same(text, STORY)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("24", "25"),
        ("24 plums and 35 figs", "35 plums and 24 figs"),
        ("How many plums does he have left?", "How many plums and figs does he have left?"),
        ("How many plums does he have left?", "How many figs did he pick?"),
        ("sold 18", "bought 18"),
        ("He then sold 18 plums at the market.", "He then sold 18 plums at the market and ate 3."),
    ],
)
def test_another_problem_in_nearly_the_same_words(old, new):
    assert old in STORY
    assert not is_same(STORY, STORY.replace(old, new))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (
            r"Find the minimum value of $\frac{(x+5)(x+2)}{x+1}$ for $x > 0.$",
            "For positive $t$, what is the minimum value of (t+5)(t+2)/(t+1)?",
        ),
        (r"If $f(x)=5x^2+3x+4$, what is the value of $f(-2)$?", "Evaluate f(-2) where f(x) = 5x² + 3x + 4."),
        (r"How many integers are in the solution set of $|x-2|\leq5.6$ ?", "How many integers x satisfy |x − 2| ≤ 5.6?"),
    ],
)
def test_short_questions_by_their_formulas(left, right):
    assert is_same(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Simplify $(-k + 4) + (-2 + 3k)$.", "Simplify $(-k + 4) - (-2 + 3k)$."),
        (r"Compute $\frac{1}{\sin^2 20^\circ} + 3$.", r"Compute $\frac{1}{\cos^2 20^\circ} + 3$."),
        ("If $f(x)=5x^2+3x+4$, what is $f(-2)$?", "If $f(x)=5x^2+3x+4$, what is $f(2)$?"),
        (
            "Let $a$ and $b$ be integers with $a + 3b = 14$. Find the least $a$.",
            "Let $a$ and $b$ be integers with $a + 3b = 14$. Find the least $b$.",
        ),
        ("Find the minimum value of $x^2 - 7x + 5$.", "Find the maximum value of $x^2 - 7x + 5$."),
        ("What is the area of a 7 by 12 rectangle in the plane?", "What is the perimeter of a 7 by 12 rectangle in the plane?"),
    ],
)
def test_a_sign_a_function_a_variable_or_an_opposite_makes_another_problem(left, right):
    assert not is_same(left, right)
    assert not is_same(right, left)


def test_what_makes_the_difference_is_told():
    found = compare(
        read_question("Find the minimum value of $x^2 - 7x + 5$."), read_question("Find the maximum value of $x^2 - 7x + 5$.")
    )
    assert found.conflicts == ("opposites: minimum | maximum",)
    assert found.shared_numbers == ("2", "5", "7")
    # shared: eight pairs of neighbouring symbols (0.5 each) and 2, 5, 7 (1 each); the two words (1 each) are not: 14/(14 + 2)
    assert found.score == 0.875


def test_references_are_evidence_and_neither_needed_nor_enough():
    a = "Sam ran 3 miles on Monday, 5 on Tuesday and 7 on Friday. What distance was that in all?"
    b = "Three runs of 3, 5 and 7 miles were done by Tom on one trip. How far is that?"
    c = "A farmer has 3 cows, 5 pigs and 7 hens. How many animals live there?"
    assert not is_same(a, c, answers=1)
    assert compare(read_question(a), read_question(b), 1).is_close >= compare(read_question(a), read_question(b), 0).is_close
    assert is_same(STORY, STORY.replace("Ali", "Petra"), answers=-1)  # a copy with a wrong reference is a copy


@pytest.mark.parametrize(("part", "least", "most"), [("tuning", 0.9, 0.05), ("heldout", 0.8, 0.15)])
def test_hand_written_cases(part, least, most):
    """The floor under what docs/decontamination.md reports, on the cases whose original stands in the file."""
    rows = [row for row in map(json.loads, CASES.read_text("utf-8").splitlines()) if row["original"] and row["part"] == part]
    for keep, holds in ((False, lambda share: share >= least), (True, lambda share: share <= most)):
        found = [is_same(row["original"], row["variant"]) for row in rows if row["keep"] is keep]
        assert len(found) > 40
        assert holds(sum(found) / len(found)), (part, keep, sum(found), len(found))
