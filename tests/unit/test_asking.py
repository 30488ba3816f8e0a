"""Do two questions ask the same of one story?"""

import pytest

from headway.problems.likeness.conflict import conflicts
from headway.problems.likeness.reading import read_question

STORY = "Ida has 14 pears and Tom has 9 more pears than Ida. They sell 6 of their pears at 3 dollars each on Monday. "


def told(a, b, story=STORY):
    return conflicts(read_question(story + a), read_question(story + b))


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("How many pears does Tom have?", "How many pears do they have together?", "one | all"),
        ("What is the difference between their pears?", "How many pears do both have altogether?", "asked"),
        ("How much do they earn?", "How many pears do they keep?", "asked"),
        ("What percentage of the pears do they sell?", "How many pears are sold?", "asked"),
        ("How many pears does Tom have now?", "How many pears does Tom have originally?", "asked"),
        ("How much do they collect in April?", "How much do they collect in June?", "asked"),
    ],
)
def test_another_thing_is_asked_of_the_same_story(a, b, reason):
    assert any(reason in conflict for conflict in told(a, b))
    assert told(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("How many pears does Tom have?", "Find the number of pears that Tom has."),
        ("How many pears are left?", "How many pears remain?"),
        ("How much money do they get?", "How much money do they receive?"),
    ],
)
def test_the_same_is_asked_in_other_words(a, b):
    assert not told(a, b)


def test_a_unit_behind_a_number_is_not_asked_for():
    a = "A guard cleans 80 rooms of 15 minutes each. What share of an 8 hour day is that?"
    b = "80 rooms take a guard 15 minutes each to clean. What share of the workday of 8 hours do they need?"
    assert not any(conflict.startswith("asked") for conflict in conflicts(read_question(a), read_question(b)))


def test_relations_turned_around_and_a_person_exchanged():
    assert told("How many more pears has Tom than Ida?", "How many more pears has Tom than Ida?") == ()
    a = "A school has 402 more girls than boys. There are 739 girls. How many boys are there?"
    b = a.replace("girls than boys", "boys than girls")
    assert conflicts(read_question(a), read_question(b))
    c = "Steve eats twice as much as his sister. He eats 6 figs a day and buys 30. How many days does he have figs?"
    assert conflicts(read_question(c.replace("He eats 6", "She eats 6")), read_question(c))


def test_summands_may_stand_in_any_order_and_differences_may_not():
    a, b = (
        f"Let $x - y > 0$. Find x if $\\log_6 {one} + \\log_6 {other} = 7$."
        for one, other in (("(x-y)", "(x+y)"), ("(x+y)", "(x-y)"))
    )
    assert not conflicts(read_question(a), read_question(b))
    assert conflicts(read_question("Find $3a - 5b + 7$ for them."), read_question("Find $5b - 3a + 7$ for them."))
