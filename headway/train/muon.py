"""Muon: momentum whose matrices are made orthogonal before they are applied; AdamW for everything else.

    M <- mu M + (1-mu) G;   U = (1-mu) G + mu M;   O = NewtonSchulz5(U / |U|)  ~  U (U^T U)^(-1/2)
    W <- W - lr (0.2 sqrt(max(rows, columns)) O + wd W)

Source: K. Jordan et al. 2024, "Muon: an optimizer for hidden layers", with Moonlight's scale (arXiv 2502.16982, section 2.2): it
makes AdamW's learning rates fit. PyTorch's own `torch.optim.Muon` iterates in bfloat16, which a CPU multiplies at a tenth of
its float32 rate; this one iterates in float32 there, and batches matrices of one shape. Of a sharded
matrix every rank makes the whole update. It does not know a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from headway.train.shards import as_sharded, whole

_A, _B, _C = 3.4445, -4.7750, 2.0315  # the quintic of Jordan et al.: singular values land in about [0.7, 1.2]


class Muon(torch.optim.Optimizer):
    """Groups with `use_muon` hold matrices, the others anything. All parameters float32."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, momentum: float = 0.95
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "weight_decay": 0.0, "use_muon": False}
        super().__init__(list(groups), defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["use_muon"]:
                self._orthogonal(parameters, group)
            else:
                for parameter in parameters:
                    self._adamw(parameter, group)

    def _orthogonal(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[Tensor]] = {}
        for parameter in parameters:
            by_shape.setdefault((parameter.shape[0], parameter.shape[1]), []).append(parameter)
        for shape, same in by_shape.items():
            updates: list[Tensor] = []
            for parameter in same:
                assert parameter.grad is not None
                state = self.state[parameter]
                moment = state.setdefault("momentum", torch.zeros_like(parameter))
                moment.lerp_(parameter.grad, 1 - group["momentum"])
                updates.append(parameter.grad.lerp(moment, group["momentum"]))
            scale = 0.2 * max(shape) ** 0.5
            for parameter, update in zip(same, orthogonalised(torch.stack([whole(u) for u in updates])), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(as_sharded(update, parameter), alpha=-group["lr"] * scale)

    def _adamw(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        first = state.setdefault("exp_avg", torch.zeros_like(parameter))
        second = state.setdefault("exp_avg_sq", torch.zeros_like(parameter))
        count = state.setdefault("step", torch.zeros(()))
        count += 1
        beta1, beta2 = group["betas"]
        first.lerp_(parameter.grad, 1 - beta1)
        second.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        root = (second / (1 - beta2 ** float(count))).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(first, root, value=-group["lr"] / (1 - beta1 ** float(count)))


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrices with equal singular values, roughly: [n, rows, columns] -> the same shape, by Newton-Schulz."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x.to(torch.bfloat16) if x.is_cuda else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    x = x.to(matrices.dtype)
    return x.transpose(1, 2) if tall else x
