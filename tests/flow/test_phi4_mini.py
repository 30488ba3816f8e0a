"""recipes/phi4-mini.toml itself through all four stages: the same file, with `--set` values, on a small random model.

The model is of the architecture of Phi-4-mini (phi3: three of four dimensions turn, LongRoPE's long factors, three query heads a
key head, tied, more embedding rows than tokens, two ends of a turn), written by transformers; the data lies in the layouts of the
hub's sets. Then what came out: the stages' selections, the card, transformers, the chat.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from headway.chat.folding import parted
from headway.cli import main
from headway.engine.engine import Engine
from headway.model.checkpoint import load_decoder
from headway.model.tokenizer import Tokenizer
from headway.recipe import load_recipe
from headway.store.store import Store
from headway.types import Request, Split

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "phi4-mini.toml"
BESPOKE = "Return your final response within \\boxed{}. "


def question(number: int) -> str:
    return f"Is {number} odd? Answer 1 for yes and 0 for no."


def thought(number: int, answer: int) -> str:
    return f"<think>\nThe last digit is {number % 10}.\n</think>\n\n\\boxed{{{answer}}}"


def write_data(folder: Path) -> None:
    """Small files with the columns of the five sets; a row that names no answer, and traces that are wrong."""
    sets: dict[str, list[dict[str, Any]]] = {name: [] for name in ("openr1", "openthoughts", "bespoke", "math500", "aime24")}
    for i in range(110, 170):
        right = i % 2
        sets["openr1"].append(
            {"problem": question(i), "solution": f"$\\boxed{{{right}}}$", "answer": str(right), "problem_type": "Number Theory",
             "generations": [thought(i, right), thought(i, 1 - right)], "correctness_math_verify": [True, False],
             "is_reasoning_complete": [True, True]}
        )  # fmt: skip
    for i in range(170, 200):
        sets["openthoughts"].append(
            {"problem": question(i), "deepseek_reasoning": f"The last digit is {i % 10}.",
             "deepseek_solution": f"\\boxed{{{i % 2}}}", "ground_truth_solution": f"It is $\\boxed{{{i % 2}}}$.",
             "domain": "math", "source": "made up"}
        )  # fmt: skip
    code = {"problem": "Write a program that sorts.", "deepseek_reasoning": "Sort.", "deepseek_solution": "sorted(x)"}
    sets["openthoughts"].append(code | {"ground_truth_solution": None, "domain": "code", "source": "made up"})
    for i in (112, 113, 5000):
        text = f"<|begin_of_thought|>\n\nSee {i}.\n\n<|end_of_thought|>\n\n"
        text += f"<|begin_of_solution|>\n\n\\boxed{{{i % 2}}}\n\n<|end_of_solution|>"
        turns = [{"from": "user", "value": BESPOKE + question(i)}, {"from": "assistant", "value": text}]
        sets["bespoke"].append({"system": "Think.", "conversations": turns})
    for name, first in (("math500", 200), ("aime24", 300)):
        for i in range(first, first + 8):
            sets[name].append({"problem": question(i), "solution": f"$\\boxed{{{i % 2}}}$", "answer": str(i % 2)})
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_start(folder: Path) -> None:
    """A random Phi-3 in the shape of Phi-4-mini with a tokenizer like its own."""
    from transformers import Phi3Config, Phi3ForCausalLM

    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    from phi_like import phi_like

    folder.mkdir()
    ids = phi_like(folder)
    end, tokens = ids["<|endoftext|>"], Tokenizer.load(folder).size
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75}
    rope |= {"short_factor": [1.0] * 3, "long_factor": [1.0, 1.5, 4.0]}
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=tokens + 35, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=96, max_position_embeddings=512, original_max_position_embeddings=16, rope_parameters=rope,
        tie_word_embeddings=True, sliding_window=1024, bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    Phi3ForCausalLM(config).save_pretrained(folder)
    phi_like(folder)  # its generation_config.json in place of the model's


def small(folder: Path) -> list[str]:
    """The `--set` values: local data, the small model, a few steps a stage at rates that teach it something."""
    values: dict[str, Any] = {f"problems.sources.{n}.data": folder / f"{name}.jsonl" for n, name in enumerate(_names())}
    values |= {
        "name": "phi4-small",
        "threads": 1,
        "model.checkpoint": folder / "start",
        "model.max_positions": 384,
        "problems.instruction": "",
    }
    values |= {f"{stage}.checkpoint_seconds": 600 for stage in ("midtrain", "sft", "dpo", "rl")}
    values |= {"midtrain.seq_len": 256, "midtrain.batch_rows": 4, "midtrain.validate_every": 20, "midtrain.max_epochs": 12}
    values |= {"midtrain.optimizer.lr": 0.01, "sft.optimizer.lr": 0.01, "sft.max_tokens": 256, "sft.batch_examples": 16}
    values |= {"dpo.max_tokens": 256, "dpo.batch_pairs": 16, "dpo.optimizer.lr": 1e-4}
    values |= {"rl.max_tokens": 56, "rl.steps": 2, "rl.prompts": 3, "rl.group_size": 4, "rl.oversample": 2, "rl.max_refills": 3}
    values |= {"rl.uniform_length_problems": 16, "rl.uniform_length_rounds": 2, "rl.optimizer.lr": 1e-3}
    values |= {"evaluate.max_tokens": 56}
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def _names() -> list[str]:
    return [source.name for source in load_recipe(RECIPE).problems.sources]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the recipe."""
    folder = tmp_path_factory.mktemp("phi4")
    write_data(folder)
    write_start(folder / "start")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(RECIPE), "--root", str(folder / "runs"), *small(folder)])
    assert ended.value.code == 0
    return folder / "runs" / "phi4-small"


