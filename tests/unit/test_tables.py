"""The report's tables: what a run's folder says in plain numbers, what may be claimed, and two runs side by side."""

import io
import json
import math

import pytest
from rich.console import Console
from synthetic_run import STAGES, build

from headway.errors import DataError, RunError
from headway.report.compare import compare, pooled_staircase, render_comparison, render_pooled
from headway.report.readings import problem_rates
from headway.report.shell import compare_runs
from headway.report.tables import curves, funnels, read_run, readings, render_staircase, staircase
from headway.types import Outcome

RECORD = {
    "stage": "sft",
    "accuracy": 0.5,
    "ci_low": 0.4,
    "ci_high": 0.6,
    "num_problems": 100,
    "samples_per_problem": 4,
    "truncated": 0.0,
    "no_answer": 0.0,
    "p_vs_previous": None,
    "train_tokens": 10,
    "wall_s": 1.0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build(tmp_path_factory.mktemp("runs") / "tiny")


def results(folder, *records, **more):
    values = {"stages": list(records), "seed": 0, "recipe": "tiny", "peak_memory_bytes": 1} | more
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(values))
    return folder


def printed(show, width=150):
    console = Console(width=width, record=True, file=io.StringIO())
    show(console)
    return console.export_text()


def test_the_staircase_is_what_results_json_says(run):
    rows = staircase(run)
    assert [row.stage for row in rows] == list(STAGES)
    assert rows[0].p_vs_previous is None
    assert rows[0].claim == ""
    assert rows[1].difference_vs_previous == pytest.approx(rows[1].accuracy - rows[0].accuracy)
    assert rows[-1].pass_at_k[4] >= rows[-1].pass_at_k[1] == rows[-1].accuracy
    assert read_run(run).name == "tiny"


@pytest.mark.parametrize(
    ("p", "difference", "claim"),
    [
        (0.049, 0.1, "better"),
        (0.05, 0.1, "no visible difference"),
        (0.3, 0.4, "no visible difference"),
        (0.001, -0.1, "worse"),
        (0.0, 0.0, "no visible difference"),
        (None, 0.1, ""),
    ],
)
def test_better_is_only_said_when_the_test_says_so(tmp_path, p, difference, claim):
    later = RECORD | {"stage": "dpo", "p_vs_previous": p, "difference_vs_previous": difference}
    assert staircase(results(tmp_path / "r", RECORD, later))[1].claim == claim


def test_a_missing_difference_is_worked_out_from_the_accuracies(tmp_path):
    later = RECORD | {"stage": "dpo", "accuracy": 0.75, "p_vs_previous": 0.01}
    assert staircase(results(tmp_path / "r", RECORD, later))[1].difference_vs_previous == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"accuracy": None}, "accuracy"),
        ({"accuracy": "high"}, "accuracy"),
        ({"wall_s": True}, "wall_s"),
        ({"stage": 3}, "stage"),
        ({"pass_at_k": {"four": 0.5}}, "pass_at_k"),
        ({"families": ["a"]}, "families"),
        ({"p_vs_previous": "small"}, "p_vs_previous"),
    ],
)
def test_a_broken_record_is_named(tmp_path, change, named):
    with pytest.raises(RunError, match=named):
        read_run(results(tmp_path / "r", RECORD | change))


