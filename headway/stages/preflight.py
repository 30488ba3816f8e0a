"""Before the first step of a stage: real batches are read back token by token, and a run whose batches are wrong does not start.

    three steps' batches --train.xray--> documents --tokenizer, template, model--> checks --> record, kept as preflight/STAGE.json
                                                                                     |
                                                          one fails: RunError that names what --> exit 2

What is checked is what training is about to use: the tensors themselves, the policy, the sampler's stop tokens. Nothing of it
changes the policy or a batch. A batch of many tokens is read in part, and the record says how much was. It does not know how a
record is shown (`report.xray`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from headway.errors import CheckpointError, RunError
from headway.problems.prompt import messages
from headway.stage_config import StageConfig
from headway.train.batching import Document, Flat
from headway.train.fit import Objective
from headway.train.losses import sequence_sums
from headway.train.policy import PolicyBatch
from headway.train.preference import PairBatch
from headway.train.xray import (
    Scored,
    advantages,
    documents_of,
    first_numbers,
    flat_of,
    isolation,
    reference_sums,
    sampler_logprobs,
    score,
)

if TYPE_CHECKING:
    from headway.stages.workspace import Workspace

BATCHES = 3
_READ_TOKENS = 65_536  # of a batch; what is beyond is not read
_SHOWN = 4  # documents of a batch in the record
_AROUND = 96  # tokens of a shown document kept at its beginning, around its first learned token, and at its end
_FLOP = 4e9  # about what the measured forward passes may take
_SAME = {"float32": 1e-3, "bfloat16": 0.5}  # nats a token, or logits: what rounding alone may do


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. Example: ``Check("end token", True, "all 120 documents end in <eos>, which is trained")``."""

    name: str
    passed: bool
    says: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's first micro-batches as they were read back."""

    step: int
    micros: list[Any]
    documents: list[list[Document]]  # of each micro-batch that was read
    mistakes: list[str]
    unread: int  # micro-batches

    @property
    def every(self) -> list[Document]:
        """All documents that were read."""
        return [document for found in self.documents for document in found]


def preflight(work: Workspace, stage: str, objective: Objective[Any], config: StageConfig) -> dict[str, Any]:
    """Check the first batches of a stage: the record, with `passed`, `checks` and the `batches` token by token."""
    started = time.monotonic()
    steps = 1 if stage == "rl" else BATCHES  # RL's are sampled for this: one is enough
    batches = [_read(objective, step) for step in range(steps)]
    checks = [_stops(work), *_guarded("template", lambda: _template(work))]
    whole = bool(getattr(config, "train_on_prompt", False))
    every = [document for batch in batches for document in batch.every]
    mistakes = [mistake for batch in batches for mistake in batch.mistakes]
    checks.append(_targets(every, mistakes))
    if every:
        checks += [_mask(work, every, whole), _end(work, every, stage, config), _vocabulary(work, every)]
        if not mistakes:
            checks += _measured(work, stage, batches[0], float(getattr(objective, "temperature", 1.0)))
    return {
        "stage": stage,
        "passed": all(check.passed for check in checks),
        "checks": [asdict(check) for check in checks],
        "batches": [_shown(work, stage, batch) for batch in batches],
        "seconds": round(time.monotonic() - started, 3),
    }


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
    checks = f"pre-flight: {len(record['checks'])} checks passed in {record['seconds']:.1f} s on {of}"
    return f"{checks}; `headway xray RECIPE {record['stage']}` shows them"


def _read(objective: Objective[Any], step: int) -> Batch:
    """The micro-batches of a step, read back until enough tokens are."""
    micros = [micro for update in objective.updates(step) for micro in update]
    documents: list[list[Document]] = []
    mistakes: list[str] = []
    room = _READ_TOKENS
    for number, micro in enumerate(micros):
        flat = flat_of(micro)
        if documents and flat.num_tokens > room:
            break
        room -= flat.num_tokens
        found, wrong = documents_of(flat)
        documents.append(found)
        mistakes += [f"step {step + 1}, micro-batch {number}: {line}" for line in wrong]
    return Batch(step, micros, documents, mistakes, len(micros) - len(documents))


