"""The compiled form of what lies between matrix products, for float32 on a CPU whose machine has a C compiler.

The files of `c/` are compiled at their first use, in about two seconds, into the user's cache folder, under a name that holds
their text, the compiler and the processor. Without a compiler, or with HEADWAY_KERNEL=0, there is no kernel, and PyTorch computes
the same numbers but for the last bits, more slowly. It runs on PyTorch's own threads. This file does not know what a cache or
a layer is.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headway.machine import c_compiler

_SOURCES = sorted(Path(__file__).with_name("c").iterdir())
_FLAGS = (  # not -ffast-math: loading a library made with it changes how the whole process treats tiny numbers
    *("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c11"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-ffp-contract=fast"),
)
_SECONDS = 60
MOST_DIM, MOST_GROUP = 256, 64  # as in c/blocks.c
FEW_ROWS = 3  # as in c/rows.c


class _Table(ctypes.Structure):
    _fields_ = [
        ("blocks", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    ]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a batch's sequences in one pool: int64 `blocks` end to end, `starts` [B + 1], `lengths` [B] in tokens."""

    blocks: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def table(self, keys: Tensor, values: Tensor) -> _Table:
        """As the kernel reads it; the arrays must outlive it."""
        pointers = [array.ctypes.data for array in (self.blocks, self.starts, self.lengths)]
        return _Table(*pointers, keys.data_ptr(), values.data_ptr())


