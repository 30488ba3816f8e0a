"""generate(requests) -> completions: what the rest of the house sees of sampling.

It deals in token ids and knows nothing of text (but for stop strings, if it is told how to decode), problems or rewards. It runs
on the trainer's own module and weights: there is no copy to keep in step, and it notices when they change under a sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from headway.engine.cache import BLOCK, default_positions
from headway.engine.generation import Decode, Generation, InFlight, Limits, Watch, compute_dtype
from headway.engine.sampling import check_options
from headway.errors import EngineError
from headway.model.products import pack, unpack
from headway.model.transformer import Decoder
from headway.types import Completion, Request

__all__ = ["Engine", "InFlight", "Statistics"]

Progress = Callable[[int, int, float], None]  # (samples done, samples in all, new tokens a second)

_MOST_SAMPLES = 1024  # wider steps gain nothing: the products are at the machine's rate by then
_PREFILL_TOKENS = 4096
_LEAST_PACKED = 4  # samples at once; below, products gain nothing from packed weights


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a `generate` call did.

    `prompt_tokens` counts a shared prompt once, and a preempted sample's tokens once more. `batch` is the mean number of samples
    of a decode step, `cache_bytes` the most memory that keys and values took.
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
        self.version, self._seen = 0, _fingerprint(model)
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
        run = self._generation(self.slots, longest, whole, None, False)
        for number, request in enumerate(requests):
            run.add(number, request)
        started = time.monotonic()
        reported = started
        counts = run.counts
        rows = min(self.slots or _MOST_SAMPLES, counts.samples)
        if rows >= _LEAST_PACKED and longest > BLOCK:  # the copies cost about as much as ten steps
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
        )
        return run.completions()

    def session(self, slots: int, watch: Watch, mixes_versions: bool = False) -> Generation:
        """A generation without requests: `add` them as they come, `step` under `torch.inference_mode`, `collect` what ended.

        The caller checks that a prompt and its max_tokens fit the model's positions. Where the weights change while samples are
        in flight, `step` raises EngineError, unless the session `mixes_versions`: then they go on with the new weights over what
        the old ones left in the cache, and name both versions.
        """
        longest = self.model.config.max_positions
        return self._generation(slots, longest, slots * (longest + 2 * BLOCK), watch, mixes_versions)

    def _generation(self, slots: int, longest: int, whole: int, watch: Watch | None, mixes: bool) -> Generation:
        """`longest` and `whole`: the positions of the longest request, and of all that may be in flight."""
        positions = self._positions or default_positions(self.model.config, longest, compute_dtype(self.model))
        limits = Limits(slots or _MOST_SAMPLES, min(positions, whole), self._prefill_tokens)

        def version(is_in_flight: bool) -> int:
            seen = _fingerprint(self.model)
            if seen != self._seen:
                if is_in_flight and not mixes:
                    raise EngineError("the weights changed while samples were in flight: they would be drawn from two policies")
                self._seen, self.version = seen, self.version + 1
            return self.version

        return Generation(self.model, self._stop, limits, version, watch, self._decode)

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


def _fingerprint(model: Decoder) -> int:
    """A number that grows whenever PyTorch writes into a weight."""
    return sum(weight._version for weight in model.parameters())
