"""Data sets in their authors' columns: the question, the answer, every solution that a row carries, and whose it is."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from test_cli import run_here

from headway.config import SourceConfig
from headway.errors import DataError, RunError
from headway.problems.columns import NoReference, RowError, read_question, read_row, recognise
from headway.problems.load import load
from headway.problems.traces import AUTHORS, TRACE_COLUMNS, read_traces
from headway.problems.turns import Turns, read_turns
from headway.stages import imports
from headway.stages.imports import import_data, import_traces
from headway.store.store import Store
from headway.types import Outcome, Problem, Split, StopReason
from headway.verify.judge import Verifier

ASK = [{"role": "user", "content": "2+2?"}]
SAY = [{"role": "assistant", "content": r"It is \boxed{4}."}]
OPENR1 = {
    "problem": "2+2?",
    "solution": r"By hand $\boxed{4}$.",
    "answer": "4",
    "problem_type": "Algebra",
    "uuid": "u1",
    "is_reasoning_complete": [True, True, False],
    "generations": [r"<think>x</think> \boxed{4}", r"<think>y</think> \boxed{5}", "<think>cut"],
    "correctness_math_verify": [True, True, False],
    "correctness_llama": None,
    "finish_reasons": ["stop", "stop", "length"],
    "messages": [*ASK, {"role": "assistant", "content": r"<think>x</think> \boxed{4}"}],
}
S1K = {
    "question": "2+2?",
    "solution": "4",
    "cot_type": "math",
    "deepseek_thinking_trajectory": "two and two",
    "deepseek_attempt": r"\boxed{4}",
    "deepseek_grade": "Yes",
    "gemini_thinking_trajectory": "hm",
    "gemini_attempt": r"\boxed{3}",
    "gemini_grade": "No",
}


def traces(row):
    read = read_row(row, recognise(row))
    found, dropped = read_traces(row, read)
    return read, [(t.policy("set"), t.index, t.text, t.claimed, t.is_complete) for t in found], dict(dropped)


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"question": "2+2?", "final_answer": "4", "difficulty": 4.5, "topic": "sums"}, "4"),  # DeepMath
        ({"problem": "2+2?", "expected_answer": "4", "generated_solution": "x"}, "4"),  # OpenMathReasoning
        ({"prompt": ASK, "reward_model": {"ground_truth": "4", "style": "rule"}, "data_source": "d"}, "4"),  # verl
        ({"prompt": ASK, "solution": "$4$"}, "4"),  # TRL's GRPO
        ({"prompt": "2+2?", "solution": r"So \boxed{4}."}, "4"),
        ({"prompt": ASK, "ground_truth": 4}, "4"),
        ({"messages": [*ASK], "ground_truth": "4", "dataset": "math"}, "4"),  # RLVR
        ({"problem": "2+2?", "ground_truth_solution": r"\boxed{4}", "deepseek_solution": "x"}, "4"),  # OpenThoughts, metadata
        ({"conversations": [{"from": "human", "value": "2+2?"}], "answer": "4"}, "4"),
        ({"question": "2+2?", "solution": "1,004"}, "1004"),  # s1K
        ({"question": "2+2?", "reference": "4", "solution": "", "family": "sums", "split": "train"}, "4"),  # ours
    ],
)
def test_questions_and_answers_of_many_authors(row, reference):
    read = read_row(row, recognise(row))
    assert (read.question, read.reference) == ("2+2?", reference)
    assert {column.split(".")[0] for column in row} - TRACE_COLUMNS <= {"dataset"}


def test_details_are_kept():
    deepmath = {"question": "q", "final_answer": "4", "difficulty": 4.5, "topic": "sums"}
    read = read_row(deepmath, recognise(deepmath))
    assert (read.difficulty, json.loads(read.metadata)) == (4.5, {"topic": "sums"})
    system = {"prompt": [{"role": "system", "content": "Be brief."}, *ASK], "answer": "4"}
    assert json.loads(read_row(system, recognise(system)).metadata) == {"system": "Be brief."}
    ours = {"question": "q", "reference": "4", "family": "f", "split": "heldout", "difficulty": 2.0, "metadata": '{"a": 1}'}
    read = read_row(ours, recognise(ours))
    assert (read.family, read.split, read.difficulty, read.metadata) == ("f", "heldout", 2.0, '{"a": 1}')


@pytest.mark.parametrize("solution", ["It is four", "See the picture on page 4", "", r"\frac{1}{2}" * 20])
def test_a_solution_that_is_no_answer_is_no_reference(solution):
    row = {"problem": "p", "solution": solution}
    with pytest.raises(RowError):
        read_row(row, recognise(row))


@pytest.mark.parametrize("solution", ["128", "-3/4", r"$\frac{1}{2}$", r"x \in \mathbb{R}", "3 apples"])
def test_a_solution_that_is_but_an_answer_is_the_reference_and_no_trace(solution):
    read, found, _ = traces({"question": "p", "solution": solution})
    assert read.reference == solution.strip("$")
    assert (read.solution, found) == ("", [])


def test_a_missing_answer_is_told_from_a_broken_row():
    for row in ({"problem": "p", "answer": None}, {"problem": "p", "answer": " "}, {"problem": "p", "solution": "by a picture"}):
        with pytest.raises(NoReference):
            read_row(row, recognise(row))


def test_lists_of_generations_with_flags_and_ends():
    read, found, dropped = traces(OPENR1)
    assert read.reference == "4"
    assert found == [
        ("set", 0, r"By hand $\boxed{4}$.", None, True),
        ("set/generations", 0, r"<think>x</think> \boxed{4}", True, True),
        ("set/generations", 1, r"<think>y</think> \boxed{5}", True, True),
        ("set/generations", 2, "<think>cut", False, False),
    ]
    assert dropped == {"text that its row has already": 1}  # messages repeat the first generation


def test_thought_and_answer_apart():
    read, found, _ = traces(S1K)
    assert read.reference == "4"
    assert found == [
        ("set/deepseek_attempt", 0, "<think>\ntwo and two\n</think>\n\n\\boxed{4}", True, True),
        ("set/gemini_attempt", 0, "<think>\nhm\n</think>\n\n\\boxed{3}", False, True),
    ]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"r1_solution_1": "a", "r1_solution_2": "b"}, [("r1_solution_1", 0, "a", None), ("r1_solution_2", 0, "b", None)]),
        ({"generated_solution": "a", "generation_model": "QwQ-32B"}, [("QwQ-32B", 0, "a", None)]),
        ({"generated_solution": "a", "generation_model": "\ud800"}, [("generated_solution", 0, "a", None)]),
        ({"generated_solution": "a", "generation_model": 7}, [("generated_solution", 0, "a", None)]),
        ({"completion": SAY, "label": False}, [("completion", 0, r"It is \boxed{4}.", False)]),
        ({"completion": " 4", "label": True}, [("completion", 0, "4", True)]),
        ({"chosen": SAY, "rejected": "no"}, [("chosen", 0, r"It is \boxed{4}.", True), ("rejected", 0, "no", False)]),
        ({"chosen": [*ASK, *SAY], "rejected": [*ASK, {"role": "assistant", "content": "no"}]},
         [("chosen", 0, r"It is \boxed{4}.", True), ("rejected", 0, "no", False)]),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "correct": True},
         [("conversations", 0, "a", True)]),
        ({"messages": ASK}, []),  # asks only
        ({"thinking_trajectories": ["t"], "attempt": "a"}, [("attempt", 0, "<think>\nt\n</think>\n\na", None)]),
        ({"deepseek_reasoning": "t", "deepseek_solution": "a"}, [("deepseek_solution", 0, "<think>\nt\n</think>\n\na", None)]),
        ({"completion": None, "response": ""}, []),
    ],
)  # fmt: skip
def test_whose_solution_a_column_holds(columns, expected):
    _, found, dropped = traces({"prompt": "2+2?", "answer": "4", **columns})
    assert [(policy.removeprefix("set/"), index, text, claimed) for policy, index, text, claimed, _ in found] == expected
    assert not dropped


def test_what_cannot_be_kept_is_counted():
    row = {"prompt": "q", "answer": "4", "generations": ["a", "a", "", None, 7, "x\0", "\ud800", "y" * 1_000_001]}
    _, found, dropped = traces(row)
    assert [text for _, _, text, _, _ in found] == ["a"]
    assert dropped == {
        "text that its row has already": 1,
        "empty text": 1,
        "not one text": 2,
        "a NUL character": 1,
        "half of a surrogate pair": 1,
        "more than 1,000,000 characters": 1,
    }
    assert sum(dropped.values()) + len(found) == 8


def test_turns():
    assert read_turns([{"role": "system", "content": "s"}, *ASK, *SAY]) == Turns("s", "2+2?", r"It is \boxed{4}.")
    assert read_turns([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]) == Turns(
        "", "ab", ""
    )
    apart = {"role": "assistant", "thinking": "hm", "content": "4"}
    assert read_turns([*ASK, apart]) == Turns("", "2+2?", "<think>\nhm\n</think>\n\n4")
    for broken in (
        [*ASK, *SAY, *ASK],
        [*SAY, *ASK],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": [{"type": "image"}]}],
        [{"role": "user", "content": None}],
        ["text"],
        [],
        "text",
    ):
        assert read_turns(broken) is None


def test_every_author_has_a_column_of_its_own():
    assert len({author.column for author in AUTHORS}) == len(AUTHORS)
    assert read_question({"chosen": "The sky is blue."}) == ""  # where the prompt ends, nobody can tell


# -- into a table -------------------------------------------------------------------------------------------------------


def write(path: Path, *rows) -> SourceConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return SourceConfig(data=str(path), name="set")


def quiet(stage: str, done: int, total: int, numbers: dict) -> None:
    assert done <= total


def test_traces_are_judged_by_us_and_the_sets_own_flags_are_compared(tmp_path):
    store = Store(tmp_path / "store")
    source = write(
        tmp_path / "set.jsonl", OPENR1, {**OPENR1, "problem": "tower", "answer": "10^{10^{10}}"}, {**OPENR1, "answer": None}
    )
    with Verifier() as verifier:
        found = import_data(source, store, verifier, tell=quiet)
    rows, traces_ = found.funnels
    assert (rows.considered, rows.kept) == (3, 1)
    assert rows.dropped == {"no answer, and the table has no such question": 1, "reference does not verify": 1}
    # 5 texts a row, one of each repeats; those of the dropped rows are accounted for
    assert (traces_.considered, traces_.kept) == (15, 4)
    assert traces_.dropped == {"of a dropped row": 8, "text that its row has already": 3}
    # the set calls \boxed{5} right: we do not; what was cut we call unanswered, as it says
    assert found.claims == {"right/correct": 1, "right/wrong": 1, "wrong/no_answer": 1}
    assert found.disagreements == 1
    rollouts = {(r.policy, r.index): r for r in store.rollouts("import")}
    outcomes = {v.rollout_id: v.outcome for v in store.verdicts()}
    assert {key: outcomes[r.id] for key, r in rollouts.items()} == {
        ("set", 0): Outcome.CORRECT,
        ("set/generations", 0): Outcome.CORRECT,
        ("set/generations", 1): Outcome.WRONG,
        ("set/generations", 2): Outcome.NO_ANSWER,
    }
    assert rollouts["set/generations", 2].stop_reason is StopReason.LENGTH


def test_rows_without_an_answer_take_that_of_the_same_question(tmp_path):
    store = Store(tmp_path / "store")
    heldout = Problem.make("other", "f", "3+3?", "6", Split.HELDOUT)
    store.add_problems([Problem.make("other", "f", "2+2?", "4", Split.TRAIN), heldout])
    asked = [{"from": "human", "value": "Answer in a box. 2+2?"}]
    rows = [{"conversations": [*asked, {"from": "gpt", "value": text}]} for text in (r"\boxed{4}", r"\boxed{5}")]
    rows.append({"conversations": [{"from": "human", "value": "3+3?"}, {"from": "gpt", "value": r"\boxed{6}"}]})
    with Verifier() as verifier:
        found = import_data(write(tmp_path / "s.jsonl", *rows), store, verifier, strip="Answer in a box.", tell=quiet)
    assert found.rows == {"kept": 2, "in the table under another split": 1}
    assert found.outcomes == {"correct": 1, "wrong": 1}
    assert not [r for r in store.rollouts("import") if r.problem_id == heldout.id]


def test_what_overlaps_a_held_out_question_stays_out(tmp_path):
    store = Store(tmp_path / "store")
    store.add_problems([Problem.make("exam", "f", "What is $2 + 2$?", "4", Split.HELDOUT)])
    rows = [{"question": "what is 2 + 2", "answer": "4.0", "response": "4"}, {"question": "5+5?", "answer": "10"}]
    with Verifier() as verifier:
        found = import_data(write(tmp_path / "s.jsonl", *rows), store, verifier, tell=quiet)
    assert found.rows == {"overlaps a held-out question": 1, "kept": 1}
    assert found.traces == {"of a dropped row": 1}


def test_broken_rows_are_counted_up_to_a_number(tmp_path):
    source = write(tmp_path / "s.jsonl", {"question": "2+2?", "answer": "4"}, {"question": 7, "answer": "4"}, {"answer": "4"})
    store = Store(tmp_path / "store")
    with Verifier() as verifier:
        with pytest.raises(DataError, match=r"s.jsonl, line 3: column 'question' is missing"):
            import_data(source, store, verifier, max_row_errors=1, tell=quiet)
        assert import_data(source, store, verifier, max_row_errors=2, tell=quiet).rows == {"kept": 1, "broken row": 2}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"frage": "x"}], "line 1: unknown columns: found frage"),
        ([{"prompt": "2+2?", "completion": "4"}], r"no row was kept \(rows: kept 0 of 1; dropped 1 no answer"),
        ([], "holds no row"),
    ],
)
def test_a_set_that_gives_nothing_is_one_line(tmp_path, rows, message):
    with Verifier() as verifier, pytest.raises(DataError, match=message):
        import_data(write(tmp_path / "s.jsonl", *rows), Store(tmp_path / "store"), verifier, tell=quiet)


def many(count: int) -> list[dict]:
    """Rows of which the third repeats, so that batches know each other's rollouts."""
    return [
        {"question": f"{n % 7}+1?", "answer": str(n % 7 + 1), "responses": [f"\\boxed{{{n % 7 + 1}}}", f"no {n % 5}"]}
        for n in range(count)
    ]


