"""The same work by Headway and by TRL: is the loss of every step the same?

    PYTHONPATH=. python benchmarks/equal_to_trl.py DIR [--steps 50] [--threads 1] [--only sft dpo ...] > equal.jsonl

DIR holds `model/`, a checkpoint with its tokenizer, and `data.jsonl`, rows of question and answer (as for `tiny_job.py`). It runs
where TRL 1.16 is installed; beside what TRL brings, it needs pydantic and jinja2 of Headway's dependencies.

Both start from the same float32 weights on the CPU and see the same token ids in the same order: AdamW (betas 0.9 and 0.999, eps
1e-8, no decay), a linear decay without warm-up, gradients clipped at norm 1. Of TRL nothing is replaced but the order of the rows
(sequential) and, for DPO, its tokenizing: it is given our ids. One JSON line a loss: the largest difference over the steps of the
losses, of the gradients' norms before clipping and of the rates; exit 1 where a loss differs by more than 1e-4.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import count
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset, disable_progress_bars  # noqa: E402
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer  # noqa: E402

import headway.stage_config as ours  # noqa: E402
from headway.model.checkpoint import load_decoder  # noqa: E402
from headway.model.tokenizer import Tokenizer  # noqa: E402
from headway.model.transformer import Decoder  # noqa: E402
from headway.train.batching import Document  # noqa: E402
from headway.train.fit import fit  # noqa: E402
from headway.train.likelihood import Likelihood  # noqa: E402
from headway.train.preference import DocumentPair, Preference, reference_logprobs  # noqa: E402

BOUND = 1e-4
BATCH = {"sft": 16}  # examples a step; of the others 8 pairs
RATE = {"sft": 1e-4}  # of the others 1e-5
JOBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # our settings, and theirs
    "sft": ({}, {}),
    "dpo": ({"beta": 0.1}, {"beta": 0.1}),
    "dpo + nll": ({"beta": 0.1, "nll_weight": 0.5}, {"beta": 0.1, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    "length-normalised": ({"length_normalised": True}, {"beta": 5.0, "loss_type": ["sigmoid_norm"]}),
    "ipo": ({"loss": "ipo", "beta": 0.1}, {"beta": 0.1, "loss_type": ["ipo"]}),
    "hinge": ({"loss": "hinge", "beta": 0.1}, {"beta": 0.1, "loss_type": ["hinge"]}),
    "robust": ({"loss": "robust", "beta": 0.1}, {"beta": 0.1, "loss_type": ["robust"], "label_smoothing": 0.1}),
}


class Rows:
    """Stands for a run's folder: keeps the metric rows in memory, and no resume point."""

    path = Path()

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def rewind(self, step: int) -> None:
        self.rows = [row for row in self.rows if row["step"] <= step]

    def need_room(self, tensors: object) -> None:
        pass

    def save(self, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any], kept: int) -> float:
        return 0.0

    def load(self) -> None:
        return None


def read(folder: Path, number: int) -> list[DocumentPair]:
    """Pairs of the first rows: some words and the right answer, the same words and a wrong one."""
    tokenizer = Tokenizer.load(folder / "model")
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= number, f"{folder / 'data.jsonl'} has {len(rows)} rows, {number} are needed"
    pairs: list[DocumentPair] = []
    for row in rows[:number]:
        prompt = tokenizer.prompt_ids([{"role": "user", "content": row["question"]}])
        words = "Let me work through this. " * (1 + len(pairs) % 6)
        sides = [f"{words}So the answer is \\boxed{{{answer}}}." for answer in (row["answer"], row["answer"] + "1")]
        ids = [(*prompt, *tokenizer.encode(side), tokenizer.stop_id) for side in sides]
        pairs.append(DocumentPair(*(Document(side, len(prompt)) for side in ids)))
    return pairs


