"""What is right about real batches before training: each check reads tokens, and says in words what it found.

    words        stop tokens, template                what ends a completion, and what a prompt is
    documents    mask, end token, vocabulary          what is trained of each document, and what is not

Each document's beginning is compared, token by token, with the prompts that the sampler asks: a mask that is off by one token is
seen whatever the template looks like. It does not know how a batch is laid out (`train.xray`), nor the model (`measured`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.errors import CheckpointError
from headway.problems.prompt import messages
from headway.train.batching import Document
from headway.types import Problem

if TYPE_CHECKING:
    from headway.stages.workspace import Workspace

PROMPTS = 64  # real questions that are followed through the template


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. Example: ``Check("end token", True, "all 120 documents end in <eos>, which is trained")``."""

    name: str
    passed: bool
    says: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A document and the prompt that it begins with: its problem and its number of tokens (0: it begins with none)."""

    document: Document
    problem_id: str
    length: int


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """A check whose own CheckpointError is a finding."""
    try:
        return check()
    except CheckpointError as error:
        return Check(name, False, str(error))


def asked(documents: Sequence[Document], prompts: Mapping[str, tuple[int, ...]]) -> list[Asked]:
    """Each document with the longest of the `prompts` (problem id -> tokens) that it begins with."""
    by_ids = {ids: problem_id for problem_id, ids in prompts.items()}
    lengths = sorted({len(ids) for ids in by_ids}, reverse=True)
    found: list[Asked] = []
    for document in documents:
        tries = (document.first_target, *lengths) if document.first_target > 1 else lengths
        length = next((n for n in tries if n < len(document.ids) and document.ids[:n] in by_ids), 0)
        found.append(Asked(document, by_ids.get(document.ids[:length], ""), length))
    return found


def stops(work: Workspace) -> Check:
    """The token that is trained as the end must end a sample, and every configured end must exist."""

    def wrong(says: str) -> Check:
        return Check("stop tokens", False, says)

    words, engine = work.tokenizer, work.sampler.engine.stop_ids
    name = f"token {words.stop_id} {words.stop_text!r}"
    rows = work.model.config.vocab_size
    if words.unknown_stop_ids:
        number = words.unknown_stop_ids[0]
        return wrong(f"the checkpoint's settings end a completion with token {number}, which no vocabulary holds")
    unknown = [number for number in (*words.stop_ids, *sorted(engine)) if not words.knows(number) or number >= rows]
    if unknown:
        return wrong(f"token {unknown[0]} ends a completion, but the vocabulary or the model has no such token")
    if words.stop_id not in engine:
        return wrong(f"{name} is trained as the end, but the sampler does not stop at it")
    if set(words.stop_ids) - engine:
        missing = min(set(words.stop_ids) - engine)
        return wrong(f"token {missing} {words.pieces([missing])[0]!r} ends a completion, but the sampler passes it")
    listed = ", ".join(f"{number} {piece!r}" for number, piece in zip(sorted(engine), words.pieces(sorted(engine)), strict=True))
    return Check("stop tokens", True, f"the sampler stops at {listed}; {name} is the one that is trained")


def template(work: Workspace, problems: Sequence[Problem]) -> Check:
    """Real questions through the template and back: each stands in its prompt whole, and the prompt's tokens spell the prompt."""
    words = work.tokenizer
    for problem in problems:
        conversation = messages(problem, work.recipe.problems.instruction)
        text, ids = words.prompt_text(conversation), work.prompt_ids(problem)
        question = conversation[0]["content"]
        if question.strip() not in text:
            return Check("template", False, f"the chat template leaves out (some of) the question {question[:60]!r}")
        if _squeezed(words.written(ids)) != _squeezed(text):
            return Check("template", False, f"the tokens of a prompt spell another text than the prompt {text[:60]!r}")
    if not words.opens_turn:
        return Check("template", False, "the chat template opens no assistant's turn after the question")
    spelled = f"{len(problems)} real prompts spell their questions; a completion begins after {words.opening!r}"
    return Check("template", True, spelled)


