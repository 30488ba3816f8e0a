"""Peak memory of a training step with a vocabulary of 200,064 words at 16,384 tokens on the CPU, beside what `headway plan` says.

    python benchmarks/memory.py [--losses nll,dpo,rl] [--tokens 16384] [--width 64] [--layers 2]

Each loss is a step (forward, backward, AdamW) in a process of its own; its peak is `getrusage`'s `ru_maxrss`. One JSON line each:
`peak_bytes`, `planned_bytes` and their `ratio`, which must stay below 1.2. All logits at once would be `logits_bytes`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from headway.model.config import DecoderConfig
from headway.model.transformer import Decoder, initialise
from headway.plan import memory
from headway.plan.planning import SAFETY
from headway.stage_config import DpoConfig, OptimizerConfig, RlConfig
from headway.train.batching import Document
from headway.train.likelihood import Likelihood
from headway.train.optim import make_optimizer, update
from headway.train.policy import PolicyGradient, Sampled, Trajectory
from headway.train.preference import DocumentPair, Preference

VOCABULARY, PROMPT = 200_064, 64


def ids(count: int, first: int) -> tuple[int, ...]:
    """Token ids spread over the vocabulary."""
    return tuple((first + number * 7919) % VOCABULARY for number in range(count))


def endless(items: int) -> Iterator[Sequence[int]]:
    while True:
        yield list(range(items))


class Given:
    """One group of trajectories, as if just sampled."""

    def __init__(self, trajectories: list[Trajectory]):
        self._trajectories = trajectories

    def sample(self, step: int) -> Sampled:
        return Sampled(self._trajectories, 1.0, {})

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def objective(loss: str, model: Decoder, tokens: int) -> Any:
    """One micro-batch of about `tokens` tokens: eight documents, or two of four rollouts and their prompts."""
    part = tokens // 8
    if loss == "nll":
        documents = [Document(ids(part + 1, number)) for number in range(8)]
        return Likelihood(model, documents, partial(endless, 8), 2 * tokens)
    prompt = ids(PROMPT, 3)
    documents = [Document(prompt + ids(part - PROMPT // 8, 100 + number), PROMPT) for number in range(8)]
    if loss == "dpo":
        pairs = [DocumentPair(documents[number], documents[number + 4]) for number in range(4)]
        config = DpoConfig(micro_batch_tokens=2 * tokens)
        return Preference(model, pairs, partial(endless, 4), config, torch.full((4, 2), -12.2 * part))
    logprobs = (-12.2,) * (part - PROMPT // 8)
    trajectories = [Trajectory(document, logprobs, (-1.0) ** number) for number, document in enumerate(documents)]
    return PolicyGradient(model, Given(trajectories), RlConfig(micro_batch_tokens=2 * tokens))


def peak() -> int:
    """The most bytes this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def step(loss: str, tokens: int, width: int, layers: int) -> dict[str, object]:
    """Train one step in this process."""
    torch.set_num_threads(1)
    base = peak()
    shape = DecoderConfig(VOCABULARY, width, layers, 4, 2, width // 4, 4 * width, max_positions=tokens + 1)
    model = initialise(shape, 0)
    made = objective(loss, model, tokens)
    [micro] = next(iter(made.updates(0)))
    sent = made.tokens(micro)
    optimizer, started = make_optimizer(model, OptimizerConfig()), time.monotonic()
    for _ in range(2):  # two micro-batches of one update: the second meets the first one's gradient
        value = made.loss(micro)[0]
        value.backward()
        del value
    update(optimizer, model, 1e-4, 1.0)
    planned = round((1 + SAFETY) * (memory.training(shape, "adamw", sent).peak + base))
    return {
        "loss": loss,
        "tokens": sent,
        "parameters": shape.num_parameters,
        "process_bytes": base,
        "peak_bytes": peak(),
        "planned_bytes": planned,
        "ratio": round(peak() / planned, 3),
        "logits_bytes": 4 * sent * VOCABULARY,
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", default="nll,dpo,rl")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--here", action="store_true", help="In this process: what each loss's own process is called with.")
    arguments = parser.parse_args()
    losses = arguments.losses.split(",")
    if arguments.here:
        [loss] = losses
        print(json.dumps(step(loss, arguments.tokens, arguments.width, arguments.layers)))
        return
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("tokens", "width", "layers")]
    for loss in losses:
        subprocess.run([sys.executable, __file__, "--here", "--losses", loss, *sizes], check=True)


if __name__ == "__main__":
    main()
