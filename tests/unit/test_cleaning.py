"""`headway clean`: files in, a cleaned file out, every removal with its reason."""

import json

import pytest

from headway.cli import main
from headway.config import SourceConfig
from headway.problems.load import load

QUESTION = (
    "Ali picked 24 plums and 35 figs in the morning. He then sold 18 plums at the market. How many plums does he have left?"
)
COPY = "How many plums does Petra have left? In the morning she picked 24 plums and 35 figs, then 18 of the plums were sold."


def write(path, *rows):
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows), "utf-8")
    return str(path)


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["clean", *words])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


@pytest.fixture
def files(tmp_path):
    train = write(tmp_path / "t.jsonl", (COPY, "6"), ("What is 2+3?", "5"), ("What is 7 - 3?", "4"), ("what is 2 + 3", "5"))
    return train, write(tmp_path / "e.jsonl", (QUESTION, "6"), ("What is 7-3?", "4")), tmp_path / "out.jsonl"


def test_what_is_held_out_goes_and_the_rest_is_written(capsys, files):
    train, held, out = files
    code, printed, _ = call(capsys, train, "--against", held, "--out", str(out), "--explain", "5")
    assert code == 0
    assert [p.question for p in load(SourceConfig(data=str(out)))] == ["What is 2+3?"]
    assert "duplicates: kept 3 of 4; dropped 1 duplicate" in printed
    assert "held-out overlap: kept 1 of 3; dropped 1 equals a held-out question, 1 near a held-out question" in printed
    assert COPY in printed
    assert QUESTION in printed
    assert "numbers 18, 24, 35" in printed


def test_as_json(capsys, files):
    train, held, _ = files
    code, printed, _ = call(capsys, train, "--against", held, "--json", "--near", "--explain", "1")
    found = json.loads(printed)
    assert code == 0
    assert [f["name"] for f in found["funnels"]] == ["duplicates", "near duplicates", "held-out overlap"]
    assert (found["num_removals"], len(found["removals"])) == (2, 1)
    assert found["removals"][0]["heldout_question"] == QUESTION


def test_mistakes_are_one_line_and_exit_2(capsys, files):
    train, held, _ = files
    for words, said in (
        ((train,), "--against"),
        ((train, "--against", "nowhere.jsonl"), "no problem file at nowhere.jsonl"),
        ((train, "--against", held, "--out", train), "is one of the files that are read"),
        ((train, "--against", held, "--out", f"{train}/x.jsonl"), "t.jsonl"),
    ):
        code, _, error = call(capsys, *words)
        assert code == 2
        assert said in error
        assert error.count("\n") == 1