def _squeezed(text: str) -> str:
    """Without white space: some tokenizers drop a leading space when they decode."""
    return "".join(text.split())


def targets(documents: Sequence[Document], mistakes: Sequence[str]) -> Check:
    """What was read back from the tensors: no target is shifted, no position runs on."""
    if mistakes:
        more = f" ({len(mistakes)} such lines)" if len(mistakes) > 1 else ""
        return Check("targets", False, f"{mistakes[0]}{more}")
    if not documents:
        return Check("targets", False, "the batches hold no document to learn from")
    return Check("targets", True, f"each learned token of {len(documents):,} documents is the one that follows in its document")


def mask(work: Workspace, found: Sequence[Asked], whole: bool) -> Check:
    """Where learning begins: at the first token after the prompt, or (`whole`) at the second token of all."""
    words = work.tokenizer
    strange = next((one.document for one in found if not one.length), None)
    if strange is not None:
        what = repr(words.written(strange.ids)[:60])
        return Check("mask", False, f"a document begins with none of the prompts that the sampler asks: {what}")
    if whole:
        late = next((one.document for one in found if one.document.first_target != 1), None)
        if late is not None:
            says = f"train_on_prompt is on, but a document is learned from token {late.first_target} on only"
            return Check("mask", False, says)
        return Check("mask", True, "everything is trained, prompts too (train_on_prompt)")
    wrong = next((one for one in found if one.document.first_target != one.length), None)
    if wrong is not None:
        off = wrong.document.first_target - wrong.length
        which = f"{off} of the completion is masked" if off > 0 else f"{-off} of the prompt is trained"
        tail = words.written(wrong.document.prompt)[-40:]
        says = f"what is masked should be the prompt, up to {words.opening!r}, but it ends in {tail!r} (tokens: {which})"
        return Check("mask", False, says)
    prompts = len({one.document.prompt for one in found})
    return Check("mask", True, f"masked is the prompt alone, up to {words.opening!r} ({prompts:,} prompts)")


def end(work: Workspace, found: Sequence[Asked], longest: int | None) -> Check:
    """The last learned token is the stop token, and nothing goes on behind one.

    Of sampled rollouts `longest` is the limit at which they are cut off: those have no stop token.
    """

    def wrong(says: str) -> Check:
        return Check("end token", False, says)

    words, ends = work.tokenizer, set(work.tokenizer.stop_ids)
    cut = 0
    for one in found:
        ids = one.document.ids
        completion = ids[one.length :]
        if longest is not None and ids[-1] not in ends:
            if len(completion) < longest and len(ids) < work.model.config.max_positions:
                return wrong("a rollout ends without a stop token before max_tokens")
            cut += 1
        elif longest is None and ids[-1] != words.stop_id:
            last = words.pieces(ids[-1:])[0]
            return wrong(f"a document ends in token {ids[-1]} {last!r}, not in the stop token {words.stop_text!r}")
        if ends & set(completion[:-1]):
            return wrong(f"a completion goes on after a stop token: {words.written(completion)[-60:]!r}")
    more = f"; {cut} were cut off at max_tokens and teach no end" if cut else ""
    return Check("end token", True, f"{len(found) - cut:,} documents end in {words.stop_text!r}, which is trained{more}")


def vocabulary(work: Workspace, documents: Sequence[Document]) -> Check:
    """Every token exists in the tokenizer and the model; none stands for text that the vocabulary cannot spell."""
    words = work.tokenizer
    used = {token for document in documents for token in document.ids}
    rows = work.model.config.vocab_size
    strange = sorted(token for token in used if token >= rows or not words.knows(token))
    if strange:
        return Check("vocabulary", False, f"token {strange[0]} is in a batch, but not in the vocabulary")
    unknown = words.unknown_id
    if unknown is not None and unknown in used:
        says = f"the tokenizer cannot spell some text: token {unknown} {words.pieces([unknown])[0]!r} is in a batch"
        return Check("vocabulary", False, says)
    return Check("vocabulary", True, f"all {len(used):,} different tokens are in the vocabulary")
