"""One of nearly equal questions, whose numbers are never ignored."""

from headway.problems.likeness.near import NearGroup, deduplicate_near, runs_of
from headway.types import Problem, Split

LONG = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)


def problem(question, reference="72", source="a"):
    return Problem.make(source, source, question, reference, Split.TRAIN)


def test_the_first_of_near_ones_stays_and_each_group_is_told():
    other = problem(LONG.replace("48", "50"), "75")
    again, wrong = problem(LONG + " Think."), problem(LONG.replace("altogether ", ""), "71")
    groups = []
    kept, funnel = deduplicate_near([problem(LONG), other, again, wrong], explain=groups)
    assert kept == [problem(LONG), other]
    assert funnel.dropped == {"near duplicate": 1, "near duplicate with another reference": 1}
    # 30 words have 28 runs; one word more at the end adds one run: 28/29. Without "altogether" 3 of 28 go, 2 come: 25/30
    assert groups == [NearGroup(problem(LONG), (again, wrong), (0.966, 0.833))]


def test_another_number_shares_nothing():
    assert not runs_of(LONG) & runs_of(LONG.replace("48", "50"))
    assert runs_of("Ann has two red pens") == runs_of("Ann has 2 red pens.")
    assert runs_of("Why?") == {"why|"}


def test_an_opposite_word_makes_another_question():
    least = (
        "Find the least possible value of the sum of the three sides of a right triangle whose area is exactly 30 square units."
    )
    kept, _ = deduplicate_near([problem(least), problem(least.replace("least", "greatest"))])
    assert len(kept) == 2


def test_templated_sources_are_left_alone():
    problems = [problem(LONG), problem(LONG + " Think.", source="legs"), problem(LONG + " Think.", source="b")]
    kept, funnel = deduplicate_near(problems, templated={"legs"})
    assert kept == problems[:2]
    assert (funnel.considered, funnel.kept) == (3, 2)


def test_nearness_does_not_chain():
    # 29 words have 27 runs; i other words at the beginning break i runs: 3 are near (24/30), 4 are not (23/31), though near 3
    # (24/30)
    words = [f"w{chr(97 + i)}{chr(97 + i)}" for i in range(26)]
    steps = [problem(" ".join([*(f"x{word}" for word in words[:i]), *words[i:], "what is it"])) for i in (0, 3, 4)]
    assert deduplicate_near(steps[1:])[0] == steps[1:2]
    assert deduplicate_near(steps)[0] == [steps[0], steps[2]]


def test_nothing_is_nothing():
    assert deduplicate_near([])[0] == []
