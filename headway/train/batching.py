"""Documents to batches: which tokens stand together, which are learned, and how much goes through the model at once.

    document   prompt | completion                      ids [n], learned from `first_target` on
    flat       prompt | completion 0 | rest of 1 | prompt | completion ...      a beginning that documents share stands once

A step's documents are split into micro-batches by tokens, those of one prompt together. It does not know losses, and no padding
exists.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from headway.model.attention import Layout, lay_out

_WINDOW = 256  # items among which a row chooses


@dataclass(frozen=True, slots=True)
class Document:
    """Tokens with the first target's place: tokens from `first_target` on are learned (at least 1, never token 0).

    Example: prompt (5, 9), completion (31, 1) gives ``Document(ids=(5, 9, 31, 1), first_target=2)``.
    """

    ids: tuple[int, ...]
    first_target: int = 1

    @property
    def num_targets(self) -> int:
        """How many of its tokens are learned."""
        return len(self.ids) - self.first_target

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens before the first target."""
        return self.ids[: self.first_target]


@dataclass(frozen=True, slots=True)
class Flat:
    """Documents laid end to end: the inputs ids [T], and for each learned token rows, targets and owner [N].

    `rows[n]` is the input whose hidden state predicts `targets[n]`, a token of document `owner[n]`.

    Example: documents (5,9,31,1; first target 2), (5,9,7,1; 2) and (5,7; 1) give ids (5,9,31, 7, 5), since the second begins as
    the first does; rows (1,2, 1,3, 4), targets (31,1, 7,1, 7), owner (0,0, 1,1, 2).
    """

    ids: Tensor
    rows: Tensor
    targets: Tensor
    owner: Tensor
    layout: Layout
    num_documents: int

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model."""
        return int(self.ids.shape[0])


def flatten(documents: Sequence[Document], device: torch.device | str = "cpu") -> Flat:
    """Lay documents end to end for one forward pass; what begins as an earlier document of the same prompt is not laid again."""
    assert min(len(d.ids) for d in documents) > 1, "a document needs at least two tokens"
    firsts: dict[tuple[int, ...], tuple[int, int, Document]] = {}  # prompt -> the layout's document, its place, and itself
    shared: dict[int, tuple[int, int]] = {}
    ids: list[int] = []
    lengths: list[int] = []
    rows: list[int] = []
    for document in documents:
        prompt, inputs = document.first_target, document.ids[:-1]
        number, place, first = firsts.setdefault(document.prompt, (len(lengths), len(ids), document))
        common = common_inputs(first, document) if first is not document else 0
        rows += range(place + prompt - 1, place + common)
        rows += range(len(ids) + max(0, prompt - 1 - common), len(ids) + len(inputs) - common)
        if len(inputs) > common:  # else the first document holds all of it
            if common:
                shared[len(lengths)] = number, common
            ids += inputs[common:]
            lengths.append(len(inputs) - common)
    targets = [token for d in documents for token in d.ids[d.first_target :]]
    owner = torch.arange(len(documents)).repeat_interleave(torch.tensor([d.num_targets for d in documents]))
    return Flat(
        torch.tensor(ids, device=device),
        torch.tensor(rows, dtype=torch.int64, device=device),
        torch.tensor(targets, dtype=torch.int64, device=device),
        owner.to(device),
        lay_out(lengths, device, shared),
        len(documents),
    )


def common_inputs(first: Document, second: Document) -> int:
    """How many tokens two documents of one prompt begin with in common; a last token is no input, and does not count."""
    most = min(len(first.ids), len(second.ids)) - 1
    same = np.equal(first.ids[:most], second.ids[:most])
    return most if same.all() else int(same.argmin())


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Split items of these lengths, longest first, into lists of at most `max_tokens` (a longer item stands alone)."""
    batches: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or lengths[i] > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(i)
        room -= lengths[i]
    return batches


def micro_batches_by_prompt(documents: Sequence[Document], max_tokens: int) -> list[list[int]]:
    """As `micro_batches`, documents of one prompt together; a prompt with more documents than fit is begun again."""
    closed, costs = bundles(documents, max_tokens)
    return [[i for bundle in part for i in closed[bundle]] for part in micro_batches(costs, max_tokens)]


def bundles(documents: Sequence[Document], max_tokens: int) -> tuple[list[list[int]], list[int]]:
    """Documents of one prompt in bundles of at most `max_tokens` (or of one), and the tokens of each, its prompt counted once."""
    opened: dict[tuple[int, ...], list[int]] = {}  # prompt -> the open bundle of its documents
    sizes: dict[tuple[int, ...], int] = {}
    closed: list[list[int]] = []
    costs: list[int] = []
    for number, document in enumerate(documents):
        prompt, own = document.prompt, len(document.ids) - document.first_target
        if prompt in opened and sizes[prompt] + own > max_tokens:
            closed.append(opened.pop(prompt))
            costs.append(sizes.pop(prompt))
        opened.setdefault(prompt, []).append(number)
        sizes[prompt] = sizes.get(prompt, len(prompt)) + own
    return [*closed, *opened.values()], [*costs, *sizes.values()]


def pack(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Items into rows of at most `seq_len` tokens, each row as full as some of what is left can make it. Every length must fit.

    Items come in a shuffled order, the same each time. A row takes the first that is left, and of the next `_WINDOW` those that
    fill the rest best. So rows hold long and short items alike as they come, which longest-first packing sorts apart: learning
    from rows of one kind at a time costs more than padding does.
    """
    assert all(0 < n <= seq_len for n in lengths), "an item is longer than a row"
    order = list(range(len(lengths)))
    random.Random(0).shuffle(order)
    far, near, rows = iter(order), list[int](), list[list[int]]()
    while near := [*near, *islice(far, _WINDOW - len(near))]:
        chosen = _fullest([lengths[i] for i in near], seq_len)
        rows.append([near[place] for place in chosen])
        for place in reversed(chosen):
            del near[place]
    return rows


def _fullest(sizes: Sequence[int], room: int) -> list[int]:
    """Places of the first size and of those that fill the rest of `room` best beside it, the earlier ones if they can."""
    room -= sizes[0]
    reach, within = 1, (1 << room + 1) - 1  # bit n: some of the sizes so far add up to n
    before: list[int] = []
    for size in sizes[1:]:
        if reach >> room & 1:
            break
        before.append(reach)
        reach |= reach << size & within
    total = reach.bit_length() - 1
    found: list[int] = []
    for place in reversed(range(len(before))):
        if not before[place] >> total & 1:
            found.append(place + 1)
            total -= sizes[place + 1]
    return [0, *reversed(found)]


def epochs(items: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of item numbers, each epoch in its own order (a function of seed and epoch), none left out.

    The last batch of an epoch is filled from the next epoch's start, so every step has `batch` items.
    """
    assert min(items, batch) > 0, "an epoch needs items, and a step a batch"
    pending: list[int] = []
    epoch = 0
    while True:
        while len(pending) < batch:
            order = list(range(items))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            pending += order
            epoch += 1
        yield pending[:batch]
        pending = pending[batch:]
