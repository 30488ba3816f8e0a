"""The one prompt and the one answer convention."""

from headway.problems.prompt import boxed, messages, question_text
from headway.types import Problem, Split

PROBLEM = Problem.make("sums", "chain_sum", "2 + 2 =", "4", Split.TRAIN)


def test_the_instruction_follows_the_question_on_a_line_of_its_own():
    assert question_text(PROBLEM, "Box the answer.") == "2 + 2 =\nBox the answer."


def test_without_an_instruction_the_question_stands_alone():
    assert question_text(PROBLEM, "") == "2 + 2 ="


def test_a_conversation_is_one_user_turn_of_the_same_text():
    assert messages(PROBLEM, "Box it.") == [{"role": "user", "content": "2 + 2 =\nBox it."}]


def test_an_answer_is_boxed():
    assert boxed(r"\frac{1}{2}") == r"\boxed{\frac{1}{2}}"
