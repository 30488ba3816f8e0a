"""A problem's reference and a completion's text to a verdict: extraction, the fast path, and the slow path behind it.

    text --find--> answer --same_answer--> CORRECT | WRONG          (in this process, microseconds)
                     |          | None --fits?--> workers --> CORRECT | WRONG | UNVERIFIABLE
                     +-- nothing --> NO_ANSWER

A broken reference, or our own failure, is UNVERIFIABLE and never the model's mistake; an answer that stalls the slow
path, or is too large to evaluate, is WRONG. The verdict depends on nothing but reference, text and settings.

It does not know where rollouts are stored or what a reward is.
"""

from __future__ import annotations

import atexit
import json
import os
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from types import TracebackType
from typing import NamedTuple

from headway.types import Outcome, Problem, Rollout, Verdict
from headway.verify import extract
from headway.verify.equal import Comparison, same_answer
from headway.verify.forms import form
from headway.verify.notation import plain
from headway.verify.shape import Items, Relation, Value, is_readable, read
from headway.verify.workers import Pool, Result

VERIFIER = "rules@1"

MAX_SLOW = 600  # characters that Math-Verify gets to see

_LETTER = re.compile(r"\$*\(?(?:\\text\{)?\(?([A-J])\)?\}?\)?\$*[.:]?")
_UNEVALUATED = re.compile(r"\\(?:int|iint|iiint|oint|sum|prod|lim|partial)(?![a-z])|\\frac *\{ *d[^{}]*\} *\{ *d")
_PROGRAM = re.compile(r"__|\.\./|\b(?:import|lambda|lambdify|eval|exec|parse_expr|sympify|open|print|system|getattr)\b")
_TOWER = re.compile(r"\^ *(?:\{[^{}]*|\(?[0-9]+\)? *)\^|\^ *\{[^{}]*\{")
_LARGE_POWER = re.compile(r"\^ *(?:\{ *[+-]? *[0-9]{4,}|[0-9]{4,}|\{ *[0-9]{3,} *\})")
_LARGE_NUMBER = re.compile(r"[0-9]{60,}")
_FACTORIAL = re.compile(r"(?:[0-9]{3,}|[)}!]) *!")
_BROKEN = frozenset({"reference_unread", "error", "memory", "too_deep", "timeout", "died"})


class Judgement(NamedTuple):
    """An outcome, the short code of its reason and the extracted answer ("" where there is none).

    Example: ``Judgement(Outcome.WRONG, "numbers_differ", "41")``
    """

    outcome: Outcome
    reason: str
    extracted: str


class Open(NamedTuple):
    """What the fast path leaves undecided: both sides in plain notation."""

    reference: str
    answer: str
    extracted: str
    reason: str


def grade(reference: str, completion: str) -> Verdict:
    r"""Is `completion` right? One call without set-up, safe in any thread or process.

    >>> grade("72", r"48 + 24 is \boxed{72}").outcome.value, grade("#### 1/2", "The answer is 0.5").extracted
    ('correct', '0.5')

    `reference` is a bare answer, or a text that states it as a completion would. Where the completion marks no answer, its last
    formula or number counts. What the fast path cannot decide goes to one worker process, which is started then and kept;
    HeadwayError where it does not start. For many completions at once, `Verifier` has more workers.
    """
    found = _fast(bare(reference), completion, last_number=True)
    if isinstance(found, Open):
        (found,) = _shared_verifier(os.getpid()).settle([found])
    return verdict_of("", VERIFIER, reference, found)


def verdict_of(rollout_id: str, verifier: str, reference: str, found: Judgement) -> Verdict:
    """A judgement as a verdict, with how both sides were read."""
    parsed = form(found.extracted), form(bare(reference))
    return Verdict(rollout_id, verifier, found.outcome, found.reason, found.extracted, *parsed)


@cache
def _shared_verifier(pid: int) -> Verifier:
    """The verifier behind `grade`: one a process, since a forked one must not talk to its parent's workers."""
    verifier = Verifier(seconds=0.3, last_number=True)
    atexit.register(verifier.close)
    return verifier


