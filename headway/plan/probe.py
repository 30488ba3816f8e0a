"""What this machine does with the recipe's model: a short probe with random weights, or one product where it does not fit.

    train     a stage's largest micro-batch forward and backward once        tokens/s, and the bytes that autograd saved
    update    one optimizer step                                             seconds
    sample    a few decode steps of as many rollouts as the recipe runs      new tokens/s
    products  one large product                                              flop/s; training 6 N a token, sampling 2 N

It does not know the recipe's counts, nor what the numbers are for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.model.config import DecoderConfig
from headway.model.device import synchronise
from headway.model.precision import autocast
from headway.model.transformer import Decoder, initialise
from headway.plan.work import Work
from headway.stage_config import OptimizerConfig
from headway.train.batching import Document, flatten
from headway.train.likelihood import document_logprobs
from headway.train.losses import nll
from headway.train.optim import make_optimizer, update
from headway.types import Request

_NEW_TOKENS = 16
_SAMPLING_FLOPS = 4e11  # of the sampling probe at most: a few seconds
_TRAINING_SHARE, _SAMPLING_SHARE = 0.5, 0.25  # of the product's rate, where only that was measured
_SECONDS = 60.0  # after which no further stage is probed


@dataclass(slots=True)
class Measured:
    """What the probe found; by stage where it differs. `is_whole` says that the model itself ran, not only a product."""

    is_whole: bool = False
    tokens_per_s: dict[str, float] = field(default_factory=dict[str, float])
    probed_tokens: dict[str, int] = field(default_factory=dict[str, int])
    saved_per_token: float = 0.0  # bytes
    update_s: dict[str, float] = field(default_factory=dict[str, float])
    new_tokens_per_s: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    share: float = 1.0  # of the threads that the probe got of a CPU: well below 1, other work was going on


def memory_bytes(device: torch.device) -> int:
    """What can be had here: of the card its free memory, of the machine what is available within the process's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.is_file():
        found += [int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable")]
    if group.is_file() and group.read_text().strip().isdigit():
        found.append(int(group.read_text()))
    return min(found)


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """A context that counts the bytes of what autograd saves, each memory once, the model's own left out."""

    def __init__(self, model: Decoder):
        self.total = 0
        known = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(x: Tensor) -> Tensor:
            memory = x.untyped_storage()
            if memory.data_ptr() not in known:
                known.add(memory.data_ptr())
                self.total += memory.nbytes()
            return x

        super().__init__(pack, lambda x: x)


def probe_products(device: torch.device) -> Measured:
    """The rate of one product of 1,024 x 2,048 x 2,048 (bfloat16 and larger on CUDA)."""
    cuda = device.type == "cuda"
    size, kind = (8192, torch.bfloat16) if cuda else (2048, torch.float32)
    a, b = torch.ones(size // 2, size, device=device, dtype=kind), torch.ones(size, size, device=device, dtype=kind)
    best = min(_timed(lambda: a @ b, device) for _ in range(3))
    return Measured(flops=size**3 / best)


def rates(measured: Measured, parameters: int, stage: str) -> tuple[float, float]:
    """(tokens trained a second, new tokens a second) of a stage: of the probe, else from the product's rate."""
    trained = measured.tokens_per_s.get(stage) or next(iter(measured.tokens_per_s.values()), 0.0)
    guess = measured.flops / parameters
    return trained or _TRAINING_SHARE * guess / 6, measured.new_tokens_per_s or _SAMPLING_SHARE * guess / 2


def probe(shape: DecoderConfig, works: list[Work], optimizers: dict[str, OptimizerConfig], device: torch.device) -> Measured:
    """Run a model of this shape with random weights. Stages without documents of their own get one of their longest length."""
    started, worked = time.monotonic(), time.process_time()
    measured = probe_products(device)
    model = initialise(shape, 0).to(device)
    _train(model, [Document((1, 2, 3, 4))], device)  # what is made once is made now
    for work in sorted((w for w in works if w.micro_tokens), key=lambda w: -w.micro_tokens):
        if time.monotonic() - started > _SECONDS:
            break
        documents = list(work.documents) or _made_up(work, shape)
        tokens, seconds, saved = _train(model, documents, device)
        measured.tokens_per_s[work.stage] = tokens / seconds
        measured.probed_tokens[work.stage] = tokens
        measured.saved_per_token = max(measured.saved_per_token, saved / tokens)
        measured.update_s[work.stage] = _update(model, optimizers[work.stage], device)
    model.zero_grad(set_to_none=True)
    measured.new_tokens_per_s = _sample(model, works)
    measured.is_whole, measured.seconds = True, time.monotonic() - started
    if device.type == "cpu":
        measured.share = min(1.0, (time.process_time() - worked) / measured.seconds / torch.get_num_threads())
    return measured


def _made_up(work: Work, shape: DecoderConfig) -> list[Document]:
    """Documents of the stage's average length that fill its micro-batch; one of the longest where no length is known.

    Each has a prompt of its own: what documents of one prompt begin with in common would be computed once.
    """
    length = max(4, min(work.longest, work.length or work.longest))
    some = shape.vocab_size - 1
    rest = tuple(number % some + 1 for number in range(length - 2))
    count = max(1, work.micro_tokens // length)
    return [Document((number % some + 1, number // some % some + 1, *rest), 2) for number in range(count)]


def _train(model: Decoder, documents: list[Document], device: torch.device) -> tuple[int, float, int]:
    """Forward and backward over one micro-batch: tokens through the model, seconds, bytes saved."""
    flat = flatten(documents, device)
    model.train()
    counted = SavedBytes(model)

    def step() -> None:
        with autocast(model), counted:
            loss = nll(document_logprobs(model, flat), sum(d.num_targets for d in documents))
        loss.backward()

    return flat.num_tokens, _timed(step, device), counted.total


def _update(model: Decoder, config: OptimizerConfig, device: torch.device) -> float:
    """Seconds of an optimizer step, the second one: the first makes its state. The gradients stay."""
    optimizer = make_optimizer(model, config)
    gradients = [p.grad for p in model.parameters()]

    def step() -> None:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        update(optimizer, model, 1e-8, config.clip_norm)

    seconds = [_timed(step, device) for _ in range(2)][-1]
    return seconds


def _sample(model: Decoder, works: list[Work]) -> float:
    """New tokens a second with as many rollouts at once as the recipe has, fewer where that takes long."""
    most = int(_SAMPLING_FLOPS / (2 * _NEW_TOKENS * model.config.num_parameters))
    rows = max(1, min(max(work.samples for work in works), most))
    half = max(2, min(max(work.length for work in works) // 2, model.config.max_positions - _NEW_TOKENS - 1, 512))
    ids = tuple(number % (model.config.vocab_size - 1) + 1 for number in range(half))
    engine = Engine(model, [model.config.vocab_size])  # an id that is never drawn
    engine.generate([Request(ids, tuple(sample_key(0, number) for number in range(rows)), _NEW_TOKENS)])
    return engine.statistics.new_tokens / max(1e-9, engine.statistics.decode_seconds)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started
