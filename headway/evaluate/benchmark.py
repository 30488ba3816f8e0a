"""Held-out problems, k samples each, after a stage: sampled in chunks, stored, and counted from the store.

A chunk whose rollouts the store holds is not sampled again, so an evaluation that was stopped goes on where it was. It does not
know which stage it measures beyond its name, nor how numbers are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headway.config import EvaluateConfig
from headway.evaluate.metrics import accuracy, best_of_k, majority_at_k, mean_pass_at_k, paired_test, rates, tally
from headway.evaluate.voting import candidates
from headway.sample import Plan, Sampler, chunk_of, rollouts_of, verdicts_of
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, StopReason, Verdict

PROGRAM = ":program"  # behind the sampler's name: what `hybrid` asked for a program

Show = Callable[[int, int, float], None]  # (samples done, samples in all, new tokens a second)


def evaluate(
    sampler: Sampler,
    store: Store,
    problems: Sequence[Problem],
    config: EvaluateConfig,
    stage: str,
    policy: str,
    show: Show,
) -> None:
    """Sample what the store does not hold yet of `stage`'s evaluation, and append it."""
    name = sampler_of(stage)
    plan = Plan(name, 0, policy, config.temperature, config.top_p, config.max_tokens, config.top_k, config.min_p)
    total = len(problems) * config.samples
    size = chunk_of(config.samples)
    for start in range(0, len(problems), size):
        chunk = problems[start : start + size]
        batch = f"{name}/{start}"
        if not store.has_batch("verdicts", batch):
            done = start * config.samples

            def progress(n: int, _: int, rate: float, done: int = done) -> None:
                show(done + n, total, rate)

            groups = sampler.sample(chunk, config.samples, plan, progress=progress)
            store.add_rollouts(rollouts_of(groups), batch)
            store.add_verdicts(verdicts_of(groups), batch)
        show(min(total, (start + len(chunk)) * config.samples), total, 0.0)


def sampler_of(stage: str) -> str:
    """What a stage's evaluation rollouts carry as `sampler`."""
    return f"eval:{stage}"


def score(store: Store, stage: str, previous: str | None, families: dict[str, str], samples: int) -> dict[str, Any]:
    """The numbers of a stage's stored evaluation, as they stand in `results.json`.

    `families` maps the evaluated problem ids to their family; `previous` names the stage to test against, paired.
    """
    judged = judged_samples(store, stage, families)
    counts = tally((rollout.problem_id, verdict.outcome) for rollout, verdict in judged)
    estimate = accuracy([c for c, _ in counts.values()], [n for _, n in counts.values()])
    result: dict[str, Any] = {
        "accuracy": estimate.mean,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "num_problems": estimate.num_problems,
        "samples_per_problem": samples,
        "truncated": float(np.mean([r.stop_reason is StopReason.LENGTH for r, _ in judged])),
        "no_answer": float(np.mean([v.outcome is Outcome.NO_ANSWER for _, v in judged])),
        "unverifiable": float(np.mean([v.outcome is Outcome.UNVERIFIABLE for _, v in judged])),
        "mean_tokens": float(np.mean([r.num_tokens for r, _ in judged])),
        "pass_at_k": {str(k): mean_pass_at_k(counts, k) for k in (1, samples) if _all_have(counts, k)},
        "majority": _majority(judged),
        "best_by_logprob": _best_by_logprob(judged),
        "families": _by_family(counts, families),
    }
    if previous is not None:
        before = judged_samples(store, previous, families)
        test = paired_test(rates(counts), rates(tally((r.problem_id, v.outcome) for r, v in before)))
        result |= {"difference_vs_previous": test.difference, "p_vs_previous": test.p}
    else:
        result |= {"difference_vs_previous": None, "p_vs_previous": None}
    return result


def judged_samples(store: Store, stage: str, families: dict[str, str]) -> list[tuple[Rollout, Verdict]]:
    """The stage's evaluation rollouts of these problems with their verdicts, in the order of the table.

    One a sample: of a hybrid evaluation, the program's rollout unless the sample fell back on another.
    """
    name = sampler_of(stage)
    rollouts = [rollout for rollout in store.rollouts(sampler=[name, name + PROGRAM]) if rollout.problem_id in families]
    fell_back = {(rollout.problem_id, rollout.index) for rollout in rollouts if rollout.sampler == name}
    rollouts = [r for r in rollouts if r.sampler == name or (r.problem_id, r.index) not in fell_back]
    found = store.verdicts(rollout_ids=[rollout.id for rollout in rollouts])
    verdicts = {verdict.rollout_id: verdict for verdict in found}
    return [(rollout, verdicts[rollout.id]) for rollout in rollouts]


def _all_have(counts: dict[str, tuple[int, int]], k: int) -> bool:
    return all(seen >= k for _, seen in counts.values())


def _by_problem(judged: Sequence[tuple[Rollout, Verdict]]) -> list[list[tuple[Rollout, Verdict]]]:
    """The samples of each problem."""
    found: dict[str, list[tuple[Rollout, Verdict]]] = {}
    for rollout, verdict in judged:
        found.setdefault(rollout.problem_id, []).append((rollout, verdict))
    return list(found.values())


def _majority(judged: Sequence[tuple[Rollout, Verdict]]) -> float:
    """Mean over problems of majority@k, where equal answers are one candidate however they are written."""
    found = [
        majority_at_k(candidates([v.extracted for _, v in group]), [v.outcome is Outcome.CORRECT for _, v in group])
        for group in _by_problem(judged)
    ]
    return float(np.mean(found))


def _best_by_logprob(judged: Sequence[tuple[Rollout, Verdict]]) -> float | None:
    """Mean over problems of best@k by the samples' mean log-prob a token; None where a sample has none."""
    if any(not rollout.logprobs for rollout, _ in judged):
        return None
    found = [
        best_of_k([float(np.mean(r.logprobs)) for r, _ in group], [v.outcome is Outcome.CORRECT for _, v in group])
        for group in _by_problem(judged)
    ]
    return float(np.mean(found))


def _by_family(counts: dict[str, tuple[int, int]], families: dict[str, str]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for problem_id, rate in rates(counts).items():
        found.setdefault(families[problem_id], []).append(rate)
    return {family: float(np.mean(values)) for family, values in sorted(found.items())}
