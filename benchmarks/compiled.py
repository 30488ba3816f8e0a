"""Whether torch.compile pays in training: plain and compiled layers in turn in one process, one JSON line each.

    OMP_NUM_THREADS=1 python benchmarks/compiled.py DIR      DIR/model: the small job's Llama (see tiny_job.py)

`gate` compiles act(gate) * up with its product, `halves` all of a layer but the attention, both for any number of tokens.
Processor seconds of forward and backward on ragged documents, the best of --repeats.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.model.checkpoint import load_decoder
from headway.model.transformer import Decoder
from headway.train.batching import Document, Flat, flatten
from headway.train.likelihood import document_logprobs


def ragged(seed: int, tokens: int = 2048) -> Flat:
    draw, documents = random.Random(seed), []
    while sum(len(d.ids) for d in documents) < tokens:
        length = draw.randrange(40, 400)
        documents.append(Document(tuple(draw.randrange(2, 1000) for _ in range(length)), length // 3))
    return flatten(documents)


def halves(block: Any) -> Callable[..., Tensor]:
    """The block, all of it but the attention compiled: what a Llama's block does."""

    def before(x: Tensor, turn: Any) -> Any:
        return block.attention.project(block.attention_norm(x), turn)

    def after(x: Tensor, y: Tensor) -> Tensor:
        x = x + F.linear(y.reshape(x.shape[0], -1), block.attention.out.weight)
        gate, up = F.linear(block.mlp_norm(x), block.gate_up.weight).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, block.down.weight)

    one, two = torch.compile(before, dynamic=True), torch.compile(after, dynamic=True)
    return lambda x, turn, see, again="none": two(x, see(*one(x, turn)))


def prepared(folder: Path, kind: str) -> Decoder:
    model = load_decoder(folder / "model")
    for block in model.blocks:
        if kind == "gate":
            block._gated = torch.compile(block._gated, dynamic=True)
        elif kind == "halves":
            block.forward = halves(block)
    return model


def step(model: Decoder, flat: Flat) -> tuple[float, float]:
    started = time.process_time()
    loss = -document_logprobs(model, flat).mean()
    loss.backward()
    model.zero_grad()
    return time.process_time() - started, float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    flats = [ragged(seed) for seed in range(4)]
    models = {kind: prepared(arguments.folder, kind) for kind in ("plain", "gate", "halves")}
    first = {kind: [step(model, flat) for flat in flats] for kind, model in models.items()}
    best = {kind: [float("inf")] * len(flats) for kind in models}
    for _ in range(arguments.repeats):
        for number, flat in enumerate(flats):
            for kind, model in models.items():
                best[kind][number] = min(best[kind][number], step(model, flat)[0])
    tokens, plain = sum(flat.num_tokens for flat in flats), sum(best["plain"])
    for kind, seconds in best.items():
        speed = {"tokens_per_s": round(tokens / sum(seconds), 1), "beside_plain": round(plain / sum(seconds), 3)}
        print(
            json.dumps({"kind": kind, **speed, "first_s": round(sum(s for s, _ in first[kind]), 1), "loss": first[kind][-1][1]})
        )


if __name__ == "__main__":
    main()
