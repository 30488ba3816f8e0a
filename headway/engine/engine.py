"""generate(requests) -> completions: prefill, then one token a step for every sequence in flight.

    waiting --admit (prompt computed once, copied to its samples)--> slots --step--> slots --stop or full--> done

It deals in token ids only and knows nothing of text, problems or rewards. It runs on the trainer's own module and weights.
Freed slots are refilled at once; the last active slot moves into a gap, so the batch is always dense.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from headway.engine.cache import SlotCache, fitting_slots
from headway.engine.sampling import Options, check_options, draw, uniforms
from headway.errors import EngineError
from headway.model.attention import lay_out
from headway.model.head import next_logits
from headway.model.transformer import Decoder
from headway.types import Completion, Request, StopReason

Progress = Callable[[int, int, float], None]  # (samples done, samples in all, new tokens a second)


@dataclass(slots=True)
class InFlight:
    """One sample in flight."""

    request: int
    index: int
    key: int
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


Watch = Callable[[list[InFlight]], None]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a `generate` call did: tokens and seconds of prefill and decode, and steps."""

    prompt_tokens: int
    new_tokens: int
    steps: int
    seconds: float


class Engine:
    """Samples from a decoder. `stop_ids` are all token ids that end a completion.

    `slots` sequences run at once; 0 lets each `generate` take as many as `cache.fitting_slots` has room for.
    """

    def __init__(self, model: Decoder, stop_ids: Sequence[int], slots: int = 0):
        if not stop_ids:
            raise EngineError("the engine needs at least one stop token id")
        self.model, self.slots = model, slots
        self._stop = frozenset(stop_ids)
        self.statistics = Statistics(0, 0, 0, 0.0)

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        """Complete every request: result[r][i] is the sample of `requests[r].keys[i]`.

        Raises EngineError for a request whose prompt is empty, or whose prompt and max_tokens exceed the model's positions.
        """
        self._check(requests)
        longest = max((len(request.prompt_ids) + request.max_tokens for request in requests), default=1)
        slots = self.slots or fitting_slots(self.model.config, longest, _compute_dtype(self.model))
        samples = sum(len(request.keys) for request in requests)
        run = Generation(self.model, requests, self._stop, min(slots, max(1, samples)))
        started = time.monotonic()
        reported = started
        while run.step():
            now = time.monotonic()
            if progress is not None and now - reported > 0.5:
                reported = now
                progress(run.finished, run.samples, run.new_tokens / (now - started))
        self.statistics = Statistics(run.prompt_tokens, run.new_tokens, run.steps, time.monotonic() - started)
        return run.completions()

    def session(self, slots: int, watch: Watch) -> Generation:
        """A generation without requests: `add` them as they come, `step` under `torch.inference_mode`, `collect` what ended.

        The caller checks that a prompt and its max_tokens fit the model's positions.
        """
        return Generation(self.model, [], self._stop, slots, watch)

    def _check(self, requests: Sequence[Request]) -> None:
        limit = self.model.config.max_positions
        for number, request in enumerate(requests):
            if not request.prompt_ids or not request.keys or request.max_tokens < 1:
                raise EngineError(f"request {number} has an empty prompt, no sample keys or max_tokens below 1")
            if len(request.prompt_ids) + request.max_tokens > limit:
                raise EngineError(
                    f"request {number}: {len(request.prompt_ids)} prompt tokens and max_tokens {request.max_tokens} "
                    f"exceed the model's {limit} positions"
                )
            check_options(request, f"request {number}")


