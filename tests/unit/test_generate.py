"""Generated families: exact counts, distinct questions, streams of their own, one line for each wrong setting."""

import json

import pytest

from headway.config import SourceConfig
from headway.errors import ConfigError, DataError
from headway.problems.generate import NOT_REPRODUCIBLE, difficulty, generate
from headway.types import Split

SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def source(family="chain_sum", count=50, **more):
    return SourceConfig(family=family, count=count, **more)


def test_a_family_gives_exactly_count_distinct_problems():
    # two one-digit numbers and a sign: 10 * 10 * 2 = 200 questions exist, so 180 cannot come without repeats
    problems = generate(source(count=180, settings=SMALL))
    assert len(problems) == 180
    assert len({problem.question for problem in problems}) == 180
    assert len({problem.id for problem in problems}) == 180


def test_all_questions_of_a_small_family_can_be_had_and_not_one_more():
    assert len(generate(source(count=200, settings=SMALL))) == 200
    with pytest.raises(DataError, match=r"gave only 200 different problems, 201 were asked for"):
        generate(source(count=201, settings=SMALL))


def test_a_problem_says_what_its_family_knows():
    problem = generate(source(count=1, settings=SMALL, split="heldout", name="sums"))[0]
    facts = json.loads(problem.metadata)
    left, sign, right = facts["expression"].split()
    value = int(left) + int(right) if sign == "+" else int(left) - int(right)
    assert problem.reference == str(value)
    assert facts["expression"] in problem.question
    assert set(facts) == {"expression", "num_terms", "num_digits"}
    assert (problem.source, problem.family, problem.split) == ("sums", "chain_sum", Split.HELDOUT)
    assert problem.difficulty == 3.0  # two digits and a sign


def test_the_name_defaults_to_the_family():
    assert generate(source("gcd", count=1))[0].source == "gcd"


def test_the_same_source_gives_the_same_problems_and_fewer_are_a_prefix():
    many, again, few = generate(source(count=60)), generate(source(count=60)), generate(source(count=20))
    assert many == again
    assert few == many[:20]


def test_neighbouring_seeds_and_other_splits_share_nearly_nothing():
    # the family itself draws item i from seed + i, so its seeds 0 and 1 share 299 of 300 items
    wide = {"min_terms": 5, "max_digits": 4, "min_digits": 3}
    first = {problem.id for problem in generate(source(count=300, seed=0, settings=wide))}
    assert not first & {problem.id for problem in generate(source(count=300, seed=1, settings=wide))}
    assert not first & {problem.id for problem in generate(source(count=300, seed=0, settings=wide, split="heldout"))}


def test_families_that_prepare_all_items_of_a_seed_go_on_after_the_first_thousand():
    assert len(generate(source("gsm_symbolic", count=1_200))) == 1_200


@pytest.mark.parametrize("family", ["basic_arithmetic", "simple_equations", "products", "lcm", "leg_counting"])
def test_other_families_give_questions_with_references(family):
    for problem in generate(source(family, count=20)):
        assert problem.question == problem.question.strip() != ""
        assert problem.reference == problem.reference.strip() != ""
        assert problem.difficulty > 0
        json.loads(problem.metadata)


def test_long_metadata_values_are_left_out():
    problems = generate(source("count_primes", count=30))
    assert all(len(problem.metadata) < 1_200 for problem in problems)
    assert all({"start", "end"} <= set(json.loads(problem.metadata)) for problem in problems)
    assert not all("primes" in json.loads(problem.metadata) for problem in problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 + 7 - 305", 8.0),  # 6 digits, 2 signs
        ("( 9 - 8 ) * -3", 6.0),  # 3 digits; -, *, and the sign of -3
        ("15*x - 9 = 186", 8.0),  # 2 + 1 + 3 digits; * and -
        ("780, 461", 6.0),
        ("no number", 0.0),
    ],
)
def test_difficulty_counts_digits_and_signs(text, expected):
    assert difficulty(text) == expected


def test_difficulty_grows_with_the_terms():
    def mean(terms):
        problems = generate(source(count=50, settings={"min_terms": terms, "max_terms": terms}))
        return sum(problem.difficulty for problem in problems) / 50

    assert mean(2) < mean(4) < mean(6)


def test_an_unknown_family_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown family 'chain_summ'; the nearest family is 'chain_sum'"):
        generate(source("chain_summ"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_term": 3}, r"no setting 'max_term'; the nearest is 'max_terms'"),
        ({"max_terms": "3"}, r"settings.max_terms = '3' should be a whole number"),
        ({"max_terms": 2.5}, r"settings.max_terms = 2.5 should be a whole number"),
        ({"max_terms": True}, r"settings.max_terms = True should be a whole number"),
        ({"allow_negation": 1}, r"settings.allow_negation = 1 should be true or false"),
        ({"max_terms": 1}, r"max_terms = 1\): max_terms must be >= min_terms"),
        ({"seed": 3}, r"set the source's own `seed`"),
        ({"size": 3}, r"set the source's own `count`"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_the_key(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        generate(source(settings=settings))
    assert "\n" not in str(caught.value)


def test_settings_that_the_family_refuses_only_when_it_draws_are_named_too():
    with pytest.raises(ConfigError, match=r"'simple_equations'.*operators_weights"):
        generate(source("simple_equations", settings={"operators_weights": [0.5, 0.5]}))


def test_a_family_without_written_answers_is_refused():
    with pytest.raises(ConfigError, match=r"'rush_hour' gives no written answer"):
        generate(source("rush_hour"))


def test_families_that_change_between_processes_are_refused():
    for family in NOT_REPRODUCIBLE:
        with pytest.raises(ConfigError, match="does not give the same problems for the same seed"):
            generate(source(family))
