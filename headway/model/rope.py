"""Rotary positions (RoFormer, arXiv 2104.09864) of the first `rotary_share` of each head, and the ways to stretch them.

    out = x * cos(p f) + rotate_half(x) * sin(p f),   f_i = theta^(-2i/d),   d = rotary dimensions

    linear      f_i / factor
    llama3      long waves / factor, short ones kept, those between blended
    longrope    f_i / short_i or f_i / long_i,  cos and sin times sqrt(1 + ln(s) / ln(original)),  s = positions / original

LongRoPE (arXiv 2402.13753) has two sets of factors. Which one a decoder turns by is a function of its settings alone: the long
factors where `max_positions` is above `original_max_position_embeddings`, the short ones otherwise, for every token of every
sequence, in training, scoring and sampling alike. The switch is therefore a setting: the positions that `load_decoder` is asked
for. transformers chooses anew in each forward by the longest sequence at hand, so that one token has two log-probs, a short and
a long one: a policy gradient on a sampler that chose otherwise learns from wrong ratios. We equal transformers exactly for
sequences up to `original` where max_positions <= original, and for sequences beyond it where max_positions > original. The factor
on cos and sin is the checkpoint's own in both modes, whatever positions a run asks for.

Halves are paired as Hugging Face pairs them (i with i + d/2). This file does not know what is rotated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headway.model.config import DecoderConfig


def frequencies(config: DecoderConfig, local: bool = False) -> Tensor:
    """The angular frequencies in radians a position, float32, one a pair of rotary dimensions; `local`: of `local_rope_theta`."""
    dims = int(config.head_dim * config.rotary_share)
    exponent = torch.arange(0, dims, 2, dtype=torch.int64, device="cpu").float() / dims  # numbers even within a skeleton
    waves = (config.local_rope_theta if local else config.rope_theta) ** exponent
    kind = config.rope_scaling.get("rope_type", "")
    if local or not kind:
        return 1.0 / waves
    scaling = config.rope_scaling
    if kind == "longrope":
        is_long = config.max_positions > scaling["original_max_position_embeddings"]
        factors = torch.tensor(scaling["long_factor" if is_long else "short_factor"], dtype=torch.float32, device="cpu")
        return 1.0 / (factors * waves)
    freq, factor = 1.0 / waves, float(scaling["factor"])
    if kind == "linear":
        return freq / factor
    original = float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    wavelength = 2 * math.pi / freq
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    blended = (1 - smooth) * freq / factor + smooth * freq
    scaled = torch.where(wavelength > original / low, freq / factor, blended)
    return torch.where(wavelength < original / high, freq, scaled)


def rotation(freq: Tensor, positions: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """(cos, sin) times `factor` for int positions [T]: each [T, 1, rotary dimensions], to broadcast over heads."""
    angles = positions.float()[:, None] * freq[None, :]
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    if factor == 1.0:
        return angles.cos(), angles.sin()
    return angles.cos() * factor, angles.sin() * factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first dimensions of x [T, heads, head_dim] by (cos, sin) [T, 1, rotary dimensions]; the rest passes."""
    dims = cos.shape[-1]
    if dims < x.shape[-1]:
        return torch.cat((rotate(x[..., :dims], cos, sin), x[..., dims:]), dim=-1)
    turned = torch.cat((-x[..., dims // 2 :], x[..., : dims // 2]), dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)
