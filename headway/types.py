"""The nouns that flow through Headway: frozen records, each with a worked example.

    Problem --sample--> Rollout --judge--> Verdict         (three tables: problems, rollouts, verdicts; Label beside Problem)
    queries: Rollouts and Verdicts --> Example | Pair | Problem, each with a Funnel
    engine:  Request --> Completion                        (token ids only)

This file does not know how anything is stored, sampled, judged or trained. It imports nothing of Headway.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


def content_id(*parts: object) -> str:
    """The id of a thing made of `parts`: 16 hex digits of BLAKE2b over their text, in order.

    >>> content_id("gsm8k", "2+2?", "4") == content_id("gsm8k", "2+2?", "4")
    True
    >>> content_id("a", "bc") == content_id("ab", "c")
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()


class Split(StrEnum):
    """Which work a problem may be used for. It lives on the problem, so no query can forget it."""

    TRAIN = "train"  # any training stage
    VALIDATION = "validation"  # the loss that tells when to stop; never trained on
    HELDOUT = "heldout"  # evaluation only


class StopReason(StrEnum):
    """Why a rollout ended."""

    STOP = "stop"  # the model emitted a stop token (it is the last of `token_ids`)
    LENGTH = "length"  # max_tokens reached: truncated, not an answer with an end
    IMPORTED = "imported"  # written by a teacher or a data set; it is complete as it stands


