"""A checkpoint as a teacher: its weights, tokenizer and engine, loaded. Apart from `teacher`, because it loads torch.

It does not know what is sampled.
"""

from __future__ import annotations

from dataclasses import replace

from headway.model.checkpoint import weights_hash
from headway.sample import Sampler
from headway.serve.loading import load_engine
from headway.teacher.local import LocalTeacher
from headway.teacher.sampling import Settings
from headway.verify.judge import Verifier


def load_teacher(checkpoint: str, settings: Settings, verifier: Verifier, device: str = "auto") -> LocalTeacher:
    """The teacher on its device (see `load_engine`). Its policy stands for these weights: `model` holds their hash."""
    tokenizer, engine = load_engine(checkpoint, device)
    name = checkpoint.rstrip("/").rsplit("/", 1)[-1]
    settings = replace(settings, model=f"{name}#{weights_hash(engine.model)[:12]}")
    sampler = Sampler(engine, tokenizer, verifier, settings.instruction, settings.seed)
    return LocalTeacher(sampler, settings)