def _guarded(name: str, check: Callable[[], list[Check]]) -> list[Check]:
    """A check whose own CheckpointError is a finding."""
    try:
        return check()
    except CheckpointError as error:
        return [Check(name, False, str(error))]


def _stops(work: Workspace) -> Check:
    """The token that is trained as the end must end a sample, and every configured end must exist."""
    words, engine = work.tokenizer, work.sampler.engine.stop_ids
    name = f"token {words.stop_id} {words.stop_text!r}"
    rows = work.model.config.vocab_size
    if words.unknown_stop_ids:
        number = words.unknown_stop_ids[0]
        return Check(
            "stop tokens", False, f"the checkpoint's settings end a completion with token {number}, which no vocabulary holds"
        )
    unknown = [number for number in (*words.stop_ids, *sorted(engine)) if not words.knows(number) or number >= rows]
    if unknown:
        return Check(
            "stop tokens", False, f"token {unknown[0]} ends a completion, but the vocabulary or the model has no such token"
        )
    if words.stop_id not in engine:
        return Check("stop tokens", False, f"{name} is trained as the end, but the sampler does not stop at it")
    if set(words.stop_ids) - engine:
        missing = min(set(words.stop_ids) - engine)
        return Check(
            "stop tokens", False, f"token {missing} {words.pieces([missing])[0]!r} ends a completion, but the sampler passes it"
        )
    listed = ", ".join(f"{number} {piece!r}" for number, piece in zip(sorted(engine), words.pieces(sorted(engine)), strict=True))
    return Check("stop tokens", True, f"the sampler stops at {listed}; {name} is the one that is trained")


def _template(work: Workspace) -> list[Check]:
    """Real questions through the template and back: each stands in its prompt whole, and the prompt's tokens spell the prompt."""
    words, problems = work.tokenizer, work.store.problems("id IN (SELECT min(id) FROM problems GROUP BY family)")[:BATCHES]
    opening = words.opening
    for problem in problems:
        asked = messages(problem, work.recipe.problems.instruction)
        text, ids = words.prompt_text(asked), work.prompt_ids(problem)
        if asked[0]["content"].strip() not in text:
            return [Check("template", False, f"the chat template leaves out (some of) the question {asked[0]['content'][:60]!r}")]
        if _squeezed(words.written(ids)) != _squeezed(text):
            return [Check("template", False, f"the tokens of a prompt spell another text than the prompt {text[:60]!r}")]
    if not opening.strip() and words.prompt_text([{"role": "user", "content": "x"}]).rstrip() != "x":
        return [Check("template", False, "the chat template opens no assistant's turn after the question")]
    spelled = f"{len(problems)} real prompts spell their questions; a completion begins after {opening!r}"
    return [Check("template", True, spelled)]


def _squeezed(text: str) -> str:
    """Without white space: some tokenizers drop a leading space when they decode."""
    return "".join(text.split())


def _targets(documents: Sequence[Document], mistakes: Sequence[str]) -> Check:
    if mistakes:
        return Check("targets", False, f"{mistakes[0]}" + (f" ({len(mistakes)} such lines)" if len(mistakes) > 1 else ""))
    if not documents:
        return Check("targets", True, "no document to learn from in what was drawn: every sampled group agrees")
    return Check("targets", True, f"each learned token of {len(documents):,} documents is the one that follows in its document")


def _mask(work: Workspace, documents: Sequence[Document], whole: bool) -> Check:
    """Where learning begins: at the first token after the prompt's opening, or (`whole`) at the second token of all."""
    if whole:
        late = next((d for d in documents if d.first_target != 1), None)
        if late is not None:
            return Check(
                "mask", False, f"train_on_prompt is on, but a document is learned from token {late.first_target} on only"
            )
        return Check("mask", True, "everything is trained, prompts too (train_on_prompt)")
    words = work.tokenizer
    opening = words.opening
    exact = opening if opening.strip() == "" else _squeezed(opening)
    prompts = {document.prompt for document in documents}
    for prompt in prompts:
        text = words.written(prompt)
        seen = text if exact == opening else _squeezed(text)
        if not seen.endswith(exact):
            tail = text[-40:]
            return Check("mask", False, f"what is masked should be the prompt, up to {opening!r}, but it ends in {tail!r}")
    return Check("mask", True, f"masked is the prompt alone, up to {opening!r} ({len(prompts):,} prompts)")


