"""Programs of completions: which text is one, what it comes to, what cannot get out, and the verdict on it."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from headway.errors import ConfigError, HeadwayError
from headway.types import Outcome, Problem, Rollout, Split, StopReason
from headway.verify import program, workers
from headway.verify.program import VERIFIER, ProgramVerifier, Ran, Sandbox, Status, agrees_as_float, program_of, ran_as_program
from headway.verify.sandbox import failure, line_value, text_of

ROOT = Path(__file__).resolve().parents[2]
needs_monty = pytest.mark.skipif(importlib.util.find_spec("pydantic_monty") is None, reason="pydantic-monty is not installed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")

sys.path.insert(0, str(ROOT / "benchmarks"))
import hostile_programs as benchmark  # noqa: E402
from honest_list import BEYOND, forms, honest  # noqa: E402


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(1, 0.5) as made:
        yield made


def fenced(code: str) -> str:
    return f"Let me compute.\n```python\n{code}\n```\nThat is all."


# -- the program of a completion ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```Python3\nprint(1)\n```", "print(1)\n"),
        ("```py title=x\r\nprint(1)\r\n```\r\n", "print(1)\r\n"),
        ("~~~python\nprint(1)\n~~~", "print(1)\n"),
        ("````python\na = '''\n```\n'''\n````", "a = '''\n```\n'''\n"),
        ("```python\nprint(1)\n```\nor\n```python\nprint(2)\n```", "print(2)\n"),
        ("```python\nprint(1)\n```\n```output\n1\n```", "print(1)\n"),
        ("  ```python\n  if 1:\n      print(1)\n  ```", "if 1:\n    print(1)\n"),
        ("<think>\n```python\nprint(1)\n```\n</think>\n```python\nprint(2)\n```", "print(2)\n"),
        ("<think>\n```python\nprint(1)\n```\n", None),  # a thought that never ends
        ("```python\nprint(1)\n```\n```python\nprint(2)", "print(1)\n"),  # cut off in the second
        ("```python\nprint(1)", None),
        ("```\nprint(1)\n```", None),
        ("```cpp\nint x;\n```", None),
        ("```markdown\n```python\nprint(1)\n```", None),  # inside a block of another language
        ("print(1)", None),
        ("```python print(1)```", None),
        ("", None),
        ("```python\n```", "\n"),
    ],
)
def test_the_last_finished_python_block_counts(text, expected):
    assert program_of(text) == expected


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (42, "42"),
        (True, "True"),
        (42.0, "42.0"),
        (1e-5, "0.00001"),
        (1e22, "10000000000000000000000.0"),
        (1e300, r"1 \times 10^{300}"),
        (float("nan"), None),
        (-float("inf"), None),
        pytest.param(10**5000, None, id="5001 digits"),
        (3 - 4j, "3-4i"),
        (complex("nan"), None),
        ([], "[]"),
        ([3, 1], "3, 1"),
        ([[1, 2], [3]], "[1, 2], [3]"),
        ((1, 2.5), "(1, 2.5)"),
        ((1,), "1"),
        ({2}, r"\{2\}"),
        (set(), r"\emptyset"),
        ({1: 2}, None),
        ([{1: 2}], None),
        (None, None),
        (b"x", None),
        ([[[[[[1]]]]]], None),
        ([0] * 401, None),
        ("seven", "seven"),
        ("<function f at 0x1f>", None),
    ],
)
def test_values_as_answers_are_written(value, text):
    assert text_of(value) == text


def test_a_printed_line_is_a_value_where_it_is_a_literal():
    assert line_value("[1, 2]") == ("1, 2", True)
    assert line_value("-3e-07") == ("-0.0000003", True)
    assert line_value("3 + 4") == ("3 + 4", False)  # a sum is no literal: the rules read it
    assert line_value("(" * 3000) == ("(" * 3000, False)
    assert line_value("$5") == ("$5", False)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ZeroDivisionError: division by zero", ("error", "ZeroDivisionError")),
        ("KeyError", ("error", "KeyError")),
        ("NameError: name 'x' is not defined", ("error", "NameError")),
        ("NameError: name 'input' is not defined", ("unsupported", "input")),
        ("AttributeError: 'int' object has no attribute 'bit_length'", ("unsupported", "int.bit_length")),
        ("AttributeError: 'int' object has no attribute 'size'", ("error", "AttributeError")),
        ("ModuleNotFoundError: No module named 'sympy.core'", ("unsupported", "module sympy.core")),
        (
            "NotImplementedError: The monty syntax parser does not yet support yield expressions",
            ("unsupported", "syntax: yield expressions"),
        ),
        ("NotImplementedError: mine", ("error", "NotImplementedError")),
        ("MemoryError: memory limit exceeded", ("memory", "")),
        ("TimeoutError: feed time limit exceeded: 3s > 3s", ("timeout", "")),
        ("TimeoutError: mine", ("error", "TimeoutError")),
        ("", ("error", "Exception")),
    ],
)
def test_what_the_sandbox_lacks_is_not_the_programs_mistake(message, expected):
    assert failure(message) == expected


@pytest.mark.parametrize(
    ("reference", "answer", "agrees"),
    [
        ("0.3", "0.30000000000000004", True),
        ("42", "42.00000000000001", True),
        ("42", "41.99999999999999", True),
        ("42", "42.0", True),
        ("42", "42.001", False),
        ("42", "42", False),  # an int is compared by the ordinary rules
        ("1/3", "0.3333333333333333", True),
        ("1/3", "0.33", False),
        ("1/3", "0.333333", False),
        (r"2\pi", "6.283185307179586", True),
        (r"\sqrt{2}", "1.4142135623730951", True),
        (r"\sqrt{2}", "1.41", False),
        ("10000000000", "10000000001.0", False),  # within 1e-9, but another whole number
        ("10000000000", "9999999999.5", False),
        ("0", "0.00000000000000012", True),  # sin(pi)
        ("0", "0.001", False),
        ("-5", "5.0", False),
        ("x", "1.0", False),
        ("50%", "50.0", False),  # percent: the ordinary rules
        ("(1, 2)", "1.0", False),
        ("15511210043330985984000000", "15511210043330986000000000.0", False),  # 25! as a float is another number
    ],
)
def test_floats_agree_with_exact_references(reference, answer, agrees):
    assert agrees_as_float(reference, answer) is agrees


# -- running -----------------------------------------------------------------------------------------------------------


@needs_monty
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 + 1", Ran(Status.OK, "2", "value")),
        ("print(1)\nprint(0.1 + 0.2)\n", Ran(Status.OK, "0.30000000000000004", "print")),
        ("print('x =', 3)\nNone", Ran(Status.OK, "x = 3", "print", is_text=True)),
        ("print(1)\n2", Ran(Status.OK, "2", "value")),
        ("print(1)\n{}", Ran(Status.OK, "1", "print")),
        ("def solution():\n    return [1, 2]\n", Ran(Status.OK, "1, 2", "solution")),
        ("def solution() -> int:\n    print('so', 7)\n", Ran(Status.OK, "so 7", "print", is_text=True)),
        ("def solution():\n    return 7\nprint(8)", Ran(Status.OK, "8", "print")),
        ("def solution(n):\n    return n\n", Ran(Status.NOTHING)),
        ("x = 3", Ran(Status.NOTHING)),
        ("", Ran(Status.NOTHING)),
        ("'seven'", Ran(Status.OK, "seven", "value", is_text=True)),
        ("1 / 0", Ran(Status.ERROR, "", "ZeroDivisionError")),
        ("print(", Ran(Status.ERROR, "", "SyntaxError")),
        ("print('\ud800')", Ran(Status.ERROR, "", "SyntaxError")),
        ("import sympy", Ran(Status.UNSUPPORTED, "", "module sympy")),
        ("open('/etc/passwd').read()", Ran(Status.ERROR, "", "PermissionError")),
        ("while True:\n    pass", Ran(Status.TIMEOUT)),
        ("'a' * 10**10", Ran(Status.MEMORY)),
        ("while True:\n    print('x')", Ran(Status.OUTPUT)),
        ("'x' * 5000", Ran(Status.OUTPUT)),
        ("#" * 20_001, Ran(Status.REFUSED, "", "too long")),
        ("def f():\n    return f()\nf()", Ran(Status.ERROR, "", "RecursionError")),
        ('print("H 1\\nready\\n{}")', Ran(Status.OK, "{}", "print", is_text=True)),
    ],
)
def test_a_program_comes_to(sandbox, source, expected):
    assert sandbox.run([source]) == [expected]


@needs_monty
def test_results_are_in_order_and_depend_on_the_program_alone(sandbox):
    luck = "import random, time\n(random.random(), time.time(), hash('x'), [k for k in {'b', 'a', 'c'}])"
    sources = [str(n) for n in range(20)] + [luck, "x = 1", luck, "x"]
    first = sandbox.run(sources)
    assert [ran.value for ran in first[:20]] == [str(n) for n in range(20)]
    assert first[20] == first[22]
    assert first[20].status is Status.OK
    assert first[23] == Ran(Status.ERROR, "", "NameError")  # nothing is left of the program before
    with Sandbox(2, 0.5) as other:
        assert other.run(list(reversed(sources))) == list(reversed(first))


@needs_monty
@needs_proc
def test_a_killed_worker_or_a_killed_monty_changes_no_result(sandbox):
    sandbox.run(["1"])
    stop = threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        while not stop.wait(0.4):
            workers_now = sandbox.pool.pids
            montys = [
                pid for pid, (parent, *_, name) in benchmark.processes().items() if name == "monty" and parent in workers_now
            ]
            for pid in (montys if kills % 2 else workers_now)[:1]:
                with contextlib.suppress(ProcessLookupError):  # it was gone already
                    os.kill(pid, signal.SIGKILL)
                    kills += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert [ran.value for ran in sandbox.run([f"sum(range({n}))" for n in range(40)])] == [
                str(n * (n - 1) // 2) for n in range(40)
            ]
    finally:
        stop.set()
        killer.join()
    assert kills >= 2


@needs_monty
@needs_proc
def test_a_program_during_which_monty_always_dies_has_crashed_it():
    with Sandbox(1, 20.0) as doomed:
        doomed.run(["1"])
        found: list[Ran] = []
        runner = threading.Thread(target=lambda: found.extend(doomed.run(["while True:\n    pass", "2"])))
        runner.start()
        killed: set[int] = set()
        while len(killed) < 2 and runner.is_alive():
            time.sleep(0.3)
            parents = doomed.pool.pids[:1]  # the one at work; the other stands by
            for pid, (parent, _, state, name) in benchmark.processes().items():
                if name == "monty" and parent in parents and state != "Z" and pid not in killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.add(pid)
        runner.join()
    assert found == [Ran(Status.CRASHED), Ran(Status.OK, "2", "value")]


@needs_monty
@needs_proc
def test_nothing_goes_on_when_the_parent_is_killed():
    code = (
        "from headway.verify.program import Sandbox\nimport sys\ns = Sandbox(1, 60.0)\ns.run(['1'])\n"
        "print(*s.pool.pids, flush=True)\ns.run(['while True:\\n    pass'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = {int(word) for word in parent.stdout.readline().split()}
        end = time.monotonic() + 20
        while not (busy := [pid for pid, (up, *_) in benchmark.processes().items() if up in pids]) and time.monotonic() < end:
            time.sleep(0.02)
        assert pids
        assert busy
        time.sleep(0.2)
        parent.kill()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        left = {pid for pid, (_, session, state, _) in benchmark.processes().items() if session in pids and state != "Z"}
        if not left:
            return
        time.sleep(0.05)
    pytest.fail(f"still there: {left}")


@needs_monty
@needs_proc
def test_a_few_of_the_hostile_programs_reach_nothing(tmp_path, monkeypatch):
    """All of them: benchmarks/hostile_programs.py."""
    monkeypatch.chdir(tmp_path)
    canaries = benchmark.Canaries(tmp_path)
    try:
        with Sandbox(1, 0.3) as guarded:
            rows, breaches = benchmark.attack(guarded, canaries, every=13)
    finally:
        canaries.close()
    assert breaches == []
    assert sum(int(str(row.get("programs", 0))) for row in rows) == 50
    assert len(rows) == 19  # 18 families and the peak


@needs_proc
def test_the_canaries_notice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    canaries = benchmark.Canaries(tmp_path)
    try:
        assert canaries.breaches("42") == []
        assert canaries.breaches(f"x{canaries.secret}y") == ["a secret of the file in the result"]
        assert canaries.breaches(canaries.environment[:6:-1]) == ["a secret of the environment in the result"]
        assert len(canaries.file.read_text()) == len(canaries.secret)
        assert canaries.breaches("") == ["canary.txt was read"] * canaries.notices_reads
        Path("pwned").write_text("x")
        assert len(canaries.breaches("")) == 1
        canaries.file.write_text("other")
        assert any("canary.txt is new or changed" in breach for breach in canaries.breaches(""))
        with benchmark.socket.create_connection(("127.0.0.1", int(canaries.places["PORT"]))):
            time.sleep(0.05)
            assert canaries.breaches("") == ["a connection to the port"]
        household = benchmark.Household(workers.Pool(1, 1.0, 1024))
        process = subprocess.Popen(["sleep", "60"])
        try:
            strangers = household._strangers()
            assert len(strangers) == 1
            assert "sleep" in strangers[0]
        finally:
            process.kill()
            process.wait()
    finally:
        canaries.close()


@needs_monty
def test_a_few_of_the_honest_programs_come_to_what_cpython_says(sandbox):
    programs = list(honest())[::11]
    expected = [benchmark.cpython(body, expression) for _, body, expression in programs]
    for form in ("print", "value", "solution"):
        found = sandbox.run([forms(body, expression)[form] for _, body, expression in programs])
        assert [ran.value for ran in found] == expected


@needs_monty
def test_honest_programs_of_what_the_sandbox_lacks_are_unsupported(sandbox):
    assert {ran.status for ran in sandbox.run(BEYOND)} == {Status.UNSUPPORTED}


# -- without a sandbox -------------------------------------------------------------------------------------------------


def test_without_a_sandbox_it_refuses_in_one_line(monkeypatch):
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^programs only run in pydantic-monty, .*pip install 'headway\[sandbox\]'$"):
        ProgramVerifier()


@needs_monty
def test_a_sandbox_that_does_not_start_is_an_error_and_no_verdict(monkeypatch):
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    with ProgramVerifier() as verifier, pytest.raises(HeadwayError, match="the sandbox's worker process does not start"):
        verifier.judge_all([("1", fenced("1"))])


@needs_monty
def test_a_missing_monty_binary_is_an_error_and_no_verdict(monkeypatch):
    monkeypatch.setenv("MONTY_BIN", "/nonexistent/monty")
    with Sandbox() as broken, pytest.raises(HeadwayError, match="does not start"):
        broken.run(["1"])


def test_verify_does_not_import_the_sandbox():
    code = "import sys, headway.verify, headway.verify.program\nassert 'pydantic_monty' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# -- verdicts ----------------------------------------------------------------------------------------------------------

VERDICTS = [
    ("72", "print(48 + 24)", Outcome.CORRECT, "equal", "72"),
    ("72", "print('The answer is', 48 + 24)", Outcome.CORRECT, "equal", "72"),
    ("72", "print(f'She has {48 + 24} clips.')", Outcome.CORRECT, "equal", "72"),
    (r"\boxed{72}", "73", Outcome.WRONG, "numbers_differ", "73"),
    ("42", "0.1 * 3 * 140", Outcome.CORRECT, "float", "42.00000000000001"),
    (r"\frac{1}{3}", "1 / 3", Outcome.CORRECT, "float", "0.3333333333333333"),
    (r"\frac{1}{3}", "round(1 / 3, 2)", Outcome.WRONG, "numbers_differ", "0.33"),
    ("(1, 2)", "(1, 2)", Outcome.CORRECT, "identical", "(1, 2)"),
    ("2, 1", "[1, 2]", Outcome.CORRECT, "equal", "1, 2"),
    (r"\{1, 2\}", "{2, 1}", Outcome.CORRECT, None, None),
    ("Monday", "print('Monday')", Outcome.CORRECT, "identical", "Monday"),
    (r"\int_0^7 1 dx", "7", Outcome.CORRECT, "math_verify", "7"),
    ("1/0", "3", Outcome.UNVERIFIABLE, "reference_unread", "3"),
    ("7", "1 / 0", Outcome.WRONG, "program_error:ZeroDivisionError", ""),
    ("7", "while True:\n    pass", Outcome.WRONG, "program_timeout", ""),
    ("7", "x = 7", Outcome.WRONG, "program_nothing", ""),
    ("7", "import sympy\nsympy.Integer(7)", Outcome.UNVERIFIABLE, "program_unsupported:module sympy", ""),
]


@needs_monty
def test_verdicts_by_the_ordinary_rules():
    problems = [Problem.make("test", "test", str(n), case[0], Split.TRAIN) for n, case in enumerate(VERDICTS)]
    texts = [fenced(case[1]) for case in VERDICTS]
    problems.append(Problem.make("test", "test", "none", "7", Split.TRAIN))
    texts.append(r"No program: \boxed{7}")
    rollouts = [
        Rollout.make(p.id, "import", 0, 0, "", text, stop_reason=StopReason.IMPORTED)
        for p, text in zip(problems, texts, strict=True)
    ]
    with ProgramVerifier(seconds=0.5) as verifier:
        verdicts = verifier.verdicts(list(zip(problems, rollouts, strict=True)))
    assert [verdict.rollout_id for verdict in verdicts] == [rollout.id for rollout in rollouts]
    assert {verdict.verifier for verdict in verdicts} == {VERIFIER}
    for case, verdict in zip(VERDICTS, verdicts, strict=False):
        assert verdict.outcome is case[2], (case, verdict)
        assert case[3] in (None, verdict.reason), (case, verdict)
        assert case[4] in (None, verdict.extracted), (case, verdict)
        assert ran_as_program(verdict) is not verdict.reason.startswith("program_")
    assert (verdicts[-1].outcome, verdicts[-1].reason) == (Outcome.NO_ANSWER, "no_program")
    assert not ran_as_program(verdicts[-1])
