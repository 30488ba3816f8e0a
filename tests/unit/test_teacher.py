"""Teacher sampling: each request is in the table exactly once, whatever the server does and however often we are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from flaky_server import FlakyServer, good, text_for
from tiny_sampler import parities, policy, sampler, tokenizer
from tiny_workspace import workspace

from headway import cli
from headway.config import EndpointConfig
from headway.endpoint.answer import Answer
from headway.errors import ConfigError, EndpointError, RunError, StoreError
from headway.model.checkpoint import save_decoder
from headway.stages.teacher import teach
from headway.store.store import Store
from headway.teacher import book as book_module
from headway.teacher.book import folder_name
from headway.teacher.journal import Finished, Journal
from headway.teacher.local import LocalTeacher
from headway.teacher.sampling import Sampled, Settings, sample_teacher
from headway.teacher.server import ServerTeacher, request_seed, text_of
from headway.types import Outcome, Rollout, StopReason, Verdict
from headway.verify.judge import Verifier

PROBLEMS = parities(6)


def sampled(
    root: Path, server: FlakyServer, rollouts: int = 2, problems=PROBLEMS, policy="", model="m", temperature=0.6, **more
) -> Sampled:
    """One call against a server."""
    quick = {"max_wait_seconds": 0.02, "max_tries": 3, "total_seconds": 1.0, "max_tokens": 64} | more
    config = EndpointConfig(base_url=server.url, model=model, temperature=temperature, **quick)
    teacher = ServerTeacher(config, 0, "", "", lambda note: None)
    with Verifier() as verifier:
        store = Store(root / "store")
        return sample_teacher(teacher, problems, rollouts, policy, store, root / "teacher", verifier, lambda *_: None)


def table(root: Path) -> dict[tuple[str, int, str], Rollout]:
    """The rollouts by request, each of which stands there once and has one verdict."""
    store = Store(root / "store", create=False)
    rollouts = store.rollouts(tokens=True)
    found = {(rollout.problem_id, rollout.index, rollout.policy): rollout for rollout in rollouts}
    assert len(found) == len(rollouts)
    assert Counter(verdict.rollout_id for verdict in store.verdicts()) == Counter(rollout.id for rollout in rollouts)
    return found


def test_rollouts_verdicts_and_a_funnel(tmp_path):
    right = good("so \\boxed{0}", completion_tokens=7)
    with FlakyServer(script=[right, good("cut", finish="length"), good("no", finish="content_filter")]) as server:
        found = sampled(tmp_path, server, concurrency=1)
    assert (found.failure, found.stopped) == (None, "")
    assert found.record["requested"] == 12 == found.record["kept"] + 1
    assert (found.record["rejected"], found.record["failed"], found.record["not_asked"]) == ({"content_filter": 1}, {}, {})
    assert json.loads((tmp_path / "teacher" / folder_name("m") / "funnel.json").read_text()) == found.record
    first, second = (table(tmp_path)[PROBLEMS[0].id, index, "m"] for index in (0, 1))
    assert (first.sampler, first.step, first.text, first.num_tokens) == ("teacher", 0, "so \\boxed{0}", 7)
    assert (first.stop_reason, second.stop_reason) == (StopReason.STOP, StopReason.LENGTH)
    assert (first.temperature, first.top_p) == (0.6, 0.95)
    store = Store(tmp_path / "store")
    assert [verdict.outcome for verdict in store.verdicts_of(first.id)] == [Outcome.CORRECT]
    assert {problem.id for problem in store.problems()} == {problem.id for problem in PROBLEMS}


def test_a_second_call_asks_nothing_and_more_rollouts_ask_the_new_ones(tmp_path):
    with FlakyServer() as server:
        sampled(tmp_path, server)
        before = table(tmp_path)
        assert len(server.requests) == 12
        again = sampled(tmp_path, server)
        assert (len(server.requests), again.funnel.kept) == (12, 12)
        more = sampled(tmp_path, server, rollouts=3, problems=parities(8))
        assert (more.funnel.considered, more.funnel.kept) == (24, 24)
        assert max(server.answered.values()) == 1
        assert len(server.requests) == 24
    after = table(tmp_path)
    assert before.items() <= after.items()
    for (problem_id, index, _), rollout in after.items():
        question = next(problem.question for problem in parities(8) if problem.id == problem_id)
        assert rollout.text == text_for(question, request_seed(0, problem_id, index))


def test_failed_requests_are_asked_by_the_next_call_and_rejected_ones_are_not(tmp_path):
    teapot = (418, {}, b'{"error": {"message": "short and stout"}}')
    with FlakyServer(script=[teapot, good(None, refusal="no")]) as server:
        found = sampled(tmp_path, server, concurrency=1)
        assert found.record["failed"] == {"http 418": 1}
        assert found.record["rejected"] == {"refusal": 1}
        found = sampled(tmp_path, server)
        assert (found.funnel.kept, found.record["failed"], found.record["rejected"]) == (11, {}, {"refusal": 1})
        assert len(server.requests) == 13
    assert len(table(tmp_path)) == 11


def test_other_settings_under_the_same_name_are_refused(tmp_path):
    with FlakyServer() as server:
        sampled(tmp_path, server)
        with pytest.raises(ConfigError, match=r"with temperature = 0\.6; now it is 1\.0: give it another name with --policy"):
            sampled(tmp_path, server, temperature=1.0)
        assert sampled(tmp_path, server, temperature=1.0, policy="m hot/1").funnel.kept == 12
        assert sampled(tmp_path, server, model="m2").funnel.kept == 12
    assert Counter(name for _, _, name in table(tmp_path)) == {"m": 12, "m hot/1": 12, "m2": 12}


def test_a_server_that_refuses_ends_the_call_after_the_books_are_closed(tmp_path):
    with FlakyServer(script=[None, None, (401, {}, b"no")]) as server:
        found = sampled(tmp_path, server, concurrency=1)
    assert isinstance(found.failure, EndpointError)
    assert found.funnel.kept == 2 == len(table(tmp_path))
    assert found.record["failed"] == {"http 401": 1}
    assert sum(found.record["not_asked"].values()) == 9


def test_nothing_kept_at_all_is_an_error(tmp_path):
    with FlakyServer(script=[good("x", finish="content_filter")] * 12) as server:
        found = sampled(tmp_path, server)
    assert isinstance(found.failure, StoreError)
    assert "kept 0 of 12; dropped 12 rejected: content_filter" in str(found.failure)


def test_the_cap_counts_over_calls(tmp_path):
    prices = {"completion_price": 1.0, "concurrency": 1}  # an answer of 109 or so tokens costs about 1.1e-4
    with FlakyServer() as server:
        found = sampled(tmp_path, server, max_cost=5e-4, **prices)
        kept = found.funnel.kept
        assert 3 <= kept <= 5
        assert found.stopped.startswith("max_cost = 0.0005 is reached")
        assert sampled(tmp_path, server, max_cost=5e-4, **prices).funnel.kept == kept
        assert len(server.requests) == kept
        assert sampled(tmp_path, server, max_cost=1.0, **prices).funnel.kept == 12


def test_table_and_journal_that_do_not_belong_together_are_refused(tmp_path):
    with FlakyServer() as server:
        sampled(tmp_path, server)
        place = tmp_path / "teacher" / folder_name("m")
        [segment] = place.glob("*.jsonl")
        lines = segment.read_text().splitlines(keepends=True)
        segment.write_text("".join(lines[1:]))
        with pytest.raises(RunError, match=r"holds 12 rollouts of 'm' and .* knows of 11"):
            sampled(tmp_path, server)
        segment.write_text("".join([*lines[:1], "{torn in the middle\n", *lines[1:]]))
        with pytest.raises(RunError, match="line 2 is damaged"):
            sampled(tmp_path, server)


def test_small_segments_reach_the_table_while_others_are_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(book_module, "SEGMENT", 5)
    with FlakyServer() as server:
        assert sampled(tmp_path, server, rollouts=4).funnel.kept == 24
    assert len(table(tmp_path)) == 24
    assert len(list((tmp_path / "teacher").glob("*/*.done.jsonl"))) == 5  # 4 of five rows, one of four


def test_a_full_disk_ends_the_call_in_one_line(tmp_path, monkeypatch):
    def full(self: Journal, row: Finished) -> None:
        raise RunError("cannot write 000001.jsonl (80 bytes): No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    with FlakyServer() as server:
        found = sampled(tmp_path, server)
    assert str(found.failure).startswith("cannot write 000001.jsonl")
    assert (found.funnel.kept, sum(found.record["not_asked"].values())) == (0, 12)


def kept(number: int, with_verdict: bool = False) -> Finished:
    rollout = Rollout.make(f"p{number}", "teacher", 0, 0, "m", "é\n" * number, stop_reason=StopReason.STOP, num_tokens=number)
    verdict = Verdict(rollout.id, "rules@1", Outcome.WRONG, "numbers_differ", "3") if with_verdict else None
    return Finished(f"p{number}/0", "kept", "", rollout, verdict, 3, number, 0.25, 2)


def test_the_journal_survives_a_torn_line_and_never_appends_to_what_it_finds(tmp_path):
    first = Journal(tmp_path)
    rows = [kept(1), Finished("p2/0", "rejected", "refusal"), kept(3, with_verdict=True)]
    for row in rows:
        first.append(row)
    assert first.unsettled() == []  # the open one is nobody's business yet
    with (tmp_path / "000001.jsonl").open("ab") as file:
        file.write(b'{"key": "p4/0", "sta')  # killed here
    second = Journal(tmp_path)
    assert second.rows() == rows
    assert second.unsettled() == [1]
    second.append(kept(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001.jsonl", "000002.jsonl"]
    second.settle(1)
    assert second.close() == 2
    assert (second.unsettled(), second.close()) == ([2], 0)
    light = second.rows(1)
    assert [(row.key, row.state, row.completion_tokens, row.rollout) for row in light] == [
        ("p1/0", "kept", 1, None),
        ("p2/0", "rejected", 0, None),
        ("p3/0", "kept", 3, None),
    ]
    assert not (tmp_path / "000001.jsonl").exists()


@pytest.mark.parametrize("stage", ["rollouts", "verdicts", "settled"])
def test_killed_between_table_and_journal_nothing_is_doubled(tmp_path, stage):
    """The states that a kill leaves while a segment is brought into the table: each is taken up and ends alike."""
    place = tmp_path / "teacher" / folder_name("m")
    store = Store(tmp_path / "store")
    store.add_problems(PROBLEMS)
    rollout = Rollout.make(PROBLEMS[0].id, "teacher", 0, 0, "m", "\\boxed{0}", stop_reason=StopReason.STOP)
    journal = Journal(place)
    journal.append(Finished(f"{PROBLEMS[0].id}/0", "kept", "", rollout))
    batch = f"teacher/{place.name}/1"
    store.add_rollouts([rollout], batch)
    if stage != "rollouts":
        store.add_verdicts([Verdict(rollout.id, "rules@1", Outcome.CORRECT, "equal", "0")], batch)
    if stage == "settled":
        text = (place / "000001.jsonl").read_bytes()
        journal.settle(1)
        (place / "000001.jsonl").write_bytes(text)  # killed before it was unlinked
    with FlakyServer() as server:
        assert sampled(tmp_path, server).funnel.kept == 12
        assert len(server.requests) == 11
    assert table(tmp_path)[PROBLEMS[0].id, 0, "m"].text == "\\boxed{0}"


def test_what_a_server_is_asked_to_cut_is_recorded(tmp_path):
    with FlakyServer() as server:
        assert sampled(tmp_path, server, extra={"top_k": 20, "min_p": 0.05}).funnel.kept == 12
        assert sampled(tmp_path, server, policy="all", extra={"top_k": -1, "min_p": None}).funnel.kept == 12
    found = {(policy, r.top_k, r.min_p) for (_, _, policy), r in table(tmp_path).items()}
    assert found == {("m", 20, 0.05), ("all", 0, 0.0)}


def test_reasoning_that_comes_apart_is_put_back():
    assert text_of(Answer("answered", "So \\boxed{4}", "2+2\n", "stop")) == "<think>\n2+2\n</think>\n\nSo \\boxed{4}"
    assert text_of(Answer("answered", "", "2+", "length")) == "<think>\n2+"
    assert text_of(Answer("answered", "4", "", "stop")) == "4"
    with Verifier() as verifier:
        assert verifier.judge("4", text_of(Answer("answered", "\\boxed{4}", "\\boxed{5}", "stop"))).outcome is Outcome.CORRECT
        assert verifier.judge("5", text_of(Answer("answered", "", "\\boxed{5}", "length"))).outcome is Outcome.NO_ANSWER


def local(root: Path, rollouts: int, problems, seed: int = 0) -> Sampled:
    settings = Settings("tiny", 1.0, 1.0, 20, seed, "", extra='{"min_p": 0.01, "top_k": 9}')
    with Verifier() as verifier:
        teacher = LocalTeacher(sampler(verifier, seed=seed), settings)
        store = Store(root / "store")
        return sample_teacher(teacher, problems, rollouts, "", store, root / "teacher", verifier, lambda *_: None)


def test_a_local_checkpoint_goes_the_same_way(tmp_path):
    problems = parities(5)
    assert local(tmp_path / "a", 2, problems[:3]).funnel.kept == 6
    more = local(tmp_path / "a", 4, problems)  # three problems lack two rollouts, two lack four
    assert (more.funnel.considered, more.funnel.kept) == (20, 20)
    at_once = local(tmp_path / "b", 4, problems)
    assert at_once.funnel.kept == 20
    grown, whole = table(tmp_path / "a"), table(tmp_path / "b")
    assert {key: r.token_ids for key, r in grown.items()} == {key: r.token_ids for key, r in whole.items()}
    for rollout in grown.values():
        assert len(rollout.token_ids) == len(rollout.logprobs) == rollout.num_tokens > 0
        assert (rollout.temperature, rollout.top_p, rollout.top_k, rollout.min_p) == (1.0, 1.0, 9, 0.01)


def test_a_recipe_can_name_the_server(tmp_path):
    def taught(server: FlakyServer, **more) -> dict:
        asked = {"base_url": server.url, "model": "m", "max_tokens": 64} | more
        with workspace(tmp_path, 6, teacher={"problems": 5, "rollouts": 3, "server": asked}) as work, Verifier() as verifier:
            teach(work, verifier)
            return work.run.record("teacher")["server"]

    with FlakyServer() as server:
        with pytest.raises(RunError, match=r"max_tokens_total = 500 is reached.*a higher cap goes on"):
            taught(server, max_tokens_total=500, concurrency=1)
        before = len(server.requests)
        assert 1 < before < 6
        record = taught(server)  # the cap is no part of the recipe's identity
        assert (record["requested"], record["kept"], len(server.requests)) == (15, 15, 15)
        assert taught(server) == record
        assert len(server.requests) == 15
        with pytest.raises(RunError, match=r"teacher\.server\.model"):
            taught(server, model="m2")
    found = table(tmp_path / "tiny")
    assert len(found) == 15
    assert {rollout.sampler for rollout in found.values()} == {"teacher"}
    assert len({problem_id for problem_id, _, _ in found}) == 5
    free = {"server": {"base_url": "http://127.0.0.1:9", "model": "m"}}
    with workspace(tmp_path / "b", teacher=free) as work, Verifier() as verifier, pytest.raises(ConfigError, match="a budget"):
        teach(work, verifier)


def test_the_key_is_in_no_file_and_no_output(tmp_path, monkeypatch, capsys):
    write_problems(tmp_path / "p.jsonl", 3)
    monkeypatch.setenv("TEACHER_KEY", "sk-CANARY")
    echo = (400, {}, b'{"error": {"message": "no: sk-CANARY"}}')
    with FlakyServer(script=[echo, None, (401, {}, b'{"error": {"message": "bad key sk-CANARY"}}')]) as server:
        where = ["--data", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out"), "--base-url", server.url, "--model", "m"]
        code, output, errors = run_here(capsys, "sample", *where, "--set", "api_key_env=TEACHER_KEY", "--set", "concurrency=1")
        assert (code, server.requests[0]["headers"]["authorization"]) == (2, "Bearer sk-CANARY")
    assert "bad key ***" in errors
    assert "no: ***" in output
    assert "CANARY" not in output + errors
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if b"CANARY" in path.read_bytes()] == []


def write_problems(path: Path, count: int) -> None:
    path.write_text("".join(json.dumps({"question": f"Is {i} odd?", "answer": str(i % 2)}) + "\n" for i in range(count)))


def test_killed_again_and_again_each_rollout_is_in_the_table_once(tmp_path):
    """The acceptance test in small (benchmarks/flaky_teacher.py: 1,000 problems, 10 kills): SIGKILL, a server that fails."""
    write_problems(tmp_path / "problems.jsonl", 40)
    faults = ["429", "429 retry-after", "500", "drop", "drop mid-body", "not json", "no choices", "trickle"]
    with FlakyServer(0.3, faults, seed=1) as server:
        where = ["--data", str(tmp_path / "problems.jsonl"), "--out", str(tmp_path / "out"), "--base-url", server.url]
        more = [
            "--set",
            "max_tries=8",
            "--set",
            "max_wait_seconds=0.1",
            "--set",
            "concurrency=8",
            "--model",
            "flaky",
            "--instruction",
            "",
            "--json",
        ]
        words = [sys.executable, "-m", "headway", "sample", *where, *more]
        for goal in (15, 60, 140):
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while sum(server.met.values()) < goal and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode != 0
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        record = json.loads(done.stdout)
        assert (record["requested"], record["kept"]) == (160, 160)
        assert server.answered.total() <= 160 + 3 * 8  # what was in flight at a kill is asked again, and nothing else
    problems = {problem.id: problem for problem in Store(tmp_path / "out" / "store").problems()}
    found = table(tmp_path / "out")
    assert len(found) == 160
    for (problem_id, index, _), rollout in found.items():
        assert rollout.text == text_for(problems[problem_id].question, request_seed(0, problem_id, index))


def run_here(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """`headway WORDS` in this process: exit code, output, errors."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    output = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, output.out, output.err


