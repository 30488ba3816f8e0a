"""A run's folder made up for the report's tests: five stages, their evaluation in a real table, curves and funnels.

    build(folder)                     an ordinary run
    build(folder, payloads=[...])     foreign text in every place that a data set, a model or a person can write to

The numbers are drawn, not measured; everything else is what a run writes.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from headway.evaluate.metrics import accuracy, majority_at_k, mean_pass_at_k, paired_test, rates, tally
from headway.runs import write_atomic
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict

STAGES = {"base": -2.9, "midtrain": 0.1, "sft": 0.55, "dpo": 0.65, "rl": 2.2}
SAMPLES = 4


def build(
    folder: Path, seed: int = 0, num_problems: int = 120, payloads: tuple[str, ...] = (), lift: float = 0.0, **sampled: float
) -> Path:
    """Write the folder and return it. The same arguments give the same content; `lift` makes the last stage better, and
    `sampled` is what its rollouts were sampled with."""
    random = np.random.default_rng(seed)
    problems = [_problem(number, payloads) for number in range(num_problems)]
    ease = np.random.default_rng(99).normal(0, 1.3, num_problems)  # the same problems are hard under every seed
    rollouts: list[Rollout] = []
    verdicts: list[Verdict] = []
    judged = {}
    for stage, level in STAGES.items():
        judged[stage] = []
        chances = 1 / (1 + np.exp(-(ease + level + (lift if stage == "rl" else 0.0))))
        for problem, chance in zip(problems, chances, strict=True):
            for index in range(SAMPLES):
                rollout, verdict = _sample(problem, stage, index, random.random() < chance, random, payloads)
                rollouts.append(replace(rollout, **sampled))
                verdicts.append(verdict)
                judged[stage].append((problem, rollout, verdict))
    store = Store(folder / "store")
    store.add_problems(problems, "problems")
    store.add_rollouts(rollouts, "evaluation")
    store.add_verdicts(verdicts, "evaluation")
    _write(folder / "results.json", _results(judged, seed, payloads))
    _write(folder / "recipe.json", {"name": folder.name, "seed": seed, "sft": {"epochs": 2}, "note": payloads})
    _write(folder / "environment.json", {"started_with": {"versions": {"python": "3.11.9"}, "cores": 2}})
    _selections(folder, payloads)
    _alarms(folder, payloads)
    for stage in STAGES:
        rows = _curve_rows(stage, random)
        if payloads:
            rows[0] |= dict.fromkeys(payloads, 0.5)
        write_atomic(folder / "metrics" / f"{stage}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _alarms(folder: Path, payloads: tuple[str, ...]) -> None:
    """One of a metric that no stage charts, one of a charted one, and one a payload."""
    said = [("dpo", "alarm", "collapse", ""), ("rl", "loss", "no number", "headway show abc --run x")]
    said += [(payload, payload, payload, payload) for payload in payloads]
    rows = [{"step": 3, "stage": stage, "metric": metric, "says": says, "look": look} for stage, metric, says, look in said]
    write_atomic(folder / "alarms.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _problem(number: int, payloads: tuple[str, ...]) -> Problem:
    family, question, answer = (
        ("chain_sum", f"State the final answer: {number} + {number % 7} - 3 =", number + number % 7 - 3),
        ("products", f"Multiply {number} by {number % 9}.", number * (number % 9)),
        ("simple_equations", f"Solve for x: 3x + {number} = {number + 12}.", 4),
    )[number % 3]
    reference = str(answer)
    if payloads:
        payload = payloads[number % len(payloads)]
        family, question, reference = f"{family} {payload}", f"{question} {payload}", payload
    return Problem.make("made-up", family, question, reference, Split.HELDOUT)


def _sample(problem: Problem, stage: str, index: int, right: bool, random, payloads) -> tuple[Rollout, Verdict]:
    """A rollout with reasoning as long as the stage's, and its verdict."""
    answer = problem.reference if right else str(int(random.integers(2, 500)))
    steps = {"base": 0, "midtrain": 9, "sft": 5, "dpo": 5, "rl": 6}[stage]
    lines = [f"Step {n + 1}: {random.integers(2, 90)} + {random.integers(2, 90)}, check it again." for n in range(steps)]
    truncated = not right and stage in ("midtrain", "rl") and random.random() < 0.3
    unboxed = not right and not truncated and random.random() < 0.2
    end = "" if truncated else f"So the answer is {answer}." if unboxed else f"The answer is \\boxed{{{answer}}}."
    text = "\n".join([*lines, end])
    if payloads:
        text += payloads[index % len(payloads)]
    outcome = Outcome.CORRECT if right else Outcome.NO_ANSWER if truncated or unboxed else Outcome.WRONG
    reason = {Outcome.CORRECT: "", Outcome.WRONG: "numbers_differ", Outcome.NO_ANSWER: "no_box"}[outcome]
    stop = StopReason.LENGTH if truncated else StopReason.STOP
    rollout = Rollout.make(problem.id, f"eval:{stage}", 0, index, stage, text, stop_reason=stop, num_tokens=8 + 17 * steps)
    said = "" if outcome is Outcome.NO_ANSWER else answer
    return rollout, Verdict(rollout.id, "rules@1", outcome, reason, said)


