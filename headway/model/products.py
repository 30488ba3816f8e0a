"""The same mathematics with fewer passes over memory, where no gradient is wanted: inference in float32 on the CPU.

A decode step of a small model is matrix products a few rows high, and what lies between them. At that height oneDNN's products are
a third faster than those that PyTorch takes by default, and add a residual or gate by a SiLU as they write their result. They are
the operators that `torch.compile` itself emits here, called without its compiler. Where they are missing, or a gradient is
recorded, everything is plain PyTorch; both give the same numbers but for the last bits of float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _has_onednn() -> bool:
    """Whether the operators are there and compute what they are called for."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x = torch.ones(2, 4)
        op = torch.ops.mkldnn._linear_pointwise
        sums = op.binary(x, op(x, x, None, "swish", [], ""), torch.ones(2, 4), None, "mul")
        return bool(torch.allclose(sums, 4 * F.silu(torch.full((2, 2), 4.0))))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


_IS_THERE = _has_onednn()


def is_direct(x: Tensor) -> bool:
    """Whether products of x go the short way."""
    return _IS_THERE and not torch.is_grad_enabled() and x.dtype == torch.float32 and x.device.type == "cpu"


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, in] times weight [out, in], transposed -> [T, out]."""
    if is_direct(x) and weight.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return F.linear(x, weight)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """layer(x): x [T, in] -> [T, out]."""
    if is_direct(x) and layer.weight.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")
    return layer(x)


def linear_add(x: Tensor, layer: nn.Linear, residual: Tensor) -> Tensor:
    """residual + layer(x): x [T, in], residual [T, out] -> [T, out]. Only where `is_direct`."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, layer.weight, layer.bias, "add")


def swish_gate(x: Tensor, gate_up: Tensor) -> Tensor:
    """silu(x G^T) * x U^T, with G and U the halves of gate_up [2 m, in]: x [T, in] -> [T, m]. Only where `is_direct`."""
    gate, up = gate_up.chunk(2)
    gated = torch.ops.mkldnn._linear_pointwise(x, gate, None, "swish", [], "")
    return torch.ops.mkldnn._linear_pointwise.binary(x, gated, up, None, "mul")


def rms_norm(x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
    """x / rms(x) * (offset + weight), x [..., n]. Only where `is_direct`."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    return (x * scale).mul_(weight + offset if offset else weight)
