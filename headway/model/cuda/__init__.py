"""Kernels for CUDA cards, written in Triton; this file knows only whether they can be had here, not what they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

_EIGHTH_GENERATION = (8, 0)  # the first that multiplies bfloat16


@cache
def is_there() -> bool:
    """Whether Triton can be imported and the current CUDA card is of generation 8.0 or later. Loads no Triton where not."""
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return False
    if torch.cuda.get_device_capability() < _EIGHTH_GENERATION or find_spec("triton") is None:
        return False
    try:
        import triton  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    return True


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`, of a type that is known also where Triton is not: the result is launched as kernel[grid](...)."""
    import triton  # pyright: ignore[reportMissingImports]

    return triton.jit(function)


def launch(warps: int, stages: int = 1, fuses: bool = False) -> dict[str, int]:
    """How a kernel is compiled: by how many warps it runs, how many turns of a loop are in flight, and whether a product that is
    rounded to bfloat16 may be fused with the sum that follows, which leaves the rounding out (on Hopper it would be).
    """
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": fuses}
