"""Which problems RL asks next, and which responses of a group it learns from. Numbers and records, no tensors.

    pool   seeded epochs over the problems; with history resampling, what was all correct in an epoch leaves the next ones
    group  dropped when it is too easy or all agree; rebalanced to as many wrong responses as correct ones

It does not sample and does not know the policy.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from headway.errors import StoreError
from headway.stage_config import RlConfig
from headway.train.advantages import length_variation, overlong_penalty, rebalance
from headway.types import Group, Outcome, Problem, content_id


class Pool:
    """The problems in seeded epochs.

    With `history` (SRPO, arXiv 2504.14286, section on history resampling) a problem whose responses were all correct in an
    epoch is left out of the following ones; mixed and all-wrong ones stay.
    """

    def __init__(self, problems: Sequence[Problem], seed: int, history: bool):
        if not problems:
            raise StoreError("rl: no training problem to sample from")
        self._problems = {problem.id: problem for problem in problems}
        self._seed, self._history = seed, history
        self._epoch = 0
        self._place = 0
        self._passed: list[str] = []  # whose turn came while they were being asked already
        self._alive = [problem.id for problem in problems]
        self._rates: dict[str, float] = {}
        self._order = self._shuffled()

    def _shuffled(self) -> list[str]:
        order = list(self._alive)
        random.Random(f"{self._seed}/rl/{self._epoch}").shuffle(order)
        return order

    def take(self, count: int, without: Collection[str] = ()) -> list[Problem]:
        """The next `count` problems, all different and none of `without`; fewer where the pool has no others.

        A problem that is passed over keeps its turn: it comes first the next time.
        """
        seen = set(without)
        taken: list[str] = []
        waiting, self._passed = self._passed, []
        while len(taken) < count:
            if waiting:
                candidate = waiting.pop(0)
            elif self._place < len(self._order):
                candidate = self._order[self._place]
                self._place += 1
            elif seen.issuperset(self._alive):
                break
            else:
                self._next_epoch()
                continue
            (self._passed if candidate in seen else taken).append(candidate)
            seen.add(candidate)
        self._passed += waiting
        return [self._problems[i] for i in taken]

    def _next_epoch(self) -> None:
        if self._history:
            self._alive = [i for i in self._alive if self._rates.get(i, 0.0) < 1.0] or self._alive
            self._rates = {}
        self._epoch += 1
        self._place = 0
        self._order = self._shuffled()

    def record(self, problem_id: str, pass_rate: float) -> None:
        """Remember how a problem went in this epoch."""
        if self._history:
            self._rates[problem_id] = pass_rate

    def state(self) -> dict[str, Any]:
        """Plain JSON: epoch, place, who was passed over, what is left and this epoch's pass rates."""
        full = len(self._alive) == len(self._problems)
        return {
            "epoch": self._epoch,
            "place": self._place,
            "passed": list(self._passed),
            "alive": None if full else self._alive,
            "rates": dict(self._rates),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self._epoch, self._rates = state["epoch"], dict(state["rates"])
        self._alive = list(self._problems) if state["alive"] is None else list(state["alive"])
        self._order = self._shuffled()
        self._place, self._passed = state["place"], list(state["passed"])


def rewards(group: Group, config: RlConfig) -> list[float]:
    """+1 for a CORRECT rollout, -1 otherwise, with DAPO's soft punishment of length where it is on."""
    values = [1.0 if good else -1.0 for good in group.is_correct]
    if not config.overlong_penalty:
        return values
    cache = max(1, round(config.overlong_cache * config.max_tokens))
    return [
        value + overlong_penalty(rollout.num_tokens, config.max_tokens, cache)
        for value, rollout in zip(values, group.rollouts, strict=True)
    ]


def choose(group: Group, config: RlConfig, seed: int) -> list[int]:
    """Which rollouts of a group are learned from; [] drops the group.

    UNVERIFIABLE rollouts never count. Above `drop_above` a group is too easy. One whose rewards agree teaches nothing, unless
    there is a KL to the reference or the baseline is the whole batch's; dynamic sampling wants groups that disagree in any case.
    """
    judged = [i for i, v in enumerate(group.verdicts) if v.outcome is not Outcome.UNVERIFIABLE]
    correct = [group.is_correct[i] for i in judged]
    if not judged or sum(correct) / len(judged) > config.drop_above:
        return []
    values = rewards(group, config)
    may_agree = (config.kl_coef or config.baseline == "batch") and not config.dynamic_sampling
    if not may_agree and len({values[i] for i in judged}) < 2:
        return []
    if not config.rebalance:
        return judged
    return [judged[i] for i in rebalance(correct, int(content_id(seed, group.problem.id), 16))]


def uniform_problems(lengths: Mapping[str, Sequence[int]], highest: float) -> list[str]:
    """The problems whose response lengths vary at most by `highest` (population std / mean), in the given order."""
    return [i for i, found in lengths.items() if length_variation(found) <= highest]
