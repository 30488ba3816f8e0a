"""Hybrid decoding: a sample answers with a program, and where that comes to nothing, with a chain of thought.

    problem --program's prompt--> rollout of "eval:STAGE:program" --has it run, to a value?-- yes --> its verdict counts
                                                                        | no
               recipe's prompt    rollout of "eval:STAGE", same index <-+  its verdict counts

Both are stored, with their verdicts, so a sample is the "eval:STAGE" rollout where there is one, else the program's: what
`benchmark.judged_samples` and the report read. Whether a program ran is told without its problem's reference, so falling back
is no second guess at the answer. Source: Yue et al. 2023, "MAmmoTH" (arXiv 2309.05653), section 2.4.

It does not know how programs are run or judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headway import ranks
from headway.config import EvaluateConfig
from headway.evaluate.benchmark import PROGRAM, Show, sampler_of
from headway.sample import Plan, Progress, Sampler, chunk_of, rollouts_of, verdicts_of
from headway.store.store import Store
from headway.types import Group, Problem, Rollout, Verdict
from headway.verify.program import ProgramVerifier, ran_as_program

MAX_WORKERS = 8  # processes that run programs

Tell = Callable[[float, float], None]  # (share of the chunk done, new tokens a second)


def evaluate_hybrid(
    sampler: Sampler,
    store: Store,
    problems: Sequence[Problem],
    config: EvaluateConfig,
    stage: str,
    policy: str,
    show: Show,
) -> None:
    """As `benchmark.evaluate`, with programs first. Raises ConfigError where no sandbox is installed.

    A chunk's programs are one batch of the store, what fell back in it another: a stopped evaluation goes on with the rest.
    """
    size, total = chunk_of(config.samples), len(problems) * config.samples
    with ProgramVerifier(min(MAX_WORKERS, ranks.cores())) as verifier:  # nothing is sampled meanwhile
        programs = sampler.asking(config.program_instruction, verifier)
        for start in range(0, len(problems), size):
            chunk, done = problems[start : start + size], start * config.samples

            def tell(share: float, rate: float, done: int = done, samples: int = len(chunk) * config.samples) -> None:
                show(done + int(share * samples), total, rate)

            batch = f"{sampler_of(stage)}{PROGRAM}/{start}"
            if not store.has_batch("verdicts", batch):
                groups = programs.sample(chunk, config.samples, _plan(config, stage, policy, PROGRAM), progress=_half(tell))
                store.add_rollouts(rollouts_of(groups), batch)
                store.add_verdicts(verdicts_of(groups), batch)
            _fall_back(sampler, store, chunk, config, stage, policy, f"{sampler_of(stage)}/{start}", tell)
            tell(1.0, 0.0)


def _half(tell: Tell) -> Progress:
    """Progress of the programs: half of the chunk's, since any sample may need another one."""
    return lambda n, samples, rate: tell(n / samples / 2, rate)


def _plan(config: EvaluateConfig, stage: str, policy: str, suffix: str = "") -> Plan:
    return Plan(
        sampler_of(stage) + suffix, 0, policy, config.temperature, config.top_p, config.max_tokens, config.top_k, config.min_p
    )


def _fall_back(
    sampler: Sampler,
    store: Store,
    chunk: Sequence[Problem],
    config: EvaluateConfig,
    stage: str,
    policy: str,
    batch: str,
    tell: Tell,
) -> None:
    """Sample, with the recipe's own prompt, each sample of the chunk that came to nothing as a program."""
    if store.has_batch("verdicts", batch):
        return
    plan = _plan(config, stage, policy)
    wanted = {(r.problem_id, r.index) for r, v in program_samples(store, stage, chunk) if not ran_as_program(v)}
    groups: list[Group] = []
    for index in range(config.samples):  # one sample's noise goes by its index, so it is the sample that it would have been alone
        failed = [problem for problem in chunk if (problem.id, index) in wanted]

        def progress(n: int, _: int, rate: float, before: int = len(groups)) -> None:
            tell(0.5 + (before + n) / len(wanted) / 2, rate)

        groups += sampler.sample(failed, 1, plan, first_index=index, progress=progress) if failed else []
    store.add_rollouts(rollouts_of(groups), batch)
    store.add_verdicts(verdicts_of(groups), batch)


def program_samples(store: Store, stage: str, problems: Sequence[Problem]) -> list[tuple[Rollout, Verdict]]:
    """The stage's program rollouts of these problems with their verdicts, in the order of the table."""
    ids = [problem.id for problem in problems]
    rollouts = store.rollouts(sampler=sampler_of(stage) + PROGRAM, problem_ids=ids)
    verdicts = {verdict.rollout_id: verdict for verdict in store.verdicts(rollout_ids=[rollout.id for rollout in rollouts])}
    return [(rollout, verdicts[rollout.id]) for rollout in rollouts]


def program_counts(store: Store, stage: str, problems: Sequence[Problem]) -> dict[str, Any]:
    """For `results.json`: how many samples ran as programs, how many fell back and why, and the tokens of a program's rollout.

    Example: ``{"samples": 8, "ran": 5, "fell_back": 3, "reasons": {"no_program": 2, "program_error": 1}, "mean_tokens": 41.5}``
    """
    judged = program_samples(store, stage, problems)
    reasons = Counter(verdict.reason.partition(":")[0] for _, verdict in judged if not ran_as_program(verdict))
    return {
        "samples": len(judged),
        "ran": len(judged) - reasons.total(),
        "fell_back": reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "mean_tokens": float(np.mean([rollout.num_tokens for rollout, _ in judged])),
    }
