"""The optimizer on float32 master weights, and the learning rate of each step. It does not know what is trained on.

lr(s) = peak * warm-up(s) * decay(s),    warm-up linear over its share of the steps, decay constant, linear or cosine
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from headway.stage_config import OptimizerConfig
from headway.train.muon import Muon
from headway.train.shards import as_sharded, norm_of


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`."""
    warm = config.warmup * steps
    if step < warm:
        return config.lr * (step + 1) / math.ceil(warm)
    done = (step - warm) / max(1.0, steps - warm)
    if config.schedule == "constant":
        return config.lr
    share = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (config.final_lr + (1 - config.final_lr) * share)


Optimizer = torch.optim.AdamW | Muon


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name: all of them, or the adapters' alone."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The recipe's optimizer over all parameters that learn, which must be float32 (asserted). Matrices decay, vectors do not.

    "adamw" is PyTorch's fused one. "muon" takes the matrices of the hidden layers; embeddings, output and norms stay with AdamW.
    """
    named = list(trained(model).items())
    assert all(p.dtype == torch.float32 for _, p in named), "master weights are float32"
    vectors = {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0}
    matrices = [(name, p) for name, p in named if p.dim() >= 2]
    if config.name == "adamw":
        groups = [{"params": [p for _, p in matrices], "weight_decay": config.weight_decay}, vectors]
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    hidden = [p for name, p in matrices if not name.startswith(_ENDS)]
    ends = [p for name, p in matrices if name.startswith(_ENDS)]
    groups = [
        {"params": hidden, "weight_decay": config.weight_decay, "use_muon": True},
        {"params": ends, "weight_decay": config.weight_decay},
        vectors,
    ]
    return Muon(groups, lr=config.lr, betas=config.betas, eps=config.eps)


_ENDS = ("embedding.", "output.")  # the parameters that turn tokens to vectors and back


def update(optimizer: Optimizer, model: nn.Module, lr: float, clip_norm: float) -> float:
    """Clip the gradient's norm, take one step at rate `lr`, clear the gradient. Returns the norm before clipping.

    A gradient that is not finite raises FloatingPointError before the weights are touched.
    """
    norm = norm_of(nn.utils.clip_grad_norm_(model.parameters(), clip_norm))
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {norm}")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step`, `NAME.momentum`."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {f"{names[id(p)]}.{key}": value.contiguous() for p, state in optimizer.state.items() for key, value in state.items()}


def planned_tensors(optimizer: Optimizer, model: nn.Module) -> list[Tensor]:
    """Tensors as large as the weights and the optimizer's moments, which need not be there yet: for counting bytes."""
    planned: list[Tensor] = list(trained(model).values())
    for group in optimizer.param_groups:
        planned += [p for p in group["params"] for _ in range(1 if group.get("use_muon") else 2)]
    return planned


def load_optimizer(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, whole tensors, one by one; of a sharded parameter each rank keeps its shard."""
    is_fused = any(group.get("fused") for group in optimizer.param_groups)  # it counts its steps where the weights are
    own = trained(model)
    for key in tensors:
        name, _, field = key.rpartition(".")
        if name in own:
            parameter = own[name]
            value = tensors[key].to("cpu" if field == "step" and not is_fused else parameter.device)
            optimizer.state[parameter][field] = value if field == "step" else as_sharded(value, parameter)