class Kernel:
    """The loaded library."""

    def __init__(self, library: ctypes.CDLL):
        long, number, real, pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_float, ctypes.c_void_p
        self._attend, self._causal, self._causal_backward = (
            getattr(library, f"headway_{name}") for name in ("attend", "causal", "causal_backward")
        )
        self._norm, self._norm_backward, self._rotate, self._gate, self._gate_backward = (
            getattr(library, f"headway_{name}") for name in ("rms_norm", "rms_norm_backward", "rotate", "gate", "gate_backward")
        )
        self._few_rows = library.headway_few_rows
        self._attend.argtypes = [
            long, number, number, number, real, long, ctypes.POINTER(_Table), ctypes.POINTER(_Table),
            pointer, long, pointer, long, pointer, long, pointer,
        ]  # fmt: skip
        self._norm.argtypes = [long] * 3 + [real] * 2 + [pointer] * 3
        self._norm_backward.argtypes = [long] * 3 + [real] * 2 + [pointer] * 5
        self._rotate.argtypes = [long] * 6 + [real] + [pointer] * 4
        self._gate.argtypes = [long] * 2 + [pointer] * 2
        self._gate_backward.argtypes = [long] * 2 + [pointer] * 3
        self._few_rows.argtypes = [long] * 3 + [pointer, long, pointer, pointer, pointer, long, pointer]
        for function in (
            self._few_rows,
            self._attend,
            self._norm,
            self._norm_backward,
            self._rotate,
            self._gate,
            self._gate_backward,
        ):
            function.restype = None
        documents = [long, number, number, number, real]
        self._causal.argtypes = documents + [pointer] * 8
        self._causal_backward.argtypes = documents + [pointer] * 12
        self._causal.restype = self._causal_backward.restype = number

    def few_rows(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """x W^T + bias + residual: x [T, in] of at most FEW_ROWS rows, contiguous weight [out, in], residual [T, out]."""
        x = x if x.stride(1) == 1 else x.contiguous()
        residual = residual if residual is None or residual.stride(1) == 1 else residual.contiguous()
        out = torch.empty((x.shape[0], weight.shape[0]))
        self._few_rows(
            x.shape[0], weight.shape[1], weight.shape[0], x.data_ptr(), x.stride(0), weight.data_ptr(),
            None if bias is None else bias.data_ptr(), None if residual is None else residual.data_ptr(),
            0 if residual is None else residual.stride(0), out.data_ptr(),
        )  # fmt: skip
        return out

    def rms_norm(self, x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
        """x / rms(x) * (offset + weight): x [T, n], contiguous but for the first dimension."""
        x = x if x.stride(1) == 1 else x.contiguous()
        out = torch.empty(x.shape)
        self._norm(x.shape[0], x.shape[1], x.stride(0), offset, eps, x.data_ptr(), weight.data_ptr(), out.data_ptr())
        return out

    def rms_norm_backward(self, x: Tensor, weight: Tensor, offset: float, eps: float, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of x [T, n] and of the weight [n], from that of the result, [T, n]."""
        x, grad = x if x.stride(1) == 1 else x.contiguous(), grad.contiguous()
        dx, parts = torch.empty(x.shape), torch.empty(-(-x.shape[0] // 64), x.shape[1])
        pointers = [t.data_ptr() for t in (x, weight, grad, dx, parts)]
        self._norm_backward(x.shape[0], x.shape[1], x.stride(0), offset, eps, *pointers)
        return dx, parts.sum(0)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, is_back: bool = False) -> None:
        """Turn x [T, heads, d] by cos and sin [T, 1, rotary dimensions] into out, which may be x; or back.

        x and out are contiguous but for the first dimension.
        """
        for side in (x, out):
            assert side.stride()[1:] == (x.shape[2], 1), "heads lie side by side"
        cos, sin = cos.contiguous(), sin.contiguous()
        pointers = [t.data_ptr() for t in (cos, sin, x, out)]
        self._rotate(*x.shape, x.stride(0), out.stride(0), cos.shape[-1], -1.0 if is_back else 1.0, *pointers)

    def gate(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of contiguous [T, 2 m] -> [T, m]."""
        out = torch.empty((gate_up.shape[0], gate_up.shape[1] // 2))
        self._gate(gate_up.shape[0], out.shape[1], gate_up.data_ptr(), out.data_ptr())
        return out

    def gate_backward(self, gate_up: Tensor, grad: Tensor) -> Tensor:
        """The gradient of contiguous gate_up [T, 2 m], from that of the result, [T, m]."""
        grad, out = grad.contiguous(), torch.empty(gate_up.shape)
        self._gate_backward(*grad.shape, gate_up.data_ptr(), grad.data_ptr(), out.data_ptr())
        return out

    def attend(self, q: Tensor, k: Tensor, v: Tensor, shared: _Table, own: _Table, scale: float, window: int) -> Tensor:
        """Store k and v [B, kv_heads, d], attend with q [B, heads, d] -> [B, heads, d]; float32, contiguous but for the batch."""
        batch, heads, dim = q.shape
        kv_heads = k.shape[1]
        q, k, v = (x if x.stride()[1:] == (dim, 1) else x.contiguous() for x in (q, k, v))
        out = torch.empty((batch, heads, dim), dtype=torch.float32)
        self._attend(
            batch, kv_heads, heads // kv_heads, dim, scale, window, shared, own,
            q.data_ptr(), q.stride(0), k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0), out.data_ptr(),
        )  # fmt: skip
        return out

    def causal(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents, scale: float) -> tuple[Tensor, Tensor]:
        """Causal attention inside documents: contiguous q [T, heads, d], k and v [T, kv_heads, d] -> [T, heads, d].

        With it the log of the sum of e^score [T, heads], for the gradients. MemoryError where there is none left.
        """
        out, sums = torch.empty(q.shape), torch.empty(q.shape[:2])
        if self._causal(*_shape(q, k, documents), scale, *_pointers(*documents, q, k, v, out, sums)):
            raise MemoryError(f"no memory for attention over a document of {documents.longest} tokens")
        return out, sums

    def causal_backward(
        self,
        asked: tuple[Tensor, Tensor, Tensor],
        found: tuple[Tensor, Tensor],
        documents: Documents,
        scale: float,
        grad: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From `grad`, the gradient of what `causal` found for (q, k, v) asked: that of q, [T, heads, d].

        And those of k and v by document, [all documents' tokens, kv_heads, d].
        """
        q, k, v = asked
        dq = torch.empty(q.shape)
        dk, dv = (torch.empty(len(documents.index), *k.shape[1:]) for _ in range(2))
        tensors = (*documents, q, k, v, *found, grad.contiguous(), dq, dk, dv)
        if self._causal_backward(*_shape(q, k, documents), scale, *_pointers(*tensors)):
            raise MemoryError(f"no memory for the gradients of attention over a document of {documents.longest} tokens")
        return dq, dk, dv


class Documents(NamedTuple):
    """Documents among flat tokens, int64: j is the tokens `index[starts[j] : starts[j + 1]]`, the last `own[j]` its own."""

    index: Tensor
    starts: Tensor
    own: Tensor

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return int(self.starts.diff().max())


def _shape(q: Tensor, k: Tensor, documents: Documents) -> tuple[int, int, int, int]:
    """Documents, kv heads, query heads a kv head, dimensions."""
    return len(documents.own), k.shape[1], q.shape[1] // k.shape[1], q.shape[2]


def _pointers(*tensors: Tensor) -> list[int]:
    assert all(tensor.is_contiguous() for tensor in tensors), "the kernel reads along memory"
    return [tensor.data_ptr() for tensor in tensors]


@cache
def kernel() -> Kernel | None:
    """The kernel of this machine; None where there is none."""
    compiler = c_compiler()
    if compiler is None:
        return None
    try:
        return Kernel(ctypes.CDLL(str(_compiled(compiler))))
    except (OSError, RuntimeError, subprocess.SubprocessError, AttributeError):
        return None


def _compiled(compiler: str) -> Path:
    """The library's file, made if it is not there. Raises OSError or SubprocessError."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    digest = hashlib.blake2b(digest_size=8)
    for part in (*(path.read_text() for path in _SOURCES), compiler, version, *_FLAGS, _processor()):
        digest.update(part.encode() + b"\0")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headway"
    found = root / f"kernel-{digest.hexdigest()}.so"
    if found.is_file() and found.stat().st_uid == os.getuid():
        return found
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:  # beside its place, to be renamed into it
        made = Path(folder) / "kernel.so"
        sources = [str(path) for path in _SOURCES if path.suffix == ".c"]
        command = [compiler, *_FLAGS, *sources, "-lm", "-o", str(made)]
        subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
        made.replace(found)
    return found


def _processor() -> str:
    """What `-march=native` goes by: a home folder may be shared by machines of different processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    except OSError:
        return platform.processor() or platform.machine()
