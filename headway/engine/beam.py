"""Beam search: the `width` likeliest beginnings are carried on together, and the best that ended are kept.

    score(tokens) = sum_t log p(token_t | before) / length ** length_penalty          log-probs at temperature 1, <= 0

Length counts new tokens with the stop token, as in `transformers`; a penalty above 0 favours long ones. In each step all
continuations of a prompt's live beams are ranked by their sum: of the first `width`, those that end (a stop token, or max_tokens)
are finished, and the first `width` others live on. The search ends when no live beam can beat the worst that is kept: a sum never
rises, so what descends from a beam of sum s and length n scores at most

    s / max_tokens ** length_penalty    (penalty > 0)        s / (n + 1) ** length_penalty    (penalty <= 0)

That is the search of `transformers` with early_stopping="never". Width 1 is greedy there and here, and ends with its first stop
token. This file does not know sampling or requests.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headway.engine.cache import BLOCK, BlockCache, Strand
from headway.engine.paged import Filling
from headway.engine.tabled import decoding
from headway.errors import EngineError
from headway.model.head import next_logits
from headway.model.precision import autocast, compute_dtype
from headway.model.transformer import Decoder

_MOST_PENALTY = 20  # beyond it a long completion's power is no float


@dataclass(frozen=True, slots=True)
class Beam:
    """One finished hypothesis: `token_ids` with the stop token if it has one, the sum of their log-probs in nats, and its score.

    Example: ``Beam(token_ids=(31, 8, 1), logprob=-0.82, score=-0.27)``
    """

    token_ids: tuple[int, ...]
    logprob: float
    score: float


@dataclass(slots=True)
class _Search:
    """One prompt's search: live beams (tokens, sum) and the best finished ones, best first."""

    live: list[tuple[tuple[int, ...], float]] = field(default_factory=lambda: [((), 0.0)])
    finished: list[Beam] = field(default_factory=list[Beam])


def beam_search(
    model: Decoder,
    prompt_ids: Sequence[int],
    width: int,
    max_tokens: int,
    stop_ids: Collection[int],
    length_penalty: float = 1.0,
    count: int = 1,
) -> list[Beam]:
    """The `count` best completions of the prompt that a beam of `width` finds, best first; fewer where there are fewer.

    Raises EngineError for an empty prompt, numbers out of range, or more tokens than the model has positions.
    """
    return beam_searches(model, [prompt_ids], width, max_tokens, stop_ids, length_penalty, count)[0]


@torch.inference_mode()
def beam_searches(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    width: int,
    max_tokens: int,
    stop_ids: Collection[int],
    length_penalty: float = 1.0,
    count: int = 1,
) -> list[list[Beam]]:
    """`beam_search` of several prompts at once: they share each step's products and nothing else."""
    _check(model, prompts, width, max_tokens, length_penalty, count)
    if not prompts:
        return []
    rows = _Rows(model, len(prompts), width, max(map(len, prompts)), max_tokens)
    searches = [_Search() for _ in prompts]
    logits = rows.prefill(prompts)
    at = list(range(len(prompts)))  # each live beam's row in the logits, search by search
    for length in range(1, max_tokens + 1):
        is_last = length == max_tokens
        likeliest = _likeliest(logits, width + len(stop_ids))
        tokens: list[int] = []
        parents: list[int] = []
        for search in searches:
            here, at = at[: len(search.live)], at[len(search.live) :]
            ranked = _ranked(search, here, likeliest)
            _finish(search, ranked[:width], stop_ids, is_last, length_penalty, count)
            goes_on = not is_last and not (width == 1 and search.finished)
            kept = [one for one in ranked if one[3] not in stop_ids][:width] if goes_on else []
            if kept and not _can_win(search, -kept[0][0], length, max_tokens, length_penalty, count):
                kept = []
            search.live = [((*search.live[beam][0], token), -loss) for loss, beam, _, token in kept]
            tokens += [token for _, _, _, token in kept]
            parents += [row for _, _, row, _ in kept]
        if not tokens:
            break
        logits = rows.step(parents, tokens)
        at = list(range(len(tokens)))
    return [search.finished for search in searches]


def _likeliest(logits: Tensor, most: int) -> tuple[list[list[float]], list[list[int]]]:
    """The log-probs and ids of each row's likeliest tokens: what ranks first among all is among these."""
    values, ids = logits.log_softmax(-1).topk(min(most, logits.shape[-1]))
    return values.tolist(), ids.tolist()


