"""The shapes of Qwen3-0.6B and Phi-4-mini with random weights on one GPU, by Headway or by transformers: one JSON line a job.

    PYTHONPATH=. python benchmarks/sampling_cuda.py headway --shape qwen3-0.6b
    PYTHONPATH=. python benchmarks/sampling_cuda.py transformers --shape qwen3-0.6b

and the same with `--shape phi4-mini`. Engines:

    headway        Headway's engine, on float32 master weights (--weights bfloat16: on weights of that type)
    transformers   continuous batching (`generate_batch`) in bfloat16; --batching '{"use_cuda_graph": true}' sets more of it
    generate       `generate` of transformers in bfloat16, one padded batch, a cache that grows
    static         the same with a static cache, for which transformers compiles the model; warms up with the whole job

Jobs: `many` is --prompts prompts of 32 to 256 random ids x --tokens new tokens, `alone` the first of them. Temperature 1, nothing
stops early. A run of a few tokens on the same prompts comes first and is not counted; then the best of --repeats. `share` is
`limit_s` over the time, the limit as in `sampling.py` with two bytes a number: the longer of reading bfloat16 weights, keys and
values once a step, and the products. `gb_per_s` and `tflops` are what this card gives to a large sum or copy and to a large
product. transformers takes flash attention where it is installed, else PyTorch's. What fails says so in its line, under `error`.

On the CPU (`--device cpu --scale tiny --prompts 4 --tokens 8`) everything is float32, to see that it runs. Needs no files and no
tokenizer.
"""

import argparse
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from typing import Any

import torch
from sampling import Generate, Job, best_of, limit, machine, padded

