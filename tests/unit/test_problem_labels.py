"""Labels beside problems: by a model, by pass rates; stores and frozen selections without them stay as they are."""

import json

import pytest
from chat_server import ChatServer

from headway import cli
from headway.report.holdings import LabelGroup, holdings
from headway.store.store import Store
from headway.types import Label, Outcome, Problem, Rollout, Split, StopReason, Verdict

PROBLEMS = [Problem.make("s", "s", f"How long is side {i} of the triangle?", str(i), Split.TRAIN) for i in range(6)]


def run_here(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    output = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, output.out, output.err


def test_a_store_without_labels_has_none_and_opens_anywhere(tmp_path):
    store = Store(tmp_path / "store")
    store.add_problems(PROBLEMS, "p")
    versions = store.versions()
    assert set(versions) == {"problems", "rollouts", "verdicts"}
    assert (store.labels(), store.has_batch("labels", "x"), store.at(versions).labels()) == ([], False, [])
    assert store.sql("SELECT count(*) AS n FROM labels").to_pylist() == [{"n": 0}]
    other = Store(tmp_path / "store", create=False)
    labels = [Label("p", "a@1", "geometry", "easy", 0.5), Label("q", "a@1", "algebra")]
    assert store.add_labels(labels, "b") == 2
    assert store.add_labels(labels, "b") == 0
    assert other.labels() == labels  # opened before there were any
    store.add_labels([Label("p", "a@1", "geometry", "hard", 0.4), Label("p", "b@1")])
    assert {label.difficulty for label in store.labels("a@1")} == {"hard", ""}
    assert store.at(versions).labels() == []
    assert store.at(store.versions()).versions()["labels"] == 2
    assert store.compact()["labels"] == (2, 1)


def test_by_a_model(tmp_path, capsys):
    store = Store(tmp_path / "store")
    store.add_problems(PROBLEMS, "p")

    def answer(messages, seed):
        number = json.loads(messages[1]["content"])["problem"][17]
        if number == "1":
            return "geometry, I think"
        if number == "2":
            return 500
        return json.dumps({"domain": "geometry" if number != "3" else "algebra", "level": 3})

    with ChatServer(answer) as server:
        words = ["label", str(tmp_path / "store"), "--base-url", server.url, "--model", "m", "--json"]
        words += ["--set", "max_tries=2", "--set", "max_wait_seconds=0.02"]
        code, output, errors = run_here(capsys, *words)
        assert code == 0, errors
        record = json.loads(output)
        assert record["funnel"]["dropped"] == {"failed: http 500": 1, "rejected: no label": 1}
        assert (record["funnel"]["kept"], record["added"], len(server.bodies)) == (4, 4, 4 + 3 + 2)
        assert json.loads(run_here(capsys, *words)[1])["added"] == 0
        assert len(server.bodies) == 4 + 3 + 2 + 2  # what failed alone
        code, _, errors = run_here(capsys, *words, "--attempts", "1")
        assert code == 2
        assert "with attempts = 2; now it is 1" in errors
    assert holdings(Store(tmp_path / "store")).labels == (
        LabelGroup("model:m@1", "algebra", "high school", 1),
        LabelGroup("model:m@1", "geometry", "high school", 3),
    )
    code, output, _ = run_here(capsys, "data", str(tmp_path / "store"))
    assert code == 0
    assert "Problems by label" in output


def test_by_pass_rate_the_newest_counts(tmp_path, capsys):
    store = Store(tmp_path / "store")
    store.add_problems(PROBLEMS, "p")

    def add(outcomes, first):
        rollouts = []
        for i in range(first, first + len(outcomes)):
            rollouts.append(Rollout.make(PROBLEMS[0].id, "teacher", 0, i, "t", f"{i}", stop_reason=StopReason.STOP))
        store.add_rollouts(rollouts)
        store.add_verdicts([Verdict(r.id, "rules@1", outcome) for r, outcome in zip(rollouts, outcomes, strict=True)])

    add([Outcome.CORRECT] * 4 + [Outcome.UNVERIFIABLE], 0)
    words = ["label", str(tmp_path / "store"), "--by", "pass-rate", "--json"]
    record = json.loads(run_here(capsys, *words)[1])
    assert record["funnel"]["dropped"] == {"rejected: no judged rollout of teacher": 5}
    assert store.labels() == [Label(PROBLEMS[0].id, "pass-rate:teacher@1", "", "very easy", 0.9)]  # (4 + 1/2) / 5
    assert json.loads(run_here(capsys, *words)[1])["added"] == 0
    add([Outcome.WRONG] * 4, 10)
    assert json.loads(run_here(capsys, *words)[1])["added"] == 1
    assert store.labels() == [Label(PROBLEMS[0].id, "pass-rate:teacher@1", "", "medium", 0.5)]
    add([Outcome.CORRECT] * 40, 20)
    assert json.loads(run_here(capsys, *words)[1])["added"] == 1
    code, _, errors = run_here(capsys, "label", str(tmp_path / "store"))
    assert (code, errors.count("\n")) == (2, 1)
