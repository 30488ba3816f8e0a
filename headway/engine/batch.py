"""The samples that draw a token a step, as the device sees them: their latest tokens, their noise and options, one step of all.

    step:  latest tokens [B] --decode--> hidden [B, width] --logits--> draw(noise by (key, position)) --> Drawing, on its way

How a step is computed is `stepping`'s. A `Drawing` is read when the host comes to it; the next step takes its tokens on the
device. So the host may be a step behind, and what it does meanwhile (admitting, stopping, counting) costs the device nothing. It
does not know who waits, nor when one ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headway.engine.cache import BlockCache
from headway.engine.flight import InFlight
from headway.engine.sampling import Drawn, Options, draw, drawing_device, uniforms
from headway.engine.stepping import step_of
from headway.engine.transfer import Coming, send
from headway.model.head import next_logits
from headway.model.precision import autocast
from headway.model.transformer import Decoder


@dataclass(slots=True, eq=False)
class Drawing:
    """One token each for `samples`, drawn by the policy `version`: `tokens` [B] on the device, and all of it on its way to us."""

    samples: list[InFlight]
    version: int
    tokens: Tensor
    batch: int  # which batch it was, -1: none that decodes
    coming: Coming

    def read(self) -> list[InFlight]:
        """Write down what was drawn for those that have not ended meanwhile; these samples."""
        tokens, logprobs, *entropies = self.coming.read()
        read: list[InFlight] = []
        for row, sample in enumerate(self.samples):
            if sample.has_ended:
                continue
            read.append(sample)
            sample.unread -= 1
            sample.tokens.append(int(tokens[row]))
            sample.logprobs.append(logprobs[row])
            if entropies and sample.asked.wants_entropies:
                sample.entropies.append(entropies[0][row])
            if not sample.versions or sample.versions[-1] != self.version:
                sample.versions.append(self.version)
        return read


class Batch:
    """Draws for changing `samples` by slot. `unread` are the drawings that the host has not read, oldest first."""

    def __init__(self, model: Decoder, cache: BlockCache):
        self._model = model
        self._step = step_of(model, cache)
        self._options: Options | None = None  # of the samples, as long as they stay the same
        self._number = 0  # of the batch: another one as soon as a sample comes, goes or moves
        self._counted = -1  # the batch whose keys and positions are:
        self._keys, self._positions = _places(())
        self.samples: list[InFlight] = []
        self.unread: deque[Drawing] = deque()

    def changes(self) -> None:
        """To be told when a sample comes, goes or moves."""
        self._options = None
        self._number += 1

    @property
    def needs_dense(self) -> bool:
        """Whether a step reads the cache faster without gaps."""
        return self._step.decoding.needs_dense

    @property
    def needs_tokens(self) -> bool:
        """Whether the next step needs to know on the host what all samples have drawn: to make lists of seen tokens."""
        return self._options is None and any(s.asked.repetition_penalty != 1 or s.asked.anneal for s in self.samples)

    def step(self, version: int) -> None:
        """Draw a token for each sample, whose strands have room for the one before it."""
        strands = [s.strand for s in self.samples if s.strand is not None]
        if self._options is None:
            self._options = self._options_of(self.samples)
        if self._counted == self._number:
            self._positions += 1  # each sample has drawn one token since
        else:
            self._counted = self._number
            self._keys, self._positions = _places(self.samples)
        drawn = self._step(self._latest(), strands, uniforms(self._keys, self._positions), self._options, version)
        self._tell(drawn, list(self.samples), version, self._number)

    def begin(self, hidden: Tensor, samples: list[InFlight], version: int) -> None:
        """Draw the first token of each of these, from their prompts' last hidden states [B, width]."""
        with autocast(self._model):  # the products of training, of the output matrix, too
            logits = next_logits(hidden, self._model.output_weight)
        noise = send(uniforms(*_places(samples)), drawing_device(self._model.device))
        self._tell(draw(logits, noise, self._options_of(samples)), samples, version, -1)

    def _tell(self, drawn: Drawn, samples: list[InFlight], version: int, batch: int) -> None:
        """Queue what was drawn."""
        for sample in samples:
            sample.unread += 1
        parts = [drawn.tokens, drawn.logprobs] + ([drawn.entropies] if drawn.entropies is not None else [])
        self.unread.append(Drawing(samples, version, drawn.tokens, batch, Coming(parts)))

    def _latest(self) -> Tensor:
        """The last token of each sample, int64 [B]: where it is unread, as it lies on the device."""
        device = self._model.device
        if self.unread and self.unread[-1].batch == self._number:
            return self.unread[-1].tokens
        known = np.array([0 if s.unread else s.tokens[-1] for s in self.samples], dtype=np.int64)
        if not any(s.unread for s in self.samples):
            return send(known, device)
        places: dict[InFlight, int] = {}
        offset = len(known)
        for drawing in self.unread:  # a later place of a sample replaces an earlier one
            places |= {sample: offset + row for row, sample in enumerate(drawing.samples)}
            offset += len(drawing.samples)
        index = [places[s] if s.unread else row for row, s in enumerate(self.samples)]
        everywhere = torch.cat([send(known, device), *(drawing.tokens for drawing in self.unread)])
        return everywhere[send(np.array(index, dtype=np.int64), device)]

    def _options_of(self, samples: Sequence[InFlight]) -> Options:
        device = drawing_device(self._model.device)
        return Options.of([(s.asked, s.tokens) for s in samples], self._model.config.vocab_size, device)


def _places(samples: Sequence[InFlight]) -> tuple[np.ndarray, np.ndarray]:
    """What the noise of each sample's next token belongs to: its key, uint64 [B], and how many it has drawn, int64 [B]."""
    keys = np.array([s.key for s in samples], dtype=np.uint64)
    return keys, np.array([s.drawn for s in samples], dtype=np.int64)
