"""Data sets in their authors' columns, and one line for every broken row."""

import importlib.util
import json
import logging
import math
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from headway.config import SourceConfig
from headway.errors import DataError
from headway.problems.columns import RowError, answer_text, last_box
from headway.problems.load import load
from headway.types import Split

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the data sets are not beside this checkout")


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return SourceConfig(data=str(path))


def one(path, row):
    (problem,) = load(write(path / "set.jsonl", row))
    return problem


def test_gsm8k_becomes_a_reference_and_a_boxed_solution(tmp_path):
    answer = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nAltogether 48+24 = <<48+24=72>>72.\n#### 72"
    problem = one(tmp_path, {"question": " How many? ", "answer": answer})
    assert problem.question == "How many?"
    assert problem.reference == "72"
    assert problem.solution == "Natalia sold 48/2 = 24 clips in May.\nAltogether 48+24 = 72.\n\\boxed{72}"
    assert problem.difficulty == 2.0  # two calculations
    assert (problem.family, problem.source) == ("gsm8k", "set")


def test_gsm8k_thousands_lose_their_comma(tmp_path):
    problem = one(tmp_path, {"question": "q", "answer": "so\n#### 1,450,000"})
    assert problem.reference == "1450000"
    assert problem.solution == "so\n\\boxed{1450000}"


def test_math_has_a_level_and_a_subject(tmp_path):
    row = {"problem": "p", "solution": r"so $\boxed{\frac12}$", "answer": r"\frac12", "subject": "Algebra", "level": 4}
    problem = one(tmp_path, row)
    assert (problem.question, problem.reference, problem.difficulty) == ("p", r"\frac12", 4.0)
    assert (problem.solution, problem.family) == (r"so $\boxed{\frac12}$", "math")
    assert json.loads(problem.metadata) == {"subject": "Algebra", "level": 4}


def test_original_math_has_its_answer_in_the_last_box(tmp_path):
    row = {
        "problem": "p",
        "solution": r"$\boxed{1}$ no: $\boxed{\{2, \frac{1}{3}\}}$.",
        "type": "x",
        "level": "Level 5",
    }
    problem = one(tmp_path, row)
    assert (problem.reference, problem.difficulty) == (r"\{2, \frac{1}{3}\}", 5.0)


def test_svamp_joins_body_and_question_and_drops_the_point(tmp_path):
    row = {
        "ID": "1",
        "Body": "Dan had $ 3.",
        "Question": "How much?",
        "Equation": "( 1 )",
        "Answer": 145.0,
        "Type": "t",
    }
    problem = one(tmp_path, row)
    assert (problem.question, problem.reference, problem.family) == ("Dan had $ 3. How much?", "145", "svamp")
    half = one(tmp_path, {**row, "Body": "If he had $ 4"})
    assert half.question == "If he had $ 4, How much?"


@pytest.mark.parametrize("question", ["question", "prompt", "problem"])
def test_plain_columns(tmp_path, question):
    problem = one(tmp_path, {question: "2+2?", "answer": 4})
    assert (problem.question, problem.reference, problem.solution) == ("2+2?", "4", "")
    assert one(tmp_path, {question: "2+2?", "solution": r"It is \boxed{4}."}).reference == "4"


def test_a_prompt_may_be_one_user_turn(tmp_path):
    assert one(tmp_path, {"prompt": [{"role": "user", "content": "2+2?"}], "answer": "4"}).question == "2+2?"
    with pytest.raises(DataError, match="line 1: column 'prompt' should be a text or one user turn"):
        one(tmp_path, {"prompt": [{"role": "system", "content": "2+2?"}], "answer": "4"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (27.0, "27"),
        (-3, "-3"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (1e-7, "0.0000001"),
        (" x ", "x"),
        ("1,080", "1080"),
        ("1,2", "1,2"),
    ],
)
def test_answers_as_text(value, text):
    assert answer_text(value) == text


@pytest.mark.parametrize("value", [None, True, [1], {}, math.nan, math.inf])
def test_what_is_no_answer(value):
    with pytest.raises(RowError):
        answer_text(value)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{a{b}c}", "a{b}c"),
        (r"\boxed{\}}", r"\}"),
        (r"\boxed 5 apples", "5"),
        (r"\boxed{unfinished", ""),
        ("none", ""),
    ],
)
def test_last_box(text, box):
    assert last_box(text) == box


