"""The columns: derived from the records, both ways without loss, and described in docs/store.md."""

import hashlib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from headway.errors import StoreError
from headway.store.schema import PLACE, TABLES, markdown
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict

RECORDS = {
    "problems": Problem.make("s", "f", "2+2? é\n\x00日", "4", Split.HELDOUT, difficulty=0.1, metadata='{"a": 1}'),
    "rollouts": Rollout.make(
        "p",
        "rl",
        3,
        1,
        "t/rl@3",
        "so 4",
        stop_reason=StopReason.STOP,
        num_tokens=2,
        token_ids=(7, 1),
        logprobs=(-0.5, -2.0),
        top_k=5,
        min_p=0.125,
    ),
    "verdicts": Verdict("r", "rules@1", Outcome.NO_ANSWER, "no_box"),
}


def test_every_field_of_a_record_is_a_column_after_place():
    for table in TABLES.values():
        names = [PLACE, *(field.name for field in fields(table.record)), *table.derived]
        assert [column.name for column in table.columns] == names


def test_a_rollouts_text_is_measured_when_it_is_written():
    texts = ["so 4", "a\nb\na\na", "so 4", "é"]
    rows = TABLES["rollouts"].to_arrow([replace(RECORDS["rollouts"], text=text) for text in texts], 0)
    assert rows.column("characters").to_pylist() == [4, 7, 4, 1]
    assert rows.column("repetition").to_pylist() == [0.0, 0.5, 0.0, 0.0]
    keys = rows.column("text_key").to_pylist()
    assert keys[0] == keys[2]
    assert len(set(keys)) == 3
    # printf 'so 4' through BLAKE2b with an 8-byte digest, little-endian and signed
    assert keys[0] == int.from_bytes(hashlib.blake2b(b"so 4", digest_size=8).digest(), "little", signed=True)


@pytest.mark.parametrize("name", list(RECORDS))
def test_rows_give_the_record_back(name):
    rows = TABLES[name].to_arrow([RECORDS[name]], 5)
    assert rows.column(PLACE).to_pylist() == [5]
    (back,) = TABLES[name].to_records(rows)
    assert back == RECORDS[name]
    assert [type(getattr(back, f.name)) for f in fields(back)] == [type(getattr(RECORDS[name], f.name)) for f in fields(back)]


@pytest.mark.parametrize(
    ("text", "difficulty", "column"), [("\ud800", 0.0, "question"), (None, 0.0, "question"), ("q", "x", "difficulty")]
)
def test_a_value_that_cannot_be_stored_names_row_and_column(text, difficulty, column):
    good = RECORDS["problems"]
    bad = Problem("i", "s", "f", text, "4", Split.TRAIN, difficulty)
    with pytest.raises(StoreError, match=f"problems, row 1: {column} = ") as error:
        TABLES["problems"].to_arrow([good, bad], 0)
    assert "\n" not in str(error.value)


def test_the_page_is_fresh():
    page = Path(__file__).parents[2] / "docs" / "store.md"
    assert page.read_text(encoding="utf-8") == markdown(), "docs/store.md is stale: write headway.store.schema.markdown() into it"
