"""A teacher that is a checkpoint on this machine: the project's own sampler, chunk by chunk.

    open requests --problems with the same open indices together--> sampler --> judged rollouts --> book

The noise of a rollout is a function of (seed, problem, index), so what a kill cost is sampled again alike. It does not know what
was asked before (`book`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from headway.sample import Plan, Sampler, chunk_of
from headway.teacher.book import SAMPLER, Book, key_of
from headway.teacher.journal import Finished
from headway.teacher.sampling import Settings, Show
from headway.types import Group, Problem


class LocalTeacher:
    """A sampler at these settings."""

    def __init__(self, sampler: Sampler, settings: Settings):
        self._sampler, self.settings = sampler, settings

    def answer(self, requests: Sequence[tuple[Problem, int]], policy: str, book: Book, show: Show) -> str:
        """Sample every request; one whose prompt leaves no room for an answer is rejected."""
        own = self.settings
        plan = Plan(SAMPLER, 0, policy, own.temperature, own.top_p, own.max_tokens, **json.loads(own.extra))
        limit = self._sampler.engine.model.config.max_positions
        fitting: list[tuple[Problem, int]] = []
        for problem, index in requests:
            if len(self._sampler.prompt_ids(problem)) < limit:
                fitting.append((problem, index))
            else:
                book.add(Finished(key_of(problem.id, index), "rejected", "prompt longer than the model's positions"))

        def progress(done: int, _: int, rate: float) -> None:
            show({"tokens_per_s": rate}, done)

        for (first, count), problems in _runs(fitting).items():
            size = chunk_of(count)
            for start in range(0, len(problems), size):
                for group in self._sampler.sample(problems[start : start + size], count, plan, first, progress):
                    _keep(group, book)
                show({})
        return ""


def _runs(requests: Sequence[tuple[Problem, int]]) -> dict[tuple[int, int], list[Problem]]:
    """Problems by (first index, how many in a row from there); a problem with a gap stands in several."""
    open_: dict[str, list[int]] = {}
    for problem, index in requests:
        open_.setdefault(problem.id, []).append(index)
    by_id = {problem.id: problem for problem, _ in requests}
    found: dict[tuple[int, int], list[Problem]] = {}
    for key, indices in open_.items():
        start = 0
        for end in range(1, len(indices) + 1):
            if end == len(indices) or indices[end] != indices[end - 1] + 1:
                found.setdefault((indices[start], end - start), []).append(by_id[key])
                start = end
    return found


def _keep(group: Group, book: Book) -> None:
    for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
        key = key_of(rollout.problem_id, rollout.index)
        counts = (len(group.prompt_ids), rollout.num_tokens)
        book.add(Finished(key, "kept", "", rollout, verdict, *counts))
