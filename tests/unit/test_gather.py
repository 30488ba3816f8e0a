"""All sources together: held-out questions never train, references prove themselves, nothing leaves without a bin."""

import json
from pathlib import Path

import pytest

from headway.config import ProblemsConfig, SourceConfig
from headway.errors import ConfigError, DataError
from headway.problems.gather import gather
from headway.types import Split

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def file(path, *rows, **more):
    """A source of (question, answer) rows."""
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows), "utf-8")
    return SourceConfig(data=str(path), **more)


def config(*sources):
    return ProblemsConfig(sources=sources)


def always(reference):
    return True


def test_a_question_held_out_anywhere_never_trains(tmp_path):
    train = file(tmp_path / "t.jsonl", ("1+1?", 2), ("1+2?", 3), ("1 + 3 ?", 4))
    validation = file(tmp_path / "v.jsonl", ("1+2?", 3), ("1+3?", 4), split="validation")
    heldout = file(tmp_path / "h.jsonl", ("1+3?", 4), ("1+4?", 5), split="heldout")
    problems, funnels = gather(config(train, validation, heldout), always, seed=0)
    assert {(p.question, p.split) for p in problems} == {
        ("1+1?", Split.TRAIN),
        ("1+2?", Split.VALIDATION),
        ("1+3?", Split.HELDOUT),
        ("1+4?", Split.HELDOUT),
    }
    # validation + train: 5 rows, of which 1+2? and 1+3? occur twice; then 1+3? equals a held-out question
    assert [(f.name, f.considered, f.kept) for f in funnels] == [
        ("held-out duplicates", 2, 2),
        ("duplicates", 5, 3),
        ("held-out overlap", 3, 2),
        ("references", 4, 4),
    ]


def test_a_reference_that_does_not_verify_is_counted_and_asked_once(tmp_path):
    asked = []

    def verifies(reference):
        asked.append(reference)
        return reference != "broken"

    train = file(tmp_path / "t.jsonl", ("a?", "7"), ("b?", "broken"), ("c?", "7"), ("d?", "broken"))
    heldout = file(tmp_path / "h.jsonl", ("e?", "7"), split="heldout")
    problems, funnels = gather(config(train, heldout), verifies, seed=0)
    assert {p.question for p in problems} == {"a?", "c?", "e?"}
    assert funnels[-1].dropped == {"reference does not verify": 2}
    assert sorted(asked) == ["7", "broken"]


def test_a_held_out_problem_whose_reference_fails_still_cleans_the_training_set(tmp_path):
    train = file(tmp_path / "t.jsonl", ("a?", "7"), ("b?", "8"))
    heldout = file(tmp_path / "h.jsonl", ("a?", "broken"), ("c?", "9"), split="heldout")
    problems, _ = gather(config(train, heldout), lambda reference: reference != "broken", seed=0)
    assert {p.question for p in problems} == {"b?", "c?"}


def test_no_problem_left_prints_the_funnels(tmp_path):
    train = file(tmp_path / "t.jsonl", ("a?", "7"))
    with pytest.raises(DataError, match=r"no problem is left \(.*references: kept 0 of 1; dropped 1 reference does not"):
        gather(config(train), lambda reference: False, seed=0)


def test_nothing_held_out_is_an_error(tmp_path):
    train = file(tmp_path / "t.jsonl", ("a?", "7"))
    with pytest.raises(DataError, match="no held-out problem is left to evaluate on: give a source with split = 'heldout'"):
        gather(config(train), always, seed=0)


