"""New problems of old ones, as MetaMath makes them: rewritten, checked against held-out ones, answered, and kept where it agrees.

    training problems --rewrite (replies) / mask--> candidates --fault, overlap, duplicates-->
        --m answers each (teacher, in OUT/work)--> majority CORRECT by the reference --> OUT/store with the correct rollouts
    kind "answers": more rollouts of the problems themselves, in OUT/work, too --> OUT/store

A candidate that fails never enters OUT/store. Killed anywhere, the same call goes on: rewrites and answers are in their logs, and
what OUT/store holds is not added again. It does not know how anything is shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from headway.config import EndpointConfig
from headway.curate.replies import Replies, Say, Spent, plus, spent_in
from headway.curate.rewriting import read_text, rephrase_messages, statement_messages
from headway.endpoint.client import Ask
from headway.errors import HeadwayError
from headway.problems.backward import Mask, derived, fault, fobar, masks, verification
from headway.problems.clean import decontaminate, deduplicate
from headway.store.binned import VERIFIER
from headway.store.store import Store
from headway.teacher.book import folder_name
from headway.teacher.journal import Journal
from headway.teacher.sampling import Sampled, Tell, sample_teacher
from headway.teacher.server import ServerTeacher, request_seed
from headway.types import Funnel, Outcome, Problem, Rollout, Split, Verdict
from headway.verify.judge import Verifier

_TEACHER = "work/teacher"  # the logs of answers; those of rewrites are in "rewrites"
_FIELDS = {"rephrase": "question", "self-verification": "statement"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be made: `per_problem` rewrites or masks of each problem and kind, `answers` tries at each new problem."""

    kinds: tuple[str, ...]
    per_problem: int = 1
    answers: int = 4
    rollouts: int = 4  # of the kind "answers"
    policy: str = ""
    seed: int = 0
    instruction: str = ""


@dataclass(slots=True)
class Augmented:
    """What a call ends with: a funnel a kind, tokens and cost of all calls, and why it ended early."""

    funnels: list[Funnel] = field(default_factory=list[Funnel])
    spent: Spent = field(default_factory=Spent)
    stopped: str = ""
    failure: BaseException | None = None


@dataclass(slots=True)
class _Candidate:
    """One wanted new problem: either a problem, or the reason why there is none."""

    kind: str
    origin: Problem
    problem: Problem | None = None
    why: str = ""