def table(store: Store, name: str) -> list[dict]:
    return store.sql(f"select * exclude (place) from {name} order by all").to_pylist()


@pytest.mark.parametrize("last", ["add_problems", "plan", "add_rollouts", "add_verdicts", "save"])
def test_killed_after_any_write_it_goes_on_and_ends_with_the_same(tmp_path, monkeypatch, last):
    monkeypatch.setattr(imports, "BATCH_ROWS", 8)
    source = write(tmp_path / "s.jsonl", *many(30))

    class Killed(BaseException):
        pass

    with Verifier() as verifier:
        whole = Store(tmp_path / "whole")
        expected = import_data(source, whole, verifier, tell=quiet)
        assert expected.traces["in the table already"] == 23  # 60 texts: 7 answers, 30 pairs of (n % 7, n % 5), the rest again
        owner = imports.Record if last in ("plan", "save") else Store
        real, left = getattr(owner, last), [2]

        def dying(self, *args, **kwargs):
            result = real(self, *args, **kwargs)
            left[0] -= 1
            if not left[0]:
                raise Killed
            return result

        store = Store(tmp_path / "store")
        with monkeypatch.context() as patch:
            patch.setattr(owner, last, dying)
            with pytest.raises(Killed):
                import_data(source, store, verifier, tell=quiet)
        assert import_data(source, store, verifier, tell=quiet) == expected
        assert all(table(store, name) == table(whole, name) for name in ("problems", "rollouts", "verdicts"))
        before = store.versions()
        assert import_data(source, store, verifier, tell=quiet) == expected  # once done, nothing more is written
        assert store.versions() == before


