"""What rollouts are like beside being right: do they repeat themselves, box many answers, grow, right ones and wrong ones apart?

    repeated(ids)  = 1 - different 8-token pieces / 8-token pieces         repetitive: more than half
    spam           = more than three \\boxed{} in a text

Numbers for the metrics of RL, and the rollout that shows a habit best. It does not know what is too much (`health`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from headway.types import Group, Outcome, Rollout, StopReason

_PIECE = 8  # tokens
_MOST_REPEATED = 0.5
_MOST_BOXES = 3


def repeated(ids: Sequence[int]) -> float:
    """The share of a rollout's 8-token pieces that stood in it before, in [0, 1]; 0 of one too short to hold two.

    >>> repeated([1, 2, 3, 4, 5, 6, 7, 8] * 2)  # 9 pieces, the last is the first again
    0.11111111111111116
    """
    pieces = len(ids) - _PIECE + 1
    if pieces < 2:
        return 0.0
    return 1 - len(set(zip(*(ids[i:] for i in range(_PIECE)), strict=False))) / pieces


def boxes(text: str) -> int:
    """How many answers a text boxes."""
    return text.count("\\boxed{")


def habits(groups: Sequence[Group]) -> dict[str, float]:
    """`repetitive` and `boxed_spam` as shares of the rollouts, and the mean lengths of right and of wrong ones (where any)."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    outcomes = [verdict.outcome for group in groups for verdict in group.verdicts]
    found = {
        "repetitive": sum(repeated(r.token_ids) > _MOST_REPEATED for r in rollouts) / len(rollouts),
        "boxed_spam": sum(boxes(r.text) > _MOST_BOXES for r in rollouts) / len(rollouts),
    }
    for name, wanted in (("mean_tokens_correct", (Outcome.CORRECT,)), ("mean_tokens_wrong", (Outcome.WRONG, Outcome.NO_ANSWER))):
        lengths = [r.num_tokens for r, outcome in zip(rollouts, outcomes, strict=True) if outcome in wanted]
        if lengths:
            found[name] = sum(lengths) / len(lengths)
    return found


def example(metric: str, rollouts: Sequence[Rollout], outcomes: Mapping[str, Outcome], is_high: bool = True) -> Rollout | None:
    """The rollout that shows best what an alarm on `metric` says; None where none does. `is_high`: too high, else too low."""
    chosen = list(rollouts)
    if metric == "mean_tokens_correct":
        chosen = [r for r in rollouts if outcomes.get(r.id) is Outcome.CORRECT]
    elif metric == "mean_tokens_wrong":
        chosen = [r for r in rollouts if outcomes.get(r.id) in (Outcome.WRONG, Outcome.NO_ANSWER)]
    elif metric == "truncated":
        chosen = [r for r in rollouts if r.stop_reason is StopReason.LENGTH]
    rank: dict[str, Callable[[Rollout], float]] = {
        "repetitive": lambda r: repeated(r.token_ids),
        "boxed_spam": lambda r: boxes(r.text),
    }
    by = rank.get(metric, lambda r: r.num_tokens if is_high else -r.num_tokens)
    return max(chosen, key=by, default=None)
