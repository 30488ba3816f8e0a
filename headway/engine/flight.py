"""What is on its way through the engine: samples, the prompts that they share, tokens on their way into the cache, and counts.

These are records without behaviour; `generation` moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from headway.engine.cache import Strand
from headway.types import Request


@dataclass(slots=True, eq=False)
class InFlight:
    """One sample that waits or is at work.

    `tokens` are those that the host has read; the device may have drawn `unread` more.
    """

    request: int
    index: int
    key: int
    max_tokens: int
    asked: Request
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    entropies: list[float] = field(default_factory=list[float])
    versions: list[int] = field(default_factory=list[int])
    stop_string: str = ""
    strand: Strand | None = None  # while it is at work
    unread: int = 0
    has_ended: bool = False

    @property
    def drawn(self) -> int:
        """Its new tokens so far, read or not."""
        return len(self.tokens) + self.unread


Watch = Callable[[list[InFlight]], None]
Decode = Callable[[Sequence[int]], str]
Source = tuple[Strand | None, int]  # a strand, and how many of its first tokens another one begins with


@dataclass(slots=True, eq=False)
class Fill:
    """Tokens on their way into a strand. `samples` become active then; new ones draw from the last hidden state."""

    request: int
    strand: Strand
    ids: tuple[int, ...]
    samples: list[InFlight]
    done: int = 0


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt that several samples share, in the cache as long as one of them is at work."""

    strand: Strand
    fill: Fill
    hidden: Tensor | None = None  # [1, width] of its last token


@dataclass(slots=True)
class Counts:
    """What a generation has done so far."""

    samples: int = 0
    finished: int = 0
    prompt_tokens: int = 0  # through the model: of prompts, and of preempted samples once more
    reused_tokens: int = 0  # of prompts, taken from what other samples left (`keeping`)
    new_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    cache_bytes: int = 0  # the most there was
    sequence_steps: int = 0  # tokens of decode steps: over `steps`, the mean batch


@dataclass(frozen=True, slots=True)
class Limits:
    """How much runs at once: samples, positions in the cache, and prompt tokens a step; and how many draws of the device the
    host may leave unread before the next one begins (0: it reads each at once)."""

    samples: int
    positions: int
    prefill_tokens: int
    ahead: int = 0
