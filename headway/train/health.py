"""Is the training all right? Alarms as a function of the metric rows so far, and the movement of the weights.

    usual(x)   = median of x over the last `window` rows            start(x) = mean of x over the first 5 rows
    grad_norm  > grad_spike usual          update_ratio_* > update_ratio             gap_max > gap
    grad_norm  > grad_spike start, as the median of 5 rows: it explodes
    entropy    < entropy_share start       repetitive, boxed_spam, truncated > their shares, for 3 rows on average
    mean_tokens_correct, mean_tokens_wrong beyond length_drift times start, or its inverse
    trained_rollouts = 0 for `idle_steps` rows                loss not a number        `alarm` in a row: the stage's own

The same rows give the same alarms, so a run that is resumed reads its rows again and needs no state. Nothing in here touches a
weight or a batch. The reasons of the thresholds: docs/health.md. It does not know rollouts, files or terminals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from headway.config import HealthConfig

_START = 5  # rows that the beginning is the mean of
_SOME = 3  # rows that a share is averaged over
RATIO_EVERY = 10  # steps between two measurements of how far the weights move
_SAMPLED = 65_536  # elements of a tensor that are looked at; of larger ones every k-th


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm. Example: ``Alarm(120, "grad_norm", 31.0, "the gradient norm is 31, usually 1.2: a spike", True)``.

    `metric` names the curve, `is_high` whether the value is too high or too low.
    """

    step: int
    metric: str
    value: float
    says: str
    is_high: bool = True


