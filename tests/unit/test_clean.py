"""One problem once, and no training problem that is also a held-out one."""

import pytest

from headway.problems.clean import decontaminate, deduplicate, normalise
from headway.types import Problem, Split

LONG = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)


def problem(question, reference="4", source="a", split=Split.TRAIN):
    return Problem.make(source, source, question, reference, split)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("What is 2+2?", "what is  2 + 2"),
        (r"Find $\dfrac{1}{2} + x.$", r"Find \frac{1}{2}+x"),
        (r"$\left( 3, 4 \right)$", "(3,4)"),
        (r"5 \text{ apples}", "5 apples"),
        ("It costs $1,080.", "It costs 1080"),
        ("Janet’s ducks – 3", "Janet's ducks - 3"),
    ],
)
def test_dressing_does_not_matter(left, right):
    assert normalise(left) == normalise(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("2 + 2", "2 + 3"),
        ("5 - 3", "5 + 3"),
        ("1 12", "11 2"),
        ("x = .5", "x = 5"),
        ("1.5 apples", "15 apples"),
        ("5! + 1", "5 + 1"),
        ("f'(3)", "f(3)"),
        ("(1, 2)", "[1, 2]"),
        ("780, 461", "780461"),
    ],
)
def test_numbers_and_symbols_matter(left, right):
    assert normalise(left) != normalise(right)


def test_duplicates_go_into_two_bins_and_the_first_stays():
    first, other = problem("What is 2+2?", "4"), problem("What is 2+3?", "5")
    kept, funnel = deduplicate([first, other, problem("what is 2 + 2", "4"), problem("What is 2+2 ?", "5"), first])
    assert kept == [first, other]
    assert (funnel.considered, funnel.kept) == (5, 2)
    assert funnel.dropped == {"duplicate": 2, "duplicate with another reference": 1}


def test_a_training_problem_that_equals_a_held_out_one_is_dropped():
    train = [problem("What is 2+2?"), problem("What is 2+3?", "5")]
    kept, funnel = decontaminate(train, [problem("what is 2 + 2", split=Split.HELDOUT)])
    assert kept == train[1:]
    assert funnel.dropped == {"equals a held-out question": 1, "near a held-out question": 0}


def near(question, heldout=LONG, **more):
    _, funnel = decontaminate([problem(question)], [problem(heldout, split=Split.HELDOUT)], **more)
    return funnel.dropped["near a held-out question"] == 1


def test_a_long_question_with_the_same_numbers_and_other_last_words_is_near():
    assert near(LONG.replace("altogether in April and May", "in these months"))
    assert near("Solve this word problem. " + LONG)


def test_another_number_makes_another_question():
    assert not near(LONG.replace("48", "50"))
    assert not near(LONG.replace("half", "twice") + " Think.")
    assert not near(LONG + " She had 3 left.")


PREFACE = (
    " ".join(f"p{chr(97 + i)}{chr(97 + i)}" for i in range(25))
    + " "
    + " ".join(f"q{chr(97 + i)}{chr(97 + i)}" for i in range(20))
)


# 20 words of which one tells anything, so that only runs can find them inside a longer text
SAID = "the of to in on at by zebra with from as is are was were be been being am it"
WORDS = SAID.split()


def test_short_questions_have_no_runs():
    # 19 words with the last one changed inside a longer text: below 20 words runs are not asked
    words = WORDS
    assert not near(" ".join([PREFACE, *words[:18], "other"]), heldout=" ".join(words[:19]))
    assert near(" ".join([PREFACE, *words[:19], "other"]), heldout=" ".join(words))


def test_the_share_is_that_of_the_shorter_question():
    # 20 words have 13 runs of 8; another 16th word breaks those that start at words 9 to 13 (5 of 13): 8/13 = 0.615
    words = WORDS
    changed = " ".join([PREFACE, *words[:15], "other", *words[16:]])
    assert near(changed, heldout=" ".join(words), share=0.6)
    assert near(changed, heldout=" ".join(words), share=8 / 13)
    assert not near(changed, heldout=" ".join(words), share=0.62)


def test_a_held_out_question_inside_a_longer_text_is_found_both_ways():
    preface = " ".join(f"p{chr(97 + i)}" for i in range(26))  # more runs of its own than the question has
    text = f"{preface} {preface[::-1]} {LONG}"
    assert near(text, heldout=LONG)
    assert near(LONG, heldout=text)


def test_templated_sources_are_compared_by_equality_only():
    template = "This list names two animals of a farm in the hills: one {} and a {}. How many legs have the animals of the list?"
    train = [
        problem(template.format("cat", "dog"), source="legs"),
        problem(template.format("cat", "cow"), source="legs"),
    ]
    heldout = [problem(template.format("cat", "cow"), source="legs", split=Split.HELDOUT)]
    kept, funnel = decontaminate(train, heldout, templated={"legs"})
    assert kept == train[:1]
    assert funnel.dropped == {"equals a held-out question": 1, "near a held-out question": 0}
    assert decontaminate(train, heldout)[0] == []
