"""A checkpoint as a teacher: its weights, tokenizer and engine, loaded. Apart from `teacher`, because it loads torch.

It does not know what is sampled.
"""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from headway.engine.engine import Engine
from headway.model.checkpoint import load_decoder, weights_hash
from headway.model.tokenizer import Tokenizer
from headway.sample import Sampler
from headway.teacher.local import LocalTeacher
from headway.teacher.sampling import Settings
from headway.verify.judge import Verifier


def load_teacher(checkpoint: str, settings: Settings, verifier: Verifier) -> LocalTeacher:
    """The teacher on CUDA where there is one, else on the CPU. Its policy stands for these weights: `model` holds their hash."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    tokenizer = Tokenizer.load(checkpoint)
    model = load_decoder(checkpoint, device="cuda" if torch.cuda.is_available() else "cpu")
    tokenizer.check_fits(model.config.vocab_size)
    name = checkpoint.rstrip("/").rsplit("/", 1)[-1]
    settings = replace(settings, model=f"{name}#{weights_hash(model)[:12]}")
    sampler = Sampler(Engine(model, tokenizer.stop_ids), tokenizer, verifier, settings.instruction, settings.seed)
    return LocalTeacher(sampler, settings)
