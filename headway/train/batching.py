"""Documents to batches: which tokens stand together, which are learned, and how much goes through the model at once.

    document   prompt | completion           ids [n], loss_mask [n]: True where the token is a target
    flat       document 0 | document 1 ...   inputs are ids[:-1], targets ids[1:] of each document

A step's documents are split into micro-batches by tokens. It does not know losses, and no padding exists.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Flat:
    """Documents laid end to end: ids, targets, loss_mask and owner [T] with T = sum of (length - 1).

    Example: documents (5,9,31,1; first target 2) and (5,7; 1) give ids (5,9,31, 5), targets (9,31,1, 7),
    loss_mask (F,T,T, T), owner (0,0,0, 1).
    """

    ids: Tensor
    targets: Tensor
    loss_mask: Tensor
    owner: Tensor
    layout: Layout
    num_documents: int

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model."""
        return int(self.ids.shape[0])


def flatten(documents: Sequence[Document], device: torch.device | str = "cpu") -> Flat:
    """Lay documents end to end for one forward pass."""
    lengths = [len(d.ids) - 1 for d in documents]
    assert min(lengths) > 0, "a document needs at least two tokens"
    ids = torch.tensor([t for d in documents for t in d.ids[:-1]])
    targets = torch.tensor([t for d in documents for t in d.ids[1:]])
    mask = torch.cat([torch.arange(1, len(d.ids)) >= d.first_target for d in documents])
    owner = torch.arange(len(documents)).repeat_interleave(torch.tensor(lengths))
    return Flat(ids.to(device), targets.to(device), mask.to(device), owner.to(device), lay_out(lengths, device), len(documents))


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


def pack(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Best-fit decreasing: items into rows of at most `seq_len` tokens. Every length must fit.

    Each item goes into the fullest row that still takes it; rows come out in the order they were opened.
    """
    assert all(0 < n <= seq_len for n in lengths), "an item is longer than a row"
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(seq_len + 1)]  # rows by tokens left
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        room = next((r for r in range(lengths[i], seq_len + 1) if with_room[r]), None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, seq_len
        else:
            row = with_room[room].pop()
        rows[row].append(i)
        with_room[room - lengths[i]].append(row)
    return rows


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
