"""What each stage has to do: documents, steps, tokens trained and sampled, and the largest micro-batch. No bytes or seconds.

    documents = how many the data and the budget give x the sampled share that is right         steps as the stage counts them
    trained   = epochs x documents x mean tokens          sampled = rollouts x mean tokens of a right solution

Where nothing is known of the data, lengths are the recipe's limits and a number of documents is None. What no sample can tell is
assumed, and said (`ASSUMED`). It does not know the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headway.config import Recipe
from headway.model.config import DecoderConfig
from headway.plan.evidence import Evidence, Solved
from headway.stage_config import DpoConfig, RlConfig, StageConfig
from headway.train.batching import Document, micro_batches, pack

PAIR_SHARE = 0.25  # of the problems sampled for DPO that get a right and a wrong rollout (recipes/tiny.toml: 0.26)
RL_SHARE = 0.25  # of RL's sampled tokens that carry an advantage after rebalancing (recipes/tiny.toml: 0.24)
RL_SHARE_PLAIN = 0.5  # without it
REFILLS = 2  # batches that dynamic sampling asks for, on average
ASSUMED = (
    f"{PAIR_SHARE:.0%} of DPO's own problems give a pair; {RL_SHARE:.0%} of RL's rollouts carry an advantage with rebalancing, "
    f"{RL_SHARE_PLAIN:.0%} without; dynamic sampling asks {REFILLS} times; no stage ends early; own samples give no document"
)


@dataclass(frozen=True, slots=True)
class Work:
    """One stage. `trained` and `steps` are None where the data is not here. `documents` are a real largest micro-batch, or ()."""

    stage: str
    steps: int | None
    trained: int | None
    sampled: int | None
    micro_tokens: int  # through the model at once, at most
    longest: int  # tokens of the longest document
    samples: int  # rollouts at work at once
    length: int  # tokens of a rollout with its prompt, on average
    limit: int  # tokens that one may have
    documents: tuple[Document, ...] = ()
    from_data: bool = False


def works(recipe: Recipe, shape: DecoderConfig, evidence: Evidence) -> list[Work]:
    """The start's measurement, then every stage in order."""
    found = [_start(recipe, evidence)]
    for stage in recipe.stages:
        config: StageConfig = getattr(recipe, stage)
        documents, number = _documents(recipe, stage, evidence)
        limit = min(_limit(config), shape.max_positions)
        fitting = [document for document in documents if len(document.ids) <= limit]
        steps, trained = _training(stage, config, evidence, fitting, number * len(fitting) / max(1, len(documents)), recipe)
        sampled, samples = _sampled(recipe, stage, evidence)
        longest = max((len(d.ids) for d in fitting), default=limit)
        if stage == "rl":
            longest = min(shape.max_positions, round(evidence.prompt) + _limit(config))
        step_tokens = _step_tokens(stage, config, fitting)
        micro = max(longest, min(config.micro_batch_tokens, step_tokens or config.micro_batch_tokens))
        length = round(min(limit, evidence.prompt + (_completion(recipe, stage, evidence) or limit)))
        probe = tuple(_largest(fitting, micro)) if stage != "rl" else ()
        found.append(Work(stage, steps, trained, sampled, micro, longest, samples, length, limit, probe, bool(fitting)))
    return found


def _start(recipe: Recipe, evidence: Evidence) -> Work:
    """Nothing is trained; the start is measured (with a [base] stage its own evaluation counts there)."""
    sampled, samples = _evaluation(recipe, "start", evidence) if recipe.base is None else (0, 0)
    limit = recipe.evaluate.max_tokens
    length = round(min(limit, evidence.prompt + (_completion(recipe, "start", evidence) or limit)))
    return Work("start", 0, 0, sampled, 0, 0, samples, length, limit)


def _completion(recipe: Recipe, stage: str, evidence: Evidence) -> float:
    """Mean tokens of a rollout: those of right solutions, and from SFT on of the ones that it learns from. 0: not known."""
    sft = recipe.sft
    learns_short = sft is not None and sft.shortest and sft.limo is None and stage in ("sft", "dpo", "rl")
    return evidence.completion(sft.per_problem if sft is not None and learns_short else 0)


def _limit(config: StageConfig) -> int:
    return getattr(config, "seq_len", 0) or getattr(config, "max_tokens", 0)


def _documents(recipe: Recipe, stage: str, evidence: Evidence) -> tuple[list[Document], float]:
    """Documents of the sample as the stage lays them, and how many there are in all."""
    if stage == "base":
        assert recipe.base is not None
        own = recipe.base.own_sources
        sample = evidence.elementary if own else evidence.solved + evidence.elementary
        count = evidence.elementary_count + (0 if own else evidence.training)
        on_prompt = recipe.base.train_on_prompt
        return [_document(one, one.answer, on_prompt) for one in sample], count
    share = evidence.taught / max(1, len(evidence.solved))
    if stage == "midtrain":
        assert recipe.midtrain is not None
        on_prompt = recipe.midtrain.train_on_prompt
        found = [_document(one, ids, on_prompt) for one in evidence.solved for ids in one.right]
        return found, share * len(found) * (1 - recipe.midtrain.validation_share)
    if stage == "sft":
        assert recipe.sft is not None
        found = [
            _document(one, ids, False) for one in evidence.solved for ids in sorted(one.right, key=len)[: recipe.sft.per_problem]
        ]
        number = share * len(found)
        return found, min(number, recipe.sft.max_examples) if recipe.sft.max_examples else number
    found = [_document(one, ids, False) for one in evidence.solved for ids in one.right[:1]]  # about what DPO and RL see
    return found, share * sum(bool(one.right and one.wrong) for one in evidence.solved)  # that give the teacher's pairs


