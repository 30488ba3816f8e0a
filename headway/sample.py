"""Problems in, judged groups of rollouts out: the one way in which anything is sampled.

    problem --prompt--> ids --engine--> completions --decode--> text --verifier--> Group(rollouts, verdicts)

Used by evaluation, by RL, by DPO's own pairs and by self-distillation; only their coordinates and temperatures differ. It does
not know what the rollouts are for, nor does it store them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.errors import EngineError
from headway.model.tokenizer import Tokenizer
from headway.problems.prompt import messages
from headway.ranks import gather, rank, size, together
from headway.types import Completion, Group, Problem, Request, Rollout, StopReason, Verdict
from headway.watchdog import at

_CHUNK = 1024  # samples that are judged and stored together: what a kill may cost

Progress = Callable[[int, int, float], None]  # (samples done, samples in all, new tokens a second)


class Judges(Protocol):
    """What gives a verdict on each rollout: `verify.judge.Verifier`, or `verify.program.ProgramVerifier`."""

    def verdicts(self, pairs: Sequence[tuple[Problem, Rollout]]) -> list[Verdict]:
        """One verdict for each (problem, rollout), in order."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How to sample: what asks for it, of which policy, and at which setting.

    Example: ``Plan(sampler="rl", step=12, policy="tiny/rl@12", temperature=0.9, top_p=1.0, max_tokens=256)``
    """

    sampler: str
    step: int
    policy: str
    temperature: float
    top_p: float
    max_tokens: int
    top_k: int = 0
    min_p: float = 0.0
    is_for_ratios: bool = False  # RL divides by the recorded probabilities: they must be the model's own at the temperature


class Sampler:
    """An engine, a tokenizer and a verifier at work on problems. `seed` is the run's."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, verifier: Judges, instruction: str, seed: int):
        self.engine = engine
        self._tokenizer, self._verifier, self._instruction, self._seed = tokenizer, verifier, instruction, seed
        self._prompts: dict[str, tuple[int, ...]] = {}

    def asking(self, instruction: str, verifier: Judges) -> Sampler:
        """The same policy and seed, asked with another instruction and judged by another verifier."""
        return Sampler(self.engine, self._tokenizer, verifier, instruction, self._seed)

    @property
    def prompts(self) -> Mapping[str, tuple[int, ...]]:
        """The prompts that were made so far, by their problem's id."""
        return self._prompts

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        """The problem's prompt as token ids, up to where the completion starts."""
        if problem.id not in self._prompts:
            self._prompts[problem.id] = self._tokenizer.prompt_ids(messages(problem, self._instruction))
        return self._prompts[problem.id]

    def sample(
        self,
        problems: Sequence[Problem],
        count: int,
        plan: Plan,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> list[Group]:
        """`count` judged rollouts of each problem, numbered from `first_index`. One problem may stand in the list once.

        Several ranks share the problems out, each with weights of its own that are the same; every rank gets all groups.

        The prompt leaves no room for `plan.max_tokens` within the model's positions: fewer are sampled; none: EngineError.
        So is a plan `is_for_ratios` whose tokens are not drawn from the model's own distribution.
        """
        with together():
            own = self._sample(problems[rank() :: size()], count, plan, first_index, progress)
        found: list[Group] = [group for groups in zip_longest(*gather(own)) for group in groups if group is not None]
        return found

    def _sample(
        self, problems: Sequence[Problem], count: int, plan: Plan, first_index: int, progress: Progress | None
    ) -> list[Group]:
        """What is this rank's to sample."""
        if not problems:
            return []
        limit = self.engine.model.config.max_positions
        requests: list[Request] = []
        for problem in problems:
            ids = self.prompt_ids(problem)
            keys = tuple(sample_key(self._seed, plan.sampler, plan.step, problem.id, first_index + i) for i in range(count))
            room = max(1, min(plan.max_tokens, limit - len(ids)))
            requests.append(Request(ids, keys, room, plan.temperature, plan.top_p, plan.top_k, plan.min_p))
        if plan.is_for_ratios and not all(request.is_plain for request in requests):
            raise EngineError(f"RL samples at a temperature alone: {plan.sampler!r} asks for top_p, top_k or min_p as well")
        with at("sampling"):
            completions = self.engine.generate(requests, progress and _of_all(progress))
        rollouts = [
            [self._rollout(problem, plan, first_index + i, c) for i, c in enumerate(found)]
            for problem, found in zip(problems, completions, strict=True)
        ]
        pairs = [(problem, r) for problem, found in zip(problems, rollouts, strict=True) for r in found]
        with at("verifying"):
            verdicts = self._verifier.verdicts(pairs)
        return [
            Group(
                problem,
                self.prompt_ids(problem),
                tuple(rollouts[number]),
                tuple(verdicts[number * count : (number + 1) * count]),
            )
            for number, problem in enumerate(problems)
        ]

    def _rollout(self, problem: Problem, plan: Plan, index: int, completion: Completion) -> Rollout:
        stopped = completion.stop_reason is StopReason.STOP
        return Rollout.make(
            problem.id,
            plan.sampler,
            plan.step,
            index,
            plan.policy,
            self._tokenizer.decode(completion.token_ids[:-1] if stopped else completion.token_ids),
            stop_reason=completion.stop_reason,
            num_tokens=len(completion.token_ids),
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            temperature=plan.temperature,
            top_p=plan.top_p,
            top_k=plan.top_k,
            min_p=plan.min_p,
        )


def _of_all(progress: Progress) -> Progress:
    """Progress of all ranks, as if they were as far as this one."""
    return lambda done, total, rate: progress(done * size(), total * size(), rate * size())


def chunk_of(count: int) -> int:
    """How many problems are sampled, judged and stored together when each gets `count` samples."""
    return max(1, _CHUNK // count)


def rollouts_of(groups: Iterable[Group]) -> list[Rollout]:
    """All rollouts, in order."""
    return [rollout for group in groups for rollout in group.rollouts]


def verdicts_of(groups: Iterable[Group]) -> list[Verdict]:
    """All verdicts, in order."""
    return [verdict for group in groups for verdict in group.verdicts]
