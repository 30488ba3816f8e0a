"""A problem's reference and a completion's text to a verdict (first version: the fast path alone)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from headway.types import Outcome, Problem, Rollout, Verdict
from headway.verify.equal import same_answer
from headway.verify.extract import find

VERIFIER = "rules@1"


@dataclass(frozen=True, slots=True)
class Judgement:
    """An outcome, the short code of its reason and the extracted answer ("" where there is none)."""

    outcome: Outcome
    reason: str
    answer: str


def judge(reference: str, text: str, *, last_number: bool = False) -> Judgement:
    """The verdict of the fast path: what it cannot decide is UNVERIFIABLE with reason "undecided"."""
    found = find(text, last_number=last_number)
    if found is None:
        return Judgement(Outcome.NO_ANSWER, "no_answer", "")
    comparison = same_answer(reference, found.answer)
    if comparison.same is None:
        return Judgement(Outcome.UNVERIFIABLE, comparison.reason, found.answer)
    return Judgement(Outcome.CORRECT if comparison.same else Outcome.WRONG, comparison.reason, found.answer)


class Verifier:
    """Judges many completions; a context manager."""

    def __init__(
        self, workers: int = 1, seconds: float = 2.0, memory_mb: int = 1024, last_number: bool = False
    ) -> None:
        self.last_number = last_number

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes."""

    def judge_all(self, items: Sequence[tuple[str, str]]) -> list[Judgement]:
        """One judgement for each (reference, text), in order."""
        return [judge(reference, text, last_number=self.last_number) for reference, text in items]

    def verdicts(self, pairs: Sequence[tuple[Problem, Rollout]]) -> list[Verdict]:
        """One verdict for each (problem, rollout), in order."""
        judgements = self.judge_all([(problem.reference, rollout.text) for problem, rollout in pairs])
        return [
            Verdict(rollout.id, VERIFIER, j.outcome, j.reason, j.answer)
            for (_, rollout), j in zip(pairs, judgements, strict=True)
        ]

    def verifies_itself(self, reference: str) -> bool:
        r"""Whether the reference, wrapped in `\boxed{}`, is judged CORRECT against itself."""
        return self.judge_all([(reference, "\\boxed{" + reference + "}")])[0].outcome is Outcome.CORRECT
