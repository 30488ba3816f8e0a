"""One problem in other words, and another problem in nearly the same."""

import json
from math import exp, log
from pathlib import Path

import pytest

from headway.config import SourceConfig
from headway.problems.likeness.reading import numbers_apart, read_question
from headway.problems.likeness.same import BIAS, WEIGHTS, compare
from headway.problems.likeness.vocabulary import synonymous
from headway.problems.load import load
from headway.types import Split

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
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
    assert found.score > 0.8


def test_references_are_evidence_and_neither_needed_nor_enough():
    a = "Sam ran 3 miles on Monday, 5 on Tuesday and 7 on Friday. What distance was that in all?"
    b = "Three runs of 3, 5 and 7 miles were done by Tom on one trip. How far is that?"
    c = "A farmer has 3 cows, 5 pigs and 7 hens. How many animals live there?"
    assert not is_same(a, c, answers=1)
    assert compare(read_question(a), read_question(b), 1).is_close >= compare(read_question(a), read_question(b), 0).is_close
    assert is_same(STORY, STORY.replace("Ali", "Petra"), answers=-1)  # a copy with a wrong reference is a copy


STOPS = "A tram passes 11 stops. At the eighth stop Ida gets off and 5 people get on. How many stops are left for the tram?"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (STOPS, STOPS.replace("eighth", "tenth")),
        (
            "How many $y$-intercepts has the parabola $x = y^2 - 4y - 1$?",
            "How many $x$-intercepts has the parabola $x = y^2 - 4y - 1$?",
        ),
        (STORY.replace("sold 18 plums", "sold 18 plums, 24 figs"), STORY.replace("sold 18 plums", "sold 18 plums, 18 figs")),
        (
            "Tom plants 30 oaks a year and plants 12 elms a year. How many trees is that after 9 years, if he had 50 at first?",
            "Tom plants 30 oaks a year and cuts 12 elms a year. How many trees is that after 9 years, if he had 50 at first?",
        ),
        (
            "What is the chance that two dice of 25 show a number other than 6?",
            "What is the chance that two dice of 25 show the number 6?",
        ),
        (
            "A regular pentagon has sides of 14 cm in the plane. How long is its outline?",
            "A regular hexagon has sides of 14 cm in the plane. How long is its outline?",
        ),
    ],
)
def test_one_word_in_an_otherwise_unchanged_text(left, right):
    assert is_same(left, left)
    assert not is_same(left, right)


def test_one_number_more_is_allowed_where_all_was_said_anew_and_not_where_nothing_was():
    left = "Ida buys 12 pens at 3 dollars each, 7 rulers at 5 dollars each and 40 sheets of paper. She pays with 90"
    left += " dollars. How much is left?"
    anew = (
        "From 90 dollars, Ida pays for 12 pens (3 dollars each), 7 rulers (5 dollars each) and 40 sheets of paper,"
        " three kinds of things in 1 of 6 shops. What remains of the 90 dollars?"
    )
    assert not {*read_question(left).keys} & {*read_question(anew).keys}
    assert compare(read_question(anew), read_question(left)).is_same
    assert not compare(read_question(left + " It rains for 8 days."), read_question(left)).is_same


def test_a_shared_name_is_evidence():
    a = read_question("Kaylee is 5 and Matt was 7 when they met. How old?")
    b = read_question("When they met, Kaylee was 5, Matt was 7. What age?")
    others = read_question("When they met, Ann was 5, Bob was 7. What age?")
    assert compare(b, a).score > compare(others, a).score


def test_the_score_by_hand():
    # words: "apple" is shared (1), "ripe" is on one side (1), the shorter side has 1: contained 1/1, log 2, log 2; numbers: 7
    # and 9 (1 each) are shared and in order: log 3, log 3; nothing else is there
    found = compare(read_question("7 apples, 9 apples"), read_question("7 apples, 9 ripe apples"))
    linear = (
        BIAS
        + WEIGHTS.contained
        + (WEIGHTS.words + WEIGHTS.words_missing) * log(2)
        + (WEIGHTS.numbers + WEIGHTS.in_order) * log(3)
    )
    assert found.score == pytest.approx(1 / (1 + exp(-linear)))