def test_other_data_under_the_same_name_are_refused(tmp_path):
    store = Store(tmp_path / "store")
    with Verifier() as verifier:
        import_data(write(tmp_path / "s.jsonl", *many(2)), store, verifier, tell=quiet)
        with pytest.raises(RunError, match="of other data or options of the same name: give another --name"):
            import_data(write(tmp_path / "s.jsonl", *many(3)), store, verifier, tell=quiet)


def test_a_row_of_many_long_traces_is_no_damaged_file(tmp_path):
    rows = [{"question": "2+2?", "answer": "4", "responses": ["x" * 900_000, r"\boxed{4}" + " " * 200_000]}]
    with Verifier() as verifier:
        found = import_data(write(tmp_path / "s.jsonl", *rows), Store(tmp_path / "store"), verifier, tell=quiet)
    assert found.outcomes == {"no_answer": 1, "correct": 1}
    with pytest.raises(DataError, match="longer than 1,000,000 bytes"):
        load(write(tmp_path / "s.jsonl", *rows))


def test_long_traces_make_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "BATCH_CHARACTERS", 50)
    rows = [{"question": "q", "answer": "4", "responses": ["x" * 30]} for _ in range(5)]
    batches = list(imports._batches(write(tmp_path / "s.jsonl", *rows), 0))
    assert [(first, len(part)) for first, part in batches] == [(0, 2), (2, 2), (4, 1)]
    assert [(first, len(part)) for first, part in imports._batches(write(tmp_path / "s.jsonl", *rows), 2)] == [(2, 2), (4, 1)]


