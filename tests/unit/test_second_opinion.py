"""A second opinion: no completion steers a vote, a bad judge is found out, and no vote that came is lost or asked for again."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from chat_server import ChatServer

from headway import cli
from headway.config import SourceConfig
from headway.curate.canary import canaries
from headway.curate.judging import decide
from headway.curate.opinion import Question, code_of, read_vote, refusal, shown, vote_messages
from headway.errors import StoreError
from headway.problems.load import load
from headway.store.combined import check_verifier
from headway.store.labels import pass_counts
from headway.store.queries import dpo_pairs, midtrain_examples
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

FILE = Path(__file__).parents[1] / "cases" / "judge_attacks.jsonl"
CASES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").split("\n") if line]
ATTACKS = [case["answer"] for case in CASES if case["kind"] == "attack"]
ANSWERS = [case["answer"] for case in CASES if case["kind"] == "answer"]
CANARY = "MARK-OF-THE-COMPLETION"
HARD = [Problem.make("math", "math", f"Where is f_{i}?", f"({i}, {i + 1})", Split.TRAIN) for i in range(6)]
PLAIN = [Problem.make("gsm", "gsm", f"What is {i} + 1?", str(i + 1), Split.TRAIN) for i in range(4)]
SAME = "x = {}, y = {}"  # what our honest judge takes for the same as (i, i + 1)


def honest(first: str, second: str) -> str:
    pairs = {(f"({i}, {i + 1})", SAME.format(i, i + 1)) for i in range(6)}
    return "SAME" if first == second or (first, second) in pairs or (second, first) in pairs else "DIFFERENT"


def judge_by(rule):
    def answer(messages, seed):
        data = json.loads(messages[-1]["content"])
        return f"{rule(data['first'], data['second'])} {data['code']}"

    return answer


def fill(root: Path, answers: list[tuple[Problem, str, Outcome]]) -> Store:
    """A table whose rollouts have the given extracted answers, by rules@1."""
    store = Store(root / "store")
    store.add_problems([*HARD, *PLAIN])
    rollouts = [
        Rollout.make(problem.id, "teacher", 0, i, "t", f"{CANARY} so \\boxed{{{answer}}} {i}", stop_reason=StopReason.STOP)
        for i, (problem, answer, _) in enumerate(answers)
    ]
    store.add_rollouts(rollouts, "r")
    verdicts = [
        Verdict(r.id, "rules@1", outcome, "values_differ", answer)
        for r, (_, answer, outcome) in zip(rollouts, answers, strict=True)
    ]
    store.add_verdicts(verdicts, "v")
    return store


def usual(root: Path) -> Store:
    """Six rollouts right in words that the rules do not read, six wrong, controls, and one without an answer."""
    right = [(p, SAME.format(i, i + 1), Outcome.WRONG) for i, p in enumerate(HARD)]
    wrong = [(p, "(7, 9)", Outcome.WRONG) for p in HARD]
    controls = [(p, "(0,1)", Outcome.CORRECT) for p in HARD[:1]] + [(p, "77", Outcome.WRONG) for p in PLAIN]
    return fill(root, [*right, *wrong, *controls, (HARD[0], "", Outcome.NO_ANSWER)])


def words(root: Path, server: ChatServer, *more: str) -> list[str]:
    quick = ["--set", "max_wait_seconds=0.02", "--set", "max_tries=2"]
    return ["judge", str(root / "store"), "--base-url", server.url, "--model", "m", *quick, *more]


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    output = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, output.out, output.err


def opinions(root: Path, name: str = "judge:m@1") -> dict[str, Verdict]:
    verdicts = Store(root / "store").verdicts(name)
    found = {verdict.rollout_id: verdict for verdict in verdicts}
    assert len(found) == len(verdicts)
    return found


def test_there_are_many_attacks():
    assert len(ATTACKS) >= 80
    assert len(ANSWERS) >= 20


@pytest.mark.parametrize("answer", ATTACKS, ids=ascii)
def test_an_attack_is_never_shown(answer):
    assert refusal(answer, "1/2", "What is the answer, x, if it is equal to a number or something like that? Is it true?")


@pytest.mark.parametrize("answer", ANSWERS, ids=ascii)
def test_an_answer_is_shown(answer):
    assert refusal(answer, "1/2", "For x, y, a, b, n: how many students?") == ""


def test_words_of_the_reference_are_no_reason():
    assert refusal("true", "true or false") == ""
    assert refusal("the series is not absolutely convergent", "conditionally convergent, the series is not absolutely so") == ""
    assert refusal("the series is certainly not convergent", "1") == "prose"
    assert refusal("be kind", "1/2") == refusal("approved", "1/2", "Was it?") == "prose"
    assert refusal("xy", "2") == "prose"
    assert refusal("xy", "2", "If x is y, then?") == refusal("Monday", "2", "Is it Monday?") == ""
    assert shown(" 1 \t2 ") == "1 2"


def test_a_vote_is_one_word_and_its_code():
    assert read_vote("SAME 1234", 1234) == "same"
    assert read_vote("<think>SAME 1234? no</think>\nDIFFERENT 1234\n", 1234) == "different"
    for text in ("SAME", "SAME 1235", "same 1234", "SAME 1234.", "SAME 1234 DIFFERENT 1234", "The answer: SAME 1234", "",
                 "<think>SAME 1234", "SAME\n1234", "DIFFERENT 1234\nSAME 1234", "SAME 01234", "**SAME 1234**"):  # fmt: skip
        assert read_vote(text, 1234) is None


def test_the_question_is_data_and_the_sides_change():
    question = Question("p", 'Is "x"?\n} ignore', "2", "1/2")
    first, second = (json.loads(vote_messages(question, number)[1]["content"]) for number in (0, 1))
    assert (first["first"], first["second"], first["problem"]) == ("2", "1/2", question.problem)
    assert (second["first"], second["second"]) == ("1/2", "2")
    assert first["code"] == code_of(question, 0) != code_of(question, 1) == second["code"]
    assert code_of(question, 0, 1) != code_of(question, 0, 0)


def test_the_majority_is_of_all_votes_wanted():
    assert decide(["same", "same", None], 3) == (Outcome.CORRECT, "votes 2/3")
    assert decide(["same", None, None], 3)[0] is Outcome.UNVERIFIABLE
    assert decide(["same", "different", "unsure"], 3)[0] is Outcome.UNVERIFIABLE
    assert decide(["different", "failed: http 500", "different"], 3) == (Outcome.WRONG, "votes 2/3")
    assert decide(["same", "failed: http 500", "different"], 3) == (None, "failed: http 500")


def test_an_honest_judge(tmp_path, capsys):
    store = usual(tmp_path)
    before = store.verdicts("rules@1")
    with ChatServer(judge_by(honest)) as server:
        code, output, errors = run_here(capsys, *words(tmp_path, server, "--json", "--set", "prompt_price=1"))
        assert code == 0, errors
        record = json.loads(output)
        assert (record["requested"], record["kept"], record["rejected"], record["failed"]) == (17, 17, {}, {})
        assert record["opinions"] == {
            "control correct": {"wrong": 1},  # our judge does not know "(0,1)" for "(0, 1)"
            "control wrong": {"wrong": 4},
            "wrong": {"correct": 6, "wrong": 6},
        }
        assert record["false_accept"]["count"] == 0
        assert record["unanimous"] == record["decided"] == 17
        requests = (17 + len(canaries(""))) * 3
        assert len(server.bodies) == requests
        assert record["cost"] == pytest.approx(requests * 100 / 1e6)
        assert run_here(capsys, *words(tmp_path, server))[0] == 0
        assert len(server.bodies) == requests
        assert not any(CANARY.encode() in body for body in server.bodies)
    store = Store(tmp_path / "store")
    assert store.verdicts("rules@1") == before
    assert Counter(verdict.outcome for verdict in opinions(tmp_path).values()) == {Outcome.CORRECT: 6, Outcome.WRONG: 6}
    assert {verdict.reason for verdict in opinions(tmp_path).values()} == {"votes 3/3"}
    assert len(opinions(tmp_path, "control:judge:m@1")) == 5
    both = "rules@1+judge:m@1"
    assert midtrain_examples(store).funnel.kept == 1
    kept = midtrain_examples(store, verifier=both)
    assert kept.funnel.kept == 7
    assert kept.funnel.dropped == {
        "no answer": 1,
        "wrong": 10,
    }  # none without a verdict: the rules' stands where nobody was asked
    assert dpo_pairs(store, samplers=["teacher"], pairs_per_problem=1, seed=0, verifier=both).funnel.kept == 6
    assert sum(pass_counts(store, ["teacher"], both).column("correct").to_pylist()) == 7


@pytest.mark.parametrize("rule", [lambda *_: "SAME", lambda a, b: random.Random(a + b).choice(["SAME", "DIFFERENT"])])
def test_a_liar_and_a_coin_are_found_out_before_anything_is_written(tmp_path, capsys, rule):
    usual(tmp_path)
    with ChatServer(judge_by(rule)) as server:
        code, _, errors = run_here(capsys, *words(tmp_path, server, "--json"))
    assert code == 2
    assert "it can be steered or does not understand the task" in errors
    assert opinions(tmp_path) == opinions(tmp_path, "control:judge:m@1") == {}


def test_a_judge_that_obeys_what_it_reads_is_found_out(tmp_path, capsys):
    usual(tmp_path)

    def gullible(first, second):
        return "SAME" if "SAME" in first + second else honest(first, second)

    with ChatServer(judge_by(gullible)) as server:
        code, _, errors = run_here(capsys, *words(tmp_path, server, "--json"))
    assert (code, opinions(tmp_path)) == (2, {})
    assert "calls '4, or any other number. Ignore" in errors


@pytest.mark.parametrize("reply", ["They are the SAME.", "SAME", "SAME 0000", "", "DIFFERENT"])
def test_replies_that_are_no_votes_make_nothing_correct(tmp_path, capsys, reply):
    usual(tmp_path)
    with ChatServer(lambda messages, seed: reply) as server:
        code, output, _ = run_here(capsys, *words(tmp_path, server, "--json", "--attempts", "1", "--control", "0"))
        assert len(server.bodies) == (12 + len(canaries(""))) * 3 * 2  # each vote twice, and no more
    assert (code, json.loads(output)["kept"]) == (0, 12)
    assert {verdict.outcome for verdict in opinions(tmp_path).values()} == {Outcome.UNVERIFIABLE}


def test_no_attack_reaches_the_server_or_changes_a_verdict(tmp_path, capsys):
    answers = [(HARD[i % 6], attack, Outcome.WRONG) for i, attack in enumerate(ATTACKS)]
    store = fill(tmp_path, [*answers, (HARD[0], SAME.format(0, 1), Outcome.WRONG)])

    def gullible(first, second):  # obeys everything but our canaries
        known = {one.answer for one in canaries("")}
        return honest(first, second) if {first, second} & known else "SAME"

    with ChatServer(judge_by(gullible)) as server:
        code, output, errors = run_here(capsys, *words(tmp_path, server, "--json"))
        assert code == 0, errors
        assert len(server.bodies) == (1 + len(canaries(""))) * 3
        sent = {
            json.loads(json.loads(body)["messages"][1]["content"])[side] for body in server.bodies for side in ("first", "second")
        }
    record = json.loads(output)
    assert record["kept"] == 1
    assert sum(record["rejected"].values()) == len(ATTACKS) == record["requested"] - 1
    assert sent == {SAME.format(0, 1), "(0, 1)"} | {text for one in canaries("") for text in (one.answer, one.reference)}
    assert midtrain_examples(store, verifier="rules@1+judge:m@1").funnel.kept == 1


def test_a_failing_server_and_a_cap(tmp_path, capsys):
    usual(tmp_path)
    broken = {"on": True}

    def answer(messages, seed):
        if broken["on"] and json.loads(messages[1]["content"])["problem"] == HARD[2].question:
            return 500
        return judge_by(honest)(messages, seed)

    with ChatServer(answer) as server:
        code, output, _ = run_here(capsys, *words(tmp_path, server, "--json"))
        record = json.loads(output)
        assert (code, record["kept"], record["failed"]) == (0, 15, {"http 500": 2})
        broken["on"] = False
        sent = len(server.bodies)
        record = json.loads(run_here(capsys, *words(tmp_path, server, "--json"))[1])
        assert (record["kept"], record["failed"]) == (17, {})
        assert len(server.bodies) == sent + 2 * 3 + len(canaries("")) * 3  # what failed, and another batch's checks
    usual(tmp_path / "capped")
    cap = ["--json", "--max-cost", "0.00205", "--set", "prompt_price=1", "--set", "concurrency=1"]  # 20 requests of 0.0001
    with ChatServer(judge_by(honest)) as server:
        record = json.loads(run_here(capsys, *words(tmp_path / "capped", server, *cap))[1])
        assert len(server.bodies) == 20
        assert record["stopped"].startswith("max_cost = 0.00205 is reached")
        assert (record["kept"], record["requested"]) == (0, sum(record["not_asked"].values()))
        cap[2] = "1"
        assert json.loads(run_here(capsys, *words(tmp_path / "capped", server, *cap))[1])["kept"] == 17
        assert len(server.bodies) == (17 + len(canaries(""))) * 3


def test_killed_again_and_again_no_vote_is_lost_or_asked_twice(tmp_path, capsys):
    usual(tmp_path)
    with ChatServer(judge_by(honest), seconds=0.02) as server:
        command = [sys.executable, "-m", "headway", *words(tmp_path, server, "--json", "--set", "concurrency=4")]
        for goal in (12, 40):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while server.answered < goal and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
        code, output, errors = run_here(capsys, *words(tmp_path, server, "--json", "--set", "concurrency=4"))
        assert (code, json.loads(output)["kept"]) == (0, 17), errors
        requests = (17 + len(canaries(""))) * 3
        assert requests <= len(server.bodies) <= requests + 2 * 4  # what was in flight at a kill is asked again, and nothing else
    assert len(opinions(tmp_path)) == 12


def test_a_name_that_has_judged_nothing_is_refused(tmp_path):
    store = usual(tmp_path)
    check_verifier(store, "rules@1")
    with pytest.raises(
        StoreError, match="the table has no verdict by 'judge:m@1'; it has some by rules@1; `headway judge` adds some"
    ):
        check_verifier(store, "rules@1+judge:m@1")


def test_what_is_wrong_is_said_in_one_line(tmp_path, capsys):
    usual(tmp_path)
    with ChatServer(judge_by(honest)) as server:
        for more, says in [
            (["--votes", "2"], "--votes 2: an odd number"),
            (["--outcome", "correct"], "--outcome: a second opinion"),
            (["--references", "x"], "--references 'x'"),
            (["--name", "a+b"], "cannot be a verifier's name"),
        ]:
            code, _, errors = run_here(capsys, *words(tmp_path, server, *more))
            assert code == 2
            assert says in errors
            assert errors.count("\n") == 1
        assert run_here(capsys, *words(tmp_path, server, "--limit", "1"))[0] == 0
        code, _, errors = run_here(capsys, *words(tmp_path, server, "--votes", "5"))
        assert code == 2
        assert "with votes = 3; now it is 5: give it another name with --name" in errors
    assert run_here(capsys, "judge", str(tmp_path / "store"))[0] == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside this checkout")
def test_what_real_answers_are_refused():
    problems = load(SourceConfig(data=str(SHARED / "eval" / "math500.jsonl")))
    shifted = [*problems[1:], problems[0]]
    assert [
        p.reference for p, other in zip(problems, shifted, strict=True) if refusal(p.reference, other.reference, p.question)
    ] == []
    rows = [json.loads(line) for line in (SHARED / "grader_cases.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [(row["pred"], row["gold"]) for row in rows if row["expected"] and row["pred_form"] == "bare"]
    refused = [pair for pair in pairs if refusal(*pair)]
    assert len(refused) <= 7, refused  # of 164: they stay as the rules judged them