class Health:
    """The alarms of one stage: show it every row, in order. `gap` is the budget of the sampler-trainer gap in nats."""

    def __init__(self, config: HealthConfig, gap: float):
        self._config, self._gap = config, config.gap or gap
        self._start: dict[str, list[float]] = {}
        self._recent: dict[str, list[float]] = {}
        self._raised: dict[str, int] = {}  # metric -> step of its last alarm

    def see(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that this row raises; one that goes on is raised again after `window` steps at the earliest."""
        step = int(row["step"])
        values = {name: float(v) for name, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        found: list[Alarm] = []
        for alarm in self._alarms(step, row, values):
            if self._is_due(alarm):  # one a metric: a spike that is an explosion, too, is told once
                self._raised[alarm.metric] = step
                found.append(alarm)
        return found

    def _is_due(self, alarm: Alarm) -> bool:
        last = self._raised.get(alarm.metric)
        return last is None or alarm.step - last >= self._config.window

    def _alarms(self, step: int, row: Mapping[str, Any], values: Mapping[str, float]) -> Iterator[Alarm]:
        config = self._config
        if isinstance(row.get("alarm"), str):
            yield Alarm(step, "alarm", 0.0, row["alarm"])
        loss = row.get("loss", 0.0)
        if loss is None or not math.isfinite(loss):
            yield Alarm(step, "loss", math.nan, "the loss is not a number")
        norm, usual = values.get("grad_norm"), self._recent.get("grad_norm", [])
        if norm is not None and len(usual) >= _START and norm > config.grad_spike * median(usual) > 0:
            yield Alarm(step, "grad_norm", norm, f"the gradient norm is {norm:.3g}, usually {median(usual):.3g}: a spike")
        for name, value in values.items():
            if name.startswith("update_ratio_") and value > config.update_ratio:
                group = name.removeprefix("update_ratio_")
                says = f"one step moved the weights of {group} by {100 * value:.1f} % of their norm: the learning rate is high"
                yield Alarm(step, name, value, says)
        gap = values.get("gap_max", 0.0)
        if gap > self._gap:
            yield Alarm(step, "gap_max", gap, _gap_says(gap, self._gap, values))
        self._keep(values)
        yield from self._habits(step)
        yield from self._drifts(step)

    def _keep(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                start, recent = self._start.setdefault(name, []), self._recent.setdefault(name, [])
                if len(start) < _START:
                    start.append(value)
                recent.append(value)
                del recent[: -self._config.window]

    def _last(self, name: str, count: int) -> float | None:
        recent = self._recent.get(name, [])
        return fmean(recent[-count:]) if len(recent) >= count else None

    def _habits(self, step: int) -> Iterator[Alarm]:
        """Shares of the step's rollouts that are too large."""
        config = self._config
        limits = (
            ("repetitive", config.repetitive, "repeat themselves"),
            ("boxed_spam", config.boxed_spam, "box more than three answers"),
            ("truncated", config.truncated, "reach max_tokens without an end"),
        )
        for name, limit, words in limits:
            share = self._last(name, _SOME)
            if share is not None and share > limit:
                yield Alarm(step, name, share, f"{100 * share:.0f} % of the last {_SOME} steps' rollouts {words}")
        idle = self._recent.get("trained_rollouts", [])[-config.idle_steps :] if config.idle_steps else []
        if len(idle) == min(config.idle_steps, config.window) and idle and not any(idle):
            yield Alarm(step, "trained_rollouts", 0.0, f"nothing was learned for {len(idle)} steps: every group agrees", False)

    def _drifts(self, step: int) -> Iterator[Alarm]:
        """What left where it began: the gradient upwards, entropy downwards, lengths either way."""
        config = self._config
        began, norms = self._start.get("grad_norm", []), self._recent.get("grad_norm", [])[-_START:]
        if len(began) == _START and (norm := median(norms)) > self._config.grad_spike * median(began) > 0:
            says = f"the gradient norm grew from {median(began):.3g} to {norm:.3g}: it explodes, lower the learning rate"
            yield Alarm(step, "grad_norm", norm, says)
        name = "entropy" if "entropy" in self._recent else "surprise"
        for metric, words in (
            (name, "entropy"),
            ("mean_tokens_correct", "right rollouts"),
            ("mean_tokens_wrong", "wrong rollouts"),
        ):
            start, now = self._start.get(metric, []), self._last(metric, _START)
            if now is None or (len(self._recent[metric]) <= _START and len(start) < _START) or fmean(start) <= 0:
                continue
            began = fmean(start)
            if metric == name:
                if now < config.entropy_share * began:
                    yield Alarm(
                        step, metric, now, f"entropy fell from {began:.3g} to {now:.3g} nats: the policy collapses", False
                    )
            elif not 1 / config.length_drift <= now / began <= config.length_drift:
                moved = "grew" if now > began else "shrank"
                yield Alarm(step, metric, now, f"{words} {moved} from {began:.0f} to {now:.0f} tokens", now > began)


def _gap_says(gap: float, budget: float, values: Mapping[str, float]) -> str:
    """The gap, and where in the completion it is largest."""
    bins = {int(name.removeprefix("gap_at_")): value for name, value in values.items() if name.startswith("gap_at_")}
    worst = max(bins, key=lambda place: bins[place], default=None)
    where = "" if worst is None else f", most from token {worst} of the completion on"
    return f"sampler and trainer differ by up to {gap:.2g} nats (budget {budget:g}){where}"


class Movement:
    """How far a step moves the weights: |after - before| / |before| by group of parameters, on a fixed sample of each tensor.

    Made before the step; `ratios` after it. Groups are embedding (and output), attention, mlp, norms; others by their own name.
    """

    def __init__(self, model: nn.Module):
        self._before = {name: _sample(p).clone() for name, p in model.named_parameters() if p.requires_grad}

    def ratios(self, model: nn.Module) -> dict[str, float]:
        """`update_ratio_GROUP` of every group whose weights are not all zero."""
        sums: dict[str, list[Tensor]] = {}
        for name, parameter in model.named_parameters():
            if name in self._before:
                before = self._before[name]
                pair = torch.stack([(_sample(parameter) - before).square().sum(), before.square().sum()])
                sums.setdefault(group_of(name), []).append(pair * (parameter.numel() / before.numel()))
        totals = {group: torch.stack(found).sum(0).sqrt().tolist() for group, found in sums.items()}
        return {f"update_ratio_{group}": moved / size for group, (moved, size) in totals.items() if size > 0}


def _sample(parameter: Tensor) -> Tensor:
    """A fixed part of a tensor, as a flat float32 view or copy."""
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, math.ceil(flat.numel() / _SAMPLED))].float()


_GROUPS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("norms", lambda name: "norm" in name or "after_" in name),
    ("embedding", lambda name: name.startswith(("embedding.", "output."))),
    ("attention", lambda name: ".attention." in name),
    ("mlp", lambda name: ".gate_up." in name or ".down." in name),
)


def group_of(name: str) -> str:
    """The group of a parameter by its name in the decoder.

    >>> group_of("blocks.3.attention.qkv.weight"), group_of("blocks.3.attention_norm.weight"), group_of("blocks.0.down.weight")
    ('attention', 'norms', 'mlp')
    """
    return next((group for group, holds in _GROUPS if holds(name)), "others")
