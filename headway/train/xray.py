"""What a micro-batch really teaches, read back from the tensors that training gets, and whether its documents see each other.

    flat          ids, rows, targets, owner, layout        -->  documents (tokens, where the learned ones begin), mistakes
    perturbation  change the tail of every second document -->  their own later logits move, nothing before and beside them does

Nothing is taken on trust from whoever laid the batch out: a target must be the very token that follows its row, positions must
restart where a document does, and attention must read each document as the tokens that it has. The second part is measured on
the model itself. It knows no tokenizer, stage or recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from headway.model.attention import lay_out
from headway.model.head import next_logits
from headway.model.transformer import Decoder
from headway.train.batching import Document, Flat, flatten
from headway.train.fit import autocast
from headway.train.likelihood import document_logprobs
from headway.train.policy import PolicyBatch
from headway.train.preference import PairBatch

_ROWS = 512  # whose logits are compared
_ELEMENTS = 8_388_608  # of the logits held at once


@dataclass(frozen=True, slots=True)
class Isolation:
    """What changed documents did to logits, largest absolute differences: to their own later tokens, to all else.

    `leaked` is None where nothing else stands in the batch. Example: ``Isolation(documents=9, tokens=90, own=7.1, leaked=0.0)``.
    """

    documents: int
    tokens: int
    own: float
    leaked: float | None


@dataclass(frozen=True, slots=True)
class Scored:
    """The first documents of a micro-batch, laid out, with the log-prob of each of their learned tokens now (float32 [N])."""

    flat: Flat
    documents: list[Document]
    logprobs: Tensor
    numbers: list[int]  # which documents of the micro-batch


def flat_of(micro: Any) -> Flat:
    """The flat row of tokens of any stage's micro-batch."""
    return micro if isinstance(micro, Flat) else micro.flat


def sampler_logprobs(micro: Any) -> Tensor | None:
    """RL: what the sampler recorded for each learned token, [N]."""
    return micro.sampler.cpu() if isinstance(micro, PolicyBatch) else None


def advantages(micro: Any) -> Tensor | None:
    """RL: the advantage at each learned token, [N]."""
    return micro.advantages.cpu() if isinstance(micro, PolicyBatch) else None


def reference_sums(micro: Any) -> Tensor | None:
    """DPO: the reference's log-prob of each document, [2n]: chosen, then rejected."""
    return micro.reference.cpu() if isinstance(micro, PairBatch) else None


def documents_of(flat: Flat) -> tuple[list[Document], list[str]]:
    """The documents that a flat row teaches, and what is wrong with how it does (each line names the document)."""
    ids, rows, targets, owner = (t.tolist() for t in (flat.ids, flat.rows, flat.targets, flat.owner))
    positions = flat.layout.positions.tolist()
    starts = {0, *accumulate(flat.layout.lengths)}
    own: list[list[int]] = [[] for _ in range(flat.num_documents)]
    for place, document in enumerate(owner):
        own[document].append(place)
    documents: list[Document] = []
    mistakes: list[str] = []
    begun: dict[int, int] = {}  # where a document begins -> the last token of its prompt
    for number, places in enumerate(own):
        if not places:
            mistakes.append(f"document {number} has no token to learn")
            continue
        mine, taught = [rows[i] for i in places], [targets[i] for i in places]
        begin = mine[0] - positions[mine[0]]
        if begin not in starts or begun.setdefault(begin, mine[0]) != mine[0]:  # only a prompt may be shared, all of it
            mistakes.append(f"document {number}: its positions do not begin at 0 where it begins")
        for after, token in zip(mine[1:], taught, strict=False):
            if ids[after] != token:
                mistakes.append(f"document {number} learns token {token} where token {ids[after]} follows: targets are shifted")
                break
        if any(positions[b] != positions[a] + 1 for a, b in pairwise(mine)):
            mistakes.append(f"document {number}: its positions do not count up by one")
        documents.append(Document((*ids[max(0, begin) : mine[0] + 1], *taught), max(1, mine[0] + 1 - max(0, begin))))
    return documents, mistakes or _layout_mistakes(flat, documents)


