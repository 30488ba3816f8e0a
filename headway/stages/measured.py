"""The checks that ask the model: are its log-probs numbers, are they those that were recorded, do documents see each other?

    first documents of a real micro-batch --model as it is--> log-probs   against the reference's (DPO), the sampler's (RL)
    the same with every second document's tail changed     --> logits     of the others and of what stands before: no change

Few documents, so that it costs a part of a step. It does not know tokens' texts (`checks`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headway.model.precision import compute_dtype
from headway.model.transformer import Decoder
from headway.problems.prompt import messages
from headway.stages.checks import Check
from headway.train.batching import Document, Flat, flatten
from headway.train.losses import sequence_sums
from headway.train.policy import PolicyBatch
from headway.train.preference import PairBatch
from headway.train.xray import Scored, first_numbers, flat_of, isolation, next_token, reference_sums, sampler_logprobs, score

if TYPE_CHECKING:
    from headway.stages.workspace import Workspace
    from headway.types import Problem

_FLOP = 4e9  # about what a measured forward pass may take
_PARTS = 4  # documents that are measured in part where they are too long to be measured whole beside each other
_SAME = {torch.float32: 1e-3, torch.bfloat16: 0.5}  # nats a token: what rounding alone may do
_LEAK = {torch.float32: 1e-3, torch.bfloat16: 0.05}  # of what a change does to its own document: what rounding may do to others


def _budget(model: Decoder) -> int:
    """Tokens of the documents that are measured."""
    parameters = sum(p.numel() for p in model.parameters())
    return 16_384 if model.device.type == "cuda" else int(min(1024, max(256, _FLOP / parameters)))


def measured(work: Workspace, micro: Any, documents: list[Document], given: Tensor | None, temperature: float) -> list[Check]:
    """Log-probs of a micro-batch's first documents, what was recorded for them, and that documents do not see each other.

    `given` are RL's advantages at all tokens that were read.
    """
    numbers = first_numbers(documents, _budget(work.model), 2 if isinstance(micro, PairBatch) else 1)
    scored = score(work.model, flat_of(micro), documents, numbers, temperature)
    if not bool(scored.logprobs.isfinite().all()):
        return [Check("log-probs", False, _NOT_FINITE)]
    loss, guessing = -float(scored.logprobs.mean()), math.log(work.tokenizer.size)
    checks = [Check("log-probs", True, f"the first loss is about {loss:.3f} nats a token (guessing: {guessing:.1f})")]
    same = _SAME[compute_dtype(work.model)]
    if isinstance(micro, PairBatch):
        checks.append(_reference(micro, scored, same))
    if isinstance(micro, PolicyBatch):
        checks.append(_sampled(micro, scored, given, work.recipe.health.gap or same))
    return [*checks, _isolated(work.model, _neighbours(work.model, scored, documents))]


def _neighbours(model: Decoder, scored: Scored, documents: list[Document]) -> Flat:
    """Documents that could see each other: those that were scored, or, where one alone filled the budget, parts of several."""
    if len(scored.documents) > 1 or len(documents) == 1:
        return scored.flat
    some = documents[:_PARTS]
    room = _budget(model) // len(some)
    return flatten([_part(document, room) for document in some], model.device)


def _part(document: Document, room: int) -> Document:
    """At most `room` tokens on both sides of where learning begins: documents of one prompt still share its end."""
    prompt = document.prompt[-room // 2 :]
    learned = document.ids[document.first_target :][: room - len(prompt)]
    return Document((*prompt, *learned), len(prompt))


_NOT_FINITE = "the model gives log-probs that are not finite: are its weights whole?"


def finite(work: Workspace, problem: Problem) -> Check:
    """The model's next token after a real prompt is a distribution."""
    ids = work.tokenizer.prompt_ids(messages(problem, work.recipe.problems.instruction))[-_budget(work.model) :]
    if not bool(next_token(work.model, ids).isfinite().all()):
        return Check("log-probs", False, _NOT_FINITE)
    return Check("log-probs", True, "the model's logits after a real prompt are finite")


def _reference(micro: Any, scored: Scored, same: float) -> Check:
    """DPO: two sides that differ, and reference log-probs that are those of the policy, which has not moved yet."""
    known = reference_sums(micro)
    assert known is not None
    half = len(scored.documents) // 2
    if any(scored.documents[i].ids == scored.documents[half + i].ids for i in range(half)):
        return Check("pairs", False, "a pair's chosen and rejected rollout are the same")
    now = sequence_sums(scored.logprobs, scored.flat.owner.cpu(), scored.flat.num_documents)
    lengths = torch.tensor([document.num_targets for document in scored.documents])
    wrong = float(((now - known[scored.numbers]).abs() / lengths).max())  # NaN where one of them is
    if not wrong <= same:
        says = f"the reference's log-probs are {wrong:.2g} nats a token away from the policy's, which should be the reference"
        return Check("pairs", False, says)
    return Check("pairs", True, f"both sides are there; reference and policy agree within {wrong:.1e} nats a token")


def _sampled(micro: PolicyBatch, scored: Scored, given: Tensor | None, budget: float) -> Check:
    """RL: what the sampler recorded is what the trainer computes."""
    recorded = sampler_logprobs(micro)
    assert recorded is not None, "a policy's batch has the sampler's log-probs"
    assert given is not None, "and advantages"
    recorded = recorded[: len(scored.logprobs)]  # the first documents are measured, in order
    gap = float((scored.logprobs - recorded).abs().max())
    if not bool(recorded.isfinite().all()) or not bool(given.isfinite().all()):
        return Check("sampler", False, "a recorded log-prob or an advantage is not finite")
    if not gap <= budget:
        says = f"the sampler recorded log-probs up to {gap:.2g} nats away from the trainer's (budget {budget:g})"
        return Check("sampler", False, says)
    signs = f"{int((given > 0).sum()):,} tokens with an advantage above 0, {int((given < 0).sum()):,} below"
    if not bool(given.any()):
        signs = "every group that was sampled agrees, so no token has an advantage"
    return Check("sampler", True, f"sampler and trainer agree within {gap:.1e} nats; {signs}")


def _isolated(model: Decoder, flat: Flat) -> Check:
    """Changing some documents must move their own logits and no others."""
    found = isolation(model, flat)
    of = f"measured on {found.documents} documents, {found.tokens:,} tokens"
    if found.leaked is None:
        return Check("isolation", True, f"too short to be changed in part: nothing to measure ({of})")
    if not found.own > 0:
        says = f"changing a document's tokens changes nothing at all: its inputs do not reach the model ({of})"
        return Check("isolation", False, says)
    if not found.leaked <= _LEAK[compute_dtype(model)] * found.own:
        says = f"changing one document moves logits before it or of its neighbours by {found.leaked:.2g}: they see each other"
        return Check("isolation", False, f"{says} ({of})")
    says = f"changing one document moves its own logits by {found.own:.2g}, all others by {found.leaked:.1g}"
    return Check("isolation", True, f"{says} ({of})")
