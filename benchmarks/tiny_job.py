"""The fixed small jobs on which Headway and its peers are timed: one stage, one JSON line, in the peers' units.

    python benchmarks/tiny_job.py generate|sft|packed|dpo|rl DIR

DIR holds `model/`, a random Llama of 5.0 M parameters with its tokenizer, and `data.jsonl`, rows of question and answer.

    generate   64 prompts x 256 new tokens at temperature 1 with log-probs, no early stop; new tokens a second, best of --repeats
    sft        16 ragged examples a step, every token learned; tokens a second (there is no padding: all of them are useful)
    packed     16 rows of 512 tokens a step, the same examples packed; tokens a second
    dpo        16 pairs a step, reference log-probs computed before the first; pairs a second
    rl         8 prompts x 8 completions of up to 256 tokens a step, sampled, rewarded, learned from; completions a second

Training is `train.fit` with its metrics, and a resume point at the end alone; AdamW, float32. The first two of --steps steps are
left out, as the peers' scripts do. `gemm_share` is 6 N floating-point operations a token over the rate at which this machine
multiplies matrices of 1,024 x 1,024, measured before and after.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.model.checkpoint import load_decoder
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import Decoder
from headway.recipe import parse_recipe
from headway.runs import Run
from headway.stage_config import DpoConfig, RlConfig, StageConfig
from headway.stages.packing import row_batches
from headway.train.advantages import group_advantages
from headway.train.batching import Document, epochs
from headway.train.fit import Objective, fit
from headway.train.likelihood import Likelihood
from headway.train.policy import PolicyGradient, Sampled, Trajectory
from headway.train.preference import DocumentPair, Preference, reference_logprobs
from headway.train.resume import StageFolder
from headway.types import Request

Row = dict[str, Any]
RARE = {"checkpoint_seconds": 1e9}  # the peers save nothing


class Job:
    """The model, its tokenizer and the rows of a folder."""

    def __init__(self, folder: Path):
        self.model, self.tokenizer = load_decoder(folder / "model"), Tokenizer.load(folder / "model")
        self.rows: list[Row] = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]

    def prompt(self, row: Row) -> tuple[int, ...]:
        """A question as token ids."""
        return tuple(self.tokenizer.prompt_ids([{"role": "user", "content": row["question"]}]))

    def document(self, row: Row, completion: str, on_prompt: bool = False) -> Document:
        """Question, completion and stop token."""
        prompt = self.prompt(row)
        [ids] = self.tokenizer.encode_batch([completion])
        return Document((*prompt, *ids, self.tokenizer.stop_id), 1 if on_prompt else len(prompt))


def worked(answer: str) -> str:
    """The peers' stand-in for a solution."""
    return "Let me work through this. " * 6 + f"So the answer is \\boxed{{{answer}}}."


def generate(job: Job, repeats: int) -> Row:
    requests = [Request(job.prompt(row), (sample_key(0, number),), 256) for number, row in enumerate(job.rows[:64])]
    engine = Engine(job.model, [job.model.config.vocab_size])  # an id that is never drawn: nothing stops early
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


def likelihood(job: Job, steps: int, is_packed: bool) -> Row:
    documents = [job.document(row, worked(row["answer"]), on_prompt=True) for row in job.rows]
    if is_packed:
        rows, batches = row_batches(documents, 512, 16, seed=0)
        more = {"fill": round(sum(len(d.ids) for d in documents) / (512 * len(rows)), 4)}
    else:
        batches, more = (lambda: epochs(len(documents), 16, 0)), {}
    config = StageConfig.model_validate({"optimizer": {"lr": 1e-4}, **RARE})
    rates = trained(job.model, Likelihood(job.model, documents, batches, config.micro_batch_tokens), config, steps)
    return {"tokens_per_s": round(rates["tokens"] / rates["seconds"], 1), "s_per_step": rates["s_per_step"], **more}


def dpo(job: Job, steps: int) -> Row:
    pairs: list[DocumentPair] = []
    for row in job.rows[:1024]:
        good = worked(row["answer"])
        pairs.append(DocumentPair(job.document(row, good), job.document(row, good[:-3] + "1}.")))
    config = DpoConfig.model_validate({"optimizer": {"lr": 1e-6}, **RARE})
    started = time.perf_counter()
    reference = reference_logprobs(job.model, pairs)
    seconds = time.perf_counter() - started
    rates = trained(job.model, Preference(job.model, pairs, lambda: epochs(len(pairs), 16, 0), config, reference), config, steps)
    return {
        "pairs_per_s": round(16 / rates["s_per_step"], 1),
        "s_per_step": rates["s_per_step"],
        "tokens_per_pair": round(sum(p.num_tokens for p in pairs) / len(pairs), 1),
        "reference_pairs_per_s": round(len(pairs) / seconds, 1),
    }


