"""Keys and values of the sequences in flight: one slot a sequence, filled from its start.

    keys, values  [layers][slots, kv_heads, positions, head_dim],    lengths [slots]

Attention of one new token a slot against everything the slot holds. The room for positions grows in steps as
sequences do. It does not know what is decoded, when a sequence ends, or who gets a slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headway.model.config import DecoderConfig

_STEP = 64  # positions of room added at a time
_MOST_BYTES = 2 << 30  # of keys and values, were every sequence to grow to its limit
_MOST_SLOTS = 1024  # wider steps gain nothing: the products are at the machine's rate by then


def fitting_slots(config: DecoderConfig, longest: int, dtype: torch.dtype) -> int:
    """How many sequences of up to `longest` positions run at once: a function of the model alone, never of what is free."""
    position = 2 * config.layers * config.kv_heads * config.head_dim * dtype.itemsize
    return max(8, min(_MOST_SLOTS, _MOST_BYTES // (position * longest)))


class SlotCache:
    """The cache of `slots` sequences. `active` slots are 0 .. active-1; the engine keeps them contiguous."""

    def __init__(self, config: DecoderConfig, slots: int, dtype: torch.dtype, device: torch.device):
        self._config = config
        self._room = 0
        self._slots = slots
        self._dtype, self._device = dtype, device
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.active = 0
        self.lengths = torch.zeros(slots, dtype=torch.int64, device=device)
        self._longest = 0
        self._mask: Tensor = torch.empty(0)
        self._group = config.heads // config.kv_heads
        self._scale = config.head_dim**-0.5

    def reserve(self, positions: int) -> None:
        """Make room for sequences of this many positions, keeping what is there."""
        if positions <= self._room:
            return
        room = -(-positions // _STEP) * _STEP
        shape = (self._slots, self._config.kv_heads, room, self._config.head_dim)
        old_keys, old_values = self.keys, self.values
        self.keys = [torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(self._config.layers)]
        self.values = [torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(self._config.layers)]
        for layer in range(len(old_keys)):
            self.keys[layer][:, :, : self._room] = old_keys[layer]
            self.values[layer][:, :, : self._room] = old_values[layer]
        self._room = room

    def fill(self, layer: int, slot: int, copies: int, k: Tensor, v: Tensor) -> None:
        """Put a prompt's keys and values [length, kv_heads, d] into `copies` neighbouring slots from `slot` on."""
        length = k.shape[0]
        self.keys[layer][slot : slot + copies, :, :length] = k.transpose(0, 1)
        self.values[layer][slot : slot + copies, :, :length] = v.transpose(0, 1)

    def move(self, source: Tensor, target: Tensor, longest: int) -> None:
        """Copy whole slots `source` [n] over `target` [n] (disjoint), up to `longest` positions."""
        for layer in range(self._config.layers):
            self.keys[layer][target, :, :longest] = self.keys[layer][source, :, :longest]
            self.values[layer][target, :, :longest] = self.values[layer][source, :, :longest]
        self.lengths[target] = self.lengths[source]

    def begin_step(self, longest: int) -> None:
        """Prepare one decode step: `longest` is the highest length among the active slots, new token included."""
        self.reserve(longest)
        self._longest = longest
        lengths = self.lengths[: self.active]
        self._place = (torch.arange(self.active, device=self._device), lengths)
        blocked = torch.arange(longest, device=self._device)[None, :] > lengths[:, None]
        self._mask = torch.zeros(blocked.shape, dtype=torch.float32, device=self._device)
        self._mask.masked_fill_(blocked, float("-inf"))
        self._mask = self._mask[:, None, None, :]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store one new key and value a slot and attend: q [B, heads, d], k and v [B, kv_heads, d] -> [B, heads, d]."""
        batch, heads, dim = q.shape
        slots, place = self._place
        keys, values = self.keys[layer], self.values[layer]
        keys[slots, :, place] = k.to(keys.dtype)
        values[slots, :, place] = v.to(values.dtype)
        grouped = q.view(batch, heads // self._group, self._group, dim) * self._scale
        seen = keys[:batch, :, : self._longest]
        scores = torch.matmul(grouped.to(keys.dtype), seen.transpose(-1, -2)).float() + self._mask
        weights = scores.softmax(-1).to(values.dtype)
        return torch.matmul(weights, values[:batch, :, : self._longest]).to(q.dtype).reshape(batch, heads, dim)
