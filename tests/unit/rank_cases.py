"""Updates whose gradient is the same on any number of ranks: made and measured by one process, or by several (`ranks_worker`)."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from test_policy import Given
from tiny_policy import STOP, VOCABULARY, naive_logprobs, ragged, tiny
from torch import Tensor

from headway.model.adapters import adapt
from headway.model.transformer import Decoder
from headway.objectives import OBJECTIVES
from headway.stage_config import DpoConfig, RlConfig
from headway.train.batching import Document
from headway.train.fit import gradient_of
from headway.train.likelihood import Likelihood
from headway.train.optim import trained
from headway.train.policy import PolicyGradient, Trajectory
from headway.train.preference import DocumentPair, Preference, reference_logprobs
from headway.train.sharding import learner
from headway.train.shards import whole

Made = tuple[Decoder, Any]
EXAMPLES, PROMPT, COMPLETION = 8, 3, 9


def words(chance: random.Random, count: int) -> tuple[int, ...]:
    return tuple(chance.choices(range(4, VOCABULARY), k=count))


def of_one_length(seed: int, prompts: int) -> list[Document]:
    """Eight documents of 3 + 9 tokens over so many prompts."""
    chance = random.Random(seed)
    asked = [words(chance, PROMPT) for _ in range(prompts)]
    return [Document((*asked[i % prompts], *words(chance, COMPLETION - 1), STOP), PROMPT) for i in range(EXAMPLES)]


def nll(documents: Sequence[Document], micro_batch_tokens: int, seed: int = 0) -> Made:
    model = tiny(seed)
    return model, Likelihood(model, documents, lambda: iter([range(len(documents))]), micro_batch_tokens)


def dpo(is_shared: bool, micro_batch_tokens: int = 10_000, **settings: Any) -> Made:
    chosen = of_one_length(1, 4)
    rejected = [Document((*(c.prompt if is_shared else c.prompt[::-1]), *d.ids[PROMPT:-2], STOP), PROMPT)
                for c, d in zip(chosen, of_one_length(2, 8), strict=True)]  # fmt: skip
    pairs = [DocumentPair(a, b) for a, b in zip(chosen, rejected, strict=True)]
    model = tiny(1, 2.0)
    config = DpoConfig.model_validate({"micro_batch_tokens": micro_batch_tokens} | settings)
    reference = reference_logprobs(tiny(3, 2.0), pairs)
    return model, Preference(model, pairs, lambda: iter([range(len(pairs))]), config, reference)


def rl(prompts: int = 2, **settings: Any) -> Made:
    """Eight trajectories of two prompts whose recorded log-probs are up to 0.3 nats away from the policy's."""
    model, chance, trajectories = tiny(0), random.Random(3), list[Trajectory]()
    for document in of_one_length(4, prompts):
        own = naive_logprobs(model, document)
        near = [tuple(lp + chance.uniform(-0.3, 0.3) for lp in own) for _ in range(2)]
        trajectories.append(Trajectory(document, near[0], chance.uniform(-2, 2), near[1]))
    values = {"prompts": 2, "group_size": 4, "max_tokens": 16, "log_entropy": True} | settings
    return model, PolicyGradient(model, Given(trajectories, 0.8), RlConfig.model_validate(values))


def lora() -> Made:
    model, objective = nll(ragged(9), 60)
    adapt(model, 2, 4, ["q_proj", "v_proj", "down_proj"], ("ranks",))
    return model, objective


CASES: dict[str, Callable[[], Made]] = {
    "nll, packed": lambda: nll(ragged(9), 10_000),
    "nll, a document at a time": lambda: nll(ragged(9), 1),
    "nll, untied": lambda: nll(ragged(9), 60, seed=1),
    "nll, one document": lambda: nll(ragged(1, seed=5), 60),  # nothing to do for the other ranks
    "nll, lora": lora,
    "dpo, prompt shared": lambda: dpo(True),
    "dpo, prompt not shared": lambda: dpo(False),
    "dpo, with nll": lambda: dpo(True, nll_weight=1.0),
    "dpo, ipo": lambda: dpo(True, loss="ipo"),
    "rl, k1": lambda: rl(scale_by_std=False, kl="k1", kl_coef=0.1),
    "rl, k2": lambda: rl(kl="k2", kl_coef=0.1),
    "rl, k3": lambda: rl(kl="k3", kl_coef=0.1),
    "rl, truncated importance sampling": lambda: rl(tis_cap=1.1),
    "rl, two minibatches twice": lambda: rl(minibatches=2, epochs_per_batch=2, tis_cap=1.1),
}
for _name in OBJECTIVES:
    CASES[f"rl, {_name}"] = lambda name=_name: rl(objective=name)
for _count in (1, 2, 4, 8):  # micro-batches on one rank
    _room = EXAMPLES // _count * (PROMPT + COMPLETION)
    CASES[f"split, nll {_count}"] = lambda room=_room: nll(of_one_length(5, 8), room)
    CASES[f"split, dpo {_count}"] = lambda room=_room: dpo(False, 2 * room)
    CASES[f"split, rl {_count}"] = lambda room=_room: rl(8, micro_batch_tokens=max(16, room))
OF_FOUR = ("nll, packed", "nll, one document", "dpo, prompt shared", "rl, grpo", "rl, two minibatches twice")


def measured(made: Made) -> tuple[list[Tensor], list[dict[str, float]]]:
    """The gradient of each update of a step, one flat tensor an update, and its numbers; the last holds what the step adds."""
    model, objective = made
    gradients: list[Tensor] = []
    numbers: list[dict[str, float]] = []
    for micros in objective.updates(0):
        learner(model).zero_grad()
        sums, tokens = gradient_of(model, objective, {}, micros)
        gradients.append(torch.cat([whole(p.grad).flatten() for p in trained(learner(model)).values() if p.grad is not None]))
        numbers.append(sums)
        assert tokens > 0
    row = dict(numbers[-1])
    objective.finish_step(1, row)
    numbers.append({name: value for name, value in row.items() if isinstance(value, float)})
    return gradients, numbers
