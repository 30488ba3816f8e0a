"""One decode step: latest tokens in, drawn tokens out. Called operator by operator, or recorded once and replayed.

    ids [B] --> hidden [B, width] --> logits [B, V] --> Drawn

A step of a small model is some hundred kernels that take the card a few microseconds each, and the host longer to ask for. So on
CUDA a step is recorded (a CUDA graph) once for a number of rows, and replayed as one call. What a recording reads lies where it
lay, and is filled before each replay: ids, positions, noise (`Steady`), temperatures and truncations (`held`), the cache's tables
(`tabled`). Rows are rounded up, so that a few recordings serve all batches; the rows beyond have no key to see, and nobody looks
at them. A recording is good for one policy and for keys and values where they are; when either changes it is made anew.

It does not know requests: options that follow what a sample has drawn are drawn behind the recording, from its logits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headway.engine.cache import BlockCache, Strand
from headway.engine.held import HeldOptions, Kind, kind_of
from headway.engine.paged import Decoding
from headway.engine.sampling import Drawn, Options, draw, drawing_device
from headway.engine.tabled import CompiledDecoding, CudaDecoding, decoding
from headway.engine.transfer import Steady, send
from headway.model import products
from headway.model.head import next_logits
from headway.model.precision import autocast
from headway.model.transformer import Decoder

_PAYS_AFTER = 3  # steps of about as many rows: to record one costs about two
_MOST_WIDER = 1.25  # a recording of so many times the rows is taken rather than another one made


class Step:
    """Operator by operator."""

    def __init__(self, model: Decoder, decoding: Decoding | CompiledDecoding | CudaDecoding):
        self._model, self.decoding = model, decoding

    def __call__(self, ids: Tensor, strands: Sequence[Strand], noise: np.ndarray, options: Options, version: int) -> Drawn:
        """Draw for each strand, whose last token is in ids [B] and for which there is room; noise float64 [B]."""
        device = self._model.device
        positions = send(self.decoding.begin(strands), device)
        return draw(self._logits(ids, positions), send(noise, drawing_device(device)), options)

    def _logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        with autocast(self._model):
            hidden = self._model.decode(ids, positions, self.decoding)
            return next_logits(hidden, self._model.output_weight)


class Recording(NamedTuple):
    """What a recorded step leaves, drawn tokens or logits, and the call that computes it anew."""

    outputs: Drawn | Tensor
    replay: Callable[[], None]


class Recorder:
    """Records what runs on CUDA. Recordings share their memory, until they are forgotten: they are replayed one after another."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def forget(self) -> None:
        """All recordings are let go. What they drew last may still be read, so the next ones have other memory."""
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Drawn | Tensor]) -> Recording:
        """What `run` computes, again and again, by `replay`; it has run before, so that everything is compiled."""
        torch.cuda.synchronize()  # recordings that are let go may still be at work
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = run()
        return Recording(outputs, graph.replay)


class RecordedStep(Step):
    """The same, recorded for a number of rows once it has come a few times."""

    decoding: CudaDecoding

    def __init__(self, model: Decoder, decoding: CudaDecoding, recorder: Recorder):
        super().__init__(model, decoding)
        self._recorder, device = recorder, model.device
        self._ids, self._positions = Steady(torch.int64, device), Steady(torch.int64, device)
        self._noise, self._options = Steady(torch.float64, device), HeldOptions(device)
        self._recordings: dict[tuple[int, Kind], Recording] = {}
        self._come: Counter[tuple[int, Kind]] = Counter()
        self._good_for: tuple[int, ...] = ()

    def __call__(self, ids: Tensor, strands: Sequence[Strand], noise: np.ndarray, options: Options, version: int) -> Drawn:
        """As that of `Step`."""
        count, kind = len(strands), kind_of(options, self._model.config.vocab_size, self._model.device)
        rows = self._rows(count, kind)
        if not rows:
            return super().__call__(ids, strands, noise, options, version)
        positions = self.decoding.begin(strands, rows)
        for steady, values in ((self._ids, ids), (self._positions, positions), (self._noise, noise)):
            steady.hold(values, rows)
        if kind:
            self._options.hold(options, rows)
        recording = self._recording(rows, kind, options, version)
        recording.replay()
        found = recording.outputs
        if isinstance(found, Tensor):
            return draw(found[:count], self._noise.tensor[:count], options)
        return Drawn(found.tokens[:count], found.logprobs[:count], None if found.entropies is None else found.entropies[:count])

    def _rows(self, count: int, kind: Kind) -> int:
        """The rows of the recording for so many samples; 0: too few steps would gain by one."""
        wider = [rows for rows, other in self._recordings if other == kind and count <= rows <= _MOST_WIDER * count]
        if wider:
            return min(wider)
        rows = products.rounded(count)
        self._come[rows, kind] += 1
        return rows if self._come[rows, kind] > _PAYS_AFTER and count <= products.MOST_ROWS else 0

    def _recording(self, rows: int, kind: Kind, options: Options, version: int) -> Recording:
        inputs = (self._ids, self._positions, self._noise)
        weight = products.laid_out(self._model.output_weight)
        moves = (*(one.moves for one in inputs), *self._options.moves)
        good_for = (version, weight.data_ptr(), *self.decoding.places, *moves)
        if good_for != self._good_for:
            self._recordings.clear()
            self._recorder.forget()
            self._good_for = good_for
        if (rows, kind) not in self._recordings:

            def run() -> Drawn | Tensor:
                logits = self._logits(self._ids.tensor[:rows], self._positions.tensor[:rows])
                return draw(logits, self._noise.tensor[:rows], self._options.at(options, rows)) if kind else logits

            run()  # stores the same keys and values that the replay will
            self._recordings[rows, kind] = self._recorder.record(run)
        return self._recordings[rows, kind]


def step_of(model: Decoder, cache: BlockCache) -> Step:
    """The fastest that there is for this model on its device."""
    found = decoding(cache, model.device)
    return RecordedStep(model, found, Recorder()) if isinstance(found, CudaDecoding) else Step(model, found)
