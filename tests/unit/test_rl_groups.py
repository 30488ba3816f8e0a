"""Which problems RL asks, and which responses it learns from: every setting, by hand."""

import json
from collections import Counter
from typing import Any

import pytest

from headway.errors import StoreError
from headway.stage_config import RlConfig
from headway.stages.rl_groups import Pool, choose, rewards, uniform_problems
from headway.types import Group, Outcome, Problem, Rollout, Split, StopReason, Verdict

C, W, N, U = Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.UNVERIFIABLE


def problems(count: int) -> list[Problem]:
    return [Problem.make("test", "test", f"question {i}", "1", Split.TRAIN) for i in range(count)]


def ids(taken: list[Problem]) -> list[str]:
    return [problem.id for problem in taken]


# -- the pool ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "count"), [(7, 3), (10, 4), (6, 3), (5, 5), (9, 1)])
def test_every_epoch_asks_each_problem_once(size: int, count: int) -> None:
    """However the steps cut the epochs: a problem whose turn comes twice in a step keeps it for the next one."""
    pool, everyone = Pool(problems(size), 0, history=False), set(ids(problems(size)))
    asked: list[str] = []
    for step in range(1, 6 * size + 1):
        taken = ids(pool.take(count))
        assert len(set(taken)) == len(taken) == count
        asked += taken
        turns = Counter(asked)
        assert max(turns.values()) - min(turns[i] for i in everyone) <= 2, step
    whole = len(asked) // size
    assert all(abs(turns - whole) <= 2 for turns in Counter(asked).values())


def test_epochs_differ_and_are_a_function_of_the_seed() -> None:
    one, same, other = (Pool(problems(20), seed, history=False) for seed in (1, 1, 2))
    first, second = ids(one.take(20)), ids(one.take(20))
    assert first != second
    assert sorted(first) == sorted(second)
    assert ids(same.take(20)) == first
    assert ids(other.take(20)) != first


def test_a_small_pool_gives_what_it_has_and_ends() -> None:
    pool = Pool(problems(3), 0, history=False)
    for _ in range(5):
        assert sorted(ids(pool.take(8))) == sorted(ids(problems(3)))


@pytest.mark.parametrize("history", [False, True])
def test_a_step_never_asks_the_same_problem_twice(history: bool) -> None:
    """Dynamic sampling refills from a pool that is smaller than prompts x refills."""
    pool = Pool(problems(10), 0, history)
    for step in range(12):
        asked: list[str] = []
        for _ in range(9):
            fresh = ids(pool.take(4, without=set(asked)))
            if not fresh:
                break
            asked += fresh
            for number, problem_id in enumerate(fresh):
                pool.record(problem_id, (step + number) % 3 / 2)
        assert len(asked) == len(set(asked)), step
        assert history or len(asked) == 10


def test_who_is_passed_over_comes_first_the_next_time() -> None:
    pool = Pool(problems(6), 0, history=False)
    order = ids(Pool(problems(6), 0, history=False).take(6))
    assert ids(pool.take(2, without={order[0], order[2]})) == [order[1], order[3]]
    assert ids(pool.take(3)) == [order[0], order[2], order[4]]


def test_everything_asked_already_gives_nothing() -> None:
    pool = Pool(problems(4), 0, history=False)
    assert pool.take(2, without=ids(problems(4))) == []
    assert len(pool.take(4)) == 4


def test_history_leaves_out_what_was_all_correct() -> None:
    pool = Pool(problems(6), 0, history=True)
    easy = ids(pool.take(6))[:2]
    for problem in problems(6):
        pool.record(problem.id, 1.0 if problem.id in easy else 0.0 if problem.id.startswith("0") else 0.5)
    for _ in range(3):
        assert set(ids(pool.take(4))) == set(ids(problems(6))) - set(easy)  # mixed and all-wrong ones stay


def test_history_judges_the_last_epoch_only_and_never_empties_the_pool() -> None:
    pool = Pool(problems(3), 0, history=True)
    for _ in range(3):
        for problem in pool.take(3):
            pool.record(problem.id, 1.0)
    assert len(pool.take(3)) == 3


def test_without_history_nothing_leaves() -> None:
    pool = Pool(problems(4), 0, history=False)
    for _ in range(4):
        for problem in pool.take(4):
            pool.record(problem.id, 1.0)
    assert len(pool.take(4)) == 4


@pytest.mark.parametrize("history", [False, True])
def test_a_pool_goes_on_from_its_state(history: bool) -> None:
    def steps(pool: Pool, first: int, last: int) -> list[list[str]]:
        found = []
        for step in range(first, last):
            found.append(ids(pool.take(4)))
            found.append(ids(pool.take(2, without=found[-1])))
            for number, problem_id in enumerate(found[-1] + found[-2]):
                pool.record(problem_id, 1.0 if (step * 7 + number) % 3 == 0 else 0.25)
        return found

    straight = steps(Pool(problems(11), 5, history), 0, 9)
    for stop in range(10):
        before, after = Pool(problems(11), 5, history), Pool(problems(11), 5, history)
        done = steps(before, 0, stop)
        after.restore(json.loads(json.dumps(before.state())))
        assert done + steps(after, stop, 9) == straight