def bare(reference: str) -> str:
    """The answer that a reference is or states: a box, "#### 72" or "Answer: 72" is looked into."""
    if len(reference) < 8 or reference.isalnum():
        return reference  # no room for a marker
    return extract.final_answer(reference) or reference


def judge(reference: str, text: str, *, last_number: bool = False) -> Judgement:
    """The verdict of the fast path alone; what it cannot decide is UNVERIFIABLE. Starts no process, never raises.

    With `last_number`, a text that marks no answer is searched for its last formula or number.
    """
    found = _fast(reference, text, last_number)
    return found if isinstance(found, Judgement) else Judgement(Outcome.UNVERIFIABLE, found.reason, found.extracted)


def _fast(reference: str, text: str, last_number: bool) -> Judgement | Open:
    reference = bare(reference) if "\\boxed" in reference or "\\fbox" in reference else reference
    found = extract.find(text, last_number=last_number)
    if found is None or not found.answer:
        letter = _settled_letter(reference, text) if last_number else None
        return letter or Judgement(Outcome.NO_ANSWER, "no_answer", "")
    return compare_found(reference, text, found, last_number)


def compare_found(reference: str, text: str, found: extract.Found, last_number: bool) -> Judgement | Open:
    """The comparison of a bare reference with an answer found in `text`; `Verifier.settle` decides what it leaves open."""
    answer = found.answer
    comparison = same_answer(reference, answer)
    if comparison.same is not True and found.rung in ("math", "whole") and "=" in answer and "=" not in reference:
        answer, comparison = _right_side(reference, answer, comparison)
    if comparison.same is not True and found.rung != "box" and last_number:
        letter = _settled_letter(reference, text)
        if letter is not None:
            return letter
    if comparison.same is not None:
        return Judgement(Outcome.CORRECT if comparison.same else Outcome.WRONG, comparison.reason, answer)
    return _bounded(reference, answer, comparison.reason)


def _settled_letter(reference: str, text: str) -> Judgement | None:
    """For a multiple-choice reference: the option that the text settles on."""
    letter = _LETTER.fullmatch(reference.strip())
    if letter is None:
        return None
    chosen = extract.choice(extract.outside_thought(text))
    if chosen is None:
        return None
    same = chosen == letter.group(1)
    return Judgement(Outcome.CORRECT if same else Outcome.WRONG, "choice" if same else "choices_differ", chosen)


def _right_side(reference: str, answer: str, before: Comparison) -> tuple[str, Comparison]:
    """In running text a last formula `work = value` states the value, unless the work is a value that contradicts."""
    shape = read(answer)
    if isinstance(shape, Relation) and (shape.name or isinstance(shape.left, Value)):
        return answer, before
    right = answer.rsplit("=", 1)[1].strip()
    return (right, same_answer(reference, right)) if right else (answer, before)


def _bounded(reference: str, answer: str, reason: str) -> Judgement | Open:
    """Refuses, before anything is evaluated, what a computer algebra system would choke on."""
    extracted = answer
    reference, answer = plain(reference) if len(reference) < 4_000 else reference, plain(answer[:4_000])
    too_much = _refusal(reference)
    if too_much:
        return Judgement(Outcome.UNVERIFIABLE, f"reference_{too_much}", extracted)
    too_much = _refusal(answer)
    if too_much or len(extracted) > 4_000:
        return Judgement(Outcome.WRONG, too_much or "too_long", extracted)
    if _PROGRAM.search(answer) and not _PROGRAM.search(reference):
        return Judgement(Outcome.WRONG, "program", extracted)
    if _UNEVALUATED.search(answer) and not _UNEVALUATED.search(reference):
        return Judgement(Outcome.WRONG, "unevaluated", extracted)
    if isinstance(read(reference), Value) and isinstance(read(answer), Items | Relation):
        return Judgement(Outcome.WRONG, "kinds_differ", extracted)
    return Open(reference, answer, extracted, reason)