class Generation:
    """Requests on their way through the slots: the state of one `generate` call, or of a `session`, whose requests come and go.

    `watch` is called with the sequences that have just drawn a token, before those that ended leave.
    """

    def __init__(self, model: Decoder, requests: Sequence[Request], stop: frozenset[int], slots: int, watch: Watch | None = None):
        self._model, self._stop, self._watch = model, stop, watch
        self._requests: dict[int, Request] = {}
        self.samples = 0
        self._cache = SlotCache(model.config, slots, _compute_dtype(model), model.device)
        self._waiting: deque[InFlight] = deque()
        for number, request in enumerate(requests):
            self.add(number, request)
        self._active: list[InFlight] = []
        self._done: dict[tuple[int, int], Completion] = {}
        self._lengths: list[int] = []  # of the active slots, on the host
        self._next = torch.empty(0)
        self.prompt_tokens = self.new_tokens = self.steps = self.finished = 0

    def completions(self) -> list[list[Completion]]:
        """All samples, once `step` has said that nothing is left."""
        return [[self._done[r, i] for i in range(len(q.keys))] for r, q in self._requests.items()]

    def add(self, number: int, request: Request) -> None:
        """Queue a request's samples behind those that wait."""
        self._requests[number] = request
        self.samples += len(request.keys)
        for index, key in enumerate(request.keys):
            self._waiting.append(InFlight(number, index, key, request.max_tokens))

    def drop(self, number: int, index: int) -> None:
        """Let a sample end with its next token, as if that were its limit; one that waits never starts."""
        for sequence in self._active:
            if (sequence.request, sequence.index) == (number, index):
                sequence.max_tokens = min(sequence.max_tokens, len(sequence.tokens) + 1)
        kept = [s for s in self._waiting if (s.request, s.index) != (number, index)]
        if len(kept) < len(self._waiting):
            self._waiting = deque(kept)
            self._done[number, index] = Completion((), (), StopReason.LENGTH)

    def collect(self) -> list[tuple[int, int, Completion]]:
        """(request, index, completion) of the samples that ended since the last call; of a whole request nothing is kept."""
        ended = [(r, i, completion) for (r, i), completion in self._done.items()]
        self._done.clear()
        return ended

    def forget(self, number: int) -> None:
        """Let go of a request all of whose samples were collected."""
        del self._requests[number]

    def step(self) -> bool:
        """Admit what fits, decode one token everywhere, retire what ended. False when nothing is left."""
        free = self._cache_slots() - len(self._active)
        if self._waiting and free >= min(len(self._waiting), max(1, self._cache_slots() // 8)):
            self._admit(free)
            self._retire()
        if not self._active:
            return bool(self._waiting)
        cache = self._cache
        cache.active = len(self._active)
        ids = torch.tensor([s.tokens[-1] for s in self._active], device=self._model.device)
        cache.begin_step(max(self._lengths) + 1)
        with _autocast(self._model):
            hidden = self._model.decode(ids, cache.lengths[: cache.active], cache)
        cache.lengths[: cache.active] += 1
        self._lengths = [n + 1 for n in self._lengths]
        self._draw(hidden, self._active)
        self.steps += 1
        self._retire()
        return bool(self._active or self._waiting)

    def _cache_slots(self) -> int:
        return self._cache.lengths.shape[0]

    def _admit(self, free: int) -> None:
        """Prefill the next prompts, each once however many of its samples enter now."""
        batch = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        prompts: list[tuple[int, int]] = []  # (request, samples that enter now), neighbours together
        for sequence in batch:
            if prompts and prompts[-1][0] == sequence.request:
                prompts[-1] = (sequence.request, prompts[-1][1] + 1)
            else:
                prompts.append((sequence.request, 1))
        lengths = [len(self._requests[r].prompt_ids) for r, _ in prompts]
        first = len(self._active)
        self._cache.reserve(max(lengths) + 1)
        slots = np.cumsum([first, *(n for _, n in prompts)])
        starts = np.cumsum([0, *lengths])

        def keep(layer: int, k: Tensor, v: Tensor) -> None:
            for p, (_, copies) in enumerate(prompts):
                part = slice(int(starts[p]), int(starts[p + 1]))
                self._cache.fill(layer, int(slots[p]), copies, k[part], v[part])

        ids = torch.tensor([t for r, _ in prompts for t in self._requests[r].prompt_ids], device=self._model.device)
        layout = lay_out(lengths, self._model.device)
        with _autocast(self._model):
            hidden = self._model(ids, layout, keep)[layout.last]
        copies = torch.tensor([n for _, n in prompts], device=hidden.device)
        self._active += batch
        self._lengths += [n for n, (_, c) in zip(lengths, prompts, strict=True) for _ in range(c)]
        self._cache.lengths[first : first + len(batch)] = torch.tensor(self._lengths[first:], device=hidden.device)
        self._draw(hidden.repeat_interleave(copies, 0), batch)
        self.prompt_tokens += len(ids)

    def _draw(self, hidden: Tensor, sequences: list[InFlight]) -> None:
        """Draw one token for each sequence and write it down."""
        keys = np.array([s.key for s in sequences], dtype=np.uint64)
        positions = np.array([len(s.tokens) for s in sequences], dtype=np.int64)
        device = hidden.device
        noise = torch.from_numpy(uniforms(keys, positions)).to(device)
        options = Options.of(
            [(self._requests[s.request], s.tokens) for s in sequences], self._model.output_weight.shape[0], device
        )
        drawn = draw(next_logits(hidden, self._model.output_weight), noise, options)
        for sequence, token, logprob in zip(sequences, drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True):
            sequence.tokens.append(token)
            sequence.logprobs.append(logprob)
        if drawn.entropies is not None:
            for sequence, entropy in zip(sequences, drawn.entropies.tolist(), strict=True):
                if self._requests[sequence.request].wants_entropies:
                    sequence.entropies.append(entropy)
        self.new_tokens += len(sequences)
        if self._watch is not None:
            self._watch(sequences)

    def _retire(self) -> None:
        """Take out what ended; the last slots move into the gaps."""
        ended = [i for i, s in enumerate(self._active) if s.tokens[-1] in self._stop or len(s.tokens) >= s.max_tokens]
        if not ended:
            return
        for i in ended:
            s = self._active[i]
            reason = StopReason.STOP if s.tokens[-1] in self._stop else StopReason.LENGTH
            self._done[s.request, s.index] = Completion(tuple(s.tokens), tuple(s.logprobs), reason, tuple(s.entropies))
        self.finished += len(ended)
        kept = len(self._active) - len(ended)
        gaps = [i for i in ended if i < kept]
        gone = set(ended)
        tail = [i for i in range(kept, len(self._active)) if i not in gone]
        if gaps:
            device = self._model.device
            longest = max(self._lengths[i] for i in tail)
            self._cache.move(torch.tensor(tail, device=device), torch.tensor(gaps, device=device), longest)
        for source, target in zip(tail, gaps, strict=True):
            self._active[target], self._lengths[target] = self._active[source], self._lengths[source]
        del self._active[kept:], self._lengths[kept:]


def _compute_dtype(model: Decoder) -> torch.dtype:
    return torch.bfloat16 if model.device.type == "cuda" else torch.float32


def _autocast(model: Decoder) -> torch.autocast:
    """bfloat16 products on CUDA, as in training; float32 elsewhere."""
    cuda = model.device.type == "cuda"
    return torch.autocast("cuda" if cuda else "cpu", dtype=torch.bfloat16, enabled=cuda)