def _layout_mistakes(flat: Flat, documents: Sequence[Document]) -> list[str]:
    """Where attention would read other tokens as a document than those it has: in `documents` and in the gathered `groups`."""
    ids, positions = flat.ids.tolist(), flat.layout.positions.tolist()
    inputs = {document.ids[:-1] for document in documents}
    index, starts, _ = (part.tolist() for part in flat.layout.documents)
    read = [index[a:b] for a, b in pairwise(starts)]
    mistakes: list[str] = []
    for number, places in enumerate(read):
        is_whole = [positions[i] for i in places] == list(range(len(places)))
        if not is_whole or tuple(ids[i] for i in places) not in inputs:
            mistakes.append(f"attention reads row {number} of the batch as no document of it: documents would see each other")
    gathered = torch.cat([group.reshape(-1) for group in flat.layout.groups])
    if not torch.equal(gathered[flat.layout.inverse], torch.arange(flat.num_tokens, device=gathered.device)):
        mistakes.append("what attention gives a token is taken from another token's place")
    lanes = [lane for group in flat.layout.groups for lane in group.tolist()]
    wanted = {tuple(places) for places in read}
    sizes = sorted({len(places) for places in read}, reverse=True)
    if len(lanes) != len(read) or not all(any(tuple(lane[:n]) in wanted for n in sizes if n <= len(lane)) for lane in lanes):
        mistakes.append("attention gathers other documents than the batch has: documents would see each other")
    return mistakes


def first_numbers(documents: Sequence[Document], max_tokens: int, sides: int = 1) -> list[int]:
    """Which documents to measure: the first ones that fit into `max_tokens`, one at least; with two `sides`, whole pairs."""
    half = len(documents) // sides
    chosen: list[int] = []
    room = max_tokens
    for number in range(half):
        together = [number + side * half for side in range(sides)]
        room -= sum(len(documents[i].ids) for i in together)
        if chosen and room < 0:
            break
        chosen += together
    return sorted(chosen)


@torch.no_grad()
def score(model: Decoder, flat: Flat, documents: Sequence[Document], numbers: list[int], temperature: float) -> Scored:
    """Log-probs of the documents with these `numbers` as the model is now; the flat row itself where these are all of it."""
    chosen = [documents[i] for i in numbers]
    laid = flat if len(chosen) == len(documents) else flatten(chosen, model.device)
    model.eval()
    with autocast(model):
        return Scored(laid, chosen, document_logprobs(model, laid, temperature).float().cpu(), numbers)


@torch.no_grad()
def next_token(model: Decoder, ids: Sequence[int]) -> Tensor:
    """The logits of what follows these tokens, [vocabulary]."""
    model.eval()
    with autocast(model):
        hidden = model(torch.tensor(ids, device=model.device), lay_out([len(ids)], model.device))
        return next_logits(hidden[-1:], model.output_weight).squeeze(0)


@torch.no_grad()
def isolation(model: Decoder, flat: Flat) -> Isolation:
    """Change the second half of the learned inputs of every second document, and look at the logits of everything.

    Tokens before a change and other documents must not notice, before and behind it; the changed ones must.
    """
    owner, rows = flat.owner.tolist(), flat.rows.tolist()
    own: list[list[int]] = [[] for _ in range(flat.num_documents)]
    prompts = {rows[owner.index(document)] for document in set(owner)}  # the last tokens of prompts, of which several may go on
    readers = Counter(rows)
    for row, document in zip(rows, owner, strict=True):
        if readers[row] == 1 and row not in prompts:
            own[document].append(row)
    changeable = sorted((inputs for inputs in own if len(inputs) > 1), key=lambda found: found[0])
    if not changeable:
        return Isolation(flat.num_documents, flat.num_tokens, 0.0, None)
    tails = [row for inputs in changeable[::2] for row in inputs[len(inputs) // 2 :]]
    changed = torch.tensor(tails, device=flat.ids.device)
    ids = flat.ids.clone()
    ids[changed] = (ids[changed] + 1 + changed % 7) % model.config.vocab_size
    is_changed = torch.zeros(flat.num_tokens, dtype=torch.bool, device=ids.device)
    is_changed[changed] = True
    most = max(8, min(_ROWS, _ELEMENTS // model.config.vocab_size))
    others = _spread(is_changed, most)
    model.eval()
    with autocast(model):
        before, after = model(flat.ids, flat.layout), model(ids, flat.layout)
        own_move = _move(model, before, after, changed[:most])
        leak = _move(model, before, after, others) if len(others) else None
    return Isolation(flat.num_documents, flat.num_tokens, own_move, leak)


def _spread(is_changed: Tensor, most: int) -> Tensor:
    """At most `most` places that are not changed: some of them right behind a change, the rest spread evenly."""
    places = (~is_changed).nonzero().squeeze(-1)
    if len(places) <= most:
        return places
    behind = (is_changed[:-1] & ~is_changed[1:]).nonzero().squeeze(-1)[: most // 2] + 1
    evenly = places[torch.linspace(0, len(places) - 1, most - len(behind)).long()]
    return torch.cat([behind, evenly]).unique()


def _move(model: Decoder, before: Tensor, after: Tensor, rows: Tensor) -> float:
    """The largest absolute difference of the logits of these rows."""
    one, other = (next_logits(hidden.index_select(0, rows), model.output_weight) for hidden in (before, after))
    return float((one - other).abs().max())
