"""Logits to tokens: keyed noise, a request's options, and the log-prob of what was drawn.

    u = uniform(key, position);   token = smallest v with  sum_{w <= v} p_w > u
    p = min-p(top-p(top-k(softmax(penalised logits / temperature))))

One uniform number a token decides it (inverse CDF), and it is a function of (key, position) alone, where the key is a
function of (seed, problem, index, ...): neither the batch, nor the order, nor a restart changes a sample. The inverse CDF has two
levels: sums of blocks of the vocabulary, then the tokens of one block. Truncated distributions are drawn in `truncation`. It does
not know what a cache is, or who asks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headway.engine.transfer import send
from headway.engine.truncation import Cut, draw_kept
from headway.errors import EngineError
from headway.types import Request

_ROOM = 64  # tokens to be drawn that the lists of seen ones have room for at first
_BELOW_ONE = 1 - 2.0**-53


def sample_key(seed: int, *coordinates: object) -> int:
    """The 64-bit noise key of one sample, from the run's seed and the sample's coordinates (problem, index, step ...)."""
    text = "\x1f".join(str(part) for part in (seed, *coordinates))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each (key, position): SplitMix64 of their mix. uint64 and int64 [B] -> float64 [B]."""
    with np.errstate(over="ignore"):
        x = keys + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def check_options(request: Request, where: str) -> None:
    """EngineError, in one line that begins with `where`, for an option out of range."""
    end, over = request.anneal or (1.0, 1)
    for name, value, is_fine, wanted in (
        ("temperature", request.temperature, 0 <= request.temperature < math.inf, "0 (greedy) or more"),
        ("top_p", request.top_p, 0 < request.top_p <= 1, "above 0 and at most 1"),
        ("top_k", request.top_k, request.top_k >= 0, "0 (all) or more"),
        ("min_p", request.min_p, 0 <= request.min_p <= 1, "from 0 to 1"),
        ("repetition_penalty", request.repetition_penalty, 0 < request.repetition_penalty < math.inf, "above 0"),
        ("anneal", request.anneal, 0 <= end < math.inf and over >= 1, "(a temperature, 1 token or more)"),
    ):
        if not is_fine:
            raise EngineError(f"{where}: {name} is {value}, it should be {wanted}")


def drawing_device(device: torch.device) -> torch.device:
    """Where the tokens of a model on `device` are drawn: there, but of MPS, which has no float64, on the CPU.

    The memory is one there, and the logits of a step are a small part of it.
    """
    return torch.device("cpu") if device.type == "mps" else device


class Drawn(NamedTuple):
    """Tokens int64 [B], their log-probs float32 [B], and entropies float32 [B] in nats where a row wants them.

    Both are of the distribution drawn from, renormalised. A greedy row's are those at temperature 1 without truncation.
    """

    tokens: Tensor
    logprobs: Tensor
    entropies: Tensor | None


@dataclass(slots=True)
class Options:
    """How each row of a batch is drawn, on the device; None for what no row uses, so that it costs nothing.

    Made once for a batch of sequences (`of`) and good for as long as the batch stays the same: each `draw` with it gives every
    row one token, and moves schedules and seen tokens on. `rows` of a part are indices int64, None: all rows.

    scale float32 [B, 1]: 1 / temperature, 1 for greedy rows; greedy bool [B]. Where a temperature follows a schedule,
    `anneal` holds start, end, tokens float32 [B] and the new tokens so far float32 [B], from which both are made at each draw.
    Repetition penalties: `penalty` holds the rows and their penalties float32 [P, 1], `seen` the ids of the tokens seen in them,
    int64 [P, room], of which the first `num_seen` columns count: lists padded with a token that is in them, since a token that
    stands there twice is penalised once. So a step costs the tokens seen, not the vocabulary.
    """

    scale: Tensor | None = None
    greedy: Tensor | None = None
    is_all_greedy: bool = False
    has_greedy: bool = False  # among schedules
    anneal: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    penalty: tuple[Tensor | None, Tensor] | None = None
    seen: Tensor | None = None
    num_seen: int = 0
    cut: Cut | None = None
    cut_rows: Tensor | None = None
    wants_entropies: bool = False

    @staticmethod
    def of(rows: Sequence[tuple[Request, Sequence[int]]], vocabulary: int, device: torch.device | str = "cpu") -> Options:
        """The options of a batch: each row's request, checked already, and the tokens that it has drawn so far."""
        requests = [request for request, _ in rows]
        found = Options(wants_entropies=any(request.wants_entropies for request in requests))
        temperatures = [request.temperature for request in requests]
        if any(request.anneal for request in requests):
            schedules = [(r.temperature, *(r.anneal or (r.temperature, 1)), len(drawn)) for r, drawn in rows]
            start, end, over, count = send(torch.tensor(schedules, dtype=torch.float32), device).unbind(1)
            found.anneal = (start, end, over, count.clone())
            found.has_greedy = any(0 in one[:2] for one in schedules)
        elif any(t != 1 for t in temperatures):
            is_greedy = [t == 0 for t in temperatures]
            found.is_all_greedy = all(is_greedy)
            if any(is_greedy):
                found.greedy = send(torch.tensor(is_greedy), device)
            if any(t not in (0, 1) for t in temperatures):
                found.scale = send(torch.tensor([[1 / t if t else 1.0] for t in temperatures], dtype=torch.float32), device)
        _add_penalty(found, rows, device)
        _add_cut(found, requests, vocabulary, device)
        return found