def test_a_recipes_source_gives_the_traces_of_its_own_problems(tmp_path):
    source = write(tmp_path / "s.jsonl", OPENR1, {**OPENR1, "problem": "left out"}, OPENR1)
    problems = [problem for problem in load(source) if problem.question == "2+2?"]
    store = Store(tmp_path / "store")
    store.add_problems(problems)
    with Verifier() as verifier:
        for _ in range(2):  # done once
            count, funnel = import_traces(source, {p.id: p for p in problems}, store, verifier, quiet)
            assert (count, funnel.kept, funnel.dropped) == (3, 2, {"the run has no such problem": 1})
    assert sorted((r.policy, r.index) for r in store.rollouts()) == [("set/generations", i) for i in range(3)]
    assert len(store.verdicts()) == 3


def test_parquet_with_nested_columns(tmp_path):
    rows = [{"prompt": ASK, "reward_model": {"ground_truth": "4", "style": "rule"}, "responses": [r"\boxed{4}"], "extra": [1, 2]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "v.parquet")
    source = SourceConfig(data=str(tmp_path / "v.parquet"))
    (problem,) = load(source)
    assert (problem.question, problem.reference) == ("2+2?", "4")
    with Verifier() as verifier:
        assert import_data(source, Store(tmp_path / "store"), verifier, tell=quiet).outcomes == {"correct": 1}


def test_the_verb_prints_its_funnel_and_a_second_name_is_a_second_source(tmp_path, capsys):
    data, folder = str(tmp_path / "s.jsonl"), str(tmp_path / "store")
    write(Path(data), OPENR1)
    code, output, _ = run_here(capsys, "import", data, "--store", folder, "--name", "one")
    assert code == 0
    assert "rows: kept 1 of 1" in output
    assert "traces: kept 4 of 5; dropped 1 text that its row has already" in output
    assert "speaks of 3 of them and we disagree on 1" in output
    code, output, _ = run_here(capsys, "import", data, "--store", folder, "--name", "two", "--json")
    assert json.loads(output)["traces"] == {"considered": 5, "kept": 4, "dropped": {"text that its row has already": 1}}
    rows = Store(folder, create=False).rollouts()
    assert (len(rows), len({row.policy for row in rows})) == (8, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "test"], "--split 'test': the splits are train, validation, heldout"),
        (["--name", "a/b"], "--name 'a/b'"),
        ([], "no problem file at"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path, capsys, words, message):
    code, _, errors = run_here(capsys, "import", str(tmp_path / "none.jsonl"), "--store", str(tmp_path / "store"), *words)
    assert (code, errors.count("\n")) == (2, 1)
    assert message in errors


