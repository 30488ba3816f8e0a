"""A GGUF file sampled greedily by Headway and by transformers: are the texts the same?

    python benchmarks/gguf_greedy.py SmolLM2-135M-Instruct.Q4_1.gguf gsm8k_test.jsonl [--prompts 50] [--tokens 64] [--threads 1]

Both dequantise the file to float32 (by the reader of transformers); from there on everything is their own: the decoder, the
cache, the loop. Prompts are the questions in the model's own chat template. One JSON line: how many texts are equal, and of each
that is not, the first token that differs and the margin between the two highest logits there, by our whole forward pass: a
margin of some 1e-5 is rounding, more is a mistake.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GgufConfig

from headway.engine.engine import Engine
from headway.model.attention import lay_out
from headway.model.checkpoint import load_decoder
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import Decoder
from headway.types import Request


def theirs(path: Path, prompts: list[tuple[int, ...]], tokens: int, stops: list[int]) -> tuple[list[list[int]], float]:
    """Their greedy tokens of each prompt, and the seconds."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.generation_config.repetition_penalty = 1.0
    found: list[list[int]] = []
    started = time.monotonic()
    for ids in prompts:
        with torch.no_grad():
            out = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                do_sample=False,
                max_new_tokens=tokens,
                eos_token_id=stops,
                pad_token_id=stops[0],
            )
        found.append(out[0, len(ids) :].tolist())
    return found, time.monotonic() - started


@torch.no_grad()
def margin(model: Decoder, ids: list[int]) -> float:
    """The difference of the two highest logits after `ids`, by a whole forward pass."""
    hidden = model(torch.tensor(ids), lay_out([len(ids)]))[-1]
    highest = (model.output_weight @ hidden).topk(2).values
    return float(highest[0] - highest[1])


def main() -> None:
    """Compare, and print the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("data", type=Path, help="JSON lines with a `question` each")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    lines = chosen.data.read_text(encoding="utf-8").splitlines()[: chosen.prompts]
    tokenizer = Tokenizer.load(chosen.gguf.parent, chosen.gguf.name)
    prompts = [tokenizer.prompt_ids([{"role": "user", "content": json.loads(line)["question"]}]) for line in lines]
    expected, their_seconds = theirs(chosen.gguf, prompts, chosen.tokens, list(tokenizer.stop_ids))
    model = load_decoder(chosen.gguf.parent, gguf_file=chosen.gguf.name)
    engine = Engine(model, tokenizer.stop_ids)
    started = time.monotonic()
    results = engine.generate([Request(ids, (0,), chosen.tokens, temperature=0.0) for ids in prompts])
    seconds = time.monotonic() - started
    differing: list[dict[str, float]] = []
    for number, (ids, wanted, [completion]) in enumerate(zip(prompts, expected, results, strict=True)):
        found = list(completion.token_ids)
        if found != wanted:
            first = next((n for n, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted)))
            differing.append({"prompt": number, "token": first, "margin": margin(model, [*ids, *wanted[:first]])})
    report = {
        "model": chosen.gguf.name,
        "prompts": len(prompts),
        "tokens": sum(map(len, expected)),
        "equal": len(prompts) - len(differing),
        "differing": differing,
        "threads": chosen.threads,
        "seconds": round(seconds, 1),
        "transformers_seconds": round(their_seconds, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
