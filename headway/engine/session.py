"""A generation that lives long: requests come and go, prompts that begin alike are computed once, the weights are packed.

    step --> admit (what is kept is looked through) --> fill --> decode --> what ended is kept

Packing lays the weights out as the products read them, which costs about ten steps and a copy of the weights: it is done once as
many steps were wide enough to have gained by it, and at once on CUDA, where every step would make that copy. When the weights
change, the copies and all that is kept are let go. It does not know who asks, nor how a step is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import numpy as np

from headway.engine.flight import Decode, InFlight, Limits, Source, Watch
from headway.engine.generation import Generation
from headway.engine.keeping import LEAST, Keeping, alike
from headway.model.kernel import FEW_ROWS
from headway.model.products import pack, unpack
from headway.model.transformer import Decoder

LEAST_PACKED = FEW_ROWS + 1  # samples at once; below, products read the weights as they are
_PAYS_AFTER = 20  # such steps


class Session(Generation):
    """`add` requests as they come, `step` under `torch.inference_mode`, `collect` what ended, `close` (or `with`) at the end.

    With `keeps`, what samples leave in the cache is kept as long as there is room, and prompts begin with it: of them only the
    new tokens are computed, whose log-probs differ in the last bits of float32. No sample depends on it otherwise.
    """

    def __init__(
        self,
        model: Decoder,
        stop: frozenset[int],
        limits: Limits,
        version: Callable[[bool], int],
        watch: Watch | None,
        decode: Decode | None,
        keeps: bool,
    ):
        super().__init__(model, stop, limits, self._checked, watch, decode)
        self._policy, self._at = version, version(False)
        self._keeping = Keeping(self._cache) if keeps else None
        self._wide = 0  # steps that packed weights would have made faster
        self.is_packed = False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the copies of the weights, and of what is kept."""
        if self.is_packed:
            unpack(self._model.matrices)
        self._wide, self.is_packed = 0, False
        if self._keeping is not None:
            self._keeping.clear()

    def step(self) -> bool:
        """As that of `Generation`."""
        before = self.counts.sequence_steps
        goes_on = super().step()
        rows = self.counts.sequence_steps - before
        self._wide += rows >= LEAST_PACKED
        if self._wide > _PAYS_AFTER and rows >= LEAST_PACKED and not self.is_packed:
            self._pack(rows)
        return goes_on

    def _pack(self, rows: int) -> None:
        pack(self._model.matrices, rows)
        self.is_packed = True

    def _checked(self, is_in_flight: bool) -> int:
        """The policy's version; where it is another one, what the old one left is let go."""
        version = self._policy(is_in_flight)
        if version != self._at:
            self._at = version
            self.close()
        if self._model.device.type == "cuda" and not self.is_packed:
            self._pack(self._limits.samples)
        return version

    def _has_free(self, blocks: int) -> bool:
        return super()._has_free(blocks) or (self._keeping is not None and self._keeping.free(blocks))

    def _source(self, ids: tuple[int, ...]) -> Source | None:
        if self._keeping is None or len(ids) <= LEAST:
            return None, 0
        others = [(s.asked.prompt_ids, s.strand) for s in self._active if s.strand is not None and s.strand.prefix is None]
        others += [(p.fill.ids, p.strand) for p in self._prompts.values() if p.hidden is not None]
        found = self._keeping.find(ids, others)
        wanted = np.array(ids[:-1], dtype=np.int64)
        coming = (alike(np.array(fill.ids, dtype=np.int64), wanted) for fill in self._fills if not fill.strand.start)
        return None if max(coming, default=0) >= max(2 * found[1], len(ids) // 2, LEAST) else found

    def _keep(self, sample: InFlight) -> None:
        """All of it; of several samples their prompt alone, when the last of them ends."""
        strand, prompt = sample.strand, sample.asked.prompt_ids
        if self._keeping is None or strand is None:
            return
        if strand.prefix is None:
            self._keeping.keep((*prompt, *sample.tokens)[: strand.length], strand)
        elif strand.prefix.readers == 1:
            self._keeping.keep(prompt, strand.prefix)
