"""New problems of old ones: masks by rule, rewrites that are checked, and only what is answered as expected enters."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import ChatServer

from headway import cli
from headway.curate.rewriting import read_text
from headway.problems.backward import derived, fault, fobar, masks, verification
from headway.store.store import Store
from headway.types import Outcome, Problem, Split

KINDS = "answers,rephrase,self-verification,fobar"
REPHRASED = "A collector keeps {} crimson glass balls plus {} azure spheres inside wooden boxes; count everything together."


def problem(question: str, reference: str = "19") -> Problem:
    return Problem.make("gsm", "gsm", question, reference, Split.TRAIN, difficulty=2.0)


SAM = problem("Sam has 7 red marbles and 12 blue marbles. How many marbles has he?")


@pytest.mark.parametrize(
    ("question", "values"),
    [
        (SAM.question, {"7", "12"}),
        ("He pays $1,200 for 3.5 kg.", {"1200", "3.5"}),
        ("She has 7 pens, then 7 more and 12 books.", {"12"}),
        ("She has 3 pens, or 3.0 pens, and 8 books.", {"8"}),
        ("Read: 1. of 16 take 4. 2) of 25 take 9.", {"16", "4", "25", "9"}),
        ("In step 4 of figure 3 there are 8 dots.", {"8"}),
        ("1/2 of 10-12 on the 3rd at 10:30 in A4, 2^5, x_2 and \\frac{4}{5} of 8", set()),  # it has an x of its own
        ("1/2 of 10-12 on the 3rd at 10:30 in A4, 2^5 and \\frac{4}{5} of 8", {"8"}),
        ("Add 5 + 6 and -4 to 19 and 8.", {"8"}),  # 19 is the reference
        ("How many primes are there?", set()),
    ],
)
def test_which_numbers_are_masked(question, values):
    assert {mask.value for mask in masks(problem(question))} == values


def test_backward_questions_by_hand():
    mask = next(mask for mask in masks(SAM) if mask.value == "7")
    assert mask.question == "Sam has x red marbles and 12 blue marbles. How many marbles has he?"
    new = fobar(SAM, mask)
    ends = " If we know the answer to the above question is 19, what is the value of the unknown variable x?"
    assert new.question == mask.question + ends
    assert (new.reference, new.source, new.family, new.split, new.difficulty) == ("7", "gsm+fobar", "gsm", Split.TRAIN, 2.0)
    assert json.loads(new.metadata) == {"origin": SAM.id, "kind": "fobar"}
    statement = "Sam has x red marbles and 12 blue marbles. He has 19 marbles."
    assert verification(SAM, mask, statement).question == statement + " What is the value of unknown variable x?"
    assert [mask.value for mask in masks(SAM)] == [mask.value for mask in masks(SAM)]


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("rephrase", REPHRASED.format(7, 12), ""),
        ("rephrase", SAM.question, "equal to its origin"),
        ("rephrase", "Tom owns 7 and 12 marbles, 19 together. How many are they?", "gives the answer away"),
        ("rephrase", "19?", "too short or too long"),
        ("self-verification", "Sam has x red marbles and 12 blue ones, 19 in all.", ""),
        ("self-verification", "Sam has red marbles and 12 blue ones, 19 in all.", "without x"),
        ("self-verification", "Sam has x = 7 red marbles and 12 blue ones, 19 in all.", "gives the answer away"),
        ("self-verification", "Sam has x red marbles and 12 blue ones in all.", "without the answer"),
        ("self-verification", "Sam has x red and 12 blue marbles; how many? 19.", "still a question"),
    ],
)
def test_rewrites_are_checked(kind, text, says):
    mask = next(mask for mask in masks(SAM) if mask.value == "7")
    new = derived(SAM, kind, text, "19") if kind == "rephrase" else verification(SAM, mask, text)
    assert fault(SAM, new, kind) == says


@pytest.mark.parametrize("reply", ["How?", '{"question": 3}', '{"question": "a", "b": 1}', '["a"]', '{"question": " "}', "x {}"])
def test_a_reply_is_one_field_or_nothing(reply):
    assert read_text(reply, "question") is None
    assert read_text('<think>{}</think>\n```json\n{"question": "a?"}\n```', "question") == "a?"


def origins(count: int) -> list[tuple[int, int]]:
    return [(i + 3, 2 * i + 30) for i in range(count)]


def write(path: Path, pairs, text="Sam number {} has {} red marbles and {} blue marbles. How many marbles has he?") -> None:
    rows = [{"question": text.format("ABCDEFGHIJKL"[i], *pair), "answer": str(sum(pair))} for i, pair in enumerate(pairs)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def teacher(messages, seed):
    """Rewrites and solves; it cannot rephrase number B, and solves number C's backward questions wrongly."""
    text = messages[-1]["content"]
    if messages[0]["role"] == "system":
        data = json.loads(text)
        who = re.search(r"number (\w)", data["question"])[1]
        numbers = re.findall(r"\d+|\bx\b", data["question"])
        if "answer" in data:
            said = f"Sam {who} has {numbers[0]} red marbles and {numbers[1]} blue marbles. He has {data['answer']} marbles."
            return json.dumps({"statement": said})
        return "no" if who == "B" else json.dumps({"question": f"The {who} boy: " + REPHRASED.format(*numbers)})
    numbers = [int(one) for one in re.findall(r"\d+", text)]
    if "unknown variable x" not in text:
        return f"\\boxed{{{sum(numbers)}}}"
    found = numbers[1] - numbers[0]
    return f"\\boxed{{{found + ('C' in text)}}}"


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    output = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, output.out, output.err