def test_the_seed_orders_but_does_not_choose(tmp_path):
    train = file(tmp_path / "t.jsonl", *((f"{i}+1?", i + 1) for i in range(50)))
    heldout = SourceConfig(family="chain_sum", count=20, split="heldout")
    first, again, other = (gather(config(train, heldout), always, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again != other
    assert {p.id for p in first} == {p.id for p in other}


def test_generated_families_are_not_taken_for_near_copies():
    # same long wording, same numbers in another order: equality keeps them apart
    settings = {"min_animals": 3, "max_animals": 3, "max_instances": 2}
    train = SourceConfig(family="leg_counting", count=200, settings=settings)
    heldout = SourceConfig(family="leg_counting", count=50, settings=settings, split="heldout")
    _, funnels = gather(config(train, heldout), always, seed=0)
    assert funnels[2].dropped["near a held-out question"] == 0


@pytest.mark.parametrize("split", ["train", "validation"])
def test_gsm_symbolic_is_refused_beside_held_out_gsm8k(tmp_path, split):
    rewritten = SourceConfig(family="gsm_symbolic", count=5, split=split)
    heldout = file(tmp_path / "renamed.jsonl", ("How many?", "so\n#### 72"), split="heldout")
    with pytest.raises(ConfigError, match=r"would train on gsm_symbolic, .* GSM8K is held out"):
        gather(config(rewritten, heldout), always, seed=0)
    plain = file(tmp_path / "p.jsonl", ("How many?", "72"), split="heldout", name="GSM8K-test")
    with pytest.raises(ConfigError, match="would train on gsm_symbolic"):
        gather(config(rewritten, plain), always, seed=0)


def test_gsm_symbolic_may_train_elsewhere_and_be_held_out(tmp_path):
    rewritten = SourceConfig(family="gsm_symbolic", count=5)
    sums = SourceConfig(family="chain_sum", count=5, split="heldout")
    assert len(gather(config(rewritten, sums), always, seed=0)[0]) == 10
    heldout = rewritten.model_copy(update={"split": Split.HELDOUT})
    gsm8k = file(tmp_path / "gsm8k.jsonl", ("How many?", "so\n#### 72"))
    assert len(gather(config(gsm8k, heldout), always, seed=0)[0]) == 6


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data sets are not beside this checkout")
def test_gsm8k_with_its_test_set_and_the_benchmarks():
    sources = [SourceConfig(data=str(SHARED / "train" / "gsm8k_train.jsonl"))]
    sources += [SourceConfig(data=str(path), split="heldout") for path in sorted((SHARED / "eval").iterdir())]
    problems, funnels = gather(config(*sources), always, seed=0)
    assert sum(p.split is Split.HELDOUT for p in problems) == 2919  # 30 + 30 + 40 + 1,319 + 500 + 1,000
    assert sum(p.split is Split.TRAIN for p in problems) == 7471  # two that resemble one by chance, with the same answer
    leaky = [*sources, SourceConfig(data=str(SHARED / "eval" / "gsm8k_test.jsonl"), count=100)]
    assert gather(config(*leaky), always, seed=0)[1][2].dropped["equals a held-out question"] == 100
    assert funnels[2].dropped == {"equals a held-out question": 0, "near a held-out question": 2}


def test_rows_that_name_no_answer_are_an_error_or_are_left_out_and_counted(tmp_path):
    train = file(tmp_path / "t.jsonl", ("1+1?", 2), ("prove it", None), ("1+2?", 3), ("show it", " "))
    heldout = file(tmp_path / "h.jsonl", ("1+4?", 5), split="heldout")
    with pytest.raises(DataError, match=r"t.jsonl, line 2: column 'answer' should hold a number or a text, not null"):
        gather(config(train, heldout), always, seed=0)
    problems, funnels = gather(config(train.model_copy(update={"answered_only": True}), heldout), always, seed=0)
    assert {p.question for p in problems} == {"1+1?", "1+2?", "1+4?"}
    assert (funnels[0].name, funnels[0].considered, funnels[0].kept) == ("answers", 5, 3)
    assert funnels[0].dropped == {"names no answer": 2}
    broken = tmp_path / "b.jsonl"
    broken.write_text(json.dumps({"question": "1+1?", "answer": 2}) + "\n" + json.dumps({"question": 3, "answer": 2}) + "\n")
    with pytest.raises(DataError, match="line 2: column 'question' should hold a text"):  # broken in another way
        gather(config(SourceConfig(data=str(broken), answered_only=True), heldout), always, seed=0)


def test_a_source_of_traces_alone_gives_no_problem_and_an_instruction_comes_off(tmp_path):
    train = file(tmp_path / "t.jsonl", ("Box it. 1+1?", 2), ("1+2? Box it.", 3), ("Box it.", 4), strip="Box it.")
    heldout = file(tmp_path / "h.jsonl", ("1+4?", 5), split="heldout")
    traces = SourceConfig(data=str(tmp_path / "nowhere.jsonl"), solutions=True, traces_only=True)
    problems, _ = gather(config(train, traces, heldout), always, seed=0)
    assert {p.question for p in problems} == {"1+1?", "1+2?", "Box it.", "1+4?"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "chain_sum", "count": 3, "strip": "x"}, "settings of a `data` set"),
        ({"data": "a.jsonl", "traces_only": True}, "`traces_only` needs `solutions = true`"),
        ({"data": "a.jsonl", "traces_only": True, "solutions": True, "split": "heldout"}, "`traces_only` needs"),
    ],
)
def test_settings_that_could_not_act_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SourceConfig(**settings)
