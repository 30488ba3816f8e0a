"""Sampling: rollouts, verdicts and problems in one order, and every sample a function of its coordinates."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tiny_sampler import parities, policy, sampler, tokenizer

from headway.engine.engine import Engine
from headway.errors import EngineError
from headway.problems.prompt import messages
from headway.sample import Plan, Sampler, rollouts_of, verdicts_of
from headway.types import Group, Outcome, Rollout, StopReason
from headway.verify.judge import Verifier, judge

PLAN = Plan("rl", 3, "tiny/rl@3", 1.0, 1.0, 16)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as made:
        yield made


def bare(rollout: Rollout) -> Rollout:
    """Without log-probs, which batches of other sizes change in their last bits."""
    return replace(rollout, logprobs=())


def test_every_verdict_is_that_of_its_rollout_and_every_rollout_of_its_problem(verifier: Verifier) -> None:
    problems = parities(30)
    groups = sampler(verifier).sample(problems, 5, PLAN)
    assert [group.problem for group in groups] == problems
    for group in groups:
        assert [r.problem_id for r in group.rollouts] == [group.problem.id] * 5
        assert [r.index for r in group.rollouts] == [0, 1, 2, 3, 4]
        assert [v.rollout_id for v in group.verdicts] == [r.id for r in group.rollouts]
        expected = [judge(group.problem.reference, r.text) for r in group.rollouts]
        assert [(v.outcome, v.extracted) for v in group.verdicts] == [(e.outcome, e.extracted) for e in expected]
        assert group.prompt_ids == tokenizer().prompt_ids(messages(group.problem))
    assert [r.id for r in rollouts_of(groups)] == [v.rollout_id for v in verdicts_of(groups)]
    assert len({r.id for r in rollouts_of(groups)}) == 150
    assert {Outcome.CORRECT, Outcome.WRONG} <= {v.outcome for v in verdicts_of(groups)}  # there is something to mix up


def test_a_rollout_says_where_it_comes_from_and_how_it_ended(verifier: Verifier) -> None:
    groups = sampler(verifier).sample(parities(40), 4, replace(PLAN, temperature=1.3, max_tokens=8, top_k=9, min_p=0.01))
    words = tokenizer()
    reasons = set()
    for rollout in rollouts_of(groups):
        assert (rollout.sampler, rollout.step, rollout.policy) == ("rl", 3, "tiny/rl@3")
        assert (rollout.temperature, rollout.top_p, rollout.top_k, rollout.min_p) == (1.3, 1.0, 9, 0.01)
        assert rollout.num_tokens == len(rollout.token_ids) == len(rollout.logprobs) <= 8
        stopped = rollout.token_ids[-1] in words.stop_ids
        assert (rollout.stop_reason is StopReason.STOP) == stopped
        assert rollout.text == words.decode(rollout.token_ids[:-1] if stopped else rollout.token_ids)
        assert "<eos>" not in rollout.text
        reasons.add(rollout.stop_reason)
    assert reasons == {StopReason.STOP, StopReason.LENGTH}


def test_a_sample_depends_on_neither_its_neighbours_nor_the_slots(verifier: Verifier) -> None:
    problems = parities(12)
    together = sampler(verifier).sample(problems, 4, PLAN)
    narrow = Sampler(Engine(policy(), tokenizer().stop_ids, slots=3), tokenizer(), verifier, "", 0)
    alone = [narrow.sample([problem], 4, PLAN)[0] for problem in reversed(problems)]
    assert [[bare(r) for r in group.rollouts] for group in reversed(alone)] == [
        [bare(r) for r in group.rollouts] for group in together
    ]


def test_further_samples_continue_the_numbers(verifier: Verifier) -> None:
    made, problems = sampler(verifier), parities(8)
    whole, first, more = (
        made.sample(problems, 6, PLAN),
        made.sample(problems, 2, PLAN),
        made.sample(problems, 4, PLAN, first_index=2),
    )
    for group, a, b in zip(whole, first, more, strict=True):
        assert [bare(r) for r in a.rollouts + b.rollouts] == [bare(r) for r in group.rollouts]


def texts(groups: list[Group]) -> list[str]:
    return [rollout.text for rollout in rollouts_of(groups)]


def test_seed_step_and_sampler_each_make_other_samples(verifier: Verifier) -> None:
    problems = parities(12)
    first = texts(sampler(verifier).sample(problems, 4, PLAN))
    assert texts(sampler(verifier).sample(problems, 4, PLAN)) == first
    assert texts(sampler(verifier, seed=1).sample(problems, 4, PLAN)) != first
    for other in (replace(PLAN, step=4), replace(PLAN, sampler="eval:rl")):
        assert texts(sampler(verifier).sample(problems, 4, other)) != first


def test_the_instruction_is_asked(verifier: Verifier) -> None:
    made = Sampler(Engine(policy(), tokenizer().stop_ids), tokenizer(), verifier, "Box it.", 0)
    (problem,) = parities(1)
    assert tokenizer().decode(made.prompt_ids(problem)) == f"{problem.question}\nBox it."


def test_samples_stay_within_the_positions_of_the_model(verifier: Verifier) -> None:
    made = sampler(verifier)
    (problem,) = parities(1)
    room = made.engine.model.config.max_positions - len(made.prompt_ids(problem))
    found = rollouts_of(made.sample([problem], 40, replace(PLAN, temperature=3.0, max_tokens=10_000)))
    assert max(rollout.num_tokens for rollout in found) == room
    assert all((r.stop_reason is StopReason.LENGTH) == (r.token_ids[-1] not in tokenizer().stop_ids) for r in found)
    long = replace(problem, id="long", question="is this odd " * 40)
    with pytest.raises(EngineError, match="prompt tokens"):
        made.sample([long], 1, PLAN)


def test_what_ratios_are_made_of_is_never_truncated(verifier: Verifier) -> None:
    plan = replace(PLAN, is_for_ratios=True)
    one = sampler(verifier)
    assert len(one.sample(parities(2), 1, replace(plan, temperature=0.7))) == 2
    for more in ({"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}):
        with pytest.raises(EngineError, match="'rl' asks for top_p, top_k or min_p"):
            one.sample(parities(2), 1, replace(plan, **more))
        assert len(one.sample(parities(2), 1, replace(PLAN, **more))) == 2


def test_a_plans_truncation_reaches_the_engine(verifier: Verifier) -> None:
    greedy, narrow = (
        sampler(verifier).sample(parities(10), 1, replace(PLAN, **more)) for more in ({"temperature": 0.0}, {"top_k": 1})
    )
    for a, b in zip(rollouts_of(greedy), rollouts_of(narrow), strict=True):
        assert a.text == b.text
        assert set(b.logprobs) == {0.0}  # renormalised: the one that is left is certain
