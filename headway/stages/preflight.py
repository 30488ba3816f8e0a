"""Before the first step of a stage: real batches are read back token by token, and a run whose batches are wrong does not start.

    three steps' batches --train.xray--> documents --> checks (tokens), measured (model) --> record, kept as preflight/STAGE.json
                                                                    |
                                                  one fails: RunError that names what --> exit 2

What is checked is what training is about to use: the tensors themselves, the policy, the sampler's stop tokens. Nothing of it
changes the policy or a batch. A batch of many tokens is read in part, and the record says how much was. A model that the recipe
starts from is asked the same before anything is measured or sampled (`check_start`). It does not know what is right (`checks`,
`measured`) nor how a record is shown (`report.xray`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headway.errors import RunError
from headway.stage_config import StageConfig
from headway.stages import checks
from headway.stages.checks import PROMPTS, Asked, Check, guarded
from headway.stages.measured import finite, measured
from headway.train.batching import Document
from headway.train.fit import Objective
from headway.train.preference import PairBatch
from headway.train.xray import (
    advantages,
    documents_of,
    first_numbers,
    flat_of,
    reference_sums,
    sampler_logprobs,
)

if TYPE_CHECKING:
    from headway.stages.workspace import Workspace

BATCHES = 3
RL_TOKENS = 4096  # of a rollout that is sampled only to be looked at
_READ_TOKENS = 65_536  # of a batch; what is beyond is not read
_SHOWN = 4  # documents of a batch in the record
_AROUND = 96  # tokens of a shown document kept at its beginning, around its first learned token, and at its end


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's batch as it was read back. `first` are the documents of its first micro-batch, `documents` all that were read."""

    micro: Any
    first: list[Document]
    documents: list[Document]
    mistakes: list[str]
    advantages: list[Tensor]
    shown: dict[str, Any]


def preflight(
    work: Workspace, stage: str, objective: Objective[Any], config: StageConfig, steps: int = BATCHES
) -> dict[str, Any]:
    """Check the first batches of a stage of `steps` steps: the record, with `passed`, `checks` and the `batches` by token."""
    started = time.monotonic()
    numbers = range(1 if stage == "rl" else min(BATCHES, steps))  # RL's are sampled for this: one is enough
    batches = [_read(work, objective, step, keeps=step == 0) for step in numbers]
    every = [document for batch in batches for document in batch.documents]
    mistakes = [mistake for batch in batches for mistake in batch.mistakes]
    found = checks.asked(every, work.sampler.prompts)
    results = [checks.stops(work), guarded("template", lambda: _template(work, found)), checks.targets(every, mistakes)]
    if every:
        longest = min(int(getattr(config, "max_tokens", 0)), RL_TOKENS) if stage == "rl" else None
        results.append(checks.mask(work, found, bool(getattr(config, "train_on_prompt", False))))
        results += [checks.end(work, found, longest), checks.vocabulary(work, every)]
        if not mistakes:
            first = batches[0]
            given = torch.cat(first.advantages) if first.advantages else None
            results += measured(work, first.micro, first.first, given, float(getattr(objective, "temperature", 1.0)))
    return {
        "stage": stage,
        "passed": all(check.passed for check in results),
        "checks": [asdict(check) for check in results],
        "batches": [batch.shown for batch in batches],
        "seconds": round(time.monotonic() - started, 3),
    }


def check_start(work: Workspace) -> None:
    """RunError where the model that the recipe starts from cannot be asked: before it is measured, and before anybody is paid."""
    problems = work.store.problems("id IN (SELECT min(id) FROM problems GROUP BY source, family)")[:PROMPTS]
    results = [checks.stops(work), guarded("template", lambda: checks.template(work, problems))]
    if all(check.passed for check in results):  # a template that fails cannot ask
        results += [finite(work, problem) for problem in problems[:1]]
    for check in results:
        if not check.passed:
            source = work.recipe.model.checkpoint or "the model"
            raise RunError(f"{source} fails the check before the start: {check.name}: {check.says}")


