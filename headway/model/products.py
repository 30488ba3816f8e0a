"""The same mathematics with fewer passes over memory, where no gradient is wanted: float32 on the CPU, bfloat16 on CUDA.

A decode step of a small model is matrix products a few rows high, and what lies between them. At that height oneDNN's products
are a third faster than those that PyTorch takes by default, add a residual as they write their result, and are half as fast again
on weights that lie as they read them (`pack`). They are the operators that `torch.compile` itself emits here, called without its
compiler. Where they are missing, or a gradient is recorded, everything is plain PyTorch; all give the
same numbers but for the last bits of float32. A packed weight is a copy: it is used only as long as the weight is what it was.

Of up to three rows a product takes as long as the weights are read, which a kernel of our own does faster (`c/rows.c`).

oneDNN compiles a product for each number of rows that it meets, in a millisecond, and keeps it, in 0.2 MB. So the rows of
a decode step are rounded up to one of 64 numbers (`rounded`); inputs of more than 1,024 rows go the ordinary way, a tenth slower.

On CUDA the weights are float32 and products are computed in bfloat16: without a copy in that type (`pack`) each step would make
one. What lies between has kernels (`cuda.elementwise`), which round where training does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.model import cuda
from headway.model.kernel import FEW_ROWS, kernel


def _has_onednn() -> bool:
    """Whether the operators are there and compute what they are called for."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x, op = torch.ones(2, 4), torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(torch.ones(2, 4), 2)
        found = op.binary(x, op(x, packed, None, "none", [], ""), packed, None, "add")
        return bool(torch.equal(found, torch.full((2, 2), 8.0)))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


_IS_THERE = _has_onednn()
Turn = tuple[Tensor, Tensor] | None  # cos and sin of the positions at hand; None: the layer knows no position
MOST_ROWS = 1024


def is_direct(x: Tensor) -> bool:
    """Whether x goes the short way: what lies between the products, and these too where they have few rows."""
    if torch.is_grad_enabled():
        return False
    return on_cuda(x) or (_IS_THERE and x.dtype == torch.float32 and x.device.type == "cpu")


def on_cuda(x: Tensor) -> bool:
    """Whether x is where products are computed in bfloat16, with kernels for what lies between."""
    is_autocast = x.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
    return is_autocast and cuda.is_there()


