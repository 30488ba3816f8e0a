"""What lies between the matrix products of training, each in one pass over memory forward and one backward (`c/`).

    rms_norm    x / rms(x) * (offset + weight)
    turn        q | k | v  ->  rotated q, rotated k, v
    causal      attention inside documents, where they lie
    gate        silu(gate) * up

For float32 on a CPU with a C compiler; elsewhere, and under `torch.compile`, the callers write the same in PyTorch, and the
results agree but for the last bits. `products` holds the forms without gradients. It does not know a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from headway.model.kernel import Documents, Kernel, kernel


def kernel_for(x: Tensor) -> Kernel | None:
    """The kernel, where it can compute on x and its gradient."""
    is_plain = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_compiling()
    return kernel() if is_plain and not torch.is_autocast_enabled("cpu") else None


def _kernel() -> Kernel:
    found = kernel()
    assert found is not None, "the callers have asked `kernel_for`"
    return found


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.offset, ctx.eps = offset, eps
        return _kernel().rms_norm(x, weight, offset, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_kernel().rms_norm_backward(x, weight, ctx.offset, ctx.eps, grads[0]), None, None


def rms_norm(x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
    """x / rms(x) * (offset + weight), x [..., n]."""
    return _RmsNorm.apply(x.reshape(-1, x.shape[-1]), weight, offset, eps).view(x.shape)  # type: ignore[no-any-return]


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        tokens, _, dim = both.shape
        q, k = torch.empty(tokens, heads, dim), torch.empty(tokens, kv_heads, dim)
        _kernel().rotate(both[:, :heads], cos, sin, q)
        _kernel().rotate(both[:, heads : heads + kv_heads], cos, sin, k)
        return q, k, both[:, heads + kv_heads :].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        q, k, v = (grad.contiguous() for grad in grads)
        heads, kv_heads = q.shape[1], k.shape[1]
        out = torch.empty(len(q), heads + 2 * kv_heads, q.shape[2])
        _kernel().rotate(q, cos, sin, out[:, :heads], is_back=True)
        _kernel().rotate(k, cos, sin, out[:, heads : heads + kv_heads], is_back=True)
        out[:, heads + kv_heads :] = v
        return out, None, None, None, None


def turn(both: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Contiguous [T, heads + 2 kv_heads, d] -> rotated q [T, heads, d], rotated k [T, kv_heads, d], v as it is.

    cos and sin [T, 1, rotary dimensions].
    """
    return _Turn.apply(both, cos, sin, heads, kv_heads)  # type: ignore[no-any-return]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _kernel().gate(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        [gate_up] = ctx.saved_tensors
        return _kernel().gate_backward(gate_up, grads[0])


def gate(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of contiguous [T, 2 m] -> [T, m]."""
    return _Gate.apply(gate_up)  # type: ignore[no-any-return]


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, documents: Documents, is_shared: bool, scale: float) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, sums = _kernel().causal(q, k, v, documents, scale)
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.documents, ctx.is_shared, ctx.scale = documents, is_shared, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, sums = ctx.saved_tensors
        dq, dk, dv = _kernel().causal_backward((q, k, v), (out, sums), ctx.documents, ctx.scale, grads[0])
        if ctx.is_shared:  # a shared token's gradient is the sum over its documents
            dk, dv = (torch.zeros_like(k).index_add_(0, ctx.documents.index, x) for x in (dk, dv))
        return dq, dk, dv, None, None, None


def causal(q: Tensor, k: Tensor, v: Tensor, documents: Documents, is_shared: bool, scale: float | None) -> Tensor | None:
    """Causal attention inside documents: q [T, heads, d], k and v [T, kv_heads, d] -> [T, heads, d]. `scale` None: d ** -0.5.

    None where there is no kernel for it, or so few documents that threads would stand idle.
    """
    if kernel_for(q) is None or len(documents.own) * k.shape[1] < torch.get_num_threads():
        return None
    return _Causal.apply(q, k, v, documents, is_shared, q.shape[2] ** -0.5 if scale is None else scale)  # type: ignore