def _ranked(
    search: _Search, rows: Sequence[int], likeliest: tuple[list[list[float]], list[list[int]]]
) -> list[tuple[float, int, int, int]]:
    """All continuations, likeliest first: (minus their sum, live beam, row, token). Impossible ones are none."""
    values, ids = likeliest
    return sorted(
        (-(total + value), beam, row, token)
        for beam, (row, (_, total)) in enumerate(zip(rows, search.live, strict=True))
        for value, token in zip(values[row], ids[row], strict=True)
        if value > -math.inf
    )


def _finish(
    search: _Search,
    ranked: Sequence[tuple[float, int, int, int]],
    stop_ids: Collection[int],
    is_last: bool,
    length_penalty: float,
    count: int,
) -> None:
    """Keep the best of what was finished before and of what ends among the ranked."""
    for loss, beam, _, token in ranked:
        if is_last or token in stop_ids:
            ids = (*search.live[beam][0], token)
            search.finished.append(Beam(ids, -loss, -loss / len(ids) ** length_penalty))
    search.finished.sort(key=lambda one: -one.score)  # stable: of equals the earlier found one
    del search.finished[count:]


def _can_win(search: _Search, best: float, length: int, max_tokens: int, length_penalty: float, count: int) -> bool:
    """Whether a descendant of a beam of this length and sum `best`, the highest, may enter the `count` best."""
    if len(search.finished) < count:
        return True
    bound = best / (max_tokens if length_penalty > 0 else length + 1) ** length_penalty
    return bound > search.finished[-1].score


def _check(
    model: Decoder, prompts: Sequence[Sequence[int]], width: int, max_tokens: int, length_penalty: float, count: int
) -> None:
    limit, vocabulary = model.config.max_positions, model.config.vocab_size
    if width < 1 or max_tokens < 1:
        raise EngineError(f"beam search: width {width} and max_tokens {max_tokens} should be 1 or more")
    if not 1 <= count <= width:
        raise EngineError(f"beam search: count {count} should be from 1 to the width {width}")
    if not -_MOST_PENALTY <= length_penalty <= _MOST_PENALTY:
        raise EngineError(f"beam search: length_penalty {length_penalty} should be from -{_MOST_PENALTY} to {_MOST_PENALTY}")
    for number, prompt in enumerate(prompts):
        if not prompt or not all(0 <= token < vocabulary for token in prompt):
            raise EngineError(f"beam search: prompt {number} should hold token ids from 0 to {vocabulary - 1}, at least one")
        if len(prompt) + max_tokens > limit:
            said = f"beam search: prompt {number}: {len(prompt)} prompt tokens and max_tokens {max_tokens}"
            raise EngineError(f"{said} exceed the model's {limit} positions")


class _Rows:
    """The model over the live beams, a strand each; a prompt is computed once, and a beam's own tokens are copied as it parts."""

    def __init__(self, model: Decoder, prompts: int, width: int, longest: int, max_tokens: int):
        tokens = prompts * (longest + BLOCK) + 2 * prompts * width * (max_tokens + BLOCK)  # children stand beside their parents
        self._model = model
        self._cache = BlockCache(model.config, tokens, compute_dtype(model), model.device)
        self._decoding = decoding(self._cache, model.device)
        self._strands: list[Strand] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The logits [prompts, V] after each; prompt i has row i."""
        cache, device = self._cache, self._model.device
        whole = [cache.open(is_shared=True) for _ in prompts]
        for strand, prompt in zip(whole, prompts, strict=True):
            cache.extend(strand, len(prompt))
        filling = Filling(cache, [(strand, len(prompt)) for strand, prompt in zip(whole, prompts, strict=True)], device)
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        with autocast(self._model):
            hidden = self._model.hidden(ids, filling.positions, filling.attend)[filling.last]
        self._strands = [cache.open(strand, strand.length) for strand in whole]
        return next_logits(hidden, self._model.output_weight)

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Row i goes on from row `parents[i]` of before with `tokens[i]`: the logits [rows, V] after it."""
        cache, device = self._cache, self._model.device
        before, seen = self._strands, set[int]()
        self._strands = []
        for parent in parents:
            self._strands.append(cache.fork(before[parent]) if parent in seen else before[parent])
            seen.add(parent)
        for row, strand in enumerate(before):
            if row not in seen:
                cache.close(strand)
        for row, strand in enumerate(self._strands):
            strand.enter(row)
            has_room = cache.extend(strand, 1)
            assert has_room, "the cache was made for all beams"
        positions = torch.from_numpy(self._decoding.begin(self._strands)).to(device)
        with autocast(self._model):
            hidden = self._model.decode(torch.tensor(tokens, device=device), positions, self._decoding)
        return next_logits(hidden, self._model.output_weight)
