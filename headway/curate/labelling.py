"""Labels of problems, from a model's replies or from pass rates, into the table of labels.

    problems --label_messages--> model --read_label--> domain, level --> Label "model:MODEL@1"
    pass counts of a sampler --Beta posterior--> bucket of its mean  --> Label "pass-rate:SAMPLER@1"

A problem that its labeller has labelled is not asked about again; a pass rate that has moved gets another row, and the newest
counts. A reply that is no label is final after some tries and makes none. It does not know how anything is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from headway.curate.replies import Replies, Show
from headway.endpoint.client import Ask
from headway.errors import HeadwayError
from headway.problems.label import Opinion, label_messages, pass_rate, read_label
from headway.store.binned import VERIFIER
from headway.store.labels import pass_counts
from headway.store.store import Store
from headway.teacher.server import request_seed
from headway.types import Funnel, Label, Problem

BATCH = 1000  # problems between two commits
LEVELS = ("one step", "a few steps", "high school", "competition", "olympiad")  # the words of levels 1 to 5
BUCKETS = ((0.2, "very hard"), (0.4, "hard"), (0.6, "medium"), (0.8, "easy"), (1.0, "very easy"))  # mean of the posterior below


@dataclass(slots=True)
class Labelled:
    """What a call ends with: each problem in one bin, and the labels by (domain, difficulty)."""

    labeller: str
    bins: Counter[str] = field(default_factory=Counter[str])
    labels: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    added: int = 0
    stopped: str = ""
    failure: BaseException | None = None

    @property
    def funnel(self) -> Funnel:
        """Every problem in one bin."""
        dropped = {name: count for name, count in sorted(self.bins.items()) if name != "kept"}
        return Funnel(self.labeller, self.bins.total(), self.bins["kept"], dropped)


def label_by_model(
    store: Store, replies: Replies, labeller: str, problems: Sequence[Problem], attempts: int, seed: int, show: Show
) -> Labelled:
    """Ask for the label of every problem that this labeller has not labelled. What the call ends with is in `failure`."""
    found = Labelled(labeller)
    known = {label.problem_id: label for label in store.labels(labeller)}
    open_ = [problem for problem in problems if problem.id not in known]
    why: dict[str, str] = {}
    try:
        for start in range(0, len(open_), BATCH):
            part = open_[start : start + BATCH]
            part_show = partial(_later, show, start, len(open_))
            fresh = _ask_all(replies, labeller, part, attempts, seed, why, part_show)
            if fresh:
                found.added += store.add_labels(fresh)
            known |= {label.problem_id: label for label in fresh}
            if replies.stopped:
                break
    except (HeadwayError, KeyboardInterrupt) as error:
        found.failure = error
    found.stopped = str(found.failure or replies.stopped) or ("Ctrl-C" if found.failure else "")
    for problem in problems:
        label = known.get(problem.id)
        if label is None:
            found.bins[why.get(problem.id, f"not asked: {found.stopped}")] += 1
        else:
            found.bins["kept"] += 1
            found.labels[label.domain, label.difficulty] += 1
    return found


def _later(show: Show, before: int, total: int, done: int, _: int, numbers: dict[str, Any]) -> None:
    """Progress of one batch as that of all."""
    show(before + done, total, numbers)


def _ask_all(
    replies: Replies, labeller: str, problems: Sequence[Problem], attempts: int, seed: int, why: dict[str, str], show: Show
) -> list[Label]:
    """The labels of these problems; `why` gets what became of those without one."""
    labels: list[Label] = []
    open_ = list(problems)
    for attempt in range(attempts + 1):
        asks = [
            Ask(key, label_messages(problem), {"seed": request_seed(seed, key, 0)} if seed >= 0 else {})
            for problem in open_
            for key in [f"{problem.id}/{attempt}"]
        ]
        replies.ask(asks, show, len(problems) - len(open_))
        again: list[Problem] = []
        for problem, ask in zip(open_, asks, strict=True):
            reply = replies.rows.get(ask.key)
            if reply is None:
                why[problem.id] = f"not asked: {replies.stopped}"
            elif reply.state == "failed":
                why[problem.id] = f"failed: {reply.reason}"
            elif reply.state == "answered" and (opinion := read_label(reply.text)):
                labels.append(_label(problem, labeller, opinion))
            else:
                why[problem.id] = f"rejected: {reply.reason or 'no label'}"
                again.append(problem)
        open_ = again
    return labels


def _label(problem: Problem, labeller: str, opinion: Opinion) -> Label:
    return Label(problem.id, labeller, opinion.domain, LEVELS[opinion.level - 1], float(opinion.level))


def label_by_pass_rate(store: Store, sampler: str, verifier: str = VERIFIER) -> Labelled:
    """Label every problem that has a judged rollout of the sampler with the bucket of its pass rate's posterior mean."""
    labeller = f"pass-rate:{sampler}@1"
    found = Labelled(labeller)
    known = {label.problem_id: label for label in store.labels(labeller)}
    fresh: list[Label] = []
    for row in pass_counts(store, [sampler], verifier).to_pylist():
        mean = pass_rate(row["correct"], row["n"]).mean
        label = Label(row["problem_id"], labeller, "", bucket(mean), round(mean, 6))
        found.labels["", label.difficulty] += 1
        if known.get(label.problem_id) != label:
            fresh.append(label)
    if fresh:
        found.added = store.add_labels(fresh, f"labels/{labeller}/{store.versions().get('labels', -1)}")
    found.bins["kept"] = found.labels.total()
    without = store.sql("SELECT count(*) AS n FROM problems").column(0)[0].as_py() - found.bins["kept"]
    if without:
        found.bins[f"rejected: no judged rollout of {sampler}"] = without
    return found


def bucket(mean: float) -> str:
    """The word for a pass rate.

    >>> bucket(0.1), bucket(0.5), bucket(0.9)
    ('very hard', 'medium', 'very easy')
    """
    return next((word for below, word in BUCKETS if mean < below), BUCKETS[-1][1])
