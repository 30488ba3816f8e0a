"""The fixed small job on which Headway and its peers are timed: one stage, one JSON line, in the peers' units.

    python benchmarks/tiny_job.py generate DIR

DIR holds `model/`, a random Llama of 5.0 M parameters with its tokenizer, and `data.jsonl`, rows of question and answer.

    generate   64 prompts x 256 new tokens at temperature 1 with log-probs, no early stop; new tokens a second, best of --repeats
"""

import argparse
import json
import time
from pathlib import Path

import torch

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.model.checkpoint import load_decoder
from headway.model.tokenizer import Tokenizer
from headway.types import Request


def generate(folder: Path, repeats: int) -> dict[str, object]:
    model, tokenizer = load_decoder(folder / "model"), Tokenizer.load(folder / "model")
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()[:64]]
    prompts = [tokenizer.prompt_ids([{"role": "user", "content": row["question"]}]) for row in rows]
    requests = [Request(ids, (sample_key(0, number),), 256) for number, ids in enumerate(prompts)]
    engine = Engine(model, [model.config.vocab_size])  # an id that is never drawn: nothing stops early
    found: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        completions = engine.generate(requests)
        found.append(time.perf_counter() - started)
        assert sum(len(c.logprobs) for [c] in completions) == 64 * 256, "every request gives 256 tokens"
    return {
        "s": round(min(found), 3),
        "new_tokens_per_s": round(64 * 256 / min(found), 1),
        "ms_per_decode_step": round(min(found) / 256 * 1e3, 2),
        "all_s": [round(s, 3) for s in found],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["generate"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = generate(arguments.folder, arguments.repeats)
    print(json.dumps({"stage": arguments.stage, "threads": torch.get_num_threads(), **found}))


if __name__ == "__main__":
    main()