def selected(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / "selections" / f"{name}.json").read_text())["funnel"]


def test_all_four_stages_are_measured_against_the_start(run: Path) -> None:
    stages = json.loads((run / "results.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["base", "midtrain", "sft", "dpo", "rl"]
    assert {(stage["num_problems"], stage["samples_per_problem"]) for stage in stages} == {(16, 3)}
    assert stages[0]["train_tokens"] == 0
    assert all(stage["train_tokens"] > 0 for stage in stages[1:])
    assert stages[2]["accuracy"] > stages[0]["accuracy"] == 0  # it has learned the form at least
    weights = {(path / "model.safetensors").read_bytes() for path in run.glob("checkpoints/*/final")}
    assert len(weights) == 4


def test_the_stages_learn_from_the_traces_and_nothing_else(run: Path) -> None:
    store = Store(run / "store", create=False)
    policies = {(r.sampler, r.policy) for r in store.rollouts(["import", "teacher"])}
    expected = {"openr1/generations", "openthoughts/deepseek_solution", "bespoke/conversations"}
    assert policies == {("import", policy) for policy in expected}  # no short worked solution of a set
    [bespoke] = [r for r in store.rollouts("import") if r.policy == "bespoke/conversations" and "112" in r.text]
    assert bespoke.text == "<think>\nSee 112.\n</think>\n\n\\boxed{0}"
    assert selected(run, "traces-bespoke") == {
        "name": "rows of bespoke", "considered": 3, "kept": 2, "dropped": {"the run has no such problem": 1}
    }  # fmt: skip
    assert selected(run, "problems-answers")["dropped"] == {"names no answer": 1}
    assert selected(run, "midtrain")["kept"] == 60 + 30 + 2
    assert selected(run, "sft")["kept"] == 90  # one a problem
    assert selected(run, "dpo")["kept"] == 60  # those with a wrong trace beside a right one
    assert {problem.source for problem in store.problems(split=Split.TRAIN)} == {"openr1", "openthoughts"}


def test_reinforcement_learning_was_on_what_was_sampled(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics" / "rl.jsonl").read_text().splitlines()]
    assert [row["temperature"] for row in rows] == [1.0, 0.6]  # over the first half of two steps
    assert sum(row["trained_rollouts"] for row in rows) > 0
    assert all(row["gap_max"] <= 1e-4 for row in rows)  # one set of LongRoPE's factors in sampling and in training


def test_the_final_weights_are_a_phi3_that_transformers_continues_alike(run: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = run / "checkpoints" / "rl" / "final"
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["max_position_embeddings"]) == ("phi3", 512)
    tokenizer = Tokenizer.load(folder)
    assert len(tokenizer.stop_ids) == 2
    prompt = tokenizer.prompt_ids([{"role": "user", "content": question(301)}])
    assert len(prompt) > 16  # beyond the original positions, where transformers takes the long factors, too
    [[ours]] = Engine(load_decoder(folder), tokenizer.stop_ids).generate([Request(prompt, (1,), 40, temperature=0.0)])
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([prompt])
    found = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
    assert tuple(found[0, len(prompt) :].tolist()) == ours.token_ids


def test_the_cards_example_runs_as_it_stands(run: Path) -> None:
    folder = run / "checkpoints" / "rl" / "final"
    card = (folder / "README.md").read_text()
    assert "| rl | " in card
    assert "not measured" not in card
    code = card.split("```python\n")[1].split("```")[0].replace("THIS_FOLDER", str(folder))
    told = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_pipe_asks_the_run_and_its_thought_is_folded(run: Path) -> None:
    folder = run / "checkpoints" / "rl" / "final"
    tokenizer = Tokenizer.load(folder)
    engine, asked = Engine(load_decoder(folder), tokenizer.stop_ids), range(110, 170)
    prompts = tokenizer.prompt_ids_batch([[{"role": "user", "content": question(i)}] for i in asked])
    found = engine.generate([Request(prompt, (1,), 60, temperature=0.0) for prompt in prompts])
    texts = [parted(tokenizer.decode(one.token_ids)) for [one] in found]
    number, answer = next((i, answer) for i, (thought, answer) in zip(asked, texts, strict=True) if thought and answer)
    told = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "headway", "chat", str(run), "--temperature", "0", "--max-tokens", "60"]
    done = subprocess.run(words, input=question(number), capture_output=True, text=True, env=told, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{answer}\n", "")