def ours_trained(model: Decoder, job: str, pairs: list[DocumentPair], steps: int) -> list[dict[str, float]]:
    """The metric rows of `fit`."""
    batch, folder = BATCH.get(job, 8), Rows()
    optimizer = {"lr": RATE.get(job, 1e-5), "betas": (0.9, 0.999), "warmup": 0.0, "schedule": "linear", "final_lr": 0.0}

    def batches() -> Iterator[list[int]]:
        for step in count():
            yield list(range(step * batch, (step + 1) * batch))

    values = {"optimizer": optimizer, "micro_batch_tokens": 1024, **JOBS[job][0]}
    config: ours.StageConfig
    objective: Any
    if job == "sft":
        config = ours.SftConfig.model_validate(values)
        objective = Likelihood(model, [pair.chosen for pair in pairs], batches, config.micro_batch_tokens)
    else:
        config = ours.DpoConfig.model_validate(values)
        objective = Preference(model, pairs, batches, config, reference_logprobs(model, pairs))
    fit(model, objective, config, steps, folder, lambda *_: None)  # type: ignore[arg-type]
    return folder.rows


def theirs_trained(folder: Path, job: str, pairs: list[DocumentPair], steps: int) -> list[dict[str, float]]:
    """The loss of every call of `compute_loss`, whole, with what the trainer logs of the step."""
    losses: list[float] = []

    class Sft(SFTTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            losses.append(loss.item())
            return loss

    class Dpo(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            losses.append(loss.item())
            return loss

    common = {
        "output_dir": tempfile.mkdtemp(), "max_steps": steps, "report_to": [], "logging_steps": 1, "save_strategy": "no",
        "use_cpu": True, "bf16": False, "disable_tqdm": True, "gradient_checkpointing": False, "max_length": None,
        "per_device_train_batch_size": BATCH.get(job, 8), "learning_rate": RATE.get(job, 1e-5), "lr_scheduler_type": "linear",
        "warmup_steps": 0, "train_sampling_strategy": "sequential", "max_grad_norm": 1.0,
    }  # fmt: skip
    more = {
        "model": transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        "processing_class": transformers.AutoTokenizer.from_pretrained(folder / "model"),
    }
    if job == "sft":
        rows = [{"input_ids": p.chosen.ids, "labels": (-100,) * p.chosen.first_target + p.chosen.ids[p.chosen.first_target :]}
                for p in pairs]  # fmt: skip
        trainer = Sft(train_dataset=Dataset.from_list(rows), args=SFTConfig(**common), **more)
    else:
        rows = [{"prompt_ids": p.chosen.prompt, "chosen_ids": p.chosen.ids[p.chosen.first_target :],
                 "rejected_ids": p.rejected.ids[p.rejected.first_target :]} for p in pairs]  # fmt: skip
        trainer = Dpo(train_dataset=Dataset.from_list(rows), args=DPOConfig(**common, **JOBS[job][1]), **more)
    with redirect_stdout(sys.stderr):  # it prints its rows
        trainer.train()
    logged = [row for row in trainer.state.log_history if "grad_norm" in row]
    assert len(losses) == len(logged) == steps, "one loss and one row a step"
    return [
        {"loss": loss, "grad_norm": row["grad_norm"], "lr": row["learning_rate"]}
        for loss, row in zip(losses, logged, strict=True)
    ]


def compared(folder: Path, job: str, steps: int) -> dict[str, Any]:
    """Both trained, and the largest differences."""
    pairs = read(folder, steps * BATCH.get(job, 8))
    mine = ours_trained(load_decoder(folder / "model"), job, pairs, steps)
    other = theirs_trained(folder, job, pairs, steps)
    loss = [abs(a["loss"] - b["loss"]) for a, b in zip(mine, other, strict=True)]
    norm = [abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(mine, other, strict=True) if b["grad_norm"]]
    return {
        "job": job,
        "steps": steps,
        "largest_loss_difference": max(loss),
        "at_step": loss.index(max(loss)) + 1,
        "largest_relative_norm_difference": max(norm, default=0.0),
        "largest_lr_difference": max(abs(a["lr"] - b["lr"]) for a, b in zip(mine, other, strict=True)),
        "first_loss": [mine[0]["loss"], other[0]["loss"]],
        "last_loss": [mine[-1]["loss"], other[-1]["loss"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=list(JOBS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    is_equal = True
    for job in arguments.only:
        found = compared(arguments.folder, job, arguments.steps)
        is_equal &= found["largest_loss_difference"] <= BOUND
        print(json.dumps(found), flush=True)
    sys.exit(0 if is_equal else 1)


if __name__ == "__main__":
    main()
