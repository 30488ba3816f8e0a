"""Verdicts: four outcomes, the case file, limits that hold, and the shared cases where they are at hand."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from headway.config import SourceConfig
from headway.errors import HeadwayError
from headway.problems.load import load
from headway.types import Outcome, Problem, Rollout, Split, StopReason
from headway.verify import grade, workers
from headway.verify.judge import VERIFIER, Verifier, judge
from headway.verify.workers import Pool, Result

ROOT = Path(__file__).resolve().parents[2]
CASES = [json.loads(line) for line in (ROOT / "tests/cases/verify.jsonl").read_text(encoding="utf-8").splitlines()]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def verifier():
    with Verifier(workers=1, last_number=True) as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['reference'][:20]}|{case['text'][-30:]}")
def test_case_file(case, verifier):
    found = verifier.judge(case["reference"], case["text"])
    assert found.outcome == case["outcome"], found


def test_the_fast_path_starts_no_process_and_imports_no_sympy():
    code = (
        "import sys; from headway.verify.judge import Verifier\n"
        "with Verifier() as v:\n"
        "    assert v.judge_all([('72', r'\\boxed{72}'), ('1/2', r'\\boxed{0.5}')])[1].outcome == 'correct'\n"
        "    assert not v.pool.pids\n"
        "assert 'sympy' not in sys.modules and 'math_verify' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_judgement_unpacks():
    outcome, reason, answer = judge("72", r"\boxed{73}")
    assert (outcome, reason, answer) == (Outcome.WRONG, "numbers_differ", "73")


def test_the_last_number_counts_only_when_asked():
    assert judge("2", "so 2 remain").outcome is Outcome.NO_ANSWER
    assert judge("2", "so 2 remain", last_number=True).outcome is Outcome.CORRECT


def test_verdicts_belong_to_their_rollouts():
    problem = Problem.make("test", "test", "2+2?", "4", Split.TRAIN)
    texts = [r"\boxed{5}", "none", r"\boxed{4}"]
    rollouts = [
        Rollout.make(problem.id, "import", 0, i, "", text, stop_reason=StopReason.IMPORTED) for i, text in enumerate(texts)
    ]
    with Verifier() as verifier:
        verdicts = verifier.verdicts([(problem, rollout) for rollout in rollouts])
    assert [verdict.rollout_id for verdict in verdicts] == [rollout.id for rollout in rollouts]
    assert [verdict.outcome for verdict in verdicts] == [Outcome.WRONG, Outcome.NO_ANSWER, Outcome.CORRECT]
    assert {verdict.verifier for verdict in verdicts} == {VERIFIER}


@pytest.mark.parametrize(
    "reference", ["72", r"\frac{1}{2}", "(1, 2)", r"\text{east}", "x \\in [-2,7]", r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}"]
)
def test_good_references_verify_themselves(reference, verifier):
    assert verifier.verifies_itself(reference)


@pytest.mark.parametrize("reference", ["", " ", "1/0", "\\boxed{", r"\frac{1}", "10^{10^{10}}!", "__import__('os')"])
def test_broken_references_do_not(reference, verifier):
    assert not verifier.verifies_itself(reference)


def test_verdicts_do_not_depend_on_order_or_thread(verifier):
    items = [(case["reference"], case["text"]) for case in CASES]
    straight = verifier.judge_all(items)
    order = list(range(len(items)))
    random.Random(0).shuffle(order)
    shuffled: list = []
    thread = threading.Thread(target=lambda: shuffled.extend(verifier.judge_all([items[i] for i in order])))
    thread.start()
    thread.join()
    assert shuffled == [straight[i] for i in order]


def test_a_stalling_answer_is_killed_and_the_next_one_still_answered():
    pool = Pool(workers=1, seconds=0.5, memory_mb=1024)
    try:
        stall = r"\sum_{k=1}^{10^{9}} \frac{1}{k^{2}}"
        found = pool.run([("42", stall), ("x", "x"), (stall, "42"), ("x", "y")])
        assert found[0] == Result("timeout", reference_read=True)
        assert found[1] == Result("same", reference_read=True)
        assert found[3] == Result("differ", reference_read=True)
    finally:
        pool.close()
    assert pool.pids == []


def test_memory_is_capped():
    pool = Pool(workers=1, seconds=1.0, memory_mb=700)
    try:
        found = pool.run([("42", "10^{10^{10}}"), ("x", "x")])
        assert found[0].word in ("memory", "timeout", "died", "answer_unread", "error")
        assert found[1].word == "same"
    finally:
        pool.close()


def test_a_worker_killed_from_outside_changes_no_verdict():
    pool = Pool(workers=1, seconds=5.0, memory_mb=1024)
    try:
        assert pool.run([("x", "x")])[0].word == "same"
        os.kill(pool.pids[0], signal.SIGKILL)
        time.sleep(0.1)
        assert [result.word for result in pool.run([("x", "x"), ("x", "y")])] == ["same", "differ"]
    finally:
        pool.close()


def test_workers_killed_again_and_again_change_no_verdict():
    """HEADWAY_KILL_SECONDS=60 does it for a minute; a kill every 2 s."""
    seconds = float(os.environ.get("HEADWAY_KILL_SECONDS", "5"))
    items = [(rf"\int_{{0}}^{{{n}}} 1\, dx", rf"\boxed{{\int_0^{{{n + n % 2}}} dx}}") for n in range(1, 21)]
    with Verifier() as calm:
        expected = calm.judge_all(items)
    assert [judgement.outcome for judgement in expected] == [Outcome.WRONG, Outcome.CORRECT] * 10
    stop, kills = threading.Event(), 0
    with Verifier(workers=2) as verifier:

        def kill() -> None:
            nonlocal kills
            while not stop.wait(2):
                for pid in random.sample(verifier.pool.pids, k=min(1, len(verifier.pool.pids))):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        kills += 1

        killer = threading.Thread(target=kill)
        killer.start()
        end, rounds = time.monotonic() + seconds, 0
        try:
            while time.monotonic() < end:
                assert verifier.judge_all(items) == expected
                rounds += 1
        finally:
            stop.set()
            killer.join()
    assert kills
    assert rounds
    print(f"{kills} kills, {rounds * len(items)} verdicts")


def test_workers_that_never_start_are_an_error_with_the_cause(monkeypatch):
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    pool = Pool(workers=1, seconds=1.0, memory_mb=1024)
    with pytest.raises(HeadwayError, match="does not start"):
        pool.run([("x", "x")])
    assert pool.pids == []


def _pred(row):
    if "pred" in row:
        return row["pred"]
    spec = row["pred_spec"]
    return spec["prefix"] + spec["unit"] * spec["times"] + spec["suffix"]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared grader cases are not beside this repository")
def test_agreement_with_the_shared_cases(verifier):
    rows = [json.loads(line) for line in (SHARED / "grader_cases.jsonl").read_text(encoding="utf-8").splitlines()]
    boxed = [row["pred_form"] == "bare" and "\\boxed" not in row["pred"] for row in rows]
    texts = ["\\boxed{" + row["pred"] + "}" if box else row["pred"] for row, box in zip(rows, boxed, strict=True)]
    found = verifier.judge_all([(row["gold"], text) for row, text in zip(rows, texts, strict=True)])
    correct = [judgement.outcome is Outcome.CORRECT for judgement in found]
    false_positives = [row for row, got in zip(rows, correct, strict=True) if got and not row["expected"]]
    assert false_positives == []
    assert sum(got == row["expected"] for row, got in zip(rows, correct, strict=True)) >= 0.98 * len(rows)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared grader cases are not beside this repository")
def test_no_adversary_is_right_and_none_leaves_a_trace(verifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in (SHARED / "grader_adversarial.jsonl").read_text(encoding="utf-8").splitlines()]
    found = verifier.judge_all([(row["gold"], _pred(row)) for row in rows])
    for row, judgement in zip(rows, found, strict=True):
        if row["expect"] != "any":
            assert (judgement.outcome is Outcome.CORRECT) == row["expect"], (row["id"], judgement)
    assert list(tmp_path.iterdir()) == []


# -- grade -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "completion", "outcome", "extracted"),
    [
        ("72", r"48 + 24 = \boxed{72}", Outcome.CORRECT, "72"),
        ("so 48 + 24\n#### 72", "The answer is 72.0", Outcome.CORRECT, "72.0"),
        (r"It is $\boxed{\frac{1}{2}}$", "0.5", Outcome.CORRECT, "0.5"),
        ("72", "so 73 remain", Outcome.WRONG, "73"),
        ("72", "<think>72", Outcome.NO_ANSWER, ""),
        ("42", "print(42)", Outcome.NO_ANSWER, ""),
        ("42", r"\boxed{__import__('os').system('true') or 42}", Outcome.WRONG, "__import__('os').system('true') or 42"),
        ("42", r"it grows like 10^{10}+42 apples do", Outcome.WRONG, "10"),
        ("-42", "it is -42 in the end", Outcome.CORRECT, "-42"),
        ("yes", r"\text{yes}", Outcome.CORRECT, r"\text{yes}"),
        ("y + 1", "cos(x)**2 + sin(x)**2 + y", Outcome.CORRECT, "cos(x)**2 + sin(x)**2 + y"),
        ("E", r"\mathrm{E}*2", Outcome.WRONG, r"\mathrm{E}*2"),
        ("5", "it is **5**", Outcome.CORRECT, "5"),
        (r"\frac{1}{0}!", r"\boxed{\sqrt{3}}", Outcome.UNVERIFIABLE, r"\sqrt{3}"),
    ],
)
def test_grade(reference, completion, outcome, extracted):
    found = grade(reference, completion)
    assert (found.outcome, found.extracted) == (outcome, extracted), found
    assert found.verifier == VERIFIER
    assert found.reason


SLOW = [  # the fast path leaves these open
    (r"\left\{2\right\}", r"\boxed{{1,2} \cap {2,3}}"),
    (r"\int_{0}^{7} 1\, dx", r"\boxed{\int_0^7 dx}"),
    (r"\int_{0}^{7} 1\, dx", r"\boxed{\int_0^6 dx}"),
]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_grade_says_the_same_in_threads_and_in_forked_and_spawned_processes():
    expected = [grade(*item) for item in SLOW]
    assert [verdict.outcome for verdict in expected] == [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG]
    assert {judge(*item).outcome for item in SLOW} == {Outcome.UNVERIFIABLE}
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda item: grade(*item), SLOW * 5)) == expected * 5
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as processes:
            assert list(processes.map(grade, *zip(*SLOW, strict=True))) == expected, method
    assert [grade(*item) for item in SLOW] == expected


def test_the_last_number_counts_where_a_problems_source_asks_for_it(tmp_path):
    (tmp_path / "short.jsonl").write_text('{"question": "How many?", "answer": "7"}\n{"question": "Which?", "answer": "8"}\n')
    found = {}
    for asks in (False, True):
        source = SourceConfig(data=str(tmp_path / "short.jsonl"), last_number=asks)
        problems = load(source)
        texts = ["First 3, so 7 remain", r"Not 8 but \boxed{5}"]
        rollouts = [
            Rollout.make(p.id, "teacher", 0, 0, "t", text, stop_reason=StopReason.STOP)
            for p, text in zip(problems, texts, strict=True)
        ]
        with Verifier() as verifier:
            found[asks] = [verdict.outcome for verdict in verifier.verdicts(list(zip(problems, rollouts, strict=True)))]
    assert found == {False: [Outcome.NO_ANSWER, Outcome.WRONG], True: [Outcome.CORRECT, Outcome.WRONG]}


def test_a_machine_that_was_suspended_makes_no_answer_late(monkeypatch):
    """A minute passes between two looks at the clocks: the pool's own process did not run then, nor did its workers."""
    jumps = iter([60.0] * 3)  # of the looks to come
    clock = time.monotonic
    ahead = [0.0]

    def look() -> float:
        ahead[0] += next(jumps, 0.0)
        return clock() + ahead[0]

    with contextlib.closing(Pool(1, 2.0, 1024)) as pool:
        assert pool.run([("x+1", "1+x")])[0].word == "same"
        monkeypatch.setattr(workers.time, "monotonic", look)
        assert pool.run([(r"\int_{0}^{7} 1\, dx", r"\int_0^6 dx")])[0].word == "differ"
        assert ahead[0] == 180.0