# Of Phi-4-mini's 48 factors the first and the last are known; no job here is long enough to use them.
_LONG = [1.0 + 46.77 * place / 47 for place in range(48)]
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151_936, "rope_theta": 1_000_000.0, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40_960,
    },
    "phi4-mini": {
        "model_type": "phi3", "hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8,
        "intermediate_size": 8192, "vocab_size": 200_064, "rope_theta": 10_000.0, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": _LONG}, "sliding_window": None,
    },
}  # fmt: skip
_BOTH = {"tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
_WARM = 8  # new tokens of the run that is not counted


@dataclass(frozen=True)
class Peer:
    """An engine at work: `generate` makes all new tokens of a job, `told` says what the engine knows of the last one."""

    generate: Generate
    told: Callable[[], dict[str, Any]] = dict
    warms_whole: bool = False  # the first run of a job compiles for its lengths
    close: Callable[[], None] = lambda: None


def values_of(shape: str, scale: str) -> dict[str, Any]:
    """The `config.json` of a shape; at the scale "tiny" all but the family and the kinds of its layers is small."""
    values = SHAPES[shape] | _BOTH
    if scale == "full":
        return values
    values |= _TINY | {"vocab_size": 512}
    if "head_dim" in values:
        return values | {"head_dim": 16}
    return values | {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": _LONG[:6]}}


def jobs_of(count: int, tokens: int, vocabulary: int) -> dict[str, Job]:
    """The jobs by name."""
    draw = random.Random(0)
    prompts = [[draw.randrange(vocabulary) for _ in range(draw.randint(32, 256))] for _ in range(count)]
    return {"many": Job(prompts, [tokens] * count), "alone": Job(prompts[:1], [tokens])}


def dtype_of(device: str) -> torch.dtype:
    """What the peers' weights are, and what the limit counts."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def headway(values: dict[str, Any], job: Job, arguments: argparse.Namespace) -> Peer:
    """Headway's engine. Its cache has place for all samples at once unless --positions says otherwise."""
    from headway.engine.engine import Engine
    from headway.engine.sampling import sample_key
    from headway.model.families import from_hf
    from headway.model.transformer import Decoder
    from headway.types import Request

    config = from_hf(values, longest(job))
    with torch.device(arguments.device):
        model = Decoder(config)
    draw_weights(model, config.width)
    model = model.to(getattr(torch, arguments.weights))
    model.set_frequencies(arguments.device)
    positions = len(job.prompts) * (longest(job) + 64) if arguments.positions is None else arguments.positions
    engine = Engine(model, [config.vocab_size], positions=positions)  # an id that is never drawn

    def generate(job: Job) -> int:
        asked = [
            Request(tuple(prompt), (sample_key(0, number),), length)
            for number, (prompt, length) in enumerate(zip(job.prompts, job.lengths, strict=True))
        ]
        return sum(len(one.token_ids) for group in engine.generate(asked) for one in group)

    def told() -> dict[str, Any]:
        found = engine.statistics
        names = ("steps", "batch", "slots", "prefill_seconds", "decode_seconds", "preemptions", "cache_bytes", "cache_limit")
        return {"weights": arguments.weights} | {name: round(getattr(found, name), 3) for name in names}

    return Peer(generate, told)


def longest(job: Job) -> int:
    """The positions of the longest sample."""
    return max(len(prompt) + length for prompt, length in zip(job.prompts, job.lengths, strict=True))


@torch.no_grad()
def draw_weights(model: torch.nn.Module, width: int) -> None:
    """Random matrices, drawn where the model is; the rest stays as it was made."""
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.normal_(0.0, (2 / (5 * width)) ** 0.5)


def hf_model(values: dict[str, Any], device: str) -> Any:
    """transformers' model of the same shape, on the device."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**values)
    with torch.device(device):  # tensors are made there: a model of gigabytes is drawn in a moment
        model = AutoModelForCausalLM.from_config(config, dtype=dtype_of(device))
    model = model.to(device).eval()
    draw_weights(model, values["hidden_size"])
    return model


def transformers(values: dict[str, Any], job: Job, arguments: argparse.Namespace) -> Peer:
    """Continuous batching. Its manager, with cache and captured graphs, stays from the run that is not counted on."""
    model = hf_model(values, arguments.device)
    from transformers import ContinuousBatchingConfig, GenerationConfig

    blocks = -(-longest(job) // 256) + 1  # of its own size; an even number, as it would choose for this job
    wanted = {"allow_block_sharing": False, "seed": 0, "max_requests_per_batch": len(job.prompts)}
    wanted |= {"max_blocks_per_request": blocks + blocks % 2}
    if arguments.device == "cpu":  # by itself it takes most of the machine's memory
        wanted |= {"num_blocks": len(job.prompts) * (blocks + 1), "max_batch_tokens": 512}
    batching = known(ContinuousBatchingConfig, wanted) | json.loads(arguments.batching)
    state: dict[str, Any] = {"batching": batching}

    def generate(job: Job) -> int:
        how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "eos_token_id": -1, "pad_token_id": 0}
        settings = GenerationConfig(max_new_tokens=job.lengths[0], **how)
        asked = {"generation_config": settings, "continuous_batching_config": ContinuousBatchingConfig(**batching)}
        asked |= known(model.generate_batch, {"persistent_manager": True, "progress_bar": False, "warmup": True})
        found = model.generate_batch(inputs=job.prompts, **asked)
        errors = sorted({one.error for one in found.values() if one.error})
        if errors or len(found) < len(job.prompts):
            raise RuntimeError(f"{len(found)} of {len(job.prompts)} requests came back; errors: {errors or 'none'}")
        manager = getattr(model, "_cached_continuous_batching_manager", None)
        chosen = getattr(manager, "continuous_batching_config", None)
        names = ("use_cuda_graph", "use_async_batching", "max_batch_tokens", "num_blocks", "max_blocks_per_request")
        state["chosen"] = {name: getattr(chosen, name, None) for name in names}
        return sum(len(one.generated_tokens) for one in found.values())

    def close() -> None:
        if hasattr(model, "destroy_cached_continuous_batching_manager"):
            model.destroy_cached_continuous_batching_manager()

    return Peer(generate, lambda: state | attention_of(model), close=close)


def known(function: Callable[..., Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that this version of `function` has."""
    return {name: value for name, value in wanted.items() if name in signature(function).parameters}


def attention_of(model: Any) -> dict[str, Any]:
    """The attention that the model was made with, and the flash attentions there are: continuous batching takes those first."""
    from transformers.utils import import_utils

    checks = {2: "is_flash_attn_2_available", 3: "is_flash_attn_3_available"}
    flash = [number for number, name in checks.items() if getattr(import_utils, name, lambda: False)()]
    return {"attention": model.config._attn_implementation, "flash": flash}


def generate(values: dict[str, Any], job: Job, arguments: argparse.Namespace) -> Peer:
    """`generate` on one padded batch."""
    model = hf_model(values, arguments.device)
    return Peer(padded(model), lambda: attention_of(model))


def static(values: dict[str, Any], job: Job, arguments: argparse.Namespace) -> Peer:
    """`generate` with a static cache, compiled on CUDA."""
    model = hf_model(values, arguments.device)
    return Peer(padded(model, cache_implementation="static"), lambda: attention_of(model), warms_whole=True)


ENGINES = {"headway": headway, "transformers": transformers, "generate": generate, "static": static}


def wait(device: str) -> None:
    """Until everything that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def let_go(device: str) -> None:
    """Give the memory of what nobody holds any more back to the device."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def card(device: str) -> tuple[float, float]:
    """Bytes a second from memory, the better of a sum and a copy; operations a second of a large product in bfloat16."""
    if device == "cpu":
        return machine()

    def best(work: Callable[[], Any]) -> float:
        def done() -> None:
            work()
            wait(device)

        done()
        return best_of(10, done)

    source = torch.ones(2**31, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device=device) for _ in range(2))
    read = source.nbytes / best(source.sum)
    copied = 2 * source.nbytes / best(lambda: target.copy_(source))
    rate = 2 * 8192**3 / best(lambda: a @ b)
    return max(read, copied), rate


def measure(peer: Peer, job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """The fastest of --repeats runs: seconds, all runs' seconds, peak memory, and what the engine tells of the fastest."""
    few = Job(job.prompts, [min(_WARM, length) for length in job.lengths])
    started = time.perf_counter()
    peer.generate(job if peer.warms_whole else few)
    wait(arguments.device)
    warm = time.perf_counter() - started
    print(f"{arguments.engine}: warm after {warm:.1f} s", file=sys.stderr, flush=True)
    if arguments.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found: list[tuple[float, dict[str, Any]]] = []
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        made = peer.generate(job)
        wait(arguments.device)
        found.append((time.perf_counter() - started, peer.told()))
        if made != job.new_tokens:
            raise RuntimeError(f"{made} new tokens instead of {job.new_tokens}")
    seconds, told = min(found, key=lambda run: run[0])
    peak = torch.cuda.max_memory_allocated() if arguments.device == "cuda" else 0
    return {"seconds": seconds, "warm_s": warm, "all_s": [round(run[0], 3) for run in found], "peak": peak, "told": told}


def row_of(name: str, arguments: argparse.Namespace, bandwidth: float, rate: float) -> dict[str, Any]:
    """All of one job: the engine is made for it and let go."""
    values = values_of(arguments.shape, arguments.scale)
    job = jobs_of(arguments.prompts, arguments.tokens, values["vocab_size"])[name]
    row: dict[str, Any] = {"engine": arguments.engine, "shape": arguments.shape, "scale": arguments.scale, "job": name}
    row |= {"prompts": len(job.prompts), "tokens": arguments.tokens}
    peer = None
    try:
        peer = ENGINES[arguments.engine](values, job, arguments)
        found = measure(peer, job, arguments)
    except Exception as error:  # a peer's failure is a finding
        return row | {"error": f"{type(error).__name__}: {error}"[:500]}
    finally:
        if peer is not None:
            peer.close()
    seconds = found["seconds"]
    least = limit(job, values, bandwidth, rate, dtype_of(arguments.device).itemsize)
    row |= {"new_tokens_per_s": round(job.new_tokens / seconds, 1), "s": round(seconds, 3), "new_tokens": job.new_tokens}
    row |= {"limit_s": round(least, 3), "share": round(least / seconds, 3), "all_s": found["all_s"]}
    row |= {"warm_s": round(found["warm_s"], 1), "peak_gib": round(found["peak"] / 2**30, 2)}
    return row | found["told"]


def version_of(package: str) -> str:
    """Of what is installed; empty where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=[*ENGINES])
    parser.add_argument("--shape", choices=[*SHAPES], required=True)
    parser.add_argument("--jobs", default="many,alone")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--scale", choices=["full", "tiny"], default="full")
    parser.add_argument("--weights", choices=["float32", "bfloat16"], default="float32", help="Headway's")
    parser.add_argument("--positions", type=int, help="of Headway's cache; 0: what the engine takes by itself")
    parser.add_argument("--batching", default="{}", help="more of ContinuousBatchingConfig, as JSON")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    bandwidth, rate = card(arguments.device)
    let_go(arguments.device)
    told = {"device": name, "torch": torch.__version__, "transformers": version_of("transformers")}
    told |= {"gb_per_s": round(bandwidth / 1e9, 1), "tflops": round(rate / 1e12, 3)}
    for job in arguments.jobs.split(","):
        print(json.dumps(row_of(job, arguments, bandwidth, rate) | told, default=str), flush=True)
        let_go(arguments.device)


if __name__ == "__main__":
    main()