@lru_cache(maxsize=4_096)
def _refusal(text: str) -> str:
    """Why `text` is not given to the slow path, or ""."""
    if len(text) > MAX_SLOW:
        return "too_long"
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > 20 or text.count("\\pm") > 2 or text.count("\\begin") > 8 or text.count("\\cup") > 16:
        return "too_deep"
    flat = text.replace("**", "^")
    for pattern in (_LARGE_POWER, _LARGE_NUMBER, _FACTORIAL):
        if pattern.search(flat):
            return "too_large"
    if _TOWER.search(flat) and flat.count("^") > 1 and _TOWER.search(flat):
        return "too_large"
    return ""


class Verifier:
    """Judges many completions. A context manager: leaving it ends its worker processes.

    `workers` processes run Math-Verify on what the fast path cannot decide, for `seconds` and within `memory_mb` each;
    they start with the first such answer. `last_number` as in `judge`. Any thread may call; verdicts depend on neither
    order nor thread.
    """

    def __init__(self, workers: int = 1, seconds: float = 2.0, memory_mb: int = 1024, *, last_number: bool = False) -> None:
        self.last_number = last_number
        self.pool = Pool(workers, seconds, memory_mb)

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes; a later call starts new ones."""
        self.pool.close()

    def judge_all(self, items: Sequence[tuple[str, str]], metadata: Sequence[str] = ()) -> list[Judgement]:
        """One judgement for each (reference, text), in order. Raises HeadwayError when the slow path cannot start.

        `metadata`, where given, is the problems': one of a source that asks for it has its last number count.
        """
        asked = [self.last_number or _asks_last_number(one) for one in metadata] or [self.last_number] * len(items)
        return self.settle([_fast(reference, text, one) for (reference, text), one in zip(items, asked, strict=True)])

    def settle(self, found: Sequence[Judgement | Open]) -> list[Judgement]:
        """The judgements of the fast path, with what it left open decided by the workers; each different pair once."""
        tasks = dict.fromkeys((one.reference, one.answer) for one in found if isinstance(one, Open))
        results = dict(zip(tasks, self.pool.run(list(tasks)), strict=True)) if tasks else {}
        return [_close(one, results[one.reference, one.answer]) if isinstance(one, Open) else one for one in found]

    def judge(self, reference: str, text: str) -> Judgement:
        """One judgement."""
        return self.judge_all([(reference, text)])[0]

    def verdicts(self, pairs: Sequence[tuple[Problem, Rollout]]) -> list[Verdict]:
        """One verdict for each (problem, rollout), in order."""
        items = [(problem.reference, rollout.text) for problem, rollout in pairs]
        judgements = self.judge_all(items, [problem.metadata for problem, _ in pairs])
        return [
            verdict_of(rollout.id, VERIFIER, problem.reference, found)
            for (problem, rollout), found in zip(pairs, judgements, strict=True)
        ]

    def verifies_itself(self, reference: str) -> bool:
        r"""Whether a reference can be read, and is CORRECT against itself in a box. Else the problem may not enter.

        >>> Verifier().verifies_itself(r"\frac{1}{2}"), Verifier().verifies_itself("")
        (True, False)
        """
        if "\\boxed" in reference or "\\fbox" in reference:
            reference = extract.final_answer(reference) or ""
        if judge(reference, "\\boxed{" + reference + "}").outcome is not Outcome.CORRECT:
            return False
        shape, text = read(reference), plain(reference)
        if isinstance(shape, Value) and shape.exact is not None:
            return True
        if _refusal(text) == "too_large":
            return False
        return is_readable(shape) or (not _refusal(text) and self.pool.run([(text, text)])[0].word == "same")


def _asks_last_number(metadata: str) -> bool:
    """Whether a problem's source says `last_number`."""
    return '"last_number"' in metadata and json.loads(metadata).get("last_number") is True


def _close(open_: Open, result: Result) -> Judgement:
    """The judgement that a slow result means."""
    if result.word == "same":
        return Judgement(Outcome.CORRECT, "math_verify", open_.extracted)
    if not result.reference_read and result.word in _BROKEN:
        reason = result.word if "reference" in result.word else f"reference_{result.word}"
        return Judgement(Outcome.UNVERIFIABLE, reason, open_.extracted)
    reason = {"differ": "values_differ", "answer_unread": "unreadable"}.get(result.word, result.word)
    return Judgement(Outcome.WRONG, reason, open_.extracted)
