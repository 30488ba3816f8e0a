"""A checkpoint as something that answers: its tokenizer and its engine, on a device by its name.

For whoever lets a checkpoint speak: the server, the chat, a local teacher. It does not know what is asked.
"""

from __future__ import annotations

import os

import torch

from headway.engine.engine import Engine
from headway.model.checkpoint import load_decoder
from headway.model.device import device_named
from headway.model.tokenizer import Tokenizer


def load_engine(checkpoint: str, device: str = "auto") -> tuple[Tokenizer, Engine]:
    """The tokenizer and an engine that stops at all of its stop tokens. Raises CheckpointError where they do not fit.

    `device`: see `device_named`, whose ConfigError comes before anything is loaded.
    """
    chosen = device_named(device)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    tokenizer = Tokenizer.load(checkpoint)
    model = load_decoder(checkpoint, device=chosen)
    tokenizer.check_fits(model.config.vocab_size)
    return tokenizer, Engine(model, tokenizer.stop_ids, decode=tokenizer.decode)
