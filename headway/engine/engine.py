"""generate(requests) -> completions: what the rest of the house sees of sampling.

It deals in token ids and knows nothing of text (but for stop strings, if it is told how to decode), problems or rewards. It runs
on the trainer's own module and weights: there is no copy to keep in step, and it notices when they change under a sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from headway.engine.cache import BLOCK, bytes_per_position, card_bytes, default_positions
from headway.engine.flight import Decode, InFlight, Limits, Watch
from headway.engine.generation import Generation
from headway.engine.sampling import check_options
from headway.engine.session import LEAST_PACKED, Session
from headway.errors import EngineError
from headway.model.precision import compute_dtype
from headway.model.products import pack, unpack
from headway.model.transformer import Decoder
from headway.types import Completion, Request

__all__ = ["Drawn", "Engine", "InFlight", "Session", "Statistics"]

Progress = Callable[[int, int, float], None]  # (samples done, samples in all, new tokens a second)

_MOST_SAMPLES = 1024  # wider steps gain nothing: the products are at the machine's rate by then
_PREFILL_TOKENS = 4096
_AHEAD = {"cuda": 1}  # draws that the host may leave unread, by the kind of device


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a `generate` call did.

    `prompt_tokens` counts a shared prompt once, and a preempted sample's tokens once more. `batch` is the mean number of samples
    of a decode step, of `slots` that there were; `cache_bytes` the most memory that keys and values took, of `cache_limit`.
    """

    prompt_tokens: int
    new_tokens: int
    steps: int
    seconds: float
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    batch: float = 0.0
    preemptions: int = 0
    cache_bytes: int = 0
    slots: int = 0
    cache_limit: int = 0

    @property
    def batch_fill(self) -> float:
        """The mean share of the slots that a decode step had at work."""
        return self.batch / max(1, self.slots)

    @property
    def cache_use(self) -> float:
        """The most memory that was taken, as a share of what there may be."""
        return self.cache_bytes / max(1, self.cache_limit)

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second of prefill."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """New tokens of decode steps a second of those."""
        return self.batch * self.steps / self.decode_seconds if self.decode_seconds else 0.0


class Drawn(NamedTuple):
    """One new token of the sample `requests[request].keys[index]`; with its last one comes the `completion`."""

    request: int
    index: int
    token: int
    logprob: float
    completion: Completion | None


class Engine:
    """Samples from a decoder. `stop_ids` are all token ids that end a completion.

    At most `slots` samples run at once (0: 1,024), on keys and values of at most `positions` tokens (0:
    `cache.default_positions`), with at most `prefill_tokens` prompt tokens a step. None of these changes a sample. `decode`
    turns token ids into text and is needed for stop strings only. `version` counts the changes of the weights since then.
    """

    def __init__(
        self,
        model: Decoder,
        stop_ids: Sequence[int],
        slots: int = 0,
        positions: int = 0,
        prefill_tokens: int = _PREFILL_TOKENS,
        decode: Decode | None = None,
    ):
        if not stop_ids:
            raise EngineError("the engine needs at least one stop token id")
        self.model, self.slots = model, slots
        self._positions, self._prefill_tokens, self._decode = positions, prefill_tokens, decode
        self._stop = frozenset(stop_ids)
        self.version, self._seen = 0, _fingerprint(model.parameters())
        self.statistics = Statistics(0, 0, 0, 0.0)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The token ids that end a completion."""
        return self._stop

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        """Complete every request: result[r][i] is the sample of `requests[r].keys[i]`.

        Raises EngineError for a request whose prompt is empty, or that exceeds the model's positions or the cache's.
        """
        for number, request in enumerate(requests):
            self._check(number, request)
        longest = max((len(request.prompt_ids) + request.max_tokens for request in requests), default=1)
        whole = sum(
            len(r.prompt_ids) + BLOCK + len(r.keys) * (r.max_tokens + BLOCK) for r in requests
        )  # were all to run to the end
        limits = self._limits(self.slots, longest, whole)
        run = Generation(self.model, self._stop, limits, self._version(False), None, self._decode)
        for number, request in enumerate(requests):
            run.add(number, request)
        started = time.monotonic()
        reported = started
        counts = run.counts
        rows = min(self.slots or _MOST_SAMPLES, counts.samples)
        # on the CPU the copies cost about as much as ten steps; on CUDA each step would make them
        if self.model.device.type == "cuda" or (rows >= LEAST_PACKED and longest > BLOCK):
            pack(self.model.matrices, rows)
        try:
            while run.step():
                now = time.monotonic()
                if progress is not None and now - reported > 0.5:
                    reported = now
                    progress(counts.finished, counts.samples, counts.new_tokens / (now - started))
        finally:
            unpack(self.model.matrices)
        self.statistics = Statistics(
            counts.prompt_tokens,
            counts.new_tokens,
            counts.steps,
            time.monotonic() - started,
            counts.prefill_seconds,
            counts.decode_seconds,
            counts.sequence_steps / max(1, counts.steps),
            counts.preemptions,
            counts.cache_bytes,
            rows,
            limits.positions * bytes_per_position(self.model.config, compute_dtype(self.model)),
        )
        return run.completions()

    def stream(self, requests: Sequence[Request]) -> Iterator[Drawn]:
        """Complete every request, token by token as they are drawn; whoever stops listening cancels the rest.

        The tokens are those of `generate`. Raises EngineError as it does, at once.
        """
        for number, request in enumerate(requests):
            self._check(number, request)
        return self._streamed(requests)

    @torch.inference_mode()
    def _streamed(self, requests: Sequence[Request]) -> Iterator[Drawn]:
        news: list[tuple[int, int, int, float]] = []

        def watch(samples: list[InFlight]) -> None:
            news.extend((s.request, s.index, s.tokens[-1], s.logprobs[-1]) for s in samples)

        slots = min(self.slots or _MOST_SAMPLES, max(1, sum(len(request.keys) for request in requests)))
        with self.session(slots, watch) as session:
            for number, request in enumerate(requests):
                session.add(number, request)
            goes_on = bool(requests)
            while goes_on:
                goes_on = session.step()
                ended = {(number, index): completion for number, index, completion in session.collect()}
                drawn, news[:] = list(news), []
                for place, (number, index, token, logprob) in enumerate(drawn):
                    is_last = all(other[:2] != (number, index) for other in drawn[place + 1 :]) if ended else False
                    yield Drawn(number, index, token, logprob, ended.get((number, index)) if is_last else None)

    def session(self, slots: int, watch: Watch, mixes_versions: bool = False, keeps: bool = False) -> Session:
        """A generation without requests: see `Session` for its use and for `keeps`.

        The caller checks that a prompt and its max_tokens fit the model's positions. Where the weights change while samples are
        in flight, `step` raises EngineError, unless the session `mixes_versions`: then they go on with the new weights over what
        the old ones left in the cache, and name both versions. Such a session cannot keep anything.
        """
        if mixes_versions and keeps:
            raise EngineError("a session that mixes versions keeps nothing: it would be of two policies")
        longest = self.model.config.max_positions
        limits = self._limits(slots, longest, (1 + keeps) * slots * (longest + 2 * BLOCK))
        return Session(self.model, self._stop, limits, self._version(mixes_versions), watch, self._decode, keeps)

    def _limits(self, slots: int, longest: int, whole: int) -> Limits:
        """`longest` and `whole`: the positions of the longest request, and of all that may be in flight."""
        device = self.model.device
        default = default_positions(self.model.config, longest, compute_dtype(self.model), card_bytes(device))
        positions = self._positions or default
        ahead = _AHEAD.get(device.type, 0)
        return Limits(slots or _MOST_SAMPLES, min(positions, whole), self._prefill_tokens, ahead)

    def _version(self, mixes: bool) -> Callable[[bool], int]:
        """What tells the policy's version, and is told whether samples are in flight."""
        weights = list(self.model.parameters())  # to look for them at every step takes longer than a small card's step

        def version(is_in_flight: bool) -> int:
            seen = _fingerprint(weights)
            if seen != self._seen:
                if is_in_flight and not mixes:
                    raise EngineError("the weights changed while samples were in flight: they would be drawn from two policies")
                self._seen, self.version = seen, self.version + 1
            return self.version

        return version

    def _check(self, number: int, request: Request) -> None:
        limit = self.model.config.max_positions
        if not request.prompt_ids or not request.keys or request.max_tokens < 1:
            raise EngineError(f"request {number} has an empty prompt, no sample keys or max_tokens below 1")
        if len(request.prompt_ids) + request.max_tokens > limit:
            raise EngineError(
                f"request {number}: {len(request.prompt_ids)} prompt tokens and max_tokens {request.max_tokens} "
                f"exceed the model's {limit} positions"
            )
        check_options(request, f"request {number}")
        if request.stop_strings and self._decode is None:
            raise EngineError(f"request {number} has stop strings, and the engine was not told how to decode")


def _fingerprint(weights: Iterable[Tensor]) -> int:
    """A number that grows whenever PyTorch writes into a weight."""
    return sum(weight._version for weight in weights)
