"""The second opinion on a table: which rollouts, batch by batch, into verdicts of the judge's own.

    verdicts of rules@1 --choose--> rollouts --refusal--> comparisons, each once --votes--> majority --> verdicts judge:MODEL@1
                                                  \\ batch by batch, with canaries: one called SAME ends the call

A batch's verdicts are one commit, made when all its votes are final and its canaries are right; what is in the table is not asked
again, and votes that came before a kill are in the log (`replies`). No completion's text is read: the answer is the one that
`rules@1` extracted. Verdicts of `rules@1` stay; queries take `rules@1+judge:MODEL@1` (see `store.combined`).
It does not know how anything is shown.
"""

# pyright: basic

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headway.curate.canary import canaries
from headway.curate.opinion import (
    LONGEST_QUESTION,
    LONGEST_REFERENCE,
    Question,
    code_of,
    read_vote,
    refusal,
    shown,
    vote_messages,
)
from headway.curate.replies import Replies, Say, Show
from headway.endpoint.client import Ask
from headway.errors import EndpointError, HeadwayError
from headway.store.binned import VERIFIER
from headway.store.store import Store
from headway.teacher.server import request_seed
from headway.types import Funnel, Outcome, Verdict, content_id

BATCH = 250  # comparisons between two commits
_Votes = dict[str, list[str | None]]  # a comparison's key -> a word, why it is missing, or None: no vote
_PLAIN = r"\s*\$?[-+]?[0-9][0-9,]*(\.[0-9]+)?\s*(%|\\%)?\$?\s*"
_INTEGER = r"[-+]?[0-9]{1,15}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rollouts get a second opinion; () of samplers, sources and reasons is all. `limit` 0 takes all.

    Example: ``Choice(outcomes=("wrong",), references="hard", sources=("math",), limit=2000)``

    `references` "hard" leaves out problems whose reference is a plain number: there the rules make no mistakes. `control`
    rollouts each that are CORRECT, and WRONG with two plain integers, are asked about first: there the judge's errors show.
    """

    outcomes: tuple[str, ...] = ("wrong",)
    references: str = "hard"
    samplers: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    limit: int = 0
    control: int = 50


@dataclass(frozen=True, slots=True)
class Panel:
    """How votes are taken: `votes` (odd) a comparison, each asked again up to `attempts` times while its reply is no vote."""

    verifier: str
    votes: int = 3
    attempts: int = 2
    seed: int = 0


@dataclass(slots=True)
class Judged:
    """What a call ends with. `bins` hold every rollout asked about once; `counts` compare, for the report."""

    verifier: str
    bins: Counter[str] = field(default_factory=Counter[str])
    opinions: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])  # group -> the judge's outcomes
    unanimous: int = 0
    decided: int = 0
    votes: Counter[str] = field(default_factory=Counter[str])
    added: int = 0
    canaries: int = 0
    stopped: str = ""
    failure: BaseException | None = None

    @property
    def funnel(self) -> Funnel:
        """Every rollout in one bin; kept are those with a verdict of the judge's."""
        dropped = {name: count for name, count in sorted(self.bins.items()) if name != "kept"}
        return Funnel(self.verifier, self.bins.total(), self.bins["kept"], dropped)


@dataclass(frozen=True, slots=True)
class _Row:
    rollout_id: str
    problem_id: str
    group: str  # "asked", "control correct" or "control wrong"
    outcome: str
    answer: str
    has_opinion: bool
    opinion: str


def judge(store: Store, replies: Replies, panel: Panel, choice: Choice, show: Show) -> Judged:
    """Ask about every chosen rollout that has no verdict of this judge yet. What it ends with for the user is in `failure`."""
    found = Judged(panel.verifier)
    rows = _chosen(store, panel.verifier, choice)
    questions = _questions(store, rows)
    open_: dict[str, tuple[Question, list[_Row]]] = {}  # each comparison once, with the rollouts that it is about
    for row, question in zip(rows, questions, strict=True):
        if isinstance(question, Question) and not row.has_opinion:
            open_.setdefault(question.key, (question, []))[1].append(row)
    batches = [list(open_.values())[start : start + BATCH] for start in range(0, len(open_), BATCH)]
    total = (len(open_) + len(batches) * len(canaries(""))) * panel.votes
    fresh: dict[str, Outcome | str] = {}  # a comparison's key -> its outcome, or why it has none
    done = 0
    try:
        for batch in batches:
            known = canaries(content_id(*(question.key for question, _ in batch)))
            asked = [*known, *(question for question, _ in batch)]
            votes = _votes(replies, panel, asked, lambda now, _, numbers: show(done + now, total, numbers))  # noqa: B023
            done += len(asked) * panel.votes
            fresh |= _settle(store, panel, known, batch, votes, found)
            if replies.stopped:
                break
    except (HeadwayError, KeyboardInterrupt) as error:
        found.failure = error
    found.stopped = str(found.failure or replies.stopped) or ("Ctrl-C" if found.failure else "")
    _count(found, rows, questions, fresh)
    return found