class Augmenter:
    """One call's work in `out`, whose lock the caller holds. `heldout` are problems that nothing may repeat."""

    def __init__(self, out: Path, config: EndpointConfig, wish: Wish, heldout: Sequence[Problem], say: Say, tell: Tell):
        self._out, self._config, self._wish, self._heldout, self._say, self._tell = out, config, wish, heldout, say, tell
        self._store, self._work = Store(out / "store"), Store(out / "work" / "store")
        self._policy = wish.policy or config.model
        self.found = Augmented()

    def run(self, problems: Sequence[Problem], verifier: Verifier) -> Augmented:
        """Make all kinds. Errors of the server, and Ctrl-C, are in `failure`: what came is kept."""
        origins, overlap = decontaminate(_trainable(problems), self._heldout)
        if overlap.considered != overlap.kept:
            self.found.funnels.append(overlap)
        others = [kind for kind in self._wish.kinds if kind != "answers"]
        if "answers" in self._wish.kinds and origins:
            self._answer(origins, verifier)
        if others:
            self._make(others, origins, verifier)
        self.found.spent = plus(self._answered(), self._rewritten())
        return self.found

    def _answer(self, origins: Sequence[Problem], verifier: Verifier) -> None:
        """More rollouts of the problems themselves, right and wrong ones: their references are known."""
        count = self._wish.rollouts
        sampled = self._sample(origins, count, verifier)
        asked = len(origins) * count
        lost = {f"not asked: {self.found.stopped}": asked}
        funnel = sampled.funnel if sampled else Funnel("answers", asked, 0, lost)
        self.found.funnels.append(replace(funnel, name="answers"))
        rollouts, verdicts = self._answers([origin.id for origin in origins], count)
        self._bring(origins, rollouts, verdicts)

    def _make(self, kinds: Sequence[str], origins: Sequence[Problem], verifier: Verifier) -> None:
        candidates = self._candidates(kinds, origins)
        self._clean(candidates, origins, verifier)
        open_ = [one.problem for one in candidates if one.problem is not None and not one.why]
        if open_:
            self._sample(open_, self._wish.answers, verifier)
        self._admit(candidates)
        for kind in kinds:
            bins = Counter(one.why for one in candidates if one.kind == kind)
            kept = bins.pop("", 0)
            self.found.funnels.append(Funnel(kind, kept + bins.total(), kept, dict(sorted(bins.items()))))

    # -- candidates ------------------------------------------------------------------------------------------------

    def _candidates(self, kinds: Sequence[str], origins: Sequence[Problem]) -> list[_Candidate]:
        wish, found = self._wish, list[_Candidate]()
        later: list[tuple[_Candidate, Ask, Mask | None]] = []
        for kind, origin in ((kind, origin) for kind in kinds for origin in origins):
            places: list[tuple[int, Mask | None]] = [(number, None) for number in range(wish.per_problem)]
            if kind != "rephrase":
                places = [(mask.start, mask) for mask in masks(origin, wish.seed)[: wish.per_problem]]
            if not places:
                found.append(_Candidate(kind, origin, why="rejected: no number to mask"))
            for number, mask in places:
                one = _Candidate(kind, origin)
                found.append(one)
                if kind == "fobar" and mask is not None:
                    one.problem = fobar(origin, mask)
                    continue
                key = f"{kind}/{origin.id}/{number}"
                messages = rephrase_messages(origin) if mask is None else statement_messages(origin, mask)
                body = {"seed": request_seed(wish.seed, key, 0)} if wish.seed >= 0 else {}
                later.append((one, Ask(key, messages, body), mask))
        if later:
            self._rewrite(later)
        return found

    def _rewrite(self, later: Sequence[tuple[_Candidate, Ask, Mask | None]]) -> None:
        config, wish = self._config, self._wish
        settings = {"model": config.model, "temperature": config.temperature, "top_p": config.top_p, "seed": wish.seed}
        folder = self._out / "rewrites" / folder_name(self._policy)
        replies = Replies(folder, self._policy, config, settings, self._say, self._answered())
        try:
            replies.ask([ask for _, ask, _ in later], lambda done, total, numbers: self._tell("rewrite", done, total, numbers))
        except (HeadwayError, KeyboardInterrupt) as error:
            self.found.failure, self.found.stopped = error, str(error) or "Ctrl-C"
        self.found.stopped = self.found.stopped or replies.stopped
        for one, ask, mask in later:
            reply = replies.rows.get(ask.key)
            if reply is None or reply.state != "answered":
                one.why = f"{reply.state}: {reply.reason}" if reply else f"not asked: {self.found.stopped}"
                continue
            text = read_text(reply.text, _FIELDS[one.kind])
            if text is None:
                one.why = "rejected: unreadable rewrite"
                continue
            if mask is None:
                one.problem = derived(one.origin, one.kind, text, one.origin.reference)
            else:
                one.problem = verification(one.origin, mask, text)
            wrong = fault(one.origin, one.problem, one.kind)
            one.why = f"rejected: {wrong}" if wrong else ""

    def _clean(self, candidates: Sequence[_Candidate], origins: Sequence[Problem], verifier: Verifier) -> None:
        """Give a reason to candidates that repeat a held-out question, an origin or an earlier candidate, or do not verify."""
        fresh = [one for one in candidates if one.problem is not None and not one.why]
        clean = {problem.id for problem in decontaminate([one.problem for one in fresh if one.problem], self._heldout)[0]}
        distinct = {id(problem) for problem in deduplicate([*origins, *(one.problem for one in fresh if one.problem)])[0]}
        for one in fresh:
            assert one.problem is not None
            if one.problem.id not in clean:
                one.why = "rejected: held-out overlap"
            elif id(one.problem) not in distinct:
                one.why = "rejected: duplicate"
            elif not verifier.verifies_itself(one.problem.reference):
                one.why = "rejected: reference does not verify"

    # -- answers ---------------------------------------------------------------------------------------------------

    def _sample(self, problems: Sequence[Problem], count: int, verifier: Verifier) -> Sampled | None:
        """Teacher rollouts in OUT/work under what the budget has left; None where nothing is left, or something failed before."""
        config = self._left() if self.found.failure is None else None
        if config is None:
            return None
        teacher = ServerTeacher(config, self._wish.seed, self._wish.instruction, "", self._say)
        sampled = sample_teacher(teacher, problems, count, self._policy, self._work, self._out / _TEACHER, verifier, self._tell)
        self.found.stopped = self.found.stopped or sampled.stopped
        self.found.failure = sampled.failure
        return sampled

    def _answers(self, ids: Sequence[str], count: int) -> tuple[list[Rollout], dict[str, Verdict]]:
        """The first `count` answers to each of these problems, and their verdicts by rollout."""
        found = self._work.rollouts(problem_ids=ids) if ids else []
        rollouts = [rollout for rollout in found if rollout.policy == self._policy and rollout.index < count]
        verdicts = self._work.verdicts(VERIFIER, rollout_ids=[rollout.id for rollout in rollouts]) if rollouts else []
        return rollouts, {verdict.rollout_id: verdict for verdict in reversed(verdicts)}

    def _admit(self, candidates: Sequence[_Candidate]) -> None:
        """Bring the new problems whose majority of answers is CORRECT into the store, with those answers."""
        ids = [one.problem.id for one in candidates if one.problem is not None and not one.why]
        rollouts, outcomes = self._answers(ids, self._wish.answers)
        by_problem: dict[str, list[bool]] = defaultdict(list)
        for rollout in rollouts:
            by_problem[rollout.problem_id].append(outcomes[rollout.id].outcome is Outcome.CORRECT)
        admitted: list[Problem] = []
        for one in candidates:
            if one.problem is None or one.why:
                continue
            right = by_problem[one.problem.id]
            if 2 * sum(right) > self._wish.answers:
                admitted.append(one.problem)
            elif 2 * (sum(right) + self._wish.answers - len(right)) > self._wish.answers:
                one.why = f"not asked: {self.found.stopped}" if self.found.stopped else "failed: answers missing"
            else:
                one.why = "rejected: answers disagree"
        if not admitted:
            return
        wanted = {problem.id for problem in admitted}
        self._bring(
            admitted, [r for r in rollouts if r.problem_id in wanted and outcomes[r.id].outcome is Outcome.CORRECT], outcomes
        )

    def _bring(self, problems: Sequence[Problem], rollouts: Sequence[Rollout], verdicts: Mapping[str, Verdict]) -> None:
        """Add what OUT/store does not hold yet; killed in between, the next call adds the rest."""
        self._store.add_problems(problems)
        ids = [rollout.id for rollout in rollouts]
        there = {rollout.id for rollout in self._store.rollouts(ids=ids)} if ids else set[str]()
        if new := [rollout for rollout in rollouts if rollout.id not in there]:
            self._store.add_rollouts(new)
        judged = {verdict.rollout_id for verdict in self._store.verdicts(VERIFIER, rollout_ids=ids)} if ids else set[str]()
        if missing := [verdicts[key] for key in ids if key not in judged]:
            self._store.add_verdicts(missing)

    # -- the budget ------------------------------------------------------------------------------------------------

    def _answered(self) -> Spent:
        """What the answers of all calls under this name have used."""
        found = Spent()
        for row in Journal(self._out / _TEACHER / folder_name(self._policy)).rows():
            found = plus(found, Spent(row.prompt_tokens, row.completion_tokens, row.cost))
        return found

    def _rewritten(self) -> Spent:
        return spent_in(self._out / "rewrites" / folder_name(self._policy))

    def _left(self) -> EndpointConfig | None:
        """The server's settings with the caps less what rewrites used: the teacher counts its own. None: nothing is left."""
        elsewhere, caps = self._rewritten(), dict[str, float]()
        if self._config.max_cost:
            caps["max_cost"] = self._config.max_cost - elsewhere.cost
        if self._config.max_tokens_total:
            caps["max_tokens_total"] = self._config.max_tokens_total - elsewhere.prompt_tokens - elsewhere.completion_tokens
        for name, left in caps.items():
            if left <= 0:
                self.found.stopped = self.found.stopped or f"{name} = {getattr(self._config, name):g} is reached"
                return None
        return self._config.model_copy(update=caps)


def _trainable(problems: Sequence[Problem]) -> list[Problem]:
    """Training problems that are no augmented ones themselves."""
    return [one for one in problems if one.split is Split.TRAIN and '"origin"' not in one.metadata]
