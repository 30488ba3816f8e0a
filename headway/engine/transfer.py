"""Numbers on their way between the host and the device, without either waiting for the other.

    send      host -> device, from page-locked memory: the host goes on at once
    Coming    device -> host: begun now, waited for when it is read
    Steady    a tensor on the device that stays where it is while its content changes, so that a recorded step finds it

On the CPU all of it is plain copying. An ordinary copy to CUDA, and every `torch.tensor(..., device="cuda")`, waits until the
device has done all that it was told before. This file does not know what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def send(values: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """The same numbers on the device."""
    held = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
    if held.is_cuda or torch.device(device).type != "cuda":
        return held.to(device)
    return held.pin_memory().to(device, non_blocking=True)


class Coming:
    """Tensors on their way to the host."""

    def __init__(self, tensors: Sequence[Tensor]):
        self._event = torch.cuda.Event() if tensors and tensors[0].is_cuda else None
        self._tensors = [tensor.to("cpu", non_blocking=self._event is not None, copy=True) for tensor in tensors]
        if self._event is not None:
            self._event.record()

    def read(self) -> list[list[float]]:
        """Their numbers, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.tolist() for tensor in self._tensors]


class Steady:
    """A one-dimensional tensor on the device. `moves` counts how often it had to be made anew, for want of room."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.tensor, self.moves = torch.zeros(0, dtype=dtype, device=device), 0

    def hold(self, values: np.ndarray | Tensor, room: int = 0) -> Tensor:
        """Hold these numbers now: a view [len(values)] of the tensor, which has `room` numbers at least. What is beyond stays."""
        count = len(values)
        if max(count, room) > len(self.tensor):
            self.tensor = torch.zeros(2 * max(count, room), dtype=self.tensor.dtype, device=self.tensor.device)
            self.moves += 1
        return self.tensor[:count].copy_(send(values, self.tensor.device))
