"""The options of a batch where they stay, so that a recorded draw finds those of the batch at hand.

    Options of B rows  --hold-->  tensors that stay, of as many rows as the recording  --at-->  Options on these

`kind_of` says what a recording of a draw has in it: which parts the options have, how many rows are truncated (rounded up), and
how many of the likeliest tokens are looked at. Options of one kind are drawn by one recording. Rows beyond the batch are drawn
and not looked at: they get options that leave one token. Truncated rows beyond are the first of them again, which gives the same
token twice. It does not know what else a step reads, nor how it is recorded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headway.engine.sampling import Options
from headway.engine.transfer import Steady
from headway.engine.truncation import Cut, has_kernel, levels
from headway.model.products import rounded

Kind = tuple[object, ...]
_LEAST_P = 1e-9  # a top-p that leaves the likeliest token


def kind_of(options: Options, vocabulary: int, device: torch.device) -> Kind:
    """What a recording of a draw with such options on the device has in it; (): it cannot be recorded."""
    cut = options.cut
    if options.anneal is not None or options.penalty is not None or (cut is not None and not has_kernel(device)):
        return ()
    parts = (options.scale is not None, options.greedy is not None, options.is_all_greedy, options.wants_entropies)
    if cut is None:
        return parts
    rows = 0 if options.cut_rows is None else rounded(len(options.cut_rows))
    cuts = (cut.top_k is not None, cut.top_p is not None, cut.min_p is not None)
    return *parts, *cuts, rows, *levels(cut.most_k, vocabulary)[:1]


class HeldOptions:
    """Options that stay where they are while the batch changes."""

    def __init__(self, device: torch.device):
        types = (torch.float32, torch.bool, torch.int64, torch.float64, torch.float32, torch.int64)
        self._parts = tuple(Steady(dtype, device) for dtype in types)
        self._scale, self._greedy, self._top_k, self._top_p, self._min_p, self._cut_rows = self._parts
        self._now: tuple[Options | None, int] = (None, 0)

    @property
    def moves(self) -> tuple[int, ...]:
        """Changes whenever a part lies elsewhere than before."""
        return tuple(part.moves for part in self._parts)

    def hold(self, options: Options, rows: int) -> None:
        """Hold those of a batch, for a recording of so many rows; nothing to do as long as the batch stays the same."""
        if self._now[0] is options and self._now[1] == rows:
            return
        self._now = (options, rows)
        if options.scale is not None:
            self._scale.hold(_filled(options.scale.squeeze(1), rows, 1.0))
        if options.greedy is not None:
            self._greedy.hold(_filled(options.greedy, rows, 0.0))
        cut = options.cut
        if cut is None:
            return
        if options.cut_rows is not None:
            rows = rounded(len(options.cut_rows))
            self._cut_rows.hold(_repeated(options.cut_rows, rows))
        cuts = ((self._top_k, cut.top_k, 1), (self._top_p, cut.top_p, _LEAST_P), (self._min_p, cut.min_p, 1.0))
        for steady, values, least in cuts:
            if values is not None:
                flat = values.squeeze(1)
                steady.hold(_filled(flat, rows, least) if options.cut_rows is None else _repeated(flat, rows))

    def at(self, options: Options, rows: int) -> Options:
        """Options of this kind for so many rows, on the tensors that stay."""
        scale = self._scale.tensor[:rows, None] if options.scale is not None else None
        greedy = self._greedy.tensor[:rows] if options.greedy is not None else None
        found = Options(scale, greedy, options.is_all_greedy, wants_entropies=options.wants_entropies)
        cut = options.cut
        if cut is not None:
            if options.cut_rows is not None:
                rows = rounded(len(options.cut_rows))
                found.cut_rows = self._cut_rows.tensor[:rows]
            top_k = self._top_k.tensor[:rows, None] if cut.top_k is not None else None
            top_p = self._top_p.tensor[:rows, None] if cut.top_p is not None else None
            min_p = self._min_p.tensor[:rows, None] if cut.min_p is not None else None
            found.cut = Cut(top_k, top_p, min_p, cut.most_k)
        return found


def _filled(values: Tensor, rows: int, filler: float) -> Tensor:
    return torch.cat([values, values.new_full((rows - len(values),), filler)])


def _repeated(values: Tensor, rows: int) -> Tensor:
    return torch.cat([values, values[:1].expand(rows - len(values))])