def test_synonyms_count_and_contraries_do_not():
    a = "A shop sells 14 lamps on Monday and 29 on Friday. What do the customers pay if a lamp costs 35 dollars?"
    b = "Customers of a store purchase 14 lamps on Monday and 29 on Friday. How high is the bill at a price of 35 dollars?"
    c = "A shop stands 14 yards from Monday bridge and 29 from Friday bridge. How old is it if it is 35 dollars?"
    assert compare(read_question(a), read_question(b)).score > compare(read_question(a), read_question(c)).score
    assert synonymous("buy", "purchas")
    assert not synonymous("buy", "sell")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("$b_3 = 14$ and $b_{10} = 70$", "the third is 14 and the tenth is 70"),
        (r"$0.\overline{3} + 1.4\overline{6}$", "0.333... + 1.4666…"),
        (
            r"\begin{tabular}[t]{|l|c|}\hline\multicolumn{2}{c}{Ed}\\\hline 17&23\\\hline\end{tabular}",
            "| Ed | 17 |\n|---|---|\n| 23 |",
        ),
        ("half an hour", "0.5 hours"),
        ("a quarter pound", "1/4 pound"),
        ("the square root of 7 times x", r"\sqrt{7} \cdot x"),
        (r"\log_381", r"\log_{3} 81"),
        ("for 3 3/4 hours", r"for $3\frac{3}{4}$ hours"),  # 15/4, not 3 and 45 minutes
        (r"\frac{\sqrt{99}}{7}", r"\sqrt{99}/7"),  # no root of 99/7
        ("a boat for $350 000", r"a boat for \$350,000"),
        (r"$62\,500$ ants", "62,500 ants"),
        ("no one shares a boat", "no two share a boat"),
    ],
)
def test_one_thing_written_in_two_ways(left, right):
    one, other = read_question(left), read_question(right)
    assert one.keys == other.keys
    assert {token for token in one.tokens if token[0] not in "~="} == {token for token in other.tokens if token[0] not in "~="}


def test_the_numbers_of_a_drawing_may_be_told_and_must_not_be_others():
    drawing = 'What is the area of the kite? [asy] draw((0,0)--(9,9)); label("$37$",(2,3),SW); label("$58$",(1,1)); [/asy]'
    told = "The diagonals of a kite are 37 and 58 long. What is the area of the kite?"
    shared, only_told, only_drawn = numbers_apart(read_question(told), read_question(drawing))
    assert (shared, only_told, only_drawn) == ({37, 58}, set(), set())
    assert compare(read_question(drawing), read_question(drawing)).is_same
    assert compare(read_question(drawing), read_question(drawing.replace("58", "61"))).conflicts == ("numbers: 58 | 61",)


def test_said_anew_the_places_of_numbers_prove_nothing():
    left = "A choir of 83 women and 67 men sings. Then 9 of the women leave. How large is the choir now?"
    anew = "There were 67 male singers, 83 female ones. When 9 women of the choir have left, how many are there in the choir?"
    assert compare(read_question(left), read_question(anew)).is_same
    assert not compare(read_question(left), read_question(anew.replace("67", "65"))).is_same


def cases(part, is_at_hand):
    """The rows of a part with their original and text: training questions, or with `is_at_hand` evaluation questions."""
    files = {}
    for row in map(json.loads, CASES.read_text("utf-8").splitlines()):
        file, number = row["source"].split(":")
        if row["part"] != part or bool(row["original"]) is is_at_hand:
            continue
        if is_at_hand and file not in files:
            files[file] = load(SourceConfig(data=str(SHARED / "eval" / file), split=Split.HELDOUT))
        original = row["original"] or files[file][int(number)].question
        text = row["variant"] or original
        for old, new in row["edits"]:
            assert old in text, row
            text = text.replace(old, new, 1)
        yield row, original, text


def shares(part, is_at_hand):
    rows = list(cases(part, is_at_hand))
    found = [compare(read_question(text), read_question(original)).is_same for _, original, text in rows]
    return [
        (
            sum(one for one, (row, _, _) in zip(found, rows, strict=True) if row["keep"] is keep),
            sum(row["keep"] is keep for row, _, _ in rows),
        )
        for keep in (False, True)
    ]


def test_hand_written_cases_of_training_questions():
    """A floor that holds in a clean clone; docs/decontamination.md reports all cases."""
    (found, rewritten), (removed, alike) = shares("tuning", is_at_hand=False)
    assert min(rewritten, alike) >= 20
    assert found >= 0.95 * rewritten, (found, rewritten)
    assert removed <= 0.06 * alike, (removed, alike)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the evaluation sets are not beside this checkout")
@pytest.mark.parametrize(
    ("part", "least", "most"),
    [("tuning", 0.95, 0.08), ("heldout", 0.9, 0.05), ("heldout2", 0.9, 0.06), ("heldout3", 0.9, 0.125), ("heldout4", 0.9, 0.05)],
)
def test_hand_written_cases_of_evaluation_questions(part, least, most):
    (found, rewritten), (removed, alike) = shares(part, is_at_hand=True)
    assert min(rewritten, alike) > 40
    assert found >= least * rewritten, (part, found, rewritten)
    assert removed <= most * alike, (part, removed, alike)


def test_no_evaluation_question_is_copied_into_the_cases():
    for row in map(json.loads, CASES.read_text("utf-8").splitlines()):
        assert bool(row["original"]) == row["source"].startswith("gsm8k_train"), row["source"]
