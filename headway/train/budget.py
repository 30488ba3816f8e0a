"""Where memory runs out in an update: its documents are laid out anew in smaller micro-batches, and its gradient is made again.

    micro-batches of at most n tokens --out of memory--> clear the gradient, halve n until they change --> from the first one on

Losses are normalised over the whole update, so that the sum over smaller micro-batches is the same gradient; and it is, byte for
byte, that of a recipe whose `micro_batch_tokens` is the smaller n, for nothing of the first try is kept. The smaller n holds for
the rest of the stage. Several ranks would have to agree on n in the middle of what they do together: there the error stays an
error. It does not know losses or stages.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch

from headway.model.device import empty_cache
from headway.model.transformer import Decoder
from headway.ranks import size

Result = TypeVar("Result")
_WORDS = ("DefaultCPUAllocator", "not enough memory", "out of memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


class Divisible(Protocol):
    """What can be laid out again: an objective (see `fit.Objective`)."""

    max_tokens: int  # of a micro-batch

    def again(self) -> Sequence[Any]:
        """The micro-batches of the update that `updates` gave last, of at most `max_tokens` tokens."""
        ...

    def tokens(self, micro: Any) -> int:
        """Useful tokens that the micro-batch sends through the model."""
        ...


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed: CUDA's type, PyTorch's words for it on a CPU, or Python's type."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def replayed(gradient: Callable[[Sequence[Any]], Result], model: Decoder, objective: Divisible, micros: Sequence[Any]) -> Result:
    """`gradient(micros)`, which makes an update's gradient; where memory runs out, again with smaller micro-batches.

    The gradient must be None before it. Raises MemoryError where the smallest ones, single documents, do not fit.
    """
    while True:
        try:
            return gradient(micros)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or size() > 1:
                raise
        sizes = [objective.tokens(micro) for micro in micros]  # the error is gone here, and with it the frames that held tensors
        del micros
        _release(model)
        micros = _smaller(objective, sizes)


def _release(model: Decoder) -> None:
    """Let go of what the failed try has left."""
    model.zero_grad(set_to_none=True)
    gc.collect()
    empty_cache(model.device)


def _smaller(objective: Divisible, sizes: list[int]) -> Sequence[Any]:
    """Halve the objective's `max_tokens` until its micro-batches are others than those of `sizes` tokens."""
    while objective.max_tokens > 1:
        objective.max_tokens //= 2
        micros = objective.again()
        if [objective.tokens(micro) for micro in micros] != sizes:
            return micros
    raise MemoryError(
        f"memory ran out with the smallest micro-batches, single documents or pairs: the longest has {max(sizes)} tokens"
    )


def lowered(before: int, now: int) -> dict[str, str]:
    """What to tell the user where `max_tokens` went down: {"note": ...}, else {}."""
    if now == before:
        return {}
    return {"note": f"memory ran out: from here on micro_batch_tokens is {now:,} in place of {before:,}; the result is the same"}