def _results(judged, seed: int, payloads) -> dict:
    records, before = [], {}
    for number, (stage, rows) in enumerate(judged.items()):
        counts = tally((problem.id, verdict.outcome) for problem, _, verdict in rows)
        estimate = accuracy([c for c, _ in counts.values()], SAMPLES)
        paired = paired_test(rates(counts), before) if before else None
        before = rates(counts)
        records.append(
            {
                "stage": stage,
                "accuracy": estimate.mean,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "num_problems": estimate.num_problems,
                "samples_per_problem": SAMPLES,
                "truncated": sum(rollout.stop_reason == "length" for _, rollout, _ in rows) / len(rows),
                "no_answer": sum(verdict.outcome is Outcome.NO_ANSWER for _, _, verdict in rows) / len(rows),
                "p_vs_previous": paired.p if paired else None,
                "difference_vs_previous": paired.difference if paired else None,
                "train_tokens": 1_240_000 * (number + 1),
                "wall_s": 34.5 * (number + 1),
                "pass_at_k": {"1": estimate.mean, "4": mean_pass_at_k(counts, 4)},
                "majority": _majority(rows),
                "families": _families(rows),
                "mean_tokens": float(np.mean([rollout.num_tokens for _, rollout, _ in rows])),
            }
        )
    name = payloads[0] if payloads else "tiny"
    return {"stages": records, "seed": seed, "recipe": name, "peak_memory_bytes": 1_730_000_000}


def _majority(rows) -> float:
    votes: dict[str, list[tuple[str, bool]]] = {}
    for problem, _, verdict in rows:
        votes.setdefault(problem.id, []).append((verdict.extracted, verdict.outcome is Outcome.CORRECT))
    return float(np.mean([majority_at_k(*zip(*pairs, strict=True)) for pairs in votes.values()]))


def _families(rows) -> dict[str, float]:
    shares: dict[str, list[bool]] = {}
    for problem, _, verdict in rows:
        shares.setdefault(problem.family, []).append(verdict.outcome is Outcome.CORRECT)
    return {family: float(np.mean(values)) for family, values in shares.items()}


def _selections(folder: Path, payloads) -> None:
    funnels = {
        "midtrain": (12_000, {"wrong": 2_950, "unverifiable": 12, "validation": 452}),
        "sft": (9_050, {"over k a problem": 4_410, "repetitive": 702, "longer than max_tokens": 38, "balance": 2_300}),
        "dpo": (3_000, {"all correct": 1_204, "all wrong": 310}),
        "rl": (8_000, {"held out": 400, "no reference": 0}),
    }
    for name, (considered, dropped) in funnels.items():
        reasons = dropped | dict.fromkeys(payloads, 1)
        kept = considered - sum(reasons.values())
        more = {"report": {"pairs": kept, "chosen_longer": 0.42, "chosen_characters": 310.5}} if name == "dpo" else {}
        funnel = {"name": name, "considered": considered, "kept": kept, "dropped": reasons}
        _write(folder / "selections" / f"{name}.json", {"name": name, "funnel": funnel, "versions": {"rollouts": 3}} | more)


def _curve_rows(stage: str, random) -> list[dict]:
    """Curves in the shape that training gives them: noisy, falling or rising, validation now and then."""
    steps = {"base": 300, "midtrain": 520, "sft": 140, "dpo": 36, "rl": 90}[stage]
    rows = []
    for step in range(1, steps + 1):
        share, noise = step / steps, float(random.normal())
        row = {
            "step": step,
            "lr": 1e-3 * min(1.0, 10 * share) * (1 + math.cos(math.pi * share)) / 2,
            "tokens": 4096 * step,
        }
        row |= {
            "grad_norm": 0.8 + 2 * math.exp(-8 * share) + 0.1 * abs(noise),
            "seconds": 0.3,
            "tokens_per_s": 13_600 + 300 * noise,
        }
        if stage in ("base", "midtrain", "sft"):
            row["loss"] = 0.35 + 2.6 * math.exp(-6 * share) + 0.05 * noise
            if step % 50 == 0:
                row["validation_loss"] = 0.42 + 2.5 * math.exp(-6 * share)
        elif stage == "dpo":
            row |= {
                "loss": 0.693 - 0.3 * share + 0.02 * noise,
                "margin": 1.4 * share,
                "pair_accuracy": 0.5 + 0.4 * share,
            }
            row |= {"chosen_logprob": -21 - 2 * share + 0.3 * noise, "rejected_logprob": -24 - 9 * share + 0.3 * noise}
        else:
            row |= {"loss": 0.01 * noise, "accuracy": 0.62 + 0.25 * share + 0.04 * noise, "entropy": 0.3 - 0.1 * share}
            row |= {
                "temperature": max(0.6, 1.0 - 0.8 * share),
                "gap_max": 3e-6 * (1 + abs(noise)),
                "mean_tokens": 96 + 5 * noise,
            }
            row |= {
                "reward": 0.24 + 0.5 * share + 0.08 * noise,
                "truncated": max(0.0, 0.05 - 0.05 * share),
                "a_new_number": noise,
            }
        rows.append(row)
    return rows


def _write(path: Path, value: object) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=True))
