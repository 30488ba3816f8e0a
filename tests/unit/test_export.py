"""What leaves a table: TRL's columns and types to the letter, what a run selected, and back again through our own reader."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from test_cli import run_here

from headway.config import SourceConfig
from headway.errors import ConfigError, RunError, StoreError
from headway.model.tokenizer import Tokenizer
from headway.problems.load import load
from headway.stages.imports import import_data
from headway.store import export as export_module
from headway.store.export import KINDS, Form, export
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict
from headway.verify.judge import Verifier

CORRECT, WRONG, NONE, UNVERIFIABLE = Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.UNVERIFIABLE
TEXT = Form(lambda question: f"Q: {question}")
TURNS = Form(lambda question: f"Q: {question}", is_conversational=True)

ONE = Problem.make("sums", "chain", "1+0=", "1", Split.TRAIN, difficulty=1.5, solution="by hand", metadata='{"a": [1, "é"]}')
TWO = Problem.make("sums", "chain", "2+0=", "2", Split.TRAIN)
HELDOUT = Problem.make("sums", "chain", "3+0=", "3", Split.HELDOUT)


def rollout(of: Problem, index: int, text: str, sampler: str = "teacher", **more) -> Rollout:
    return Rollout.make(of.id, sampler, 0, index, "scripted", text, **{"stop_reason": StopReason.STOP, **more})


ROWS = (
    (rollout(ONE, 0, r"\boxed{1}"), CORRECT),
    (rollout(ONE, 1, r"\boxed{1}"), CORRECT),  # the same text
    (rollout(ONE, 2, r"it is \boxed{1}"), CORRECT),
    (rollout(ONE, 3, r"\boxed{7}"), WRONG),
    (rollout(ONE, 4, "cut", stop_reason=StopReason.LENGTH), NONE),
    (rollout(TWO, 0, "no"), NONE),
    (rollout(TWO, 1, r"\boxed{?}"), UNVERIFIABLE),
    (rollout(TWO, 2, "not judged"), None),
    (rollout(HELDOUT, 0, r"\boxed{3}"), CORRECT),
    (rollout(ONE, 0, r"evaluated \boxed{1}", "eval:rl"), CORRECT),
)


@pytest.fixture
def store(tmp_path) -> Store:
    made = Store(tmp_path / "store")
    made.add_problems([ONE, TWO, HELDOUT])
    made.add_rollouts([row for row, _ in ROWS])
    made.add_verdicts([Verdict(row.id, "rules@1", outcome, "why") for row, outcome in ROWS if outcome])
    return made


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_prompt_completion(store, tmp_path):
    funnel = export(store, "sft", tmp_path / "a.jsonl", TEXT)
    assert lines(tmp_path / "a.jsonl") == [
        {"prompt": "Q: 1+0=", "completion": r"\boxed{1}"},
        {"prompt": "Q: 1+0=", "completion": r"it is \boxed{1}"},
    ]
    assert (funnel.considered, funnel.kept) == (8, 2)  # the held-out one and the evaluated one are not in question
    assert funnel.dropped == {"duplicate text": 1, "no answer": 2, "no verdict": 1, "unverifiable": 1, "wrong": 1}


def test_preference(store, tmp_path):
    export(store, "dpo", tmp_path / "a.jsonl", TEXT)
    (pair,) = lines(tmp_path / "a.jsonl")
    assert pair == {"prompt": "Q: 1+0=", "chosen": r"\boxed{1}", "rejected": r"\boxed{7}"}


def test_unpaired_preference(store, tmp_path):
    funnel = export(store, "unpaired", tmp_path / "a.jsonl", TEXT)
    assert [(row["completion"], row["label"]) for row in lines(tmp_path / "a.jsonl")] == [
        (r"\boxed{1}", True),
        (r"it is \boxed{1}", True),
        (r"\boxed{7}", False),
        ("no", False),
    ]
    assert funnel.dropped == {"duplicate text": 1, "no verdict": 1, "truncated": 1, "unverifiable": 1}


def test_prompt_only_has_the_reference_for_reward_functions(store, tmp_path):
    export(store, "prompts", tmp_path / "a.jsonl", TEXT)
    assert lines(tmp_path / "a.jsonl") == [{"prompt": "Q: 1+0=", "solution": "1"}, {"prompt": "Q: 2+0=", "solution": "2"}]
    export(store, "prompts", tmp_path / "a.jsonl", TEXT, split=Split.HELDOUT)
    assert lines(tmp_path / "a.jsonl") == [{"prompt": "Q: 3+0=", "solution": "3"}]


STRING = pa.string()
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@pytest.mark.parametrize("is_conversational", [False, True])
@pytest.mark.parametrize(
    ("kind", "texts", "others"),
    [
        ("sft", ("prompt", "completion"), {}),
        ("midtrain", ("prompt", "completion"), {}),
        ("dpo", ("prompt", "chosen", "rejected"), {}),
        ("unpaired", ("prompt", "completion"), {"label": pa.bool_()}),
        ("prompts", ("prompt",), {"solution": STRING}),
    ],
)
def test_columns_and_types_are_those_that_trl_documents(store, tmp_path, kind, texts, others, is_conversational):
    form = TURNS if is_conversational else TEXT
    for suffix in ("jsonl", "parquet"):
        export(store, kind, tmp_path / f"a.{suffix}", form)
    found = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    expected = pa.schema({**dict.fromkeys(texts, MESSAGES if is_conversational else STRING), **others})
    assert found.schema.remove_metadata() == expected
    assert found.to_pylist() == lines(tmp_path / "a.jsonl")
    for row in found.to_pylist():
        for name in texts if is_conversational else ():
            (turn,) = row[name]
            assert turn["role"] == ("user" if name == "prompt" else "assistant")


def test_all_columns_hold_whose_rollout_it_is_and_what_was_found(store, tmp_path):
    export(store, "rollouts", tmp_path / "a.parquet", TEXT, is_plain=False)
    rows = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["rollout_id"] for row in rows] == [row.id for row, _ in ROWS]
    assert [row["outcome"] or None for row in rows] == [outcome for _, outcome in ROWS]
    assert (rows[0]["policy"], rows[0]["question"], rows[0]["reference"]) == ("scripted", "1+0=", "1")
    export(store, "dpo", tmp_path / "b.jsonl", TEXT, is_plain=False)
    assert lines(tmp_path / "b.jsonl")[0]["rejected_id"] == ROWS[3][0].id


def test_a_rollout_without_its_problem_is_counted(store, tmp_path):
    store.add_rollouts([Rollout.make("0" * 16, "rl", 0, 0, "p", "t", stop_reason=StopReason.STOP)])
    funnel = export(store, "rollouts", tmp_path / "a.jsonl", TEXT, is_plain=False)
    assert (funnel.kept, funnel.dropped) == (10, {"without their problem": 1})


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_problems_read_back_as_they_were(store, tmp_path, suffix):
    for split in (Split.TRAIN, Split.HELDOUT):
        out = tmp_path / f"{split.value}.{suffix}"
        export(store, "problems", out, TEXT, is_plain=False, split=split)
        assert load(SourceConfig(data=str(out), name="sums", split=split)) == store.problems(split=split)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rollouts_read_back_with_the_same_texts_and_verdicts(store, tmp_path, suffix):
    out = tmp_path / f"a.{suffix}"
    export(store, "rollouts", out, TEXT, is_plain=False, split=Split.TRAIN)
    back = Store(tmp_path / "back")
    with Verifier() as verifier:
        found = import_data(SourceConfig(data=str(out), name="sums"), back, verifier, tell=lambda *_: None)
    assert [p for p in back.problems() if p.id == TWO.id] == [TWO]
    theirs = {(r.problem_id, r.text, r.policy) for r in back.rollouts()}
    assert theirs == {(r.problem_id, r.text, "sums/scripted") for r, _ in ROWS if r.problem_id != HELDOUT.id}
    assert [r.stop_reason for r in back.rollouts() if r.text == "cut"] == [StopReason.LENGTH]
    assert found.claims["right/correct"] == 3  # three texts of ours that are correct: the verdict is made again
    assert found.disagreements == 0


@pytest.mark.parametrize("kind", ["sft", "dpo", "unpaired", "prompts"])
@pytest.mark.parametrize("form", [TEXT, TURNS], ids=["text", "turns"])
def test_trls_columns_come_back_too(store, tmp_path, kind, form):
    """Where the file names no answer, the table that holds the problem gives it; `strip` takes the instruction off."""
    export(store, kind, tmp_path / "a.jsonl", form)
    back = Store(tmp_path / "back")
    back.add_problems([ONE, TWO])
    with Verifier() as verifier:
        source = SourceConfig(data=str(tmp_path / "a.jsonl"), name="trl")
        found = import_data(source, back, verifier, strip="Q:", tell=lambda *_: None)
    assert found.rows == {"kept": len(lines(tmp_path / "a.jsonl"))}
    texts = {text for row in lines(tmp_path / "a.jsonl") for text in _texts(row)}
    assert {r.text for r in back.rollouts()} == texts
    assert len(back.problems()) == 2
    assert found.disagreements == 0


def _texts(row: dict) -> list[str]:
    cells = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
    return [cell if isinstance(cell, str) else cell[0]["content"] for cell in cells]


def test_small_parts_give_the_same_file(store, tmp_path, monkeypatch):
    export(store, "rollouts", tmp_path / "whole.jsonl", TEXT, is_plain=False)
    monkeypatch.setattr(export_module, "_AT_ONCE", 600)  # about one row
    seen: list[int] = []
    export(store, "rollouts", tmp_path / "parts.jsonl", TEXT, is_plain=False, tell=lambda done, total: seen.append(done))
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(seen) > 5


def test_killed_in_the_middle_leaves_the_old_file(store, tmp_path):
    out = tmp_path / "a.jsonl"
    out.write_text("old")

    def die(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store, "sft", out, TEXT, tell=die)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if "tmp-" in path.name] == []


def test_what_holds_a_special_tokens_name_is_left_out(store, tmp_path):
    form = Form(lambda question: question, stop="<eos>", refuses=lambda text: "it is" in text)
    funnel = export(store, "sft", tmp_path / "a.jsonl", form)
    assert lines(tmp_path / "a.jsonl") == [{"prompt": "1+0=", "completion": r"\boxed{1}<eos>"}]
    assert funnel.dropped["holds a special token's name"] == 1


@pytest.mark.parametrize(
    ("kind", "name", "more", "error", "message"),
    [
        ("rollouts", "a.jsonl", {}, ConfigError, "TRL has no type for rollouts: export unpaired"),
        ("problems", "a.jsonl", {}, ConfigError, "TRL has no type for problems: export prompts"),
        ("sft", "a.csv", {}, ConfigError, r"is named \*.jsonl or \*.parquet"),
        ("sft", "a.jsonl", {"split": Split.HELDOUT}, ConfigError, "sft are of the training split"),
        ("sft", "a.jsonl", {"ids": ["f" * 16]}, StoreError, "nothing to export: sft: kept 0 of 1; dropped 1 not in the table"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_no_file(store, tmp_path, kind, name, more, error, message):
    with pytest.raises(error, match=message):
        export(store, kind, tmp_path / name, TEXT, **more)
    assert not (tmp_path / name).exists()


# -- the verb -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(store, tmp_path) -> Path:
    """A run whose stages have selected less than the table holds, and before it grew."""
    versions = store.versions()
    chosen, wrong = ROWS[2][0].id, ROWS[3][0].id
    selections = {"sft": [chosen], "dpo": [f"{chosen}/{wrong}"], "rl": [TWO.id]}
    (tmp_path / "selections").mkdir()
    for name, ids in selections.items():
        (tmp_path / "selections" / f"{name}.json").write_text(json.dumps({"name": name, "ids": ids, "versions": versions}))
    (tmp_path / "recipe.json").write_text(json.dumps({"problems": {"instruction": "Box it."}}))
    store.add_rollouts([rollout(ONE, 9, r"later \boxed{1}")])
    return tmp_path


def test_a_run_exports_what_its_stages_selected(run, tmp_path, capsys):
    out = tmp_path / "a.jsonl"
    code, output, _ = run_here(capsys, "export", "--run", str(run), "--what", "sft", "--out", str(out))
    assert code == 0
    assert "sft: kept 1 of 1 (the run's selection sft)" in output
    assert lines(out) == [{"prompt": "1+0=\nBox it.\n", "completion": r"it is \boxed{1}"}]
    run_here(capsys, "export", str(run), "--what", "dpo", "--out", str(out), "--conversational")
    assert lines(out) == [
        {
            "prompt": [{"role": "user", "content": "1+0=\nBox it."}],
            "chosen": [{"role": "assistant", "content": r"it is \boxed{1}"}],
            "rejected": [{"role": "assistant", "content": r"\boxed{7}"}],
        }
    ]
    run_here(capsys, "export", str(run), "--what", "prompts", "--out", str(out), "--instruction", "")
    assert lines(out) == [{"prompt": "2+0=\n", "solution": "2"}]
    code, _, errors = run_here(capsys, "export", str(run), "--what", "midtrain", "--out", str(out))
    assert (code, "midtrain.json is missing" in errors) == (2, True)


def test_a_chat_template_words_the_prompt_as_the_model_is_asked(run, tmp_path, capsys):
    tokenizer = Tokenizer.train(["1+0= 2+0= it is boxed"], 260)
    (tmp_path / "model").mkdir()
    tokenizer.save(tmp_path / "model")
    out = tmp_path / "a.jsonl"
    run_here(capsys, "export", str(run), "--what", "sft", "--out", str(out), "--apply-template", str(tmp_path / "model"))
    (row,) = lines(out)
    assert row == {"prompt": "<user>1+0=\nBox it.<assistant>", "completion": r"it is \boxed{1}<eos>"}
    asked = tokenizer.prompt_ids([{"role": "user", "content": "1+0=\nBox it."}])
    assert tuple(tokenizer._parsing.encode(row["prompt"], add_special_tokens=False).ids) == asked
    assert tokenizer.names_special("a <eos> b")
    assert not tokenizer.names_special("a b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--what", "grpo"), f"--what 'grpo': it is one of {', '.join(KINDS)}"),
        (("--what", "sft", "--format", "csv"), "--format 'csv': it is one of trl, jsonl, parquet"),
        (("--what", "sft", "--format", "parquet"), "a file of the format parquet is named *.parquet"),
        (("--what", "prompts", "--split", "test"), "the splits are"),
        (("--what", "sft", "--conversational", "--apply-template", "x"), "give one of them"),
        (("--what", "sft", "--apply-template", "nowhere"), "nowhere"),
    ],
)
def test_a_wrong_call_is_one_line(run, tmp_path, capsys, words, message):
    code, _, errors = run_here(capsys, "export", str(run), "--out", str(tmp_path / "a.jsonl"), *words)
    assert (code, errors.count("\n")) == (2, 1)
    assert message in errors
    assert not (tmp_path / "a.jsonl").exists()


def test_a_full_disk_is_one_line(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        export(store, "sft", tmp_path / "file" / "a.jsonl", TEXT)
