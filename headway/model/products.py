"""The same mathematics with fewer passes over memory, where no gradient is wanted: inference in float32 on the CPU.

A decode step of a small model is matrix products a few rows high, and what lies between them. At that height oneDNN's products
are a third faster than those that PyTorch takes by default, add a residual or gate by a SiLU as they write their result, and are
half as fast again on weights that lie as they read them (`pack`). They are the operators that `torch.compile` itself emits
here, called without its compiler. Where they are missing, or a gradient is recorded, everything is plain PyTorch; all give the
same numbers but for the last bits of float32. A packed weight is a copy: it is used only as long as the weight is what it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.model.kernel import kernel


def _has_onednn() -> bool:
    """Whether the operators are there and compute what they are called for."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x, op = torch.ones(2, 4), torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(torch.ones(2, 4), 2)
        gated = op.binary(x, op(x, x, None, "swish", [], ""), packed, None, "mul")
        return bool(torch.allclose(gated, 4 * F.silu(torch.full((2, 2), 4.0))))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


_IS_THERE = _has_onednn()


def is_direct(x: Tensor) -> bool:
    """Whether products of x go the short way."""
    return _IS_THERE and not torch.is_grad_enabled() and x.dtype == torch.float32 and x.device.type == "cpu"


def pack(weights: Iterable[Tensor], rows: int) -> None:
    """Lay out copies of float32 CPU weights [out, in] for products with about `rows` rows, until `unpack` or until they change.

    A weight whose rows are two matrices, gate and up, is packed as these (`halves`).
    """
    for weight in weights:
        if not _IS_THERE or weight.dtype != torch.float32 or weight.device.type != "cpu":
            continue
        is_halves = getattr(weight, "halves", False) and kernel() is None
        parts = weight.detach().chunk(2) if is_halves else (weight.detach(),)
        copies = [torch.ops.mkldnn._reorder_linear_weight(part, rows) for part in parts]
        weight.packed = (weight._version, copies)  # type: ignore[attr-defined]


def unpack(weights: Iterable[Tensor]) -> None:
    """Forget the copies."""
    for weight in weights:
        weight.packed = None  # type: ignore[attr-defined]


def _parts(weight: Tensor, count: int = 1) -> list[Tensor]:
    """The packed copies of a weight, or its own rows in as many parts."""
    found = cast("tuple[int, list[Tensor]] | None", getattr(weight, "packed", None))
    if found is not None and found[0] == weight._version and len(found[1]) == count:
        return found[1]
    return [weight] if count == 1 else list(weight.chunk(count))


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [T, in] times weight [out, in], transposed, plus bias [out] -> [T, out]."""
    if is_direct(x) and weight.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(x, _parts(weight)[0], bias, "none", [], "")
    return F.linear(x, weight, bias)


def wide_product(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, in] times weight [out, in], transposed, in the weight's type -> float32 [T, out], a new tensor.

    On CUDA a product of 16-bit numbers is summed in float32, and would be rounded to 16 bits as it is written: logits around 20
    would be left with steps of 0.06 to 0.13. Here it is not.
    """
    x = x.to(weight.dtype)
    if x.is_cuda and weight.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    return product(x, weight).float()


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """layer(x): x [T, in] -> [T, out]."""
    return product(x, layer.weight, layer.bias) if is_direct(x) else layer(x)


def linear_add(x: Tensor, layer: nn.Linear, residual: Tensor) -> Tensor:
    """residual + layer(x): x [T, in], residual [T, out] -> [T, out]. Only where `is_direct`."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, _parts(layer.weight)[0], layer.bias, "add")


def swish_gate(x: Tensor, gate_up: Tensor) -> Tensor:
    """silu(x G^T) * x U^T, with G and U the halves of gate_up [2 m, in]: x [T, in] -> [T, m]. Only where `is_direct`."""
    compiled = kernel()
    if compiled is not None:
        return compiled.gate(product(x, gate_up))
    gate, up = _parts(gate_up, 2)
    gated = torch.ops.mkldnn._linear_pointwise(x, gate, None, "swish", [], "")
    return torch.ops.mkldnn._linear_pointwise.binary(x, gated, up, None, "mul")


def rms_norm(x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
    """x / rms(x) * (offset + weight), x [..., n]. Only where `is_direct`."""
    compiled = kernel()
    if compiled is not None and x.dim() == 2 and weight.dtype == torch.float32:
        return compiled.rms_norm(x, weight, offset, eps)
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    return (x * scale).mul_(weight + offset if offset else weight)


def rotate_in_place(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Rotate x [T, heads, d] as `rope.rotate` does, if it can be done where it lies: x is the caller's alone."""
    compiled = kernel() if is_direct(x) else None
    if compiled is None or x.stride()[1:] != (x.shape[2], 1):
        return False
    compiled.rotate(x, cos, sin)
    return True