def _end(work: Workspace, documents: Sequence[Document], stage: str, config: StageConfig) -> Check:
    """The last learned token is the stop token; RL's rollouts that were cut off at max_tokens have none."""
    words, stops = work.tokenizer, set(work.tokenizer.stop_ids)
    limit = int(getattr(config, "max_tokens", 0))
    cut = 0
    for document in documents:
        targets = document.ids[document.first_target :]
        if stage == "rl" and targets[-1] not in stops:
            if document.num_targets < limit and len(document.ids) < work.model.config.max_positions:
                return Check("end token", False, "a rollout ends without a stop token before max_tokens")
            cut += 1
        elif stage != "rl" and targets[-1] != words.stop_id:
            last = words.pieces(targets[-1:])[0]
            return Check(
                "end token", False, f"a document ends in token {targets[-1]} {last!r}, not in the stop token {words.stop_text!r}"
            )
        if document.first_target > 1 and stops & set(targets[:-1]):
            return Check("end token", False, f"a completion goes on after a stop token: {words.written(targets)[-60:]!r}")
    more = f"; {cut} were cut off at max_tokens and teach no end" if cut else ""
    return Check("end token", True, f"{len(documents) - cut:,} documents end in {words.stop_text!r}, which is trained{more}")


def _vocabulary(work: Workspace, documents: Sequence[Document]) -> Check:
    """Every token exists in the tokenizer and the model; none stands for text that the vocabulary cannot spell."""
    words = work.tokenizer
    used = {token for document in documents for token in document.ids}
    rows = work.model.config.vocab_size
    strange = sorted(token for token in used if token >= rows or not words.knows(token))
    if strange:
        return Check("vocabulary", False, f"token {strange[0]} is in a batch, but not in the vocabulary")
    unknown = words.unknown_id
    if unknown is not None and unknown in used and unknown not in words.stop_ids:
        return Check(
            "vocabulary",
            False,
            f"the tokenizer cannot spell some text: token {unknown} {words.pieces([unknown])[0]!r} is in a batch",
        )
    return Check("vocabulary", True, f"all {len(used):,} different tokens are in the vocabulary")


def _measured(work: Workspace, stage: str, batch: Batch, temperature: float) -> list[Check]:
    """What takes the model: log-probs of some documents, what was recorded for them, and that documents do not see each other."""
    micro, documents = batch.micros[0], batch.documents[0]
    parameters = sum(p.numel() for p in work.model.parameters())
    budget = 16_384 if work.model.device.type == "cuda" else int(min(1024, max(256, _FLOP / parameters)))
    numbers = first_numbers(documents, budget, 2 if isinstance(micro, PairBatch) else 1)
    scored = score(work.model, flat_of(micro), documents, numbers, temperature)
    if not bool(scored.logprobs.isfinite().all()):
        return [Check("log-probs", False, "the model gives log-probs that are not finite: are its weights whole?")]
    loss = -float(scored.logprobs.mean())
    checks = [
        Check(
            "log-probs", True, f"the first loss is about {loss:.3f} nats a token (guessing: {math.log(work.tokenizer.size):.1f})"
        )
    ]
    same = _SAME["bfloat16" if work.model.device.type == "cuda" else "float32"]
    if isinstance(micro, PairBatch):
        checks.append(_reference(micro, scored, same))
    if isinstance(micro, PolicyBatch):
        checks.append(_sampled(batch, scored, work.recipe.health.gap or same))
    return [*checks, _isolated(work, scored.flat, same)]


