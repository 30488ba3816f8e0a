"""Hybrid decoding: programs first, the ordinary prompt where one comes to nothing, one verdict a sample, and resumable."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_sampler import parities, policy, tokenizer

from headway.cli import main
from headway.config import EvaluateConfig
from headway.engine.engine import Engine
from headway.errors import ConfigError
from headway.evaluate.benchmark import evaluate, judged_samples, score
from headway.evaluate.hybrid import evaluate_hybrid, program_counts, program_samples
from headway.evaluate.regrade import regrade
from headway.model.checkpoint import save_decoder
from headway.model.config import DecoderConfig
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import initialise
from headway.problems.prompt import boxed, messages
from headway.report.readings import judged
from headway.sample import Plan, Sampler
from headway.stage_config import OptimizerConfig
from headway.store.store import Store
from headway.train.batching import Document, epochs
from headway.train.likelihood import Likelihood
from headway.train.optim import make_optimizer, update
from headway.types import Completion, Group, Outcome, Split, StopReason
from headway.verify import program
from headway.verify.judge import VERIFIER as RULES
from headway.verify.judge import Verifier
from headway.verify.program import VERIFIER as PROGRAMS

needs_monty = pytest.mark.skipif(importlib.util.find_spec("pydantic_monty") is None, reason="pydantic-monty is not installed")

CONFIG = EvaluateConfig(samples=2, temperature=0.8, top_p=0.9, max_tokens=48, hybrid=True, program_instruction="In ```python")
PROBLEMS = parities(4, Split.HELDOUT)
FAMILIES = {problem.id: problem.family for problem in PROBLEMS}

# What the policy below writes for problem 0 to 3 when asked for a program: one text a sample.
PROGRAM_TEXTS = [
    ["```python\nprint(0)\n```", "```python\n0 / 0\n```"],  # right; an error
    ["no program: \\boxed{1}", "```python\nprint(7)\n```"],  # none; wrong, and it stands
    ["```python\nx = 3\n```", "```python\n0.0\n```"],  # nothing; right
    ["```python\nimport sympy\n```", "```python\nprint(1)"],  # unsupported; cut off
]


class Scripted(Engine):
    """The tiny policy's engine, but for the program's prompt it writes the texts above."""

    def __init__(self) -> None:
        super().__init__(policy(), tokenizer().stop_ids)
        self.requests: list[int] = []

    def generate(self, requests: Any, progress: Any = None) -> list[tuple[Completion, ...]]:
        self.requests.append(sum(len(request.keys) for request in requests))
        words = tokenizer()
        scripts: list[list[str]] = []
        for request in requests:
            text = words.decode(request.prompt_ids)
            scripts.append(PROGRAM_TEXTS[int(text.split("is ")[1].split()[0])] if "python" in text else [])
        if not any(scripts):
            return super().generate(requests, progress)
        if progress is not None:
            progress(self.requests[-1], self.requests[-1], 1.0)
        return [tuple(self._written(text) for text in script) for script in scripts]

    def _written(self, text: str) -> Completion:
        ids = (*tokenizer().encode(text), tokenizer().stop_id)
        return Completion(ids, (-0.5,) * len(ids), StopReason.STOP)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as made:
        yield made


def sampler(verifier: Verifier, engine: Engine | None = None) -> Sampler:
    return Sampler(engine or Scripted(), tokenizer(), verifier, "", 0)


def run(store: Store, asked: Sampler) -> list[tuple[int, int]]:
    shown: list[tuple[int, int]] = []
    store.add_problems(PROBLEMS, "problems")
    evaluate_hybrid(asked, store, PROBLEMS, CONFIG, "sft", "tiny/sft", lambda done, total, rate: shown.append((done, total)))
    return shown


@needs_monty
def test_a_sample_falls_back_exactly_where_its_program_came_to_nothing(tmp_path: Path, verifier: Verifier) -> None:
    store, engine = Store(tmp_path), Scripted()
    shown = run(store, sampler(verifier, engine))
    assert shown == sorted(shown)
    assert shown[-1] == (8, 8)

    tried = program_samples(store, "sft", PROBLEMS)
    assert [r.text for r, _ in tried] == [text for texts in PROGRAM_TEXTS for text in texts]
    assert {(r.sampler, v.verifier) for r, v in tried} == {("eval:sft:program", PROGRAMS)}
    reasons = [v.reason for _, v in tried]
    assert reasons[1:3] == ["program_error:ZeroDivisionError", "no_program"]
    assert (reasons[4], reasons[6], reasons[7]) == ("program_nothing", "program_unsupported:module sympy", "no_program")
    assert [v.outcome for _, v in tried][::3] == [Outcome.CORRECT, Outcome.WRONG, Outcome.UNVERIFIABLE]

    fell_back = store.rollouts(sampler="eval:sft")
    assert {(r.problem_id, r.index) for r in fell_back} == {
        (PROBLEMS[n].id, i) for n, i in [(0, 1), (1, 0), (2, 0), (3, 0), (3, 1)]
    }
    assert {v.verifier for v in store.verdicts(rollout_ids=[r.id for r in fell_back])} == {RULES}
    assert sum(engine.requests) == 8 + 5


@needs_monty
def test_what_fell_back_is_the_sample_that_it_would_have_been_alone(tmp_path: Path, verifier: Verifier) -> None:
    hybrid, plain = Store(tmp_path / "hybrid"), Store(tmp_path / "plain")
    run(hybrid, sampler(verifier))
    evaluate(sampler(verifier), plain, PROBLEMS, CONFIG, "sft", "tiny/sft", lambda done, total, rate: None)
    alone = {(r.problem_id, r.index): r.id for r in plain.rollouts()}
    for rollout in hybrid.rollouts(sampler="eval:sft"):
        assert alone[rollout.problem_id, rollout.index] == rollout.id


@needs_monty
def test_the_score_counts_one_verdict_a_sample(tmp_path: Path, verifier: Verifier) -> None:
    store = Store(tmp_path)
    run(store, sampler(verifier))
    found = judged_samples(store, "sft", FAMILIES)
    assert sorted((r.problem_id, r.index) for r, _ in found) == sorted((p.id, i) for p in PROBLEMS for i in range(2))
    by_sample = {(r.problem_id, r.index): (r, v) for r, v in found}
    ran = [(PROBLEMS[0], 0, True), (PROBLEMS[1], 1, False), (PROBLEMS[2], 1, True)]
    for problem, index, is_correct in ran:
        rollout, verdict = by_sample[problem.id, index]
        assert rollout.sampler == "eval:sft:program"
        assert (verdict.outcome is Outcome.CORRECT) is is_correct
    correct = sum(verdict.outcome is Outcome.CORRECT for _, verdict in found)
    numbers = score(store, "sft", None, FAMILIES, 2)
    assert numbers["accuracy"] == pytest.approx(correct / 8)
    assert numbers["num_problems"] == 4
    assert {(row.problem_id, row.index): row.outcome for row in judged(store, "sft")} == {
        key: verdict.outcome for key, (_, verdict) in by_sample.items()
    }
    assert {row.id for row in judged(store, "sft")} == {rollout.id for rollout, _ in found}
    counts = program_counts(store, "sft", PROBLEMS)
    lengths = [len(tokenizer().encode(text)) + 1 for texts in PROGRAM_TEXTS for text in texts]
    assert counts == {
        "samples": 8,
        "ran": 3,
        "fell_back": 5,
        "reasons": {"no_program": 2, "program_error": 1, "program_nothing": 1, "program_unsupported": 1},
        "mean_tokens": sum(lengths) / 8,
    }


class Killed(Exception):
    """Stands for a kill."""


class Dying(Sampler):
    """A sampler, with all that are made of it, that dies before its so many-th call."""

    left = -1

    def sample(self, problems: Any, count: int, plan: Plan, *more: Any, **named: Any) -> list[Group]:
        if Dying.left == 0:
            raise Killed
        Dying.left -= 1
        return super().sample(problems, count, plan, *more, **named)

    def asking(self, instruction: str, verifier: Any) -> Sampler:
        return Dying(self.engine, tokenizer(), verifier, instruction, 0)


@needs_monty
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_stopped_anywhere_it_ends_with_the_same_rows(tmp_path: Path, verifier: Verifier, calls: int) -> None:
    straight, cut = Store(tmp_path / "straight"), Store(tmp_path / "cut")
    run(straight, sampler(verifier))
    Dying.left = calls
    with pytest.raises(Killed):
        run(cut, Dying(Scripted(), tokenizer(), verifier, "", 0))
    Dying.left = -1
    engine = Scripted()
    run(cut, sampler(verifier, engine))
    assert sum(engine.requests) == (13 if calls == 0 else 5)
    assert cut.rollouts(tokens=True) == straight.rollouts(tokens=True)
    assert cut.verdicts() == straight.verdicts()
    again = Scripted()
    run(cut, sampler(verifier, again))
    assert again.requests == []


@needs_monty
def test_judging_again_leaves_programs_to_their_own_verifier(tmp_path: Path, verifier: Verifier) -> None:
    store = Store(tmp_path)
    run(store, sampler(verifier))
    before = {(row.id, row.outcome) for row in judged(store, "sft")}
    found = regrade(store, verifier, everything=True, tell=lambda done, total: None)
    assert (found.judged, found.added) == (5, 0)
    assert {(row.id, row.outcome) for row in judged(store, "sft")} == before


@needs_monty
def test_where_every_program_runs_nothing_else_is_sampled(tmp_path: Path, verifier: Verifier, monkeypatch: Any) -> None:
    monkeypatch.setattr("test_hybrid.PROGRAM_TEXTS", [["```python\nprint(1)\n```"] * 2] * 4)
    store, engine = Store(tmp_path), Scripted()
    run(store, sampler(verifier, engine))
    assert engine.requests == [8]
    assert store.rollouts(sampler="eval:sft") == []
    assert program_counts(store, "sft", PROBLEMS)["fell_back"] == 0
    run(store, sampler(verifier, engine))
    assert engine.requests == [8]


def test_without_a_sandbox_nothing_starts(tmp_path: Path, verifier: Verifier, monkeypatch: Any) -> None:
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: None)
    engine = Scripted()
    with pytest.raises(ConfigError, match="pip install"):
        run(Store(tmp_path), sampler(verifier, engine))
    assert engine.requests == []


# -- the verb ----------------------------------------------------------------------------------------------------------

RECIPE = """
name = "small"
threads = 1
device = "cpu"
[problems]
instruction = ""
sources = [
    {{ data = "{folder}/train.jsonl", name = "train" }},
    {{ data = "{folder}/heldout.jsonl", name = "heldout", split = "heldout" }},
]
[model]
checkpoint = "{folder}/checkpoint"
[sft]
[evaluate]
samples = 2
temperature = 0.3
top_p = 1.0
max_tokens = 40
program_instruction = "in python"
"""


def learned(folder: Path) -> None:
    """A checkpoint that answers with a program when asked for one: it has seen that a few times. Not always a right one."""
    texts = [f"{p.question}\nin python {boxed(p.reference)} ```python\nprint({p.reference})\n```" for p in parities(50)]
    words = Tokenizer.train(texts, 280)
    model = initialise(DecoderConfig(words.size, 32, 1, 2, 1, 16, 48, max_positions=128), 0)
    documents = []
    for problem in parities(40):
        for instruction, text in (("", boxed(problem.reference)), ("in python", f"```python\nprint({problem.reference})\n```")):
            prompt = words.prompt_ids(messages(problem, instruction))
            documents.append(Document((*prompt, *words.encode(text), words.stop_id), len(prompt)))
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.02))
    objective = Likelihood(model, documents, lambda: epochs(80, 40, 0), 20_000)
    for step in range(24):
        for micros in objective.updates(step):
            for micro in micros:
                objective.loss(micro)[0].backward()
            update(optimizer, model, 0.02, 1.0)
    folder.mkdir()
    save_decoder(model, folder, words)


@needs_monty
def test_the_verb_measures_a_checkpoint_with_programs(tmp_path: Path, capsys: Any) -> None:
    learned(tmp_path / "checkpoint")
    for name, problems in (("train", parities(4, first=500)), ("heldout", parities(6, Split.HELDOUT, first=900))):
        rows = [json.dumps({"question": problem.question, "answer": problem.reference}) for problem in problems]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    words = ["eval", str(tmp_path / "checkpoint"), str(recipe), "--root", str(tmp_path / "runs"), "--set", "evaluate.hybrid=true"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    out = capsys.readouterr().out
    assert ended.value.code == 0, out
    result = json.loads(out)
    counts = result["programs"]
    assert counts["samples"] == 12 == counts["ran"] + counts["fell_back"]
    assert counts["ran"] > 0
    assert sum(counts["reasons"].values()) == counts["fell_back"]
    (folder,) = (tmp_path / "runs").iterdir()
    store = Store(folder / "store", create=False)
    assert len(store.rollouts(sampler="eval:base:program")) == 12
    assert len(store.rollouts(sampler="eval:base")) == counts["fell_back"]
    assert sum(row.outcome is Outcome.CORRECT for row in judged(store, "base")) == pytest.approx(12 * result["accuracy"])
    with pytest.raises(SystemExit):
        main(words)  # goes on from what is there
    assert f"{counts['ran']} of 12 samples ran as programs" in capsys.readouterr().out.replace("\n", " ")


def test_the_verb_refuses_without_a_sandbox(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: None)
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(tmp_path / "checkpoint"), str(recipe), "--root", str(tmp_path), "--set", "evaluate.hybrid=true"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("headway: programs only run in pydantic-monty")