def test_a_state_does_not_change_with_the_pool_that_gave_it() -> None:
    pool = Pool(problems(4), 0, history=True)
    pool.take(3)
    state = pool.state()
    before = json.dumps(state)
    pool.record(problems(4)[0].id, 1.0)
    pool.take(4)
    assert json.dumps(state) == before


def test_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(StoreError, match="no training problem"):
        Pool([], 0, history=False)


# -- the responses -----------------------------------------------------------------------------------------------------


def group(*outcomes: Outcome, lengths: tuple[int, ...] = ()) -> Group:
    problem = problems(1)[0]
    rollouts = tuple(
        Rollout.make(problem.id, "rl", 0, i, "p", str(i), stop_reason=StopReason.STOP, num_tokens=n)
        for i, n in enumerate(lengths or (5,) * len(outcomes))
    )
    verdicts = tuple(Verdict(r.id, "rules@1", outcome) for r, outcome in zip(rollouts, outcomes, strict=True))
    return Group(problem, (1, 2), rollouts, verdicts)


def config(**settings: Any) -> RlConfig:
    return RlConfig(**settings)


def test_rewards_are_plus_and_minus_one() -> None:
    assert rewards(group(C, W, N, U), config()) == [1.0, -1.0, -1.0, -1.0]


def test_overlong_responses_pay() -> None:
    # of 100 tokens the last 20 are the cache: 80 free, 90 half, 100 a whole point
    settings = config(overlong_penalty=True, overlong_cache=0.2, max_tokens=100)
    assert rewards(group(C, C, W, W, lengths=(80, 90, 100, 12)), settings) == [1.0, 0.5, -2.0, -1.0]


@pytest.mark.parametrize(
    ("outcomes", "kept"),
    [
        ((C, W, W), [0, 1, 2]),
        ((C, N), [0, 1]),
        ((C, C), []),
        ((W, W), []),
        ((W, N), []),  # both are -1
        ((C, U), []),  # one judged response agrees with itself
        ((U, C, U, W), [1, 3]),
        ((U, U), []),
    ],
)
def test_groups_that_agree_are_dropped_and_what_could_not_be_judged_never_counts(outcomes: Any, kept: list[int]) -> None:
    assert choose(group(*outcomes), config(), seed=0) == kept
    assert choose(group(*outcomes), config(dynamic_sampling=True), seed=0) == kept


def test_rebalancing_keeps_as_many_wrong_as_correct_ones() -> None:
    mixed = group(W, C, W, W, U, W)
    found = {tuple(choose(mixed, config(rebalance=True), seed)) for seed in range(60)}
    assert found == {(0, 1), (1, 2), (1, 3), (1, 5)}  # each wrong one has its chance; the unverifiable one has none
    assert choose(mixed, config(rebalance=True), seed=4) == choose(mixed, config(rebalance=True), seed=4)
    assert choose(group(C, C, W), config(rebalance=True), seed=0) == [0, 1, 2]
    assert choose(group(W, W), config(rebalance=True), seed=0) == []


@pytest.mark.parametrize(
    ("outcomes", "drop_above", "is_kept"),
    [
        ((C, W), 0.5, True),  # not above
        ((C, C, W), 0.5, False),
        ((C, C, W), 0.7, True),
        ((C, C, U, W, U), 0.5, False),  # 2 of 3 judged ones
        ((C, C, C, W), 1.0, True),
        ((C, W, W), 0.0, False),
    ],
)
def test_prompts_that_are_too_easy_are_dropped(outcomes: Any, drop_above: float, is_kept: bool) -> None:
    assert bool(choose(group(*outcomes), config(drop_above=drop_above), seed=0)) is is_kept


def test_with_a_length_penalty_groups_that_agree_may_differ() -> None:
    settings = {"overlong_penalty": True, "overlong_cache": 0.5, "max_tokens": 20}
    assert choose(group(W, W, lengths=(12, 18)), config(**settings), seed=0) == [0, 1]
    assert choose(group(W, W, lengths=(5, 9)), config(**settings), seed=0) == []  # both are free
    assert choose(group(W, W, lengths=(12, 18)), config(rebalance=True, **settings), seed=0) == []  # no correct one to keep


def test_uniform_problems() -> None:
    lengths = {"even": [10, 10], "third": [10, 20], "half": [10, 30], "lone": [7]}
    assert uniform_problems(lengths, 0.4) == ["even", "third", "lone"]  # variations 0, 1/3, 1/2, 0
    assert uniform_problems(lengths, 0.5) == ["even", "third", "half", "lone"]
    assert uniform_problems({}, 0.5) == []


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"kl_coef": 0.1}, [0, 1, 3]),  # what agrees has a KL all the same; what could not be judged never counts
        ({"baseline": "batch"}, [0, 1, 3]),
        ({"baseline": "batch", "dynamic_sampling": True}, []),
        ({"kl_coef": 0.1, "drop_above": 0.5}, []),
        ({}, []),
    ],
)
def test_a_group_that_agrees_is_kept_for_a_kl_or_a_batchs_baseline(settings: dict[str, Any], kept: list[int]) -> None:
    assert choose(group(C, C, U, C), config(**settings), seed=0) == kept