def test_the_verb_says_what_is_wrong_in_one_line(capsys, tmp_path, monkeypatch):
    write_problems(tmp_path / "p.jsonl", 3)
    monkeypatch.chdir(tmp_path)
    server = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m"]
    for words, says in [
        ([], "a teacher is either a server"),
        (server, "problems come either from --data or from --recipe"),
        ([*server, "--data", "p.jsonl", "--split", "all"], "--split 'all'"),
        ([*server, "--data", "p.jsonl", "--set", "concurency=3"], "a server has no such setting"),
        ([*server, "--data", "p.jsonl", "--set", "concurrency=0"], "concurrency = 0"),
        ([*server, "--data", "p.jsonl", "--max-cost", "1"], "max_cost needs prompt_price"),
        ([*server, "--data", "p.jsonl", "--set", "api_key_env=NOT_THERE"], "NOT_THERE should hold the API key"),
        (["--base-url", "http://me:secret@host/v1", "--model", "m", "--data", "p.jsonl"], "base_url should be like"),
        (["--model", "m", "--data", "p.jsonl"], "give its --base-url"),
        ([*server, "--data", "none.jsonl"], "no problem file at none.jsonl"),
        (["--checkpoint", "nowhere", "--data", "p.jsonl", "--system", "x"], "--system is for servers"),
    ]:
        code, output, errors = run_here(capsys, "sample", "--out", "out", *words)
        assert (code, output) == (2, "")
        assert says in errors
        assert "secret" not in errors
        assert errors.count("\n") == 1


