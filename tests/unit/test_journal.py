"""Metric rows: written at once, cut where a kill tore them, rewound to a step."""

import pytest
from small_disk import with_file_size_limit

from headway.errors import RunError
from headway.journal import Metrics


def test_rows_come_back_in_order_with_the_exact_numbers(tmp_path):
    metrics = Metrics(tmp_path / "metrics" / "rl.jsonl")
    assert metrics.rows() == []
    metrics.append({"step": 1, "loss": 0.1 + 0.2, "note": "ü\n"})
    metrics.append({"step": 1, "validation_loss": 1e-300})
    assert metrics.rows() == [{"step": 1, "loss": 0.1 + 0.2, "note": "ü\n"}, {"step": 1, "validation_loss": 1e-300}]
    assert metrics.path.read_bytes().count(b"\n") == 2


def test_what_json_cannot_say_becomes_null(tmp_path):
    metrics = Metrics(tmp_path / "rl.jsonl")
    metrics.append({"step": 1, "loss": float("nan"), "by": {"a": float("inf"), "b": [1.0, float("-inf")]}})
    assert metrics.rows() == [{"step": 1, "loss": None, "by": {"a": None, "b": [1.0, None]}}]


def test_rewind_drops_later_rows_and_keeps_the_bytes_of_the_others(tmp_path):
    metrics = Metrics(tmp_path / "rl.jsonl")
    for step in (1, 2, 3, 2, 4):
        metrics.append({"step": step, "loss": 1 / step})
    lines = metrics.path.read_bytes().splitlines(keepends=True)
    metrics.rewind(2)
    assert metrics.path.read_bytes() == lines[0] + lines[1] + lines[3]
    metrics.append({"step": 3, "loss": 1 / 3})
    assert [row["step"] for row in metrics.rows()] == [1, 2, 2, 3]
    metrics.rewind(-1)
    assert metrics.path.read_bytes() == b""


def test_rewind_of_nothing_makes_no_file(tmp_path):
    Metrics(tmp_path / "rl.jsonl").rewind(5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b'{"step": 2}', b"\x00"])
def test_a_torn_last_line_is_never_a_row(tmp_path, torn):
    path = tmp_path / "rl.jsonl"
    path.write_bytes(b'{"step": 1}\n' + torn)
    assert Metrics(path).rows() == [{"step": 1}]
    Metrics(path).rewind(9)
    assert path.read_bytes() == b'{"step": 1}\n'
    path.write_bytes(b'{"step": 1}\n' + torn)
    Metrics(path).append({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("line", ["{", "[]", '{"step": "one"}', "{}", "3"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "rl.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"rl\.jsonl, line 2 is damaged"):
        Metrics(path).rewind(1)


def test_a_full_disk_keeps_the_rows_before_whole(tmp_path):
    metrics = Metrics(tmp_path / "rl.jsonl")
    metrics.append({"step": 1})

    def work() -> None:
        with pytest.raises(RunError, match=r"cannot write .*rl\.jsonl"):
            metrics.append({"step": 2, "text": "x" * 100})
        metrics.append({"step": 3})  # there is room for a short one

    with_file_size_limit(50, work)
    assert metrics.path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'
    assert metrics.rows() == [{"step": 1}, {"step": 3}]
