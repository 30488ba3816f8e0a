"""The scripted teacher: right where it makes no mistake, wrong and repaired where it does, and blind to the reference."""

import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from headway.config import SourceConfig, TeacherConfig
from headway.errors import ConfigError
from headway.problems.generate import generate
from headway.problems.worked import SOLVERS, solve, solve_all
from headway.types import Outcome, Problem, Split, StopReason
from headway.verify.judge import judge

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "chain_sum": [{"min_terms": 2, "max_terms": 7, "min_digits": 1, "max_digits": 3}, {"allow_negation": True}],
    "leg_counting": [{}, {"min_animals": 1, "max_animals": 3, "min_instances": 2, "max_instances": 9}],
    "simple_equations": [{}, {"min_terms": 2, "max_terms": 3, "max_value": 12, "operators_weights": [0.45, 0.45, 0.1]}],
}
CASES = [(family, number) for family, settings in SETTINGS.items() for number in range(len(settings))]
every_case = pytest.mark.parametrize(("family", "number"), CASES)
FAULTLESS = TeacherConfig(mistake_rate=0, ramble_rate=0)
SLOPPY = TeacherConfig(mistake_rate=0.15, catch_rate=0.5, ramble_rate=0.3, rollouts=2)


@lru_cache
def problems(family: str, number: int = 0) -> list[Problem]:
    return generate(SourceConfig(family=family, settings=SETTINGS[family][number], count=300))


def outcomes(family: str, number: int, config: TeacherConfig) -> Counter[Outcome]:
    found = problems(family, number)
    return Counter(judge(problem.reference, solve(problem, config, 0, 0).text).outcome for problem in found)


def test_every_family_is_tested() -> None:
    assert SETTINGS.keys() == SOLVERS.keys()


@every_case
@pytest.mark.parametrize("ramble", [0.0, 1.0])
def test_without_mistakes_every_solution_is_correct(family: str, number: int, ramble: float) -> None:
    assert outcomes(family, number, TeacherConfig(mistake_rate=0, ramble_rate=ramble)) == {Outcome.CORRECT: 300}


@every_case
def test_with_mistakes_some_are_wrong_and_none_is_unreadable(family: str, number: int) -> None:
    found = outcomes(family, number, SLOPPY)
    assert set(found) == {Outcome.CORRECT, Outcome.WRONG}
    assert 30 < found[Outcome.WRONG] < 240


@pytest.mark.parametrize("family", SETTINGS)
def test_a_noticed_mistake_is_repaired_and_one_let_pass_is_not(family: str) -> None:
    """With every mistake noticed a careful solution is right; with none noticed no line says "no"."""
    noticing, blind = (SLOPPY.model_copy(update={"catch_rate": rate}) for rate in (1.0, 0.0))
    repaired = [text for p in problems(family) if " no)" in (text := solve(p, noticing, 0, 0).text)]
    assert len(repaired) > 10
    assert not any(" no)" in solve(p, blind, 0, 0).text for p in problems(family))
    for text in repaired:
        for wrong, right in re.findall(r"=(-?\d+)\([^)]* no\)[^=]*=(-?\d+)", text):
            assert wrong != right or family == "simple_equations"  # a division that does not come out even is repeated
    correct = {rate: outcomes(family, 0, SLOPPY.model_copy(update={"catch_rate": rate}))[Outcome.CORRECT] for rate in (0.0, 1.0)}
    assert correct[1.0] > correct[0.0]


def test_every_step_wrong_is_never_right_by_chance_alone() -> None:
    """A slip is never the right value: with one operation and every step wrong, no answer is right."""
    sums = generate(SourceConfig(family="chain_sum", settings={"min_terms": 2, "max_terms": 2}, count=200))
    always = TeacherConfig(mistake_rate=1, catch_rate=0, ramble_rate=0)
    assert {judge(p.reference, solve(p, always, 0, 0).text).outcome for p in sums} == {Outcome.WRONG}


@pytest.mark.parametrize("family", SETTINGS)
def test_a_solution_is_a_function_of_seed_problem_and_index(family: str) -> None:
    problem = problems(family)[7]
    one = solve(problem, SLOPPY, seed=3, index=1)
    assert solve(problem, SLOPPY, seed=3, index=1) == one
    assert len({solve(problem, SLOPPY, seed, index).text for seed in range(3) for index in range(6)}) > 5
    assert (one.sampler, one.index, one.stop_reason, one.token_ids) == ("teacher", 1, StopReason.IMPORTED, ())


@pytest.mark.parametrize("family", SETTINGS)
@pytest.mark.parametrize("reference", ["", "nonsense", "10^{10}"])
def test_the_reference_is_never_looked_at(family: str, reference: str) -> None:
    for problem in problems(family)[:40]:
        assert solve(replace(problem, reference=reference), SLOPPY, 0, 0) == solve(problem, SLOPPY, 0, 0)


@pytest.mark.parametrize("family", SETTINGS)
def test_rambling_repeats_lines_and_says_nothing_new(family: str) -> None:
    always = FAULTLESS.model_copy(update={"ramble_rate": 1.0})
    longer = 0
    for problem in problems(family):
        plain, rambling = (solve(problem, config, 0, 0).text.split("\n") for config in (FAULTLESS, always))
        said = [line for line in rambling if "=" in line and "boxed" not in line]
        assert set(said) == {line for line in plain if "=" in line and "boxed" not in line}
        longer += len(said) > len(set(said))
    assert longer > 100


@pytest.mark.parametrize("family", SETTINGS)
def test_half_of_the_solutions_check_their_steps(family: str) -> None:
    checked = sum("(" in solve(problem, FAULTLESS, 0, 0).text for problem in problems(family))
    assert 100 < checked < 200


def test_lines_by_hand() -> None:
    facts = '{"expression": "4 - 1 + -7"}'
    problem = Problem.make("sums", "chain_sum", "4 - 1 + -7 =", "-4", Split.TRAIN, metadata=facts)
    lines = {line for index in range(20) for line in solve(problem, FAULTLESS, 0, index).text.split("\n") if ";" in line}
    assert lines == {"4-1=3;3-7", "3-7=-4;-4", "4-1=3(3+1=4);3-7", "3-7=-4(-4+7=3);-4"}
    facts = '{"equation": "7*y - 5 = 51", "variable": "y"}'
    problem = Problem.make("lines", "simple_equations", "Solve for y", "8", Split.TRAIN, metadata=facts)
    lines = {line for index in range(20) for line in solve(problem, FAULTLESS, 0, index).text.split("\n") if "x=" in line}
    assert lines == {"7x=51+5=56", "x=56/7=8", "7x=51+5=56(56-5=51)", "x=56/7=8(8*7=56)"}


def test_the_budget_is_every_rollout_of_every_problem_in_order() -> None:
    few = problems("leg_counting")[:5]
    rollouts = solve_all(few, SLOPPY, seed=1)
    assert [(r.problem_id, r.index) for r in rollouts] == [(p.id, i) for p in few for i in (0, 1)]
    assert len({r.id for r in rollouts}) == 10


def test_an_unknown_family_is_named_with_the_known_ones() -> None:
    problem = Problem.make("geometry", "angles", "?", "1", Split.TRAIN)
    with pytest.raises(ConfigError, match=r"'angles'; it knows chain_sum, leg_counting, simple_equations"):
        solve(problem, FAULTLESS, 0, 0)
