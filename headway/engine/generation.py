"""Requests on their way through the engine: who waits, whose prompt is being computed, who draws a token a step.

    waiting --admit--> filling (prompts, in pieces of a step's budget) --> active --stop or limit--> done
       ^                                                                     |
       +---------------------- preempt: the youngest, where memory is short -+

A preempted sample keeps its tokens; its keys and values are computed again when there is room, and it goes on where it was. Which
samples run together changes none of them: noise belongs to (key, position). It does not know text or problems.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from headway.engine.batch import Batch
from headway.engine.cache import BlockCache, Strand, blocks_of
from headway.engine.flight import Counts, Decode, Fill, InFlight, Limits, Prompt, Source, Watch
from headway.engine.paged import Filling
from headway.engine.transfer import send
from headway.errors import EngineError
from headway.model.precision import autocast, compute_dtype
from headway.model.transformer import Decoder
from headway.types import Completion, Request, StopReason
from headway.watchdog import beat


class Generation:
    """The state of one `generate` call, or of a session, whose requests come and go.

    `watch` is called with the sequences that have just drawn a token, before those that ended leave. `version` gives the policy's
    version now, and `decode` the text of tokens, for stop strings.
    """

    def __init__(
        self,
        model: Decoder,
        stop: frozenset[int],
        limits: Limits,
        version: Callable[[bool], int],
        watch: Watch | None = None,
        decode: Decode | None = None,
    ):
        self._model, self._stop, self._limits = model, stop, limits
        self._version, self._watch, self._decode = version, watch, decode
        self._cache = BlockCache(model.config, limits.positions, compute_dtype(model), model.device)
        self._batch = Batch(model, self._cache)
        self._active = self._batch.samples  # by slot
        self._requests: dict[int, Request] = {}
        self._prompts: dict[int, Prompt] = {}
        self._waiting: deque[InFlight] = deque()
        self._fills: list[Fill] = []
        self._ready: list[tuple[InFlight, Tensor]] = []  # whose strand is whole, and its prompt's last hidden state [1, width]
        self._order: dict[InFlight, int] = {}  # of admission, of all that are at work
        self._admitted = 0
        self._quiet = 0  # so many steps no active sample needs another block or comes to its limit
        self._done: dict[tuple[int, int], Completion] = {}
        self.counts = Counts()

    def completions(self) -> list[list[Completion]]:
        """All samples, once `step` has said that nothing is left."""
        return [[self._done[r, i] for i in range(len(q.keys))] for r, q in self._requests.items()]

    def add(self, number: int, request: Request) -> None:
        """Queue a request's samples behind those that wait. EngineError where the cache could not hold even one of them."""
        needed = blocks_of(len(request.prompt_ids)) + blocks_of(request.max_tokens)
        if needed > self._cache.most:
            raise EngineError(
                f"request {number}: {len(request.prompt_ids)} prompt tokens and max_tokens {request.max_tokens} do not fit the "
                f"cache's {self._limits.positions} positions"
            )
        self._requests[number] = request
        self.counts.samples += len(request.keys)
        self._waiting += [InFlight(number, i, key, request.max_tokens, request) for i, key in enumerate(request.keys)]

    def drop(self, number: int, index: int) -> None:
        """Let a sample end with its next token, as if that were its limit; one that waits does not start (again)."""
        for sample in self._order:
            if (sample.request, sample.index) == (number, index):
                sample.max_tokens = min(sample.max_tokens, len(sample.tokens) + 1)
                self._quiet = 0
        for sample in [s for s in self._waiting if (s.request, s.index) == (number, index)]:
            self._waiting.remove(sample)
            self._finish(sample, StopReason.LENGTH)

    def collect(self) -> list[tuple[int, int, Completion]]:
        """(request, index, completion) of the samples that ended since the last call; of a whole request nothing is kept."""
        ended = [(r, i, completion) for (r, i), completion in self._done.items()]
        self._done.clear()
        return ended

    def forget(self, number: int) -> None:
        """Let go of a request all of whose samples were collected."""
        del self._requests[number]

    def step(self) -> bool:
        """Admit what fits, compute a budget of prompt tokens, draw one token for every active sample. False: nothing is left."""
        beat()
        version = self._version(bool(self._order))
        self._admit()
        started = time.monotonic()
        if self._fills or self._ready:
            self._fill(version)
        filled = time.monotonic()
        self.counts.prefill_seconds += filled - started
        if self._active:
            self._make_room()
        if self._active:
            self._batch.step(version)
            self.counts.steps += 1
            self.counts.sequence_steps += len(self._active)
            self._read(self._limits.ahead)
            self.counts.decode_seconds += time.monotonic() - filled
        if not self._order:
            self._batch.unread.clear()  # what was drawn for samples that had ended
        return bool(self._order or self._waiting)

    def _read(self, ahead: int) -> None:
        """Take what was drawn, but for the newest `ahead` drawings, and let go of the samples that ended with it."""
        while len(self._batch.unread) > ahead:
            samples = self._batch.unread.popleft().read()
            self.counts.new_tokens += len(samples)
            for sample in samples:
                if sample.asked.stop_strings:
                    self._look_for_strings(sample)
            if self._watch is not None and samples:
                self._watch(samples)
            self._retire(samples)

    def _admit(self) -> None:
        """Let the first that wait begin, as long as there are slots, and blocks for them and for those at work."""
        while self._waiting and len(self._order) < self._limits.samples:
            sample = self._waiting[0]
            ids, behind = sample.asked.prompt_ids, tuple(sample.tokens[:-1])
            prompt = self._prompts.get(sample.request)
            is_shared = len(sample.asked.keys) > 1
            needed = blocks_of(len(behind) + 1) + blocks_of(len(ids)) * (prompt is None)
            if not self._has_free(needed + len(self._order) // 2) and self._order:
                return
            if (source := (None, 0) if prompt is not None else self._source(ids + behind * (not is_shared))) is None:
                return
            self._waiting.popleft()
            self._admitted += 1
            self._order[sample] = self._admitted
            if not is_shared:
                sample.strand = self._cache.open()
                self._begin(sample.request, sample.strand, ids + behind, sample, source=source)
                continue
            if prompt is None:
                fill = self._begin(sample.request, self._cache.open(is_shared=True), ids, source=source)
                prompt = self._prompts[sample.request] = Prompt(fill.strand, fill)
            sample.strand = self._cache.open(prompt.strand, len(ids))
            if behind:
                self._begin(sample.request, sample.strand, behind, sample)
            elif prompt.hidden is None:
                prompt.fill.samples.append(sample)
            else:
                self._ready.append((sample, prompt.hidden))

    def _has_free(self, blocks: int) -> bool:
        """Whether so many blocks are free."""
        return self._cache.free >= blocks

    def _source(self, ids: tuple[int, ...]) -> Source | None:
        """A strand that begins as `ids` do, and how many tokens of it are to be copied; None: one is worth waiting for."""
        return None, 0

    def _keep(self, sample: InFlight) -> None:
        """Look at a sample that has ended, before its strand is given back."""

    def _begin(self, request: int, strand: Strand, ids: tuple[int, ...], *samples: InFlight, source: Source = (None, 0)) -> Fill:
        """Queue tokens for a strand, whose blocks are taken at once; the first are copied where there is a source."""
        fill = Fill(request, strand, ids, list(samples), source[1])
        is_there = self._cache.extend(strand, len(ids))
        assert is_there, "admission has counted the blocks"
        if source[0] is not None:
            self._cache.copy(source[0], strand, source[1])
            self.counts.reused_tokens += source[1]
        self._fills.append(fill)
        return fill

    def _fill(self, version: int) -> None:
        """One forward pass over the next prompt tokens; samples whose prompt is whole become active and draw a token."""
        pieces: list[tuple[Fill, int]] = []
        left = self._limits.prefill_tokens
        for fill in self._fills:
            if left > 0:
                pieces.append((fill, min(left, len(fill.ids) - fill.done)))
                left -= pieces[-1][1]
        if pieces:
            pieces.sort(key=lambda piece: piece[0].strand.end > 0)  # those that begin at 0 first
            device = self._model.device
            ids = send(torch.tensor([t for fill, n in pieces for t in fill.ids[fill.done : fill.done + n]]), device)
            filling = Filling(self._cache, [(fill.strand, n) for fill, n in pieces], device)
            with autocast(self._model):
                hidden = self._model.hidden(ids, filling.positions, filling.attend)[filling.last]
            self.counts.prompt_tokens += len(ids)
            for row, (fill, count) in enumerate(pieces):
                fill.done += count
                if fill.done == len(fill.ids):
                    self._end_fill(fill, hidden[row : row + 1])
        ready, self._ready = self._ready, []
        for sample, _ in ready:
            assert sample.strand is not None, "a sample at work has a strand"
            sample.strand.enter(len(self._active))
            self._active.append(sample)
            self._quiet = 0
            self._batch.changes()
        fresh = [(sample, hidden) for sample, hidden in ready if not sample.tokens]
        if fresh:
            self._batch.begin(torch.cat([hidden for _, hidden in fresh]), [sample for sample, _ in fresh], version)
            self._read(self._limits.ahead)

    def _end_fill(self, fill: Fill, hidden: Tensor) -> None:
        self._fills.remove(fill)
        self._ready += [(sample, hidden) for sample in fill.samples]
        if fill.strand.pool is self._cache.shared:
            self._prompts[fill.request].hidden = hidden

    def _make_room(self) -> None:
        """A block for every active sample that needs one for its next token; where there is none, the youngest make way.

        All that was drawn is read first where that is known to matter: a sample is at its limit, may have to make way, or has
        options that depend on its tokens.
        """
        if self._batch.unread and self._batch.needs_tokens:
            self._read(0)
        self._quiet -= 1
        if self._quiet > 0:
            return
        if self._batch.unread and any(s.drawn >= s.max_tokens for s in self._active):
            self._read(0)
        full = [s for s in self._active if s.strand is not None and not s.strand.room]
        for sample in sorted(full, key=self._order.__getitem__):
            while sample.strand is not None and not (self._has_free(1) and self._cache.extend(sample.strand, 1)):
                if self._batch.unread:
                    self._read(0)
                else:
                    self._preempt(max(self._order, key=self._order.__getitem__))
        rooms = (min(s.strand.room, s.max_tokens - s.drawn) for s in self._active if s.strand is not None)
        self._quiet = min(rooms, default=0)

    def _preempt(self, sample: InFlight) -> None:
        """Let a sample make way: it waits, first in the row, and keeps its tokens."""
        self.counts.preemptions += 1
        for fill in [f for f in self._fills if sample in f.samples]:
            fill.samples.remove(sample)
            if fill.strand is sample.strand:
                self._fills.remove(fill)
        if sample.strand is not None and sample.strand.slot >= 0:
            self._leave([sample.strand.slot])
        else:
            self._close(sample)
        self._waiting.appendleft(sample)

    def _look_for_strings(self, sample: InFlight) -> None:
        """Note the stop string that the last token has completed, if any."""
        assert self._decode is not None, "the engine has checked that it can decode"
        window = max(len(text.encode()) for text in sample.asked.stop_strings) + 8  # a token is at least a byte; some are none
        text = self._decode(sample.tokens[-window:])
        sample.stop_string = next((wanted for wanted in sample.asked.stop_strings if wanted in text), "")

    def _ends(self, sample: InFlight) -> StopReason | None:
        token = sample.tokens[-1]
        if token in self._stop or token in sample.asked.stop_ids or sample.stop_string:
            return StopReason.STOP
        return StopReason.LENGTH if len(sample.tokens) >= sample.max_tokens else None

    def _retire(self, samples: list[InFlight]) -> None:
        """Take out what ended of these active samples."""
        ended = [(sample, reason) for sample in samples if (reason := self._ends(sample)) is not None]
        if not ended:
            return
        for sample, reason in ended:
            self._finish(sample, reason)
        self._leave([sample.strand.slot for sample, _ in ended if sample.strand is not None], has_ended=True)
        self.counts.cache_bytes = max(self.counts.cache_bytes, self._cache.bytes)
        if self._batch.needs_dense:
            self._cache.own.compact()
            self._cache.shared.compact()

    def _finish(self, sample: InFlight, reason: StopReason) -> None:
        self.counts.finished += 1
        sample.has_ended = True
        self._done[sample.request, sample.index] = Completion(
            tuple(sample.tokens),
            tuple(sample.logprobs),
            reason,
            tuple(sample.entropies),
            sample.stop_string,
            tuple(sample.versions),
        )

    def _leave(self, slots: list[int], has_ended: bool = False) -> None:
        """Take samples out of the batch; the last ones move into their places, so that it stays dense."""
        self._batch.changes()
        for slot in sorted(slots, reverse=True):
            sample, last = self._active[slot], self._active.pop()
            if last is not sample:
                self._active[slot] = last
                assert last.strand is not None, "an active sample has a strand"
                last.strand.enter(slot)
            if has_ended:
                self._keep(sample)
            self._close(sample)

    def _close(self, sample: InFlight) -> None:
        """Give back what a sample holds of the cache; of its prompt too, if it was the last reader."""
        assert sample.strand is not None, "a sample at work has a strand"
        del self._order[sample]
        prefix = self._cache.close(sample.strand)
        sample.strand = None
        if prefix is not None:
            prompt = self._prompts.pop(sample.request)
            if prompt.fill in self._fills:
                self._fills.remove(prompt.fill)