class Outcome(StrEnum):
    """What a verifier found. Our own failure is never the model's mistake: that is UNVERIFIABLE."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    UNVERIFIABLE = "unverifiable"


@dataclass(frozen=True, slots=True)
class Problem:
    r"""One question with a checkable answer.

    Example (GSM8K)::

        Problem(id="9f…", source="gsm8k", family="gsm8k", question="Natalia sold clips to 48 …",
                reference="72", split=Split.TRAIN, difficulty=0.0, solution="Natalia sold 48/2 = <<48/2=24>>24 …")

    `id` is `content_id(question, reference)`: the same question from two files is one problem.
    `difficulty` is the source's own scale (MATH's level, a generated family's size of numbers); it is only compared
    within a family. `solution` is a worked solution that the source carries, or "". `metadata` is a JSON object as
    text, what the source knows beside it (a generated family's expression), or "{}".
    """

    id: str
    source: str
    family: str
    question: str
    reference: str
    split: Split
    difficulty: float = 0.0
    solution: str = ""
    metadata: str = "{}"

    @staticmethod
    def make(source: str, family: str, question: str, reference: str, split: Split, **more: Any) -> Problem:
        """A problem with its content id."""
        return Problem(content_id(question, reference), source, family, question, reference, split, **more)


@dataclass(frozen=True, slots=True)
class Rollout:
    r"""One sampled solution of one problem: immutable once written.

    Example (the third sample that the policy of RL step 12 drew for a problem)::

        Rollout(id="c1…", problem_id="9f…", sampler="rl", step=12, index=2, policy="tiny/rl@12",
                text="7 + 5 = 12 … \\boxed{12}", stop_reason=StopReason.STOP, num_tokens=4,
                token_ids=(31, 8, 77, 1), logprobs=(-0.1, -0.7, -0.02, -0.001), temperature=0.9, top_p=1.0)

    `sampler` says what asked for it: "teacher", "import", "rl", "dpo" (the policy's own pairs), "eval:STAGE" or
    "eval:STAGE:program". `step` is the optimizer step of the policy (0 outside RL), `index` the place in its group.
    `token_ids` holds the completion with its stop token; `logprobs[i]` is log p(token_ids[i] | before) in nats, of the
    distribution sampled from (at `temperature`, cut to `top_k`, `top_p` and `min_p`). Both are () where we did not sample, and
    `num_tokens` is then 0.
    `text` leaves the stop token out. The prompt is not stored: it is a function of the problem.
    """

    id: str
    problem_id: str
    sampler: str
    step: int
    index: int
    policy: str
    text: str
    stop_reason: StopReason
    num_tokens: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0

    @staticmethod
    def make(problem_id: str, sampler: str, step: int, index: int, policy: str, text: str, **more: Any) -> Rollout:
        """A rollout with its id: the coordinates of where it came from, and its text."""
        key = content_id(problem_id, sampler, step, index, policy, text)
        return Rollout(key, problem_id, sampler, step, index, policy, text, **more)


@dataclass(frozen=True, slots=True)
class Verdict:
    r"""What one verifier says of one rollout. A second table: a better verifier re-scores without sampling.

    Example::

        Verdict(rollout_id="c1…", verifier="rules@1", outcome=Outcome.WRONG, reason="numbers_differ",
                extracted="\frac{22}{2}", parsed="11", parsed_reference="12")

    `reason` is a short code; `extracted` the final answer that was extracted, as text, "" where there is none. `parsed` and
    `parsed_reference` say how that and the reference were read (`verify.forms`). `rollout_id` is "" where the text judged is no
    stored rollout.
    """

    rollout_id: str
    verifier: str
    outcome: Outcome
    reason: str = ""
    extracted: str = ""
    parsed: str = ""
    parsed_reference: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """What one labeller says of one problem: a domain, a difficulty, or both. It lies beside the problem, which stays.

    Example: ``Label("9f…", "model:qwen3-32b@1", domain="geometry", difficulty="high school", value=3.0)``

    `difficulty` is a word of the labeller's own scale and `value` its number, compared only among labels of one labeller;
    `domain` is "" where the labeller gives none. Of several of one (problem, labeller) the newest counts.
    """

    problem_id: str
    labeller: str
    domain: str = ""
    difficulty: str = ""
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Funnel:
    """How many rows a selection kept and how many it dropped, for which reason. Every row is in exactly one bin.

    Example: ``Funnel("sft", considered=100, kept=20, dropped={"wrong": 30, "over k a problem": 50})``
    """

    name: str
    considered: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        assert self.considered == self.kept + sum(self.dropped.values()), f"funnel {self.name} does not add up: {self}"

    def __str__(self) -> str:
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items() if count)
        return f"{self.name}: kept {self.kept} of {self.considered}" + (f"; dropped {lost}" if lost else "")


@dataclass(frozen=True, slots=True)
class Example:
    """One (problem, completion) to learn from by its likelihood: what mid-training and SFT select.

    Example: ``Example(problem=…, rollout_id="c1…", completion="7 + 5 = 12 …")``
    """

    problem: Problem
    rollout_id: str
    completion: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A correct and an incorrect rollout of the same problem: what rollout DPO selects.

    Example: ``Pair(problem=…, chosen="… \\boxed{12}", rejected="… \\boxed{11}", chosen_id="c1…", rejected_id="d4…")``

    `chosen_by` and `rejected_by` are the policies that wrote them (`Rollout.policy`): where they differ, the pair teaches a
    style, too.
    """

    problem: Problem
    chosen: str
    rejected: str
    chosen_id: str
    rejected_id: str
    chosen_by: str = ""
    rejected_by: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be completed `n` times by the engine.

    Example: ``Request(prompt_ids=(5, 9, 2), keys=(k0, k1), max_tokens=64, temperature=1.0)`` asks for two samples.

    `keys` holds one 64-bit noise key a sample, made by `engine.sampling.sample_key(seed, problem_id, index)`;
    n = len(keys). Temperature 0 is greedy. The order of the options is that of `transformers`: repetition penalty on the logits,
    temperature, then top-k, top-p and min-p each on the distribution that the one before left (vLLM: min-p before top-k).
    """

    prompt_ids: tuple[int, ...]
    keys: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0  # the smallest set of likeliest tokens with at least this mass
    top_k: int = 0  # the k likeliest tokens; 0: all
    min_p: float = 0.0  # tokens at least this likely beside the likeliest one
    repetition_penalty: float = 1.0  # of tokens in the prompt or sampled before (CTRL, arXiv 1909.05858, section 4.1)
    anneal: tuple[float, int] | None = None  # (temperature at the end, new tokens until then), linear from `temperature`
    stop_ids: tuple[int, ...] = ()  # that end this request's samples, beside the model's own
    stop_strings: tuple[str, ...] = ()
    wants_entropies: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether its tokens are drawn from the model's own distribution at a temperature: what RL's ratios need."""
        return self.top_p == 1 and self.top_k == 0 and self.min_p == 0 and self.repetition_penalty == 1


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample of the engine. `token_ids` ends in the stop token when `stop_reason` is STOP and `stop_string` is empty.

    Example: ``Completion(token_ids=(31, 8, 1), logprobs=(-0.1, -0.7, -0.02), stop_reason=StopReason.STOP)``

    `entropies` (nats, of the distributions drawn from) only where asked for. `versions` are those of the policy that drew it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: StopReason
    entropies: tuple[float, ...] = ()
    stop_string: str = ""  # the one that ended it; the last token completes it
    versions: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Group:
    """All fresh rollouts of one problem under one policy, judged: what RL trains on and evaluation counts.

    Example: two samples, one right::

        Group(problem=…, prompt_ids=(5, 9, 2), rollouts=(…, …), verdicts=(CORRECT …, WRONG …))

    `verdicts[i]` is that of `rollouts[i]`.
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def is_correct(self) -> tuple[bool, ...]:
        """Which rollouts are CORRECT."""
        return tuple(verdict.outcome is Outcome.CORRECT for verdict in self.verdicts)

    @property
    def pass_rate(self) -> float:
        """The share of the group's rollouts that are CORRECT."""
        return sum(self.is_correct) / len(self.verdicts)
