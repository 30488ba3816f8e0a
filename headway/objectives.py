"""RL's objectives by name: the elementary settings of [rl] that each one stands for, and which settings contradict each other.

    grpo = group baseline / std, token ratio, clip 0.2, mean of sequence means, k3 in the loss        (all of them: docs/rl.md)

It holds published choices only; it does not know how a loss is computed (`train.policy_losses`), nor how a recipe is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GROUP = {"baseline": "group", "scale_by_std": True, "ratio_level": "token", "surrogate": "clip"}

# What a name fixes. Its numbers (see NUMBERS) are the published ones and may be set to others; everything else is what it is.
OBJECTIVES: dict[str, dict[str, Any]] = {
    # DeepSeekMath (2402.03300), eq. 3 and section 4.2: KL 0.04. It gives no clip: 0.2 is PPO's.
    "grpo": _GROUP | {"loss_level": "sequence", "clip_low": 0.2, "clip_high": 0.2, "kl": "k3", "kl_coef": 0.04},
    # Dr. GRPO (2503.20783), section 3.2: neither the std nor the response's length divides.
    "dr_grpo": _GROUP | {"scale_by_std": False, "loss_level": "constant", "clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0},
    # DAPO (2503.14476), eq. 8: the loss alone. Its dynamic sampling and overlong punishment are settings of their own.
    "dapo": _GROUP | {"loss_level": "token", "clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.0},
    # GSPO (2507.18071), eq. 5 to 7 and section 5.1.
    "gspo": _GROUP | {"ratio_level": "sequence", "loss_level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "kl_coef": 0.0},
    # CISPO (MiniMax-M1, 2506.13585), eq. 4: no lower bound. It gives no upper one: a ratio of 5 is ScaleRL's (2510.13786).
    "cispo": _GROUP | {"surrogate": "weight", "loss_level": "token", "clip_low": 1.0, "clip_high": 4.0, "kl_coef": 0.0},
    # RLOO (2402.14740): the completion is one action, its KL is part of the reward; 0.05 is TRL's default.
    "rloo": {
        "baseline": "leave_one_out", "scale_by_std": False, "ratio_level": "token", "surrogate": "reinforce",
        "loss_level": "sequence_sum", "kl": "k1", "kl_coef": 0.05,
    },
    # PPO's clipped surrogate (1707.06347), its value net replaced by the mean of the step's batch; advantages whitened over it.
    "ppo": _GROUP | {"baseline": "batch", "loss_level": "token", "clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0},
}  # fmt: skip
NUMBERS = {"clip_low", "clip_high", "kl_coef"}
_DEFAULTS = {"clip_low": 0.2, "clip_high": 0.28, "kl": "k3"}  # those of config.RlConfig that only act beside another setting


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of [rl] with those that its `objective` stands for where they are absent."""
    return OBJECTIVES.get(str(values.get("objective", "")), {}) | dict(values)


def contradiction(values: Mapping[str, Any]) -> str:
    """The first contradiction among the (complete) values of [rl], naming its keys, or ""."""
    name = values["objective"]
    fixed = OBJECTIVES.get(name, {})
    for key, value in fixed.items():
        if key not in NUMBERS and values[key] != value:
            said = str(values[key]).lower() if isinstance(value, bool) else f'"{values[key]}"'
            meant = str(value).lower() if isinstance(value, bool) else f'"{value}"'
            return f'`objective = "{name}"` is `{key} = {meant}`, and the recipe says {said}: leave one of the two out'
    if values["surrogate"] == "reinforce":
        if values["ratio_level"] == "sequence":
            return '`surrogate = "reinforce"` has no ratio, so `ratio_level = "sequence"` would do nothing'
        if values["minibatches"] * values["epochs_per_batch"] > 1:
            return (
                '`surrogate = "reinforce"` has no ratio that `minibatches` or `epochs_per_batch` above 1 need: '
                'set them to 1, or `surrogate = "weight"`'
            )
        for key in ("clip_low", "clip_high"):
            if values[key] != _DEFAULTS[key]:
                return f'`surrogate = "reinforce"` has no ratio, so `{key}` would do nothing'
    if not values["kl_coef"] and values["kl"] != fixed.get("kl", _DEFAULTS["kl"]):
        return f'`kl = "{values["kl"]}"` needs a `kl_coef` above 0'
    if values["kl_coef"] and values["kl"] == "k1" and values["scale_by_std"] and values["baseline"] != "batch":
        return (
            '`kl = "k1"` is part of the reward: `scale_by_std = true` would scale a group that differs by nothing else '
            "to full advantages; set it to false, or `kl` to k2 or k3"
        )
    if 0 < values["tis_cap"] < 1:
        return "`tis_cap` is the highest weight of a token: 1 or more (published: 2), or 0 for none"
    return ""