def words(root: Path, server: ChatServer, *more: str) -> list[str]:
    quick = ["--set", "max_wait_seconds=0.02", "--set", "max_tries=2", "--answers", "3", "-n", "2", "--instruction", ""]
    return ["augment", str(root / "p.jsonl"), "--out", str(root / "out"), "--base-url", server.url, "--model", "m", *quick, *more]


def funnels(output: str) -> dict[str, tuple[int, int, dict[str, int]]]:
    return {row["name"]: (row["considered"], row["kept"], row["dropped"]) for row in json.loads(output)["funnels"]}


def test_all_kinds(tmp_path, capsys):
    write(tmp_path / "p.jsonl", origins(4))
    write(tmp_path / "held.jsonl", [(6, 36)], "The {} boy: " + REPHRASED)  # D's numbers, A's name
    held = json.loads((tmp_path / "held.jsonl").read_text())
    held["question"] = held["question"].replace("The A", "The D")
    (tmp_path / "held.jsonl").write_text(json.dumps(held))
    with ChatServer(teacher) as server:
        code, output, errors = run_here(
            capsys, *words(tmp_path, server, "--kind", KINDS, "--json", "--against", str(tmp_path / "held.jsonl"))
        )
        assert code == 0, errors
        found = funnels(output)
        assert found["answers"] == (8, 8, {})
        assert found["rephrase"] == (4, 2, {"rejected: held-out overlap": 1, "rejected: unreadable rewrite": 1})
        assert found["self-verification"] == found["fobar"] == (4, 3, {"rejected: answers disagree": 1})
        sent = len(server.bodies)
        assert run_here(capsys, *words(tmp_path, server, "--kind", KINDS, "--against", str(tmp_path / "held.jsonl")))[0] == 0
        assert len(server.bodies) == sent
    store = Store(tmp_path / "out" / "store")
    new = [one for one in store.problems() if "+" in one.source]
    assert {one.source for one in new} == {"p+rephrase", "p+self-verification", "p+fobar"}
    assert (len(new), len(store.problems())) == (8, 12)
    assert {one.split for one in new} == {Split.TRAIN}
    ids = {one.id for one in store.problems()}
    assert {json.loads(one.metadata)["origin"] for one in new} <= ids
    rollouts = store.rollouts()
    assert len(rollouts) == len({rollout.id for rollout in rollouts}) == 4 * 2 + 8 * 3
    assert {(rollout.sampler, rollout.policy) for rollout in rollouts} == {("teacher", "m")}
    verdicts = store.verdicts()
    assert [verdict.outcome for verdict in verdicts] == [Outcome.CORRECT] * 32
    assert {verdict.rollout_id for verdict in verdicts} == {rollout.id for rollout in rollouts}


def test_from_a_store_held_out_problems_are_never_augmented(tmp_path, capsys):
    store = Store(tmp_path / "old" / "store")
    train = [
        problem(f"Sam number {name} has {a} red marbles and {b} blue marbles. How many has he?", str(a + b))
        for name, a, b in (("A", 3, 40), ("E", 8, 90))
    ]
    heldout = Problem.make(
        "gsm", "gsm", "Kim number G has 5 red marbles and 60 blue marbles. How many has she?", "65", Split.HELDOUT
    )
    same = Problem.make("gsm", "gsm", train[1].question, "other", Split.HELDOUT)
    store.add_problems([*train, heldout, same])
    with ChatServer(teacher) as server:
        command = words(tmp_path, server, "--kind", KINDS, "--json")
        command[1] = str(tmp_path / "old")
        code, output, errors = run_here(capsys, *command)
        assert code == 0, errors
        assert not any(b"number G" in body or b"number E" in body for body in server.bodies)
    assert funnels(output)["held-out overlap"][:2] == (2, 1)
    assert {json.loads(p.metadata).get("origin", p.id) for p in Store(tmp_path / "out" / "store").problems()} == {train[0].id}


def test_the_cap_is_over_everything_and_killed_calls_go_on(tmp_path, capsys):
    write(tmp_path / "p.jsonl", origins(6))
    cap = ["--kind", KINDS, "--json", "--set", "concurrency=4", "--set", "prompt_price=1", "--max-cost"]
    with ChatServer(teacher, seconds=0.01) as server:
        record = json.loads(run_here(capsys, *words(tmp_path, server, *cap, "0.0021"))[1])
        assert record["stopped"].startswith("max_cost")
        assert 15 <= len(server.bodies) <= 25  # 0.0001 each
        for goal in (30, 60):
            process = subprocess.Popen(
                [sys.executable, "-m", "headway", *words(tmp_path, server, *cap, "1")], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while server.answered < goal and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
        code, output, errors = run_here(capsys, *words(tmp_path, server, *cap, "1"))
        assert code == 0, errors
        asked = 12 + 6 + 6 + (5 + 6 + 6) * 3  # answers, rewrites, statements, and tries at each new problem
        assert asked <= len(server.bodies) <= asked + 2 * 4
    found = funnels(output)
    assert found["rephrase"] == (6, 5, {"rejected: unreadable rewrite": 1})
    assert found["answers"] == (12, 12, {})
    rollouts = Store(tmp_path / "out" / "store").rollouts()
    assert len(rollouts) == len({rollout.id for rollout in rollouts}) == 12 + (5 + 5 + 5) * 3


def test_what_is_wrong_is_said_in_one_line(tmp_path, capsys):
    write(tmp_path / "p.jsonl", origins(1))
    with ChatServer(teacher) as server:
        code, _, errors = run_here(capsys, *words(tmp_path, server, "--kind", "rephrse"))
        assert code == 2
        assert "--kind 'rephrse': the kinds are answers, rephrase" in errors
        assert errors.count("\n") == 1
    code, _, errors = run_here(capsys, "augment", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "give --base-url and --model" in errors