def _settle(
    store: Store,
    panel: Panel,
    known: Sequence[Question],
    batch: Sequence[tuple[Question, list[_Row]]],
    votes: _Votes,
    found: Judged,
) -> dict[str, Outcome | str]:
    """One batch's outcomes, as one commit of verdicts. EndpointError where a canary is called the same."""
    for one in known:
        outcome, why = decide(votes[one.key], panel.votes)
        if outcome is Outcome.CORRECT:
            raise EndpointError(
                f"{panel.verifier} calls {one.answer!r} the same as {one.reference!r} (a check in every batch): it can be "
                "steered or does not understand the task. Nothing of this batch was written; take another judge"
            )
        if outcome is None:  # a batch is written when all its checks are made
            return {question.key: why for question, _ in batch}
        found.canaries += 1
    outcomes: dict[str, Outcome | str] = {}
    verdicts: list[Verdict] = []
    for question, rows in batch:
        outcome, reason = decide(votes[question.key], panel.votes)
        outcomes[question.key] = reason if outcome is None else outcome
        if outcome is None:
            continue
        mine = votes[question.key]
        found.votes.update(vote or "invalid" for vote in mine)
        found.decided += 1
        found.unanimous += len(set(mine)) == 1
        verdicts += [Verdict(row.rollout_id, _name(panel.verifier, row.group), outcome, reason, row.answer) for row in rows]
    if verdicts:
        found.added += store.add_verdicts(verdicts)
    return outcomes


def decide(votes: Sequence[str | None], wanted: int) -> tuple[Outcome | None, str]:
    """The majority of all `wanted` votes, and its reason. A vote that failed is a text, one that was invalid None.

    >>> decide(["same", "different", "same"], 3)
    (<Outcome.CORRECT: 'correct'>, 'votes 2/3')

    No outcome where votes are missing that could still make a majority; UNVERIFIABLE where all are there and none has it.
    """
    counts = Counter(votes)
    for word, outcome in (("same", Outcome.CORRECT), ("different", Outcome.WRONG)):
        if counts[word] * 2 > wanted:
            return outcome, f"votes {counts[word]}/{wanted}"
    missing = sorted(vote for vote in votes if vote and vote not in ("same", "different", "unsure"))
    if missing:
        return None, missing[0]
    return Outcome.UNVERIFIABLE, f"no majority: {counts['same']} same, {counts['different']} different of {wanted}"


def _votes(replies: Replies, panel: Panel, questions: Sequence[Question], show: Show) -> _Votes:
    """All votes on every question; an invalid one is asked again. A text says why a vote is missing."""
    found: _Votes = {question.key: [None] * panel.votes for question in questions}
    open_ = [(question, number) for question in questions for number in range(panel.votes)]
    for attempt in range(panel.attempts + 1):
        asks = [_ask(panel, question, number, attempt) for question, number in open_]
        replies.ask(asks, show, len(questions) * panel.votes - len(open_))
        again: list[tuple[Question, int]] = []
        for question, number in open_:
            reply = replies.rows.get(_key(question, number, attempt))
            vote: str | None = None
            if reply is None:
                vote = f"not asked: {replies.stopped}"
            elif reply.state == "failed":
                vote = f"failed: {reply.reason}"
            elif reply.state == "answered":
                vote = read_vote(reply.text, code_of(question, number, attempt))
            found[question.key][number] = vote
            if vote is None:
                again.append((question, number))
        open_ = again
    return found


def _ask(panel: Panel, question: Question, number: int, attempt: int) -> Ask:
    key = _key(question, number, attempt)
    body = {"seed": request_seed(panel.seed, key, attempt)} if panel.seed >= 0 else {}
    return Ask(key, vote_messages(question, number, attempt), body)


def _key(question: Question, number: int, attempt: int) -> str:
    return f"{question.key}/{number}/{attempt}"


def _name(verifier: str, group: str) -> str:
    """Controls are judged under a name of their own: a judge's mistake on them must never count as a verdict."""
    return verifier if group == "asked" else f"control:{verifier}"