def _reference(micro: Any, scored: Scored, same: float) -> Check:
    """DPO: two sides that differ, and reference log-probs that are those of the policy, which has not moved yet."""
    known = reference_sums(micro)
    assert known is not None
    half = len(scored.documents) // 2
    if any(scored.documents[i].ids == scored.documents[half + i].ids for i in range(half)):
        return Check("pairs", False, "a pair's chosen and rejected rollout are the same")
    now = sequence_sums(scored.logprobs, scored.flat.owner.cpu(), scored.flat.num_documents)
    lengths = [document.num_targets for document in scored.documents]
    wrong = max(abs(float(a - known[i])) / n for a, i, n in zip(now, scored.numbers, lengths, strict=True))
    if not math.isfinite(wrong) or wrong > same:
        says = f"the reference's log-probs are {wrong:.2g} nats a token away from the policy's, which should be the reference"
        return Check("pairs", False, says)
    return Check("pairs", True, f"both sides are there; reference and policy agree within {wrong:.1e} nats a token")


def _sampled(batch: Batch, scored: Scored, budget: float) -> Check:
    """RL: what the sampler recorded is what the trainer computes."""
    recorded = sampler_logprobs(batch.micros[0])
    given = torch.cat([found for micro in batch.micros if (found := advantages(micro)) is not None])
    assert recorded is not None
    recorded = recorded[: len(scored.logprobs)]  # the first documents are measured, in order
    gap = (scored.logprobs - recorded).abs()
    if not bool(recorded.isfinite().all()) or not bool(given.isfinite().all()):
        return Check("sampler", False, "a recorded log-prob or an advantage is not finite")
    if not float(gap.max()) <= budget:
        says = f"the sampler recorded log-probs up to {float(gap.max()):.2g} nats away from the trainer's (budget {budget:g})"
        return Check("sampler", False, says)
    signs = f"{int((given > 0).sum()):,} tokens with an advantage above 0, {int((given < 0).sum()):,} below"
    return Check("sampler", True, f"sampler and trainer agree within {float(gap.max()):.1e} nats; {signs}")


def _isolated(work: Workspace, flat: Flat, same: float) -> Check:
    """Changing one document must move its own logits and no others."""
    found = isolation(work.model, flat)
    measured = f"measured on {found.documents} documents, {found.tokens:,} tokens"
    if found.leaked is None:
        return Check("isolation", True, f"one short document at a time: nothing stands beside it ({measured})")
    if found.leaked > same or not math.isfinite(found.leaked):
        says = f"changing one document moves logits before it or of its neighbours by {found.leaked:.2g}: they see each other"
        return Check("isolation", False, f"{says} ({measured})")
    if not found.own > 0:
        return Check(
            "isolation",
            False,
            f"changing a document's tokens changes nothing at all: its inputs do not reach the model ({measured})",
        )
    says = f"changing one document moves its own logits by {found.own:.2g}, all others by {found.leaked:.1g}"
    return Check("isolation", True, f"{says} ({measured})")


def _shown(work: Workspace, stage: str, batch: Batch) -> dict[str, Any]:
    """A batch as plain JSON: its counts, and some documents token by token."""
    flats = [flat_of(micro) for micro in batch.micros]
    shown: list[dict[str, Any]] = []
    if batch.documents:
        micro, documents = batch.micros[0], batch.documents[0]
        numbers = first_numbers(documents, 10**9, 2 if isinstance(micro, PairBatch) else 1)
        half = len(documents) // 2
        pairs = [number for i in range(_SHOWN // 2) for number in (i, half + i) if i < half]
        for number in pairs if isinstance(micro, PairBatch) else numbers[:_SHOWN]:
            shown.append(_document(work, documents[number]) | _beside(micro, documents, number))
    return {
        "step": batch.step + 1,
        "documents": sum(flat.num_documents for flat in flats),
        "tokens": sum(flat.num_tokens for flat in flats),
        "trained": sum(len(flat.targets) for flat in flats),
        "micro_batches": len(flats),
        "read": len(batch.every),
        "shown": shown,
    }


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
        return {"side": side, "reference_logprob": round(float(reference[number]), 4)}
    recorded = sampler_logprobs(micro)
    if recorded is not None and given is not None:
        start = sum(document.num_targets for document in documents[:number])
        own = recorded[start : start + documents[number].num_targets]
        return {"advantage": round(float(given[start]), 4), "sampler_logprob": round(float(own.sum()), 4)}
    return {}
