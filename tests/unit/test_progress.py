"""Live progress in a pipe: a plain line when a stage is through, or now and then, with the time that is left."""

from collections.abc import Iterator
from io import StringIO

import pytest
from rich.console import Console

from headway.report import progress
from headway.report.progress import Display


class Time:
    """A clock that the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    made = Time()
    monkeypatch.setattr(progress, "time", made)
    return made


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def plain() -> Console:
    return Console(file=StringIO(), force_terminal=False, width=40)


def test_a_line_at_the_end_and_every_ten_seconds(clock: Time) -> None:
    with Display(console := plain()) as display:
        display("sft", 0, 4, {})
        clock.now += 4
        display("sft", 1, 4, {"loss": 0.5})
        assert lines(console) == []
        clock.now += 8
        display("sft", 2, 4, {"loss": 0.25, "tokens_per_s": 12345.6})
        clock.now += 1
        display("sft", 4, 4, {"loss": 0.125})
    # 12 seconds for 2 steps of 4: 12 are left; a number that a step does not tell stays; nothing is wrapped at 40 columns
    assert lines(console) == [
        "sft  2/4   loss 0.250   12,346 tokens/s   12 s left",
        "sft  4/4   loss 0.125   12,346 tokens/s",
    ]


def test_a_resumed_stage_counts_its_speed_from_where_it_was(clock: Time) -> None:
    with Display(console := plain()) as display:
        display("rl", 90, 100, {"accuracy": 0.5})
        clock.now += 20
        display("rl", 92, 100, {"accuracy": 0.625})
    assert lines(console) == ["rl  92/100   accuracy 62.5%   80 s left"]  # 10 seconds a step, not 20 seconds for 92


def test_a_new_stage_forgets_the_numbers_of_the_last(clock: Time) -> None:
    with Display(console := plain()) as display:
        display("sft", 1, 1, {"loss": 0.5})
        display("sft: evaluation", 8, 8, {})
    assert lines(console) == ["sft  1/1   loss 0.500", "sft: evaluation  8/8   "]


def test_what_is_not_a_number_is_not_shown(clock: Time) -> None:
    with Display(console := plain()) as display:
        display("dpo\x1b[31m", 1, 1, {"sampling": "dpo", "loss": None, "pair_accuracy": 0.75})
    (line,) = lines(console)
    assert line.endswith("1/1   pairs 75%")
    assert "\x1b" not in line


def test_a_terminal_shows_a_bar_and_leaves_nothing_behind() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=100)
    with Display(console) as display:
        display("sft", 1, 3, {"loss": 0.5})
        display("dpo", 1, 2, {"pair_accuracy": 0.5})
    assert isinstance(console.file, StringIO)
    assert "dpo" in console.file.getvalue()
    assert not any(line.strip() == "sft 1/3" for line in lines(console))


def test_an_alarm_and_a_note_are_lines_of_their_own(clock: Time) -> None:
    with Display(console := plain()) as display:
        display("dpo", 1, 4, {"loss": 0.5, "alarm": "the chosen rollouts \x1b[31mthemselves become unlikely"})
        display("dpo", 2, 4, {"loss": 0.5, "note": "a file of the cache is damaged"})
        display("dpo", 3, 4, {"loss": 0.5})
    first, second = lines(console)
    assert first.startswith("dpo: the chosen rollouts ")
    assert "\x1b" not in first
    assert second == "dpo: a file of the cache is damaged"