def _document(one: Solved, ids: Sequence[int], on_prompt: bool) -> Document:
    """Prompt, completion and a stop token (its id does not matter here)."""
    return Document((*one.prompt, *ids, 0), 1 if on_prompt else len(one.prompt))


def _training(
    stage: str, config: StageConfig, evidence: Evidence, documents: Sequence[Document], number: float, recipe: Recipe
) -> tuple[int | None, int | None]:
    """(steps, tokens trained) of a stage."""
    if isinstance(config, RlConfig):
        share = RL_SHARE if config.rebalance else RL_SHARE_PLAIN
        rollouts = config.steps * config.prompts * config.group_size
        mean = _completion(recipe, stage, evidence)
        prompts = config.steps * config.prompts * evidence.prompt / 2  # once a group; half of the groups agree
        return config.steps, round(share * rollouts * mean + prompts) if mean else None
    if not documents:
        return None, None
    mean = sum(len(d.ids) - 1 for d in documents) / len(documents)
    if isinstance(config, DpoConfig):
        pairs = PAIR_SHARE * config.own_problems * config.pairs_per_problem + (number if config.teacher_pairs else 0)
        answers = sum(d.num_targets for d in documents) / len(documents)
        batch = max(1, min(config.batch_pairs, round(pairs)))
        return math.ceil(config.epochs * pairs / batch), round(config.epochs * pairs * (mean + answers))
    epochs = getattr(config, "max_epochs", 0) or getattr(config, "epochs", 1)
    trained = round(epochs * number * mean)
    if hasattr(config, "seq_len"):
        rows = len(pack([len(d.ids) for d in documents], _limit(config))) * number / len(documents)
        return math.ceil(epochs * rows / min(config.batch_rows, max(1.0, rows))), trained  # type: ignore[attr-defined]
    batch = max(1, min(config.batch_examples, round(number)))  # type: ignore[attr-defined]
    return math.ceil(epochs * number / batch), trained


def _step_tokens(stage: str, config: StageConfig, documents: Sequence[Document]) -> int:
    """Tokens of one optimizer step, about; 0 where nothing is known."""
    if not documents:
        return 0
    longest = max(len(d.ids) for d in documents)
    if hasattr(config, "seq_len"):
        return config.batch_rows * _limit(config)  # type: ignore[attr-defined]
    if isinstance(config, RlConfig):
        return config.prompts * config.group_size * longest // config.minibatches
    return longest * (getattr(config, "batch_examples", 0) or 2 * getattr(config, "batch_pairs", 1))


def _largest(documents: Sequence[Document], max_tokens: int) -> list[Document]:
    """The first micro-batch of the sample, which holds its longest documents."""
    if not documents:
        return []
    [first, *_] = micro_batches([len(d.ids) for d in documents], max_tokens)
    return [documents[i] for i in first]


def _sampled(recipe: Recipe, stage: str, evidence: Evidence) -> tuple[int | None, int]:
    """(tokens sampled by a stage and its evaluation, rollouts at once)."""
    measured, samples = _evaluation(recipe, stage, evidence)
    mean, rollouts = _completion(recipe, stage, evidence), 0
    config = getattr(recipe, stage)
    if isinstance(config, DpoConfig):
        rollouts = config.own_problems * config.own_rollouts
    elif isinstance(config, RlConfig):
        each = config.prompts * config.group_size
        rollouts = config.steps * each * (min(REFILLS, config.max_refills) if config.dynamic_sampling else 1)
        rollouts += config.uniform_length_problems * config.uniform_length_rounds * config.group_size * config.uniform_length
        samples = max(samples, each)
    mean = mean or (config.max_tokens if rollouts else 0)
    own = round(rollouts * mean)
    total = None if measured is None else measured + own
    return total, min(1024, max(samples, rollouts if isinstance(config, DpoConfig) else samples))


def _evaluation(recipe: Recipe, stage: str, evidence: Evidence) -> tuple[int | None, int]:
    """(tokens of one evaluation, rollouts at once)."""
    problems = recipe.evaluate.problems or evidence.heldout
    rollouts = problems * recipe.evaluate.samples
    mean = min(_completion(recipe, stage, evidence) or recipe.evaluate.max_tokens, recipe.evaluate.max_tokens)
    return (round(rollouts * mean) if problems else None), min(1024, rollouts or 1024)