def test_missing_or_damaged_results_are_one_line(tmp_path):
    with pytest.raises(RunError, match=r"results\.json is missing"):
        read_run(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(RunError, match="not JSON"):
        read_run(tmp_path)
    (tmp_path / "results.json").write_text('{"stages": 3}')
    with pytest.raises(RunError, match="list `stages`"):
        read_run(tmp_path)


def test_curves_hold_every_number_and_leave_a_torn_line(tmp_path):
    (tmp_path / "metrics").mkdir()
    rows = [
        {"step": 1, "loss": 2.0, "note": "text", "flag": True},
        {"step": 2, "loss": None},
        {"step": 4, "loss": 1.0, "validation_loss": 1.5, "other": 7},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics" / "sft.jsonl").write_text(text + '{"step": 5, "lo')
    (tmp_path / "metrics" / "base.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": 3.5}\n')
    found = {(curve.stage, curve.name): curve for curve in curves(tmp_path)}
    assert list(found) == [("base", "loss"), ("sft", "loss"), ("sft", "validation_loss"), ("sft", "other")]
    assert found["sft", "loss"].steps == (1, 4)
    assert found["sft", "loss"].values == (2.0, 1.0)
    assert found["sft", "loss"].missing == 1
    assert (found["base", "loss"].values, found["base", "loss"].missing) == ((3.5,), 1)


def test_a_broken_metrics_line_is_named(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "sft.jsonl").write_text('{"step": 1}\n[]\n')
    with pytest.raises(RunError, match="line 2"):
        curves(tmp_path)


def test_funnels_come_in_the_order_of_the_stages_and_add_up(run, tmp_path):
    found = funnels(run)
    assert [name for name, _ in found] == ["midtrain", "sft", "dpo", "rl"]
    assert all(funnel.considered == funnel.kept + sum(funnel.dropped.values()) for _, funnel in found)
    (tmp_path / "selections").mkdir()
    wrong = {"name": "sft", "funnel": {"name": "sft", "considered": 5, "kept": 1, "dropped": {"wrong": 1}}}
    (tmp_path / "selections" / "sft.json").write_text(json.dumps(wrong))
    with pytest.raises(RunError, match="does not add up"):
        funnels(tmp_path)
    (tmp_path / "selections" / "sft.json").write_text('{"funnel": {"name": "sft"}}')
    with pytest.raises(RunError, match="should have name"):
        funnels(tmp_path)


def test_readings_show_the_same_problems_through_all_stages_right_and_wrong(run):
    found = readings(run, list(STAGES), per_stage=4)
    for stage in STAGES:
        outcomes = {reading.outcome is Outcome.CORRECT for reading in found if reading.stage == stage}
        assert outcomes == {True, False}
    through = [{r.problem_id for r in found if r.stage == stage and r.why != "added"} for stage in STAGES]
    assert len(through[0]) == 4
    assert all(problems == through[0] for problems in through)
    assert all(0 <= reading.num_correct <= reading.num_samples == 4 for reading in found)
    assert found == readings(run, list(STAGES), per_stage=4)


def test_readings_do_not_pick_a_flattering_sample(run):
    assert all(reading.index == 0 for reading in readings(run, list(STAGES)) if reading.why != "added")


def test_rates_from_the_table_are_those_of_the_results(run):
    for row in staircase(run):
        rates = problem_rates(run, row.stage)
        assert len(rates) == row.num_problems
        assert sum(rates.values()) / len(rates) == pytest.approx(row.accuracy)
    with pytest.raises(RunError, match="no judged evaluation rollouts"):
        problem_rates(run, "it's not a stage")


def test_a_run_compared_with_itself_shows_no_difference(run):
    found = compare(run, run)
    assert (found.difference, found.p, found.a) == (0.0, 1.0, found.b)
    assert list(found.record) == ["a", "b", "difference", "ci_low", "ci_high", "p"]
    assert all(math.isfinite(value) for value in found.record.values())


def test_compare_pools_pairs_of_runs(run, tmp_path):
    better = [build(tmp_path / f"better-{seed}", seed=seed, lift=1.0) for seed in (1, 2)]
    plain = [build(tmp_path / f"plain-{seed}", seed=seed) for seed in (11, 12)]
    found, alone = compare(better, plain), [compare(a, b) for a, b in zip(better, plain, strict=True)]
    assert found.difference == pytest.approx(sum(one.difference for one in alone) / 2)
    assert found.a - found.b == pytest.approx(found.difference)
    assert found.seeds == pytest.approx([one.difference for one in alone])
    assert found.p < min(0.05, *(one.p for one in alone))
    assert compare(plain, better).difference == pytest.approx(-found.difference)
    text = printed(lambda console: render_comparison(found, console))
    assert "A is better" in text
    assert "better-1 + better-2" in text
    with pytest.raises(DataError, match="1 on one side, 2 on the other"):
        compare(run, better)


def test_compare_says_where_two_were_sampled_differently(run, tmp_path, capsys):
    assert compare(run, run).warning == ""
    cut = build(tmp_path / "cut", top_k=20, temperature=0.6)
    found = compare(run, cut)
    own, other = "temperature 1, top-p 1, top-k 0, min-p 0", "temperature 0.6, top-p 1, top-k 20, min-p 0"
    assert found.warning == f"sampled differently: {run.name} at {own}; cut at {other}"
    assert found.warning in printed(lambda console: render_comparison(found, console))
    assert "sampled differently" in printed(lambda console: render_pooled([run, cut], console))
    compare_runs([run], [cut], as_json=True)
    told = capsys.readouterr()
    assert json.loads(told.out) == found.record
    assert "sampled differently" in told.err


def test_compare_of_other_stages_and_of_strangers(run, tmp_path):
    rows = {row.stage: row for row in staircase(run)}
    found = compare(run, run, stage_a="sft", stage_b="midtrain")
    assert found.difference == pytest.approx(rows["sft"].accuracy - rows["midtrain"].accuracy)
    assert found.p == pytest.approx(rows["sft"].p_vs_previous)
    with pytest.raises(RunError, match="no evaluated stage 'dop'"):
        compare(run, run, stage_a="dop")
    stranger = build(tmp_path / "stranger", num_problems=6, payloads=("!",))
    with pytest.raises(DataError, match="share no evaluated problem"):
        compare(run, stranger)


def test_the_pooled_staircase_of_one_run_is_its_staircase(run, tmp_path):
    for pooled, row in zip(pooled_staircase([run]), staircase(run), strict=True):
        assert pooled.estimate.mean == pytest.approx(row.accuracy)
        if pooled.versus_previous is not None:
            assert pooled.versus_previous.p == pytest.approx(row.p_vs_previous)
    other = build(tmp_path / "other", seed=5)
    both = pooled_staircase([run, other])
    assert both[2].estimate.mean == pytest.approx((staircase(run)[2].accuracy + staircase(other)[2].accuracy) / 2)
    assert both[2].seeds == pytest.approx((staircase(run)[2].accuracy, staircase(other)[2].accuracy))


def test_the_terminal_table_says_it_in_numbers_and_fits_80_columns(run):
    text = printed(lambda console: render_staircase(run, console), width=80)
    rows = staircase(run)
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()[:1] and line.split()[0] in STAGES}
    assert list(lines) == list(STAGES)
    for row in rows:
        words = lines[row.stage].split()
        assert words[1] == f"{100 * row.accuracy:.1f}"
        assert words[2] == f"({100 * row.ci_low:.1f}\u2013{100 * row.ci_high:.1f})"
    assert lines["rl"].split()[3:7] == [f"+{100 * rows[-1].difference_vs_previous:.1f}", "<", "0.001", "better"]
    assert "unclear" in lines["dpo"]
    assert lines["rl"].split()[-1] == "2:52"  # 172.5 seconds; halves go to the even second
    assert max(map(len, text.splitlines())) <= 80


def test_names_cannot_write_to_the_terminal(tmp_path):
    evil = RECORD | {"stage": "\x1b[2J[red]rl[/red]\x07"}
    folder = results(tmp_path / "r", evil)
    text = printed(lambda console: render_staircase(folder, console))
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "[red]rl[/red]" in text.replace("\n", "").replace(" ", "").replace("│", "") or "[red]" in text


def test_the_pooled_staircase_in_the_terminal_shows_every_run(run, tmp_path):
    other = build(tmp_path / "other", seed=5)
    pooled = pooled_staircase([run, other])
    lines = printed(lambda console: render_pooled([run, other], console), width=80).splitlines()
    assert f"{run.resolve().name} + other" in lines[0]
    for row in pooled:
        line = next(line for line in lines if line.startswith(row.stage))
        assert f"{100 * row.estimate.mean:.1f} (" in line
        assert line.rstrip().endswith(" ".join(f"{100 * seed:.1f}" for seed in row.seeds))
        if row.versus_previous is not None:
            assert f"{100 * row.versus_previous.difference:+.1f} (" in line.replace("\u2212", "-")
    assert max(map(len, lines)) <= 80
