"""Extraction: which text counts as the final answer."""

import pytest

from headway.verify.extract import choice, final_answer, find, outside_thought


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"first \boxed{1}, no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),  # the last box counts
        (r"\boxed {7} and then \boxed{ unfinished", "7"),  # the last *balanced* one
        (r"\fbox{7}", "7"),
        (r"\boxed 7 as the answer", "7"),
        (r"\boxed{\boxed{8\sqrt{6}}}", r"8\sqrt{6}"),
        (r"\boxed{5} \text{ and } \boxed{7}", "5, 7"),  # joined boxes are a list
        (r"$\boxed{(3, 3)}$ for part (a) and $\boxed{(1, 1)}$", "(3, 3), (1, 1)"),
        (r"\boxed{5}. Hence \boxed{7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces do not close a box
        ("Some work.\n#### 1,234\n", "1,234"),
        ("The final answer is 3. I hope it is correct.", "3"),
        ("The answer is 3. Wait, the answer is 4.", "4"),
        (r"Final Answer: The final answer is $\frac{1}{2}$. I hope", r"\frac{1}{2}"),
        ("**Answer:** 12 cm.\n", "12 cm"),
        ("<think>3*4=12</think><answer>12.5</answer>", "12.5"),
        (r"the answer is 9, so \boxed{8}", "8"),  # a box outranks a phrase
    ],
)
def test_stated_answers(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    ["", "7 remain", r"\boxed{}", r"<think>\boxed{3}", r"<think>\boxed{3}</think>", "I do not know the answer.", r"\boxed{{42}"],
)
def test_no_stated_answer(text):
    assert final_answer(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("He had 3 apples, ate 1, so 2 remain.", "2"),
        ("which gives 1,000.99m", "1,000.99"),
        ("64 + 67 = **131**", "131"),
        (r"So P = $\frac{2}{3}$.", r"\frac{2}{3}"),
        ("a net change of -$40", "-$40"),
        ("a probability of .5", ".5"),
        ("The problem gives 42. I do not know the answer.", None),
        ("no number", None),
    ],
)
def test_last_number_only_when_asked(text, answer):
    assert final_answer(text, last_number=True) == answer
    assert final_answer(text) is None


def test_thoughts_are_no_answers():
    assert outside_thought("a<think>b</think>c").split() == ["a", "c"]
    assert outside_thought("b</think>c") == "c"  # the prompt opened the block
    assert outside_thought("a<think>b") == "a"
    assert outside_thought("<think>a<think>b</think>c</think>d") == "d"
    assert outside_thought("42<|im_end|>") == "42"
    assert outside_thought("42<|im_end|>\n<|im_start|>user\nand then \\boxed{3}") == "42"


def test_rungs_are_named():
    assert find(r"\boxed{1}").rung == "box"
    assert find("#### 1").rung == "marker"
    assert find("so 1 remain", last_number=True).rung == "number"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("I would go with (B) here", "B"),
        ("The correct option is B.", "B"),
        ("Answer: D, it doesn't make sense for it to be A or B", "D"),
        ("the answer is c", "C"),
        ("A man walks. The answer is (B)", "B"),
        ("A B C D", None),
        ("ABCD", None),
        ("No option was chosen.", None),
    ],
)
def test_choices(text, letter):
    assert choice(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 50_000,
        "\\boxed{" + "(" * 200_000,
        "</think>" * 50_000 + "\\boxed{4}",
        "<think>" * 50_000,
        "The answer is" + "\n" * 1_000_000 + "4",
        "the answer " * 100_000,
        "$" * 200_000,
        "**" * 100_000,
        "####" * 100_000,
        "{" * 100_000 + "}" * 100_000,
        "9" * 500_000,
    ],
    ids=lambda text: text[:12],
)
def test_hostile_texts_end(text):
    """No quadratic search: each of these would take hours with one, and pytest's own limit would end it."""
    assert final_answer(text, last_number=True) is None or len(final_answer(text, last_number=True)) <= 500_000
