"""A checkpoint as something that answers: its tokenizer and its engine, on CUDA where there is one, else on the CPU.

For whoever lets a checkpoint speak: the server, the chat, a local teacher. It does not know what is asked.
"""

from __future__ import annotations

import os

import torch

from headway.engine.engine import Engine
from headway.model.checkpoint import load_decoder
from headway.model.tokenizer import Tokenizer


def load_engine(checkpoint: str) -> tuple[Tokenizer, Engine]:
    """The tokenizer and an engine that stops at all of its stop tokens. Raises CheckpointError where they do not fit."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    tokenizer = Tokenizer.load(checkpoint)
    model = load_decoder(checkpoint, device="cuda" if torch.cuda.is_available() else "cpu")
    tokenizer.check_fits(model.config.vocab_size)
    return tokenizer, Engine(model, tokenizer.stop_ids, decode=tokenizer.decode)