# The verdicts that count, with their problems; no text of a rollout is read.
_CHOSEN = """
WITH first AS (
    SELECT rollout_id, arg_min({{'outcome': outcome, 'reason': reason, 'extracted': extracted}}, place) AS said
    FROM verdicts WHERE verifier = $rules GROUP BY rollout_id
), mine AS (SELECT rollout_id, arg_min(outcome, place) AS opinion FROM verdicts WHERE verifier = $name GROUP BY rollout_id)
SELECT DISTINCT r.id, r.problem_id, $group, f.said.outcome, f.said.extracted, m.rollout_id IS NOT NULL, coalesce(m.opinion, '')
FROM (SELECT id, problem_id, sampler FROM rollouts) r JOIN first f ON f.rollout_id = r.id
JOIN problems p ON p.id = r.problem_id LEFT JOIN mine m ON m.rollout_id = r.id
WHERE NOT suffix(r.sampler, ':program') AND {where}
  AND (len($samplers::VARCHAR[]) = 0 OR list_contains($samplers::VARCHAR[], r.sampler))
  AND (len($sources::VARCHAR[]) = 0 OR list_contains($sources::VARCHAR[], p.source))
ORDER BY r.id {limit}
"""
_HARD = f"NOT regexp_full_match(p.reference, '{_PLAIN}')"
_GROUPS = {
    "control correct": f"f.said.outcome = 'correct' AND f.said.extracted <> p.reference AND {_HARD}",
    "control wrong": f"f.said.outcome = 'wrong' AND regexp_full_match(f.said.extracted, '{_INTEGER}') "
    f"AND regexp_full_match(p.reference, '{_INTEGER}')",
}


def _chosen(store: Store, verifier: str, choice: Choice) -> list[_Row]:
    """The rollouts of all groups, controls first, each group in the order of the rollouts' ids (which are hashes)."""
    asked = "list_contains($outcomes::VARCHAR[], f.said.outcome) AND f.said.extracted <> ''"
    asked += " AND (len($reasons::VARCHAR[]) = 0 OR list_contains($reasons::VARCHAR[], f.said.reason))"
    asked += f" AND {_HARD}" if choice.references == "hard" else ""
    limits = {"control correct": choice.control, "control wrong": choice.control, "asked": choice.limit}
    rows: list[_Row] = []
    with store.at(store.versions()).connect() as con:
        for group, limit in limits.items():
            if group != "asked" and not limit:
                continue
            where = _GROUPS.get(group, asked)
            given: dict[str, Any] = {"rules": VERIFIER, "name": _name(verifier, group), "group": group}
            given |= {"samplers": list(choice.samplers), "sources": list(choice.sources)}
            given |= {"outcomes": list(choice.outcomes), "reasons": list(choice.reasons)} if group == "asked" else {}
            query = _CHOSEN.format(where=where, limit=f"LIMIT {limit}" if limit else "")
            rows += [_Row(*row) for row in con.execute(query, given).fetchall()]
    return rows


def _questions(store: Store, rows: Sequence[_Row]) -> list[Question | str]:
    """What is asked about each rollout, or why nothing is."""
    problems = {problem.id: problem for problem in store.problems(ids=sorted({row.problem_id for row in rows}))} if rows else {}
    found: list[Question | str] = []
    for row in rows:
        problem = problems[row.problem_id]
        if len(problem.question) > LONGEST_QUESTION or len(problem.reference) > LONGEST_REFERENCE:
            found.append("problem too long")
        elif why := refusal(row.answer, problem.reference, problem.question):
            found.append(f"not an answer: {why}")
        else:
            found.append(Question(problem.id, problem.question, problem.reference, shown(row.answer)))
    return found


def _count(found: Judged, rows: Sequence[_Row], questions: Sequence[Question | str], fresh: dict[str, Outcome | str]) -> None:
    """Each rollout into its bin, and what the judge said of each group, earlier calls included."""
    for row, question in zip(rows, questions, strict=True):
        if isinstance(question, str):
            found.bins[f"rejected: {question}" if row.group == "asked" else "rejected: control refused"] += 1
            continue
        outcome = Outcome(row.opinion) if row.has_opinion else fresh.get(question.key, f"not asked: {found.stopped}")
        if isinstance(outcome, Outcome):
            found.bins["kept"] += 1
            group = row.group if row.group != "asked" else row.outcome
            found.opinions.setdefault(group, Counter())[outcome.value] += 1
        else:
            found.bins[outcome] += 1


def say_agreement(found: Judged, say: Say) -> None:
    """What the figures mean, a line each."""
    for group, counts in found.opinions.items():
        told = ", ".join(f"{counts[outcome.value]} {outcome.value}" for outcome in Outcome if counts[outcome.value])
        name = {"control correct": "control, rules@1 correct", "control wrong": "control, two different integers"}.get(
            group, f"asked about, rules@1 {group}"
        )
        say(f"{name}: of {counts.total()} the judge calls {told}")
    if found.decided:
        say(f"all votes agree on {found.unanimous} of {found.decided} comparisons of this call; votes: "
            + ", ".join(f"{count} {word}" for word, count in found.votes.most_common()))  # fmt: skip
