"""When learning from pairs destroys what it should teach: the chosen rollouts themselves become unlikely.

    collapse    mean of the last WINDOW steps:  chosen_shift < -NATS   and   margin above that of the WINDOW steps before

chosen_shift is the mean of log policy - log reference over the tokens of the chosen rollouts. The losses of DPO see the margin
alone: it also grows where both sides fall, the rejected one faster (arXiv 2402.13228, 2410.05779). It does not know the losses.
"""

from __future__ import annotations

from collections.abc import Sequence

WINDOW = 10  # steps
NATS = 0.1  # a token: right solutions are more than 10 % more surprising, token for token, than to the reference


def collapse(margins: Sequence[float], shifts: Sequence[float]) -> str | None:
    """One line that says so where the chosen log-probs collapse, by the steps so far (the last 2 x WINDOW of them are enough).

    Before the first step the margin is 0. With fewer than WINDOW steps there is no alarm.
    """
    if len(shifts) < WINDOW or len(margins) < WINDOW:
        return None
    before, now = margins[-2 * WINDOW : -WINDOW], margins[-WINDOW:]
    margin, earlier = sum(now) / WINDOW, sum(before) / max(1, len(before))
    shift = sum(shifts[-WINDOW:]) / WINDOW
    if not (shift < -NATS and margin > earlier):
        return None
    return (
        f"the chosen rollouts themselves become unlikely: {-shift:.2f} nats a token below the reference over the last {WINDOW} "
        f"steps, while the margin grows ({earlier:.3f} to {margin:.3f}); set dpo.nll_weight = 1, or lower dpo.optimizer.lr"
    )