def rounded(rows: int) -> int:
    """The number of rows, at most an eighth more, with which a product of few rows is computed.

    >>> [rounded(n) for n in (1, 16, 17, 64, 65, 1000, 1025)]
    [1, 16, 18, 64, 72, 1024, 1025]
    """
    unit = 1 << max(0, (rows - 1).bit_length() - 4)
    return -(-rows // unit) * unit if rows <= MOST_ROWS else rows


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
    """residual + x weight^T + bias of an x that is direct, of at most MOST_ROWS rows."""
    rows, compiled = x.shape[0], kernel()
    if rows <= FEW_ROWS and compiled is not None and weight.is_contiguous():
        return compiled.few_rows(x, weight, bias, residual)
    weight = laid_out(weight)
    more = rounded(rows) - rows
    if more:
        x = F.pad(x, (0, 0, 0, more))
    if residual is None:
        out = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    else:
        residual = F.pad(residual, (0, 0, 0, more)) if more else residual
        out = torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    return out[:rows] if more else out


def pack(weights: Iterable[Tensor], rows: int) -> None:
    """Lay out copies of float32 weights [out, in] for products of about `rows` rows, until `unpack` or until they change.

    On CUDA they are bfloat16.
    """
    for weight in weights:
        if weight.dtype != torch.float32 or not (weight.is_cuda or (_IS_THERE and weight.device.type == "cpu")):
            continue
        held = weight.detach()
        copy = held.bfloat16() if weight.is_cuda else torch.ops.mkldnn._reorder_linear_weight(held, rows)
        weight.packed = (weight._version, copy)  # type: ignore[attr-defined]


def unpack(weights: Iterable[Tensor]) -> None:
    """Forget the copies."""
    for weight in weights:
        weight.packed = None  # type: ignore[attr-defined]


def laid_out(weight: Tensor) -> Tensor:
    """The packed copy of a weight; itself, where there is none of it as it is now."""
    found = cast("tuple[int, Tensor] | None", getattr(weight, "packed", None))
    return found[1] if found is not None and found[0] == weight._version else weight


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [T, in] times weight [out, in], transposed, plus bias [out] -> [T, out]."""
    if not is_direct(x):
        return F.linear(x, weight, bias)
    if on_cuda(x):  # autocast sees to the types that are not right yet
        return F.linear(x, laid_out(weight), bias)
    return _linear(x, weight, bias) if x.shape[0] <= MOST_ROWS and weight.dtype == x.dtype else F.linear(x, weight, bias)


def wide_product(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, in] times weight [out, in], transposed, in the weight's type -> float32 [T, out], a new tensor.

    On CUDA a product of 16-bit numbers is summed in float32, and would be rounded to 16 bits as it is written: logits around 20
    would be left with steps of 0.06 to 0.13. Here it is not.
    """
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        weight = laid_out(weight).to(torch.get_autocast_dtype("cuda"))
    x = x.to(weight.dtype)
    if x.is_cuda and weight.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    return product(x, weight).float()


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """layer(x): x [T, in] -> [T, out].

    In bfloat16 an adapted layer computes what it learned beside its weight: added to it, it would be rounded away.
    """
    is_beside = on_cuda(x) and type(layer) is not nn.Linear
    return product(x, layer.weight, layer.bias) if is_direct(x) and not is_beside else layer(x)


def linear_add(x: Tensor, layer: nn.Linear, residual: Tensor) -> Tensor:
    """residual + layer(x): x [T, in], residual [T, out] -> [T, out]. Only where `is_direct`."""
    if on_cuda(x):
        return residual + linear(x, layer)
    if x.shape[0] <= MOST_ROWS:
        return _linear(x, layer.weight, layer.bias, residual)
    return F.linear(x, layer.weight, layer.bias).add_(residual)


def swish_gate(x: Tensor, gate_up: nn.Linear) -> Tensor:
    """silu(G) * U, with G and U the halves of gate_up(x) [T, 2 m]: x [T, in] -> [T, m]. Only where `is_direct`; no bias."""
    both, compiled = linear(x, gate_up), kernel()
    if on_cuda(both):
        from headway.model.cuda import elementwise

        return elementwise.gate(both)
    if compiled is not None:
        return compiled.gate(both)
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def rms_norm(x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
    """x / rms(x) * (offset + weight), x [..., n]; in bfloat16 on CUDA. Only where `is_direct`."""
    if on_cuda(x):
        from headway.model.cuda import elementwise

        return elementwise.rms_norm(x.reshape(-1, x.shape[-1]), weight.float(), offset, eps).view(x.shape)
    compiled = kernel()
    if compiled is not None and x.dim() == 2 and weight.dtype == torch.float32:
        return compiled.rms_norm(x, weight, offset, eps)
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    return (x * scale).mul_(weight + offset if offset else weight)


def rotate_in_place(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Rotate x [T, heads, d] as `rope.rotate` does, if it can be done where it lies: x is the caller's alone."""
    compiled = kernel() if is_direct(x) and not on_cuda(x) else None
    if compiled is None or x.stride()[1:] != (x.shape[2], 1):
        return False
    compiled.rotate(x, cos, sin, out=x)
    return True


def turn_heads(
    both: Tensor, heads: int, kv_heads: int, norms: tuple[Tensor, Tensor] | None, offset: float, eps: float, turn: Turn
) -> bool:
    """Norm (if `norms` are given: weights [d] of q's and k's) and rotate the heads of q and k in [T, heads + 2 kv_heads, d] where
    they lie, if it can be done: both is the caller's alone.
    """
    if torch.is_grad_enabled() or not on_cuda(both):
        return False
    from headway.model.cuda import elementwise

    weights = None if norms is None else (norms[0].float(), norms[1].float())
    elementwise.turn_heads(both, heads, kv_heads, weights, offset, eps, turn)
    return True
