"""Rewards to advantages, groups to the ones worth training on. Plain numbers: lists of floats in, lists out.

    group relative   A_i = (r_i - mean r) / std r        population std; a group of equals gives zeros      GRPO
    leave one out    A_i = r_i - mean of the others                                                         RLOO
    rebalanced       keep every correct response and an equal number of wrong ones                          Phi-4-Mini-Reasoning

It does not know tensors, models or problems.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def group_advantages(rewards: Sequence[float], scale_by_std: bool = True, leave_one_out: bool = False) -> list[float]:
    """Group-relative advantages (arXiv 2402.03300, section 4.1); without the scale they are Dr. GRPO's (2503.20783).

    The standard deviation is that of the population: +1 and -1 in equal numbers give exactly +1 and -1. With `leave_one_out` the
    baseline of a response is the mean of the others (RLOO, 2402.14740, eq. 7): n / (n - 1) times as much. The rewards of a whole
    step make a batch baseline.

    >>> group_advantages([1.0, -1.0, -1.0, 1.0])
    [1.0, -1.0, -1.0, 1.0]
    >>> group_advantages([1.0, 1.0])
    [0.0, 0.0]
    >>> group_advantages([1.0, -1.0, -1.0], scale_by_std=False, leave_one_out=True)
    [2.0, -1.0, -1.0]
    """
    mean = math.fsum(rewards) / len(rewards)
    centred = [r - mean for r in rewards]
    std = math.sqrt(math.fsum(c * c for c in centred) / len(rewards))
    if std < 1e-12:
        return [0.0] * len(rewards)
    if leave_one_out:
        total = math.fsum(rewards)
        centred = [r - (total - r) / (len(rewards) - 1) for r in rewards]
    return [c / std for c in centred] if scale_by_std else centred


def rebalance(is_correct: Sequence[bool], seed: int) -> list[int]:
    """Indices kept by reward rebalancing: all correct responses and as many wrong ones, drawn at random by `seed`.

    In order. Nothing is kept where all are wrong; where correct ones outnumber the wrong ones, every one is kept.

    >>> rebalance([False, True, False, False], seed=0) in ([0, 1], [1, 2], [1, 3])
    True
    """
    right = [i for i, good in enumerate(is_correct) if good]
    wrong = [i for i, good in enumerate(is_correct) if not good]
    if len(wrong) > len(right):
        wrong = random.Random(seed).sample(wrong, len(right))
    return sorted(right + wrong)


def overlong_penalty(tokens: int, max_tokens: int, cache: int) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, eq. 13): 0 up to max - cache, then linearly down to -1 at max_tokens.

    >>> overlong_penalty(90, 100, 20)
    -0.5
    """
    start = max_tokens - cache
    if tokens <= start:
        return 0.0
    return -1.0 if tokens > max_tokens else (start - tokens) / cache


def length_variation(lengths: Sequence[int]) -> float:
    """Coefficient of variation of response lengths: population std / mean. 0 for equals.

    >>> length_variation([10, 30])
    0.5
    """
    mean = sum(lengths) / len(lengths)
    return math.sqrt(sum((n - mean) ** 2 for n in lengths) / len(lengths)) / mean if mean else 0.0


def annealed(start: float, end: float, share: float, step: int, steps: int) -> float:
    """Temperature at `step` of `steps`: linear from start to end over the first `share` of the steps, then fixed.

    >>> [round(annealed(1.0, 0.6, 0.5, s, 10), 2) for s in (0, 2, 5, 9)]
    [1.0, 0.84, 0.6, 0.6]
    """
    span = share * steps
    done = min(1.0, step / span) if span > 0 else 1.0
    return start + (end - start) * done
