"""Rotary positions (RoFormer, arXiv 2104.09864), with Llama 3's frequency scaling.

    out = x * cos(p f) + rotate_half(x) * sin(p f),   f_i = theta^(-2i/d)

Halves are paired as Hugging Face pairs them (i with i + d/2). This file does not know what is rotated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headway.model.config import DecoderConfig


def frequencies(config: DecoderConfig) -> Tensor:
    """The head_dim / 2 angular frequencies in radians a position, float32."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    freq = 1.0 / (config.rope_theta**exponent)
    if not config.rope_scaling:
        return freq
    scaling = config.rope_scaling
    factor, original = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    wavelength = 2 * math.pi / freq
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    blended = (1 - smooth) * freq / factor + smooth * freq
    scaled = torch.where(wavelength > original / low, freq / factor, blended)
    return torch.where(wavelength < original / high, freq, scaled)


def rotation(freq: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) for int positions [T]: each [T, 1, head_dim], to broadcast over heads."""
    angles = positions.float()[:, None] * freq[None, :]
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [T, heads, head_dim] by (cos, sin) [T, 1, head_dim]."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)