def _indices(places: list[int], total: int, device: torch.device | str) -> Tensor | None:
    """Row numbers as a tensor; None where they are all rows."""
    return None if len(places) == total else send(torch.tensor(places), device)


def _add_penalty(options: Options, rows: Sequence[tuple[Request, Sequence[int]]], device: torch.device | str) -> None:
    places = [i for i, (request, _) in enumerate(rows) if request.repetition_penalty != 1]
    if not places:
        return
    lists = [list({*rows[i][0].prompt_ids, *rows[i][1]}) for i in places]
    options.num_seen = max(map(len, lists))
    padded = [ids + ids[:1] * (options.num_seen + _ROOM - len(ids)) for ids in lists]
    options.seen = send(torch.tensor(padded), device)
    penalties = send(torch.tensor([[rows[i][0].repetition_penalty] for i in places], dtype=torch.float32), device)
    options.penalty = (_indices(places, len(rows), device), penalties)


def _add_cut(options: Options, requests: Sequence[Request], vocabulary: int, device: torch.device | str) -> None:
    places = [
        i
        for i, r in enumerate(requests)
        if (r.top_p < 1 or 0 < r.top_k < vocabulary or r.min_p > 0) and (r.temperature > 0 or r.anneal)
    ]
    if not places:
        return
    top_k = [[r.top_k or vocabulary] for r in (requests[i] for i in places)]
    top_p = [[requests[i].top_p] for i in places]
    min_p = [[requests[i].min_p] for i in places]
    real_k = [k for [k] in top_k if k < vocabulary]
    options.cut = Cut(
        send(torch.tensor(top_k), device) if real_k else None,
        send(torch.tensor(top_p, dtype=torch.float64), device) if any(p < 1 for [p] in top_p) else None,
        send(torch.tensor(min_p, dtype=torch.float32), device) if any(p > 0 for [p] in min_p) else None,
        max(real_k, default=0),
    )
    options.cut_rows = _indices(places, len(requests), device)


def draw(logits: Tensor, noise: Tensor, options: Options) -> Drawn:
    """Draw one token a row: logits float32 [B, V] as the model gives them, noise float64 [B] in [0, 1). See `Options`.

    Drawn where the noise and the options are: `drawing_device` says where that is to be.
    """
    logits = logits.to(noise.device)
    logits = _penalised(logits, options)
    scale, greedy = _temperatures(options)
    scaled = logits if scale is None else logits * scale
    probs = scaled.softmax(-1)
    whole = entropies = _entropies(scaled, probs) if options.wants_entropies else None
    if options.is_all_greedy:
        tokens = _likeliest(logits)
        chosen = probs.gather(-1, tokens[:, None]).squeeze(-1)
    elif options.cut is None:
        tokens, chosen = inverse_cdf(probs, noise)
    elif options.cut_rows is None:
        tokens, chosen, entropies = draw_kept(probs, noise, options.cut, options.wants_entropies)
    else:
        rows = options.cut_rows
        tokens, chosen = inverse_cdf(probs, noise)
        kept = draw_kept(probs[rows], noise[rows], options.cut, options.wants_entropies)
        tokens[rows], chosen[rows] = kept.tokens, kept.probs
        if whole is not None and kept.entropies is not None:
            entropies = whole.index_copy(0, rows, kept.entropies)
    if greedy is not None and not options.is_all_greedy:
        best = _likeliest(logits)
        tokens = torch.where(greedy, best, tokens)
        chosen = torch.where(greedy, probs.gather(-1, best[:, None]).squeeze(-1), chosen)
        entropies = None if whole is None or entropies is None else torch.where(greedy, whole, entropies)
    _move_on(options, tokens)
    return Drawn(tokens, chosen.log(), entropies)


