"""Documents to batches: which tokens stand together, which are learned, and how much goes through the model at once.

    document   prompt | completion                      ids [n], learned from `first_target` on
    flat       prompt | completion 0 | rest of 1 | prompt | completion ...      a beginning that documents share stands once

A step's documents are split into micro-batches by tokens, those of one prompt together. It does not know losses, and no padding
exists.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headway.model.attention import Layout, lay_out


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
    """Items into rows of at most `seq_len` tokens, each row as full as what is left can make it. Every length must fit.

    A row begins with the longest item that is left and takes those that fill the rest best (minimum bin slack, Gupta and Ho
    1999). Where three or four items make a row, best-fit decreasing leaves 6 % of it empty, this 0.5 %.
    """
    assert all(0 < n <= seq_len for n in lengths), "an item is longer than a row"
    waiting: dict[int, list[int]] = {}  # length -> items, the first one last
    for i in reversed(range(len(lengths))):
        waiting.setdefault(lengths[i], []).append(i)
    sizes = sorted(waiting)
    rows: list[list[int]] = []
    while sizes:
        row, chosen = [], [sizes[-1]]
        while chosen:
            length = chosen.pop()
            row.append(waiting[length].pop())
            if not waiting[length]:
                del sizes[bisect_left(sizes, length)]
            if len(row) == 1:
                chosen = _fullest(sizes, waiting, seq_len - length)
        rows.append(row)
    return rows


def _fullest(sizes: Sequence[int], waiting: Mapping[int, Sequence[int]], room: int) -> list[int]:
    """Lengths that together fill `room` best, of those (`sizes`, ascending) that are waiting."""
    reach, within = 1, (1 << room + 1) - 1  # bit n: some lengths add up to n
    steps: list[tuple[int, int]] = []  # a length, and what was in reach without it
    for place in reversed(range(bisect_right(sizes, room))):
        if reach >> room & 1:
            break
        length = sizes[place]
        steps.append((length, reach))
        more = reach
        for _ in range(min(len(waiting[length]), room // length)):
            more = more << length & within
            reach |= more
    found: list[int] = []
    total = reach.bit_length() - 1
    for length, before in reversed(steps):
        while not before >> total & 1:
            found.append(length)
            total -= length
    return found


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
