"""In which type a decoder computes: float32 master weights everywhere, bfloat16 products on CUDA. Trainer and sampler alike."""

from __future__ import annotations

import torch

from headway.model.transformer import Decoder


def compute_dtype(model: Decoder) -> torch.dtype:
    """What products compute in, and keys and values are kept in."""
    return torch.bfloat16 if model.device.type == "cuda" else torch.float32


def autocast(model: Decoder) -> torch.autocast:
    """bfloat16 products on CUDA over float32 master weights; float32 elsewhere."""
    cuda = model.device.type == "cuda"
    return torch.autocast("cuda" if cuda else "cpu", dtype=torch.bfloat16, enabled=cuda)