class Groups:
    """Eight problems a step, eight fresh completions each, with the peers' reward: does the answer hold the length modulo 7?"""

    def __init__(self, job: Job):
        self._job, self._engine = job, Engine(job.model, [job.tokenizer.stop_id])
        self.seconds = 0.0

    def sample(self, step: int) -> Sampled:
        started = time.perf_counter()
        rows = self._job.rows[step * 8 : step * 8 + 8]
        prompts = [self._job.prompt(row) for row in rows]
        keys = [tuple(sample_key(0, step, number, index) for index in range(8)) for number in range(8)]
        requests = [Request(prompt, key, 256) for prompt, key in zip(prompts, keys, strict=True)]
        found: list[Trajectory] = []
        for row, prompt, group in zip(rows, prompts, self._engine.generate(requests), strict=True):
            texts = [self._job.tokenizer.decode(c.token_ids) for c in group]
            rewards = [float(str(len(text) % 7) in row["answer"]) for text in texts]
            for completion, advantage in zip(group, group_advantages(rewards), strict=True):
                if advantage:
                    document = Document((*prompt, *completion.token_ids), len(prompt))
                    found.append(Trajectory(document, completion.logprobs, advantage))
        self.seconds = time.perf_counter() - started
        return Sampled(found, 1.0, {"sampling_s": self.seconds, "trained": len(found)})

    def state(self) -> Row:
        return {}

    def restore(self, state: Row) -> None:
        pass


def rl(job: Job, steps: int) -> Row:
    config = RlConfig.model_validate({"optimizer": {"lr": 1e-6}, "prompts": 8, "group_size": 8, "max_tokens": 256, **RARE})
    rates = trained(job.model, PolicyGradient(job.model, Groups(job), config), config, steps)
    mean = {name: sum(row[name] for row in rates["rows"]) / len(rates["rows"]) for name in ("sampling_s", "trained")}
    return {
        "completions_per_s": round(64 / rates["s_per_step"], 2),
        "s_per_step": rates["s_per_step"],
        "sampling_s": round(mean["sampling_s"], 3),
        "trained_completions": round(mean["trained"], 1),
        "gap_max": max(row["gap_max"] for row in rates["rows"]),
    }


def trained(model: Decoder, objective: Objective[Any], config: StageConfig, steps: int) -> dict[str, Any]:
    """Train in a run of its own that is thrown away: tokens and seconds of the steps after the second, and their rows."""
    recipe = {"name": "job", "problems": {"sources": [{"family": "chain_sum", "count": 1}]}, "base": {}}
    rows: list[Row] = []
    ends: list[float] = []

    def show(step: int, total: int, row: Row) -> None:
        rows.append(row)
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as root, Run.open(root, parse_recipe(recipe, "job.toml"), "job.toml") as run:
        fit(model, objective, config, steps, StageFolder(run, "base"), show)
    seconds = ends[-1] - ends[1]
    tokens = rows[-1]["tokens"] - rows[1]["tokens"]
    return {"tokens": tokens, "seconds": seconds, "s_per_step": round(seconds / (steps - 2), 4), "rows": rows[2:]}


def gemm_rate() -> float:
    """Floating-point operations a second of a float32 product of two 1,024 x 1,024 matrices, the best of ten."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    found: list[float] = []
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        found.append(time.perf_counter() - started)
    return 2 * 1024**3 / min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["generate", "sft", "packed", "dpo", "rl"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="of generate")
    parser.add_argument("--steps", type=int, default=12, help="of training")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    job, steps = Job(arguments.folder), arguments.steps
    jobs: dict[str, Callable[[], Row]] = {
        "generate": lambda: generate(job, arguments.repeats),
        "sft": lambda: likelihood(job, steps, is_packed=False),
        "packed": lambda: likelihood(job, steps, is_packed=True),
        "dpo": lambda: dpo(job, steps),
        "rl": lambda: rl(job, steps),
    }
    before = gemm_rate()
    found = jobs[arguments.stage]()
    rate = max(before, gemm_rate())
    if "tokens_per_s" in found:
        parameters = sum(p.numel() for p in job.model.parameters())
        found |= {"gemm_share": round(6 * parameters * found["tokens_per_s"] / rate, 3), "gemm_gflops": round(rate / 1e9, 1)}
    print(json.dumps({"stage": arguments.stage, "threads": torch.get_num_threads(), **found}))


if __name__ == "__main__":
    main()
