"""Which device a decoder computes on, by its name.

    auto  CUDA where there is one, else the CPU        cpu, cuda        mps  an Apple GPU, only where it is asked for

"auto" never takes MPS: it computes in float32 as the CPU does, and was never measured. This file does not know ranks or weights.
"""

from __future__ import annotations

import torch

from headway.errors import ConfigError

NAMES = ("auto", "cpu", "cuda", "mps")


def device_named(name: str) -> torch.device:
    """The device. Raises ConfigError where there is no such name, or this machine has no such device."""
    if name not in NAMES:
        raise ConfigError(f"'device' = {name!r}: it should be one of {', '.join(NAMES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("'device' = 'cuda': this machine has none")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("'device' = 'mps': this machine has none, or this PyTorch was built without it")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def empty_cache(device: torch.device) -> None:
    """Let PyTorch give back what it keeps of a GPU's memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
