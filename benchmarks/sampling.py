"""Sampling jobs of several shapes by Headway, by transformers or by vLLM: one JSON line a job, beside what the machine allows.

    python benchmarks/sampling.py headway|transformers|vllm FOLDER [--jobs even,ragged,shared,alone] [--data DIR/data.jsonl]

FOLDER is a checkpoint in the hub's form, float32. Every engine gets the same token ids and gives the same numbers of new tokens:

    even        64 prompts x 256 new tokens
    ragged      64 prompts, 16 to 1,024 new tokens, each its own: what is drawn beyond a prompt's own number is not counted
    shared      8 prompts x 32 samples x 128 new tokens: a prompt's samples share it
    alone       one prompt x 256 new tokens
    batch1, batch8, batch32    1, 8 or 32 prompts x 64 new tokens: for a larger checkpoint

Temperature 1, nothing stops early, log-probs where the engine has them. The best of --repeats; loading is not counted. `share` is
`limit_s` over the time taken, where the limit is the sum over decode steps of the longer of two: reading the weights and the keys
and values of the samples in flight once (at the bandwidth at which this machine sums a gigabyte), and the products (at the rate
at which it multiplies matrices of 1,024 x 1,024). Prompts cost nothing in it, and all samples are in flight at once. Weights that
fit the processor's cache are read faster than memory is: there, the limit is too slow.
`--limits` prints bandwidth and rate alone. Only the standard library, torch and the engine itself are needed to run it.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Generate = Callable[["Job"], int]  # the new tokens that were made


@dataclass(frozen=True)
class Job:
    """`samples` of each prompt (token ids), of `lengths` new tokens (one number a prompt)."""

    prompts: list[list[int]]
    lengths: list[int]
    samples: int = 1

    @property
    def new_tokens(self) -> int:
        """All that is asked for."""
        return self.samples * sum(self.lengths)


def jobs_of(prompts: list[list[int]]) -> dict[str, Job]:
    """The jobs by name."""
    ragged = [round(16 * 64 ** ((number * 29 % 64) / 63)) for number in range(64)]  # 16 to 1,024, even in their logarithm
    return {
        "even": Job(prompts[:64], [256] * 64),
        "ragged": Job(prompts[:64], ragged),
        "shared": Job(prompts[:8], [128] * 8, 32),
        "alone": Job(prompts[:1], [256]),
        **{f"batch{count}": Job(prompts[:count], [64] * count) for count in (1, 8, 32)},
    }


def headway(folder: Path) -> Generate:
    """Headway's engine."""
    from headway.engine.engine import Engine
    from headway.engine.sampling import sample_key
    from headway.model.checkpoint import load_decoder
    from headway.types import Request

    model = load_decoder(folder)
    engine = Engine(model, [model.config.vocab_size])  # an id that is never drawn

    def generate(job: Job) -> int:
        asked = [
            Request(tuple(prompt), tuple(sample_key(0, number, index) for index in range(job.samples)), length)
            for number, (prompt, length) in enumerate(zip(job.prompts, job.lengths, strict=True))
        ]
        return sum(len(one.token_ids) for group in engine.generate(asked) for one in group)

    return generate


def transformers(folder: Path) -> Generate:
    """`generate` of transformers on one padded batch, which goes on until the longest is done."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM

    return padded(AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval())


def padded(model: Any, **more: Any) -> Generate:
    """`generate` of a model of transformers on one padded batch; `more` are further settings of it."""

    def generate(job: Job) -> int:
        longest, most = max(map(len, job.prompts)), max(job.lengths)
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in job.prompts], device=model.device)
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in job.prompts]
        how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
        how |= {"max_new_tokens": most, "min_new_tokens": most, "num_return_sequences": job.samples, "pad_token_id": 0}
        out = model.generate(input_ids=ids, attention_mask=torch.tensor(mask, device=model.device), **how, **more)
        assert out.shape == (len(job.prompts) * job.samples, longest + most)
        return job.new_tokens

    return generate


def vllm(folder: Path) -> Generate:
    """vLLM's CPU build, with its default scheduling."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    llm: Any = LLM(str(folder), dtype="float32", max_model_len=1536, max_num_seqs=256)

    def generate(job: Job) -> int:
        how = [
            SamplingParams(n=job.samples, temperature=1.0, max_tokens=length, min_tokens=length, ignore_eos=True, logprobs=0)
            for length in job.lengths
        ]
        found = llm.generate([{"prompt_token_ids": prompt} for prompt in job.prompts], how, use_tqdm=False)
        return sum(len(one.token_ids) for request in found for one in request.outputs)

    return generate


def best_of(count: int, work: Callable[[], Any]) -> float:
    """The fewest seconds."""
    found: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def machine() -> tuple[float, float]:
    """Bytes a second from memory, floating-point operations a second of a product."""
    large = torch.ones(2**28)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 4 * 2**28 / best_of(5, large.sum), 2 * 1024**3 / best_of(10, lambda: a @ b)


def limit(job: Job, config: dict[str, Any], bandwidth: float, rate: float, size: int = 4) -> float:
    """Seconds that the decode steps take at least (see above), where a number is `size` bytes."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    kv = (config.get("num_key_value_heads") or heads) * head
    layer = width * heads * head * 2 + width * kv * 2 + 3 * width * config["intermediate_size"]
    layers = config["num_hidden_layers"]
    weights = layers * layer + config["vocab_size"] * width
    seconds = 0.0
    for step in range(max(job.lengths)):
        alive = [len(p) + step for p, length in zip(job.prompts, job.lengths, strict=True) if length > step]
        positions = job.samples * sum(alive)
        operations = 2 * weights * job.samples * len(alive) + 4 * layers * heads * head * positions
        seconds += max(size * (weights + 2 * layers * kv * positions) / bandwidth, operations / rate)
    return seconds


def prompts_of(folder: Path, data: Path) -> list[list[int]]:
    """The questions of `data` as token ids, between the model's marks of a turn where it has some."""
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    before, after = ("<user>", "<assistant>") if words.token_to_id("<user>") is not None else ("", "\n")
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()[:64]]
    return [words.encode(before + row["question"] + after, add_special_tokens=False).ids for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["headway", "transformers", "vllm"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", default="even,ragged,shared,alone")
    parser.add_argument("--data", type=Path, help="rows with a question; data.jsonl beside FOLDER without it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limits", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bandwidth, rate = machine()
    told = {"gb_per_s": round(bandwidth / 1e9, 1), "gflops": round(rate / 1e9, 1)}
    if arguments.limits:
        print(json.dumps(told))
        return
    folder: Path = arguments.folder
    config = json.loads((folder / "config.json").read_text())
    jobs = jobs_of(prompts_of(folder, arguments.data or folder.parent / "data.jsonl"))
    generate = {"headway": headway, "transformers": transformers, "vllm": vllm}[arguments.engine](folder)
    for name in arguments.jobs.split(","):
        job = jobs[name]
        made: list[int] = []
        seconds = best_of(arguments.repeats, lambda job=job, made=made: made.append(generate(job)))
        assert set(made) == {job.new_tokens}, "every engine gives what is asked for"
        least = limit(job, config, bandwidth, rate)
        row = {"engine": arguments.engine, "model": folder.parent.name, "job": name}
        row |= {"new_tokens_per_s": round(job.new_tokens / seconds, 1), "s": round(seconds, 3), "new_tokens": job.new_tokens}
        print(json.dumps(row | {"limit_s": round(least, 3), "share": round(least / seconds, 3)} | told), flush=True)


if __name__ == "__main__":
    main()