def test_importing_needs_no_torch():
    code = "import sys, headway.report.exchange; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_traces_alone_belong_to_the_one_problem_that_asks_their_question(tmp_path):
    text = "<|begin_of_thought|>\n\nTwo.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n\\boxed{4}\n\n<|end_of_solution|>"
    questions = ["Box it. 2+2?", "Box it. 9+9?", "Box it. twice", 7]
    rows = [{"conversations": [{"from": "user", "value": q}, {"from": "assistant", "value": text}]} for q in questions]
    source = write(tmp_path / "s.jsonl", *rows).model_copy(update={"solutions": True, "traces_only": True, "strip": "Box it."})
    asked = [("2+2?", "4"), ("twice", "4"), ("twice", "5")]  # whose `twice` is it?
    problems = [Problem.make("others", "sums", question, answer, Split.TRAIN) for question, answer in asked]
    store = Store(tmp_path / "store")
    store.add_problems(problems)
    with Verifier() as verifier:
        count, funnel = import_traces(source, {p.id: p for p in problems}, store, verifier, quiet)
    assert (count, funnel.considered, funnel.kept) == (1, 4, 1)
    assert funnel.dropped == {"the run has no such problem": 2, "broken row": 1}
    [rollout] = store.rollouts()
    assert (rollout.problem_id, rollout.policy) == (problems[0].id, "set/conversations")
    assert rollout.text == "<think>\nTwo.\n</think>\n\n\\boxed{4}"
    assert [verdict.outcome for verdict in store.verdicts()] == ["correct"]


@pytest.mark.parametrize(
    "text",
    ["<|begin_of_thought|> never ends", "a <|begin_of_thought|>b<|end_of_thought|>c", "<|begin_of_thought|>a<|end_of_thought|>"],
)
def test_other_marks_stay_as_they_are(text):
    [trace] = read_traces({"response": text}, None)[0]
    assert trace.text == text