def test_the_verb_with_a_checkpoint_and_sql_on_its_folder(capsys, tmp_path, monkeypatch):
    write_problems(tmp_path / "p.jsonl", 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    save_decoder(policy(), tmp_path / "tiny", tokenizer())
    words = [
        "sample",
        "--out",
        "out",
        "--checkpoint",
        "tiny",
        "--data",
        "p.jsonl",
        "-n",
        "2",
        "--max-tokens",
        "9",
        "--instruction",
        "",
        "--top-k",
        "7",
        "--min-p",
        "0.02",
    ]
    code, output, errors = run_here(capsys, *words, "--json")
    assert code == 0, errors
    assert json.loads(output)["kept"] == 6
    query = "select policy, top_k, min_p, count(*) as n from rollouts group by all"
    code, output, _ = run_here(capsys, "sql", query, "--run", "out", "--json")
    assert code == 0
    assert (json.loads(output)["n"], json.loads(output)["top_k"], json.loads(output)["min_p"]) == (6, 7, 0.02)
    code, _, errors = run_here(capsys, *words[:-4])
    assert code == 2
    assert "give it another name with --policy" in errors
    assert json.loads(output)["policy"].startswith("tiny#")


def test_ctrl_c_waits_for_what_is_in_flight_and_exits_130(tmp_path):
    write_problems(tmp_path / "p.jsonl", 200)
    with FlakyServer(seconds=0.2) as server:
        where = ["--data", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out"), "--base-url", server.url, "--model", "m"]
        words = [sys.executable, "-m", "headway", "sample", *where]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
        while len(server.answered) < 20 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "requests in flight; Ctrl-C again drops them" in output
        assert f"teacher m: kept {len(server.requests)} of 800" in output
    assert len(table(tmp_path / "out")) == len(server.requests) < 800