GOOD = {"question": "2+2?", "answer": "4"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "x", ', r"line 3: not JSON \(column"),
        ("[1, 2]", "line 3: should be an object with columns, not list"),
        ("7", "line 3: should be an object with columns, not int"),
        ({"question": "x"}, "line 3: column 'answer' is missing"),
        ({"question": "x", "answer": None}, "line 3: column 'answer' should hold a number or a text, not null"),
        ({"question": "x", "answer": True}, "line 3: column 'answer' should hold a number or a text, not bool"),
        ({"question": "x", "answer": math.nan}, "line 3: column 'answer' should hold a finite number, not nan"),
        ({"question": "x", "answer": "  "}, "line 3: column 'answer' is empty"),
        ({"question": "", "answer": "4"}, "line 3: column 'question' is empty"),
        ({"question": 7, "answer": "4"}, "line 3: column 'question' should hold a text, not int '7'"),
        ({"question": "a\0b", "answer": "4"}, "line 3: column 'question' holds a NUL"),
        (r'{"question": "a\ud800b", "answer": "4"}', "line 3: column 'question' holds half of a surrogate pair"),
        ({"question": "x", "answer": "\ud800"}, "line 3: column 'answer' holds half of a surrogate pair"),
        ('{"question": ' + "[" * 100_000, "line 3: nested too deeply"),
        ('{"question": "x", "answer": ' + "9" * 5_000 + "}", "line 3: not JSON that can be read"),
        ({"question": "x" * 1_000_001, "answer": "4"}, "line 3: longer than 1,000,000 bytes"),
    ],
)
def test_a_broken_row_names_file_line_and_fault(tmp_path, row, message):
    source = write(tmp_path / "broken.jsonl", GOOD, "", row, GOOD)
    with pytest.raises(DataError, match=f"broken.jsonl, {message}") as caught:
        load(source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_row_of_gsm8k_without_its_last_line(tmp_path):
    source = write(tmp_path / "g.jsonl", {"question": "a", "answer": "x\n#### 1"}, {"question": "b", "answer": "x\n1"})
    with pytest.raises(DataError, match="line 2: column 'answer' should end in a line like '#### 72'"):
        load(source)


def test_a_solution_without_a_box(tmp_path):
    with pytest.raises(DataError, match=r"line 1: column 'solution' has no \\boxed\{answer\}"):
        one(tmp_path, {"problem": "p", "solution": "four"})


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "b.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xff"}\n')
    with pytest.raises(DataError, match=r"b.jsonl, line 2: not UTF-8 text \(byte 15"):
        load(SourceConfig(data=str(tmp_path / "b.jsonl")))


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert [problem.reference for problem in load(SourceConfig(data=str(tmp_path / "b.jsonl")))] == ["4"]


def test_broken_rows_may_be_left_out_up_to_a_number(tmp_path, caplog):
    source = write(tmp_path / "b.jsonl", GOOD, "{", {**GOOD, "question": "3+1?"}, "}")
    with caplog.at_level(logging.WARNING):
        assert [p.question for p in load(source, max_row_errors=2)] == ["2+2?", "3+1?"]
    assert "b.jsonl, line 2: not JSON" in caplog.text
    assert "b.jsonl, line 4: not JSON" in caplog.text
    with pytest.raises(DataError, match="line 4"):
        load(source, max_row_errors=1)


def test_unknown_columns_list_those_found_and_those_understood(tmp_path):
    with pytest.raises(DataError, match=r"line 1: unknown columns: found frage, antwort; understood are .*question \+ answer"):
        one(tmp_path, {"frage": "x", "antwort": "y"})


def test_a_json_array_names_the_line_of_a_broken_row(tmp_path):
    path = tmp_path / "set.json"
    path.write_text('[\n  {"question": "a",\n   "answer": 1.0},\n\n  {"question": "b"}\n]\n', "utf-8")
    with pytest.raises(DataError, match=r"set.json, line 5: column 'answer' is missing"):
        load(SourceConfig(data=str(path)))
    path.write_text('[\n  {"question": "a",\n   "answer": 1.0},\n  {"question" "b"}\n]\n', "utf-8")
    with pytest.raises(DataError, match=r"set.json, line 4: not JSON \(Expecting"):
        load(SourceConfig(data=str(path)))
    path.write_text('[{"question": "a", "answer": 1.0}\n', "utf-8")
    with pytest.raises(DataError, match=r"set.json, line 2: the array has no"):
        load(SourceConfig(data=str(path)))
    path.write_text("[" * 100_000, "utf-8")
    with pytest.raises(DataError, match=r"set.json, line 1: nested too deeply"):
        load(SourceConfig(data=str(path)))


def test_a_json_array_loads(tmp_path):
    path = tmp_path / "set.json"
    path.write_text(json.dumps([GOOD, {**GOOD, "question": "3+1?"}], indent=1), "utf-8")
    assert [p.question for p in load(SourceConfig(data=str(path)))] == ["2+2?", "3+1?"]


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.json", "[]"), ("a.json", "[ \n]")])
def test_an_empty_set(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="holds no problem"):
        load(SourceConfig(data=str(tmp_path / name)))