def _penalised(logits: Tensor, options: Options) -> Tensor:
    """Positive logits of seen tokens divided by the penalty, negative ones multiplied (CTRL, arXiv 1909.05858, section 4.1)."""
    if options.penalty is None or options.seen is None:
        return logits
    rows, penalty = options.penalty
    ids = options.seen[:, : options.num_seen]
    part = logits.clone() if rows is None else logits[rows]
    values = part.gather(1, ids)
    part.scatter_(1, ids, torch.where(values < 0, values * penalty, values / penalty))
    return part if rows is None else logits.index_copy(0, rows, part)


def _temperatures(options: Options) -> tuple[Tensor | None, Tensor | None]:
    """scale [B, 1] and greedy [B] of this draw."""
    if options.anneal is None:
        return options.scale, options.greedy
    start, end, over, count = options.anneal
    temperature = start + (end - start) * (count / over).clamp_(max=1.0)
    if not options.has_greedy:
        return (1 / temperature)[:, None], None
    greedy = temperature == 0
    return (1 / torch.where(greedy, 1.0, temperature))[:, None], greedy


def _move_on(options: Options, tokens: Tensor) -> None:
    """What the next draw must know of this one."""
    if options.anneal is not None:
        options.anneal[3].add_(1)
    if options.penalty is not None and options.seen is not None:
        if options.num_seen == options.seen.shape[1]:
            options.seen = torch.cat([options.seen, options.seen[:, :1].expand(-1, _ROOM)], 1)
        rows = options.penalty[0]
        options.seen[:, options.num_seen] = tokens if rows is None else tokens[rows]
        options.num_seen += 1


def _block(vocabulary: int) -> int:
    return 64 if vocabulary <= 8192 else 256


@cache
def _counting(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device)


def _sums(values: Tensor) -> Tensor:
    """values [B, V] summed over blocks of tokens [B, blocks]; the last block may be shorter. A row's sums are its own alone."""
    block = _block(values.shape[-1])
    even = values.shape[-1] // block * block
    parts = [values[:, :even].unflatten(-1, (-1, block)).sum(-1)] if even else []
    if even < values.shape[-1]:
        parts.append(values[:, even:].sum(-1, keepdim=True))
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


def inverse_cdf(probs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The first token whose cumulative probability exceeds noise times the total, and its probability: int64 and float32 [B].

    Never one of probability zero. Sums within a block are float32, over blocks float64; the noise that is left over within the
    chosen block is stretched to that block's own float64 total, so that rounding moves a border by 1e-7 of a block and no more.
    """
    block, vocabulary = _block(probs.shape[-1]), probs.shape[-1]
    sums = _sums(probs)
    totals = sums.cumsum(-1, dtype=torch.float64)
    goal = noise[:, None] * totals[:, -1:]
    chosen = torch.searchsorted(totals, goal, right=True).clamp_(max=sums.shape[-1] - 1)  # the clamp is for NaN alone
    mass = sums.gather(1, chosen)
    share = (goal - totals.gather(1, chosen)).div_(mass).add_(1.0).clamp_(0.0, _BELOW_ONE)
    ids = chosen * block + _counting(min(block, vocabulary), probs.device)
    if vocabulary % block:
        inside = probs.gather(1, ids.clamp(max=vocabulary - 1)).masked_fill_(ids >= vocabulary, 0.0)
    else:
        inside = probs.gather(1, ids)
    within = inside.cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(within, share * within[:, -1:], right=True).clamp_(max=inside.shape[-1] - 1)
    return ids.gather(1, place).squeeze(-1), inside.gather(1, place).squeeze(-1)


def _likeliest(logits: Tensor) -> Tensor:
    """The first of the highest logits, int64 [B]: torch's argmax over a whole vocabulary is twenty times slower than amax."""
    block = _block(logits.shape[-1])
    if logits.shape[-1] % block:
        return logits.argmax(-1)
    parts = logits.unflatten(-1, (-1, block))
    best = parts.amax(-1).argmax(-1)
    inside = parts[torch.arange(len(logits), device=logits.device), best]
    return best * block + inside.argmax(-1)


def _entropies(scaled: Tensor, probs: Tensor) -> Tensor:
    """- sum p log p in nats, float32 [B], by way of the logits: - sum p (z - max z) - log max p."""
    apart = (scaled - scaled.amax(-1, keepdim=True)).clamp_(min=-1e4)  # never 0 times minus infinity
    return -_sums(apart.mul_(probs)).sum(-1) - probs.amax(-1).log()