def joined(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The records of several ranks, each of its own share of the batches, as one: the first that fails, else the first, with the
    counts of all.
    """
    chosen = dict(next((record for record in records if not record["passed"]), records[0]))
    counted = ("documents", "tokens", "trained", "micro_batches", "read")
    chosen["batches"] = [
        batch | {name: sum(record["batches"][number][name] for record in records) for name in counted}
        for number, batch in enumerate(chosen["batches"])
    ]
    return chosen


def refuse(stage: str, record: dict[str, Any], where: str) -> None:
    """Raise RunError with one line where a check of the record failed."""
    failed = [check for check in record["checks"] if not check["passed"]]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise RunError(
            f"{stage} does not start: the pre-flight check of its batches fails: {failed[0]['name']}: {failed[0]['says']}{more}; "
            f"see `headway xray`, or {where}"
        )


def summary(record: dict[str, Any]) -> str:
    """One line for a record that passed."""
    batches = record["batches"]
    documents, trained = (sum(batch[key] for batch in batches) for key in ("documents", "trained"))
    tokens = sum(batch["tokens"] for batch in batches)
    drawn = f"{documents:,} documents of {len(batches)} batch{'es' if len(batches) > 1 else ''}"
    of = f"{drawn}, {trained:,} tokens trained, {tokens:,} through the model"
    found = f"pre-flight: {len(record['checks'])} checks passed in {record['seconds']:.1f} s on {of}"
    return f"{found}; `headway xray RECIPE {record['stage']}` shows them"


def _read(work: Workspace, objective: Objective[Any], step: int, keeps: bool) -> Batch:
    """The micro-batches of a step, read back until enough tokens are. Only the step that `keeps` holds on to a micro-batch."""
    read: list[list[Document]] = []
    mistakes: list[str] = []
    given: list[Tensor] = []
    first: Any = None
    counts = {"documents": 0, "tokens": 0, "trained": 0, "micro_batches": 0}
    room, is_read = _READ_TOKENS, True
    for micro in (micro for update in objective.updates(step) for micro in update):
        flat = flat_of(micro)
        sizes = {"documents": flat.num_documents, "tokens": flat.num_tokens, "trained": len(flat.targets), "micro_batches": 1}
        counts = {name: counts[name] + size for name, size in sizes.items()}
        if (found := advantages(micro)) is not None:
            given.append(found)
        is_read = is_read and (first is None or flat.num_tokens <= room)
        if not is_read:
            continue
        room -= flat.num_tokens
        documents, wrong = documents_of(flat)
        mistakes += [f"step {step + 1}, micro-batch {len(read)}: {line}" for line in wrong]
        read.append(documents)
        first = micro if first is None else first
    shown = _shown(work, first, read[0]) if read else []
    record = {"step": step + 1, **counts, "read": sum(map(len, read)), "shown": shown}
    every = [document for documents in read for document in documents]
    return Batch(first if keeps else None, read[0] if read else [], every, mistakes, given, record)


def _template(work: Workspace, found: Sequence[Asked]) -> Check:
    """The template check on the questions of the batches themselves."""
    ids = list(dict.fromkeys(one.problem_id for one in found if one.length))[:PROMPTS]
    return checks.template(work, work.store.problems(ids=ids) if ids else [])


def _shown(work: Workspace, micro: Any, documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Some documents of a micro-batch token by token, as plain JSON."""
    is_pairs = isinstance(micro, PairBatch)
    half = len(documents) // 2
    pairs = [number for i in range(_SHOWN // 2) for number in (i, half + i) if i < half]
    numbers = pairs if is_pairs else first_numbers(documents, 10**9)[:_SHOWN]
    return [_document(work, documents[number]) | _beside(micro, documents, number) for number in numbers]


def _document(work: Workspace, document: Document) -> dict[str, Any]:
    """A document's tokens as [text, is_trained]; null where some are left out."""
    count, first = len(document.ids), document.first_target
    kept = [i for i in range(count) if i < _AROUND or first - _AROUND <= i < first + _AROUND or i >= count - _AROUND]
    pieces = dict(zip(kept, work.tokenizer.pieces([document.ids[i] for i in kept]), strict=True))
    tokens: list[Any] = []
    for place, i in enumerate(kept):
        if place and kept[place - 1] != i - 1:
            tokens.append(None)
        tokens.append([pieces[i], i >= first])
    return {"num_tokens": count, "first_target": first, "tokens": tokens}


def _beside(micro: Any, documents: Sequence[Document], number: int) -> dict[str, Any]:
    """What a stage has beside the tokens of a document."""
    reference, given = reference_sums(micro), advantages(micro)
    if reference is not None:
        side = "chosen" if number < len(documents) // 2 else "rejected"
        return {"side": side, "reference_logprob": _number(reference[number])}
    recorded = sampler_logprobs(micro)
    if recorded is not None and given is not None:
        start = sum(document.num_targets for document in documents[:number])
        own = recorded[start : start + documents[number].num_targets]
        return {"advantage": _number(given[start]), "sampler_logprob": _number(own.sum())}
    return {}


def _number(value: Tensor) -> float | None:
    """A number for the record; None where it is none."""
    return round(float(value), 4) if bool(value.isfinite()) else None