def test_parquet_gives_what_jsonl_gives(tmp_path):
    rows = [{"problem": f"p{i}", "answer": float(i), "other": [i]} for i in range(3000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "set.parquet")
    parquet = load(SourceConfig(data=str(tmp_path / "set.parquet")))
    assert parquet == load(write(tmp_path / "set.jsonl", *rows))
    assert parquet[2999].reference == "2999"


def test_a_broken_parquet_row_and_a_file_that_is_none(tmp_path):
    rows = [{"problem": "p", "answer": "1"}, {"problem": "p", "answer": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet, row 2: column 'answer' should hold a number or a text, not null"):
        load(SourceConfig(data=str(tmp_path / "a.parquet")))
    (tmp_path / "b.parquet").write_text("no")
    with pytest.raises(DataError, match=r"cannot read .*b.parquet as Parquet"):
        load(SourceConfig(data=str(tmp_path / "b.parquet")))


def test_missing_and_unsuitable_files(tmp_path):
    with pytest.raises(DataError, match=r"no problem file at .*none\.jsonl"):
        load(SourceConfig(data=str(tmp_path / "none.jsonl")))
    with pytest.raises(DataError, match=r"holds no .jsonl"):
        load(SourceConfig(data=str(tmp_path)))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"a.txt: a problem file is named \*.jsonl"):
        load(SourceConfig(data=str(tmp_path / "a.txt")))


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="the optional `datasets` is installed")
def test_a_hub_name_without_the_hub_extra_says_what_to_install():
    with pytest.raises(DataError, match=r"no file or folder 'openai/gsm8k' here; .*pip install headway\[hub\]"):
        load(SourceConfig(data="openai/gsm8k", data_config="main"))


def test_a_folder_gives_all_its_files_in_order(tmp_path):
    write(tmp_path / "b.jsonl", {**GOOD, "question": "second"})
    write(tmp_path / "a.jsonl", {**GOOD, "question": "first"})
    write(tmp_path / ".hidden.jsonl", "{")
    assert [p.question for p in load(SourceConfig(data=str(tmp_path)))] == ["first", "second"]


def test_a_folder_of_splits_gives_only_the_wanted_one(tmp_path):
    write(tmp_path / "train-00000-of-00001.jsonl", {**GOOD, "question": "learn"})
    write(tmp_path / "test-00000-of-00001.jsonl", {**GOOD, "question": "exam"})
    assert [p.question for p in load(SourceConfig(data=str(tmp_path)))] == ["learn"]
    assert [p.question for p in load(SourceConfig(data=str(tmp_path), data_split="test"))] == ["exam"]
    with pytest.raises(DataError, match="no file of data_split = 'dev'; it holds test-"):
        load(SourceConfig(data=str(tmp_path), data_split="dev"))


def test_a_draw_does_not_depend_on_the_order_of_rows(tmp_path):
    rows = [{"question": f"{i}+1?", "answer": i + 1} for i in range(100)]
    shuffled = random.Random(0).sample(rows, k=100)
    draws = {}
    for name, order in (("a", rows), ("b", shuffled), ("c", rows + rows)):
        write(tmp_path / f"{name}.jsonl", *order)
        draws[name] = [p.id for p in load(SourceConfig(data=str(tmp_path / f"{name}.jsonl"), count=20, seed=3))]
    assert draws["a"] == draws["b"] == draws["c"]
    assert len(set(draws["a"])) == 20
    path = str(tmp_path / "a.jsonl")
    assert [p.id for p in load(SourceConfig(data=path, count=5, seed=3))] == draws["a"][:5]
    assert [p.id for p in load(SourceConfig(data=path, count=20, seed=4))] != draws["a"]
    assert len(load(SourceConfig(data=path, count=500))) == 100


def test_name_and_split_come_from_the_source(tmp_path):
    write(tmp_path / "set.jsonl", GOOD)
    (problem,) = load(SourceConfig(data=str(tmp_path / "set.jsonl"), name="mine", split="heldout"))
    assert (problem.source, problem.family, problem.split) == ("mine", "mine", Split.HELDOUT)


@real
@pytest.mark.parametrize(
    ("path", "size", "family", "first", "last"),
    [
        ("train/gsm8k_train.jsonl", 7473, "gsm8k", "72", "50"),
        ("eval/gsm8k_test.jsonl", 1319, "gsm8k", "18", "14"),
        ("eval/svamp.json", 1000, "svamp", "51", "11"),
        ("eval/math500.jsonl", 500, "math", r"\left( 3, \frac{\pi}{2} \right)", r"106^\circ"),
        ("eval/aime24.jsonl", 30, "aime24", "204", "902"),
        ("eval/aime25.jsonl", 30, "aime25", "70", "240"),
        ("eval/amc23.jsonl", 40, "amc23", "27", "8"),
    ],
)
def test_the_authors_files_load_whole(path, size, family, first, last):
    problems = load(SourceConfig(data=str(SHARED / path), split="heldout"))
    assert len(problems) == size
    assert {problem.family for problem in problems} == {family}
    assert (problems[0].reference, problems[-1].reference) == (first, last)


@real
def test_every_solution_of_gsm8k_ends_in_its_box():
    for problem in load(SourceConfig(data=str(SHARED / "train/gsm8k_train.jsonl"))):
        assert problem.solution.endswith(f"\n\\boxed{{{problem.reference}}}")
        assert "<<" not in problem.solution
        assert "####" not in problem.solution
