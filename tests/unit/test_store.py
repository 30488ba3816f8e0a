"""The store: batches are appended once and whole, versions stay readable, SQL reads nothing else."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import CommitProperties, Transaction, write_deltalake

from headway.errors import StoreError
from headway.store.schema import TABLES
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict


def problem(number: int, split: Split = Split.TRAIN) -> Problem:
    return Problem.make("made", "sums", f"question {number}", str(number), split, difficulty=float(number))


def rollout(number: int, sampler: str = "rl", step: int = 0) -> Rollout:
    tokens, logprobs = (number, 1), (-0.5, -0.25)
    return Rollout.make(
        problem(0).id, sampler, step, number, "p", f"text {number}", stop_reason=StopReason.STOP, num_tokens=2,
        token_ids=tokens, logprobs=logprobs,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_rows_come_back_in_the_order_of_writing_also_after_reopening(store):
    store.add_rollouts([rollout(3), rollout(1)], "b")
    store.add_rollouts([rollout(2)], "a")
    for opened in (store, Store(store.path)):
        assert opened.rollouts(tokens=True) == [rollout(3), rollout(1), rollout(2)]
        assert opened.sql("SELECT place FROM rollouts").column("place").to_pylist() == [0, 1, 2]


def test_a_batch_that_is_there_is_not_appended_again(store):
    assert store.add_rollouts([rollout(1)], "a") == 1
    before = store.versions()
    assert store.add_rollouts([rollout(1)], "a") == 0
    assert Store(store.path).add_rollouts([rollout(2)], "a") == 0
    assert store.versions() == before
    assert [r.index for r in store.rollouts()] == [1]
    assert store.has_batch("rollouts", "a")
    assert not store.has_batch("verdicts", "a")


def test_an_empty_batch_is_remembered(store):
    assert store.add_verdicts([], "none") == 0
    assert Store(store.path).has_batch("verdicts", "none")
    assert store.verdicts() == []


def test_a_batch_without_a_name_is_named_by_its_content(store):
    assert [store.add_rollouts([rollout(1)]), store.add_rollouts([rollout(1)]), store.add_rollouts([rollout(2)])] == [1, 0, 1]


def test_equal_problems_are_kept_once_and_the_first_wins(store):
    other = Problem.make("other", "sums", "question 1", "1", Split.HELDOUT)
    assert store.add_problems([problem(1), other, problem(2)], "a") == 2
    assert store.add_problems([other, problem(3)], "b") == 1
    assert store.problems() == [problem(1), problem(2), problem(3)]


def test_token_ids_and_logprobs_are_read_only_when_asked_for(store):
    store.add_rollouts([rollout(1)], "a")
    (light,) = store.rollouts()
    assert (light.token_ids, light.logprobs, light.num_tokens) == ((), (), 2)


def test_conditions_narrow_what_is_read(store):
    store.add_problems([problem(1), problem(2, Split.HELDOUT)], "p")
    store.add_rollouts([rollout(1), rollout(2, "eval:sft"), rollout(3, "rl", 4)], "r")
    store.add_verdicts([Verdict(rollout(i).id, f"rules@{i}", Outcome.WRONG) for i in (1, 2)], "v")
    assert store.problems(split=Split.HELDOUT) == [problem(2, Split.HELDOUT)]
    assert store.problems("difficulty < 2", family="sums") == [problem(1)]
    assert [r.index for r in store.rollouts("eval:sft")] == [2]
    assert [r.index for r in store.rollouts(["rl", "eval:sft"], step=0)] == [1, 2]
    assert [r.index for r in store.rollouts(ids=[rollout(3, "rl", 4).id])] == [3]
    assert [v.verifier for v in store.verdicts("rules@2")] == ["rules@2"]
    assert [v.verifier for v in store.verdicts_of(rollout(1).id)] == ["rules@1"]
    assert store.rollouts(ids=[]) == []


def test_a_frozen_version_stays_as_it_was_and_takes_nothing(store):
    store.add_rollouts([rollout(1)], "a")
    versions = store.versions()
    store.add_rollouts([rollout(2)], "b")
    frozen = Store(store.path).at(versions)
    assert [r.index for r in frozen.rollouts()] == [1]
    assert frozen.versions() == versions
    assert not frozen.has_batch("rollouts", "b")
    with pytest.raises(StoreError, match="frozen version"):
        frozen.add_rollouts([rollout(3)], "c")
    with pytest.raises(StoreError, match="no version 99"):
        store.at(versions | {"rollouts": 99})
    with pytest.raises(StoreError, match="lack verdicts"):
        store.at({"problems": 0, "rollouts": 0})


def test_many_writers_lose_and_repeat_nothing(store):
    failures: list[BaseException] = []

    def write(name: int) -> None:
        try:
            own = Store(store.path)
            for k in range(4):
                own.add_rollouts([rollout(10 * name + k)] * 2, f"{name}/{k}")
                own.add_problems([problem(k)], f"{name}/{k}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store.sql("SELECT place FROM rollouts ORDER BY place").column("place").to_pylist() == list(range(24))
    assert sorted({r.index for r in store.rollouts()}) == sorted(10 * n + k for n in range(3) for k in range(4))
    assert sorted(p.difficulty for p in store.problems()) == [0, 1, 2, 3]


def test_compaction_joins_files_and_keeps_rows_order_batches_and_old_versions(store):
    for k in range(6):
        store.add_rollouts([rollout(10 * k + i) for i in range(3)], f"b{k}")
    before, versions = store.sql("SELECT * FROM rollouts"), store.versions()
    told: list[str] = []
    place = os.environ.get("TMPDIR")
    counts = store.compact(told.append)
    assert told == list(counts)
    assert (os.environ.get("TMPDIR"), list(store.path.glob(".spill*"))) == (place, [])
    assert counts["rollouts"] == (6, 1)
    assert counts["verdicts"] == (0, 0)
    again = Store(store.path)
    assert again.sql("SELECT * FROM rollouts").equals(before)
    assert again.at(versions).sql("SELECT * FROM rollouts").equals(before)
    assert again.add_rollouts([rollout(50)], "b5") == 0
    assert again.add_rollouts([rollout(60)], "b6") == 1
    assert again.sql("SELECT place FROM rollouts").column("place").to_pylist() == list(range(19))
    with pytest.raises(StoreError, match="frozen version"):
        store.at(versions).compact()


def old_rollouts(store: Store, rollouts: list[Rollout]) -> None:
    """Make the table of rollouts anew as it was before top_k and min_p were thought of, with one batch."""
    shutil.rmtree(store.path / "rollouts")
    rows = TABLES["rollouts"].to_arrow(rollouts, 0).drop_columns(["top_k", "min_p"])
    wrote = CommitProperties(app_transactions=[Transaction("batch:old", 0), Transaction("rows", len(rollouts))])
    settings = {"delta.enableExpiredLogCleanup": "false"}
    write_deltalake(store.path / "rollouts", rows, configuration=settings, commit_properties=wrote)


def test_a_table_of_before_a_column_opens_grows_and_stays_readable(store):
    old = [rollout(n) for n in range(4)]
    old_rollouts(store, old)
    query = "SELECT place, top_k, min_p FROM rollouts ORDER BY place"
    opened = Store(store.path)
    before = opened.versions()
    assert opened.rollouts(tokens=True) == old
    assert opened.sql(query).to_pylist() == [{"place": n, "top_k": 0, "min_p": 0.0} for n in range(4)]
    types = opened.sql(query).schema
    assert opened.add_rollouts([rollout(9)], "old") == 0
    assert opened.add_rollouts([], "none") == 0  # the columns are there now, and no file has them
    new = [replace(rollout(n), top_k=20, min_p=0.25) for n in (5, 6)]
    assert opened.add_rollouts(new, "new") == 2
    for again in (opened, Store(store.path)):
        assert again.rollouts(tokens=True) == [*old, *new]
        assert again.sql("SELECT sum(top_k) AS k, max(min_p) AS p FROM rollouts").to_pylist() == [{"k": 40, "p": 0.25}]
        assert again.sql(query).schema == types
        assert again.sql("SELECT count(*) AS n FROM rollouts WHERE top_k = 0 AND min_p < 0.1").to_pylist() == [{"n": 4}]
        assert again.at(before).rollouts(tokens=True) == old
        assert again.compact()["rollouts"][1] == 1
    assert Store(store.path).add_rollouts([rollout(8)], "newer") == 1
    assert Store(store.path).rollouts(tokens=True) == [*old, *new, rollout(8)]


def test_what_a_killed_process_spilled_is_removed_and_a_living_ones_stays(store):
    host = socket.gethostname().replace("-", "_")
    dead, mine = store.path / f".spill-{host}-999999999-0", store.path / f".spill-{host}-{os.getpid()}-999"
    for folder in (dead, mine):
        folder.mkdir()
    store.sql("SELECT 1")
    assert [folder.exists() for folder in (dead, mine)] == [False, True]


_WRITER = """
import sys
sys.path[:0] = {path!r}
from tests_store_rows import rows
from headway.store.store import Store
store = Store(sys.argv[1])
for k in range(12):
    store.add_rollouts(rows(k), f"batch/{{k}}")
    print(k, flush=True)
"""


def test_a_writer_killed_anywhere_and_repeated_writes_the_same_rows(tmp_path):
    (tmp_path / "tests_store_rows.py").write_text(
        "from headway.types import Rollout, StopReason\n"
        "def rows(k):\n"
        "    return [Rollout.make('p', 'rl', k, i, 'x', f'{k} {i}', stop_reason=StopReason.STOP) for i in range(200)]\n"
    )
    script = tmp_path / "write.py"
    script.write_text(_WRITER.format(path=[str(tmp_path), str(Path(__file__).parents[2])]))
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    subprocess.run([sys.executable, str(script), str(calm)], check=True, capture_output=True)
    for moment in range(4):
        with subprocess.Popen([sys.executable, str(script), str(killed)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(3 * moment):  # so many batches are reported; then somewhere inside the following one
                child.stdout.readline()
            time.sleep(0.003 * moment)
            child.kill()
    subprocess.run([sys.executable, str(script), str(killed)], check=True, capture_output=True)
    everything = "SELECT * FROM rollouts"
    assert Store(killed).sql(everything).equals(Store(calm).sql(everything))
    assert Store(killed).versions() == Store(calm).versions()
    assert Store(calm).sql(everything).num_rows == 2400


def test_find_takes_the_beginning_of_an_id(store):
    store.add_problems([problem(i) for i in range(40)], "p")
    store.add_rollouts([rollout(1)], "r")
    assert store.find(problem(7).id[:9].upper()) == problem(7)
    assert store.find(rollout(1).id) == rollout(1)
    with pytest.raises(StoreError, match="no problem or rollout"):
        store.find("zz%")
    # 40 ids of hex digits over 16 first digits: some digit begins at least two
    firsts = [problem(i).id[0] for i in range(40)]
    with pytest.raises(StoreError, match="several ids"):
        store.find(max(firsts, key=firsts.count))
    with pytest.raises(StoreError, match="is needed"):
        store.find(" ")


def test_sql_answers_a_select_with_values(store):
    store.add_problems([problem(1), problem(2)], "p")
    assert store.sql("SELECT reference FROM problems WHERE difficulty > ?", [1]).to_pylist() == [{"reference": "2"}]
    assert store.sql('SELECT id, "index", outcome FROM rollouts, verdicts').num_rows == 0


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('{folder}/*')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)",
        "ATTACH '{folder}/x.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "DROP VIEW problems",
        "SELECT 1; SELECT 2",
        "SELECT * FROM python_variable",
        "SELCT 1",
        "SELECT nothing FROM problems",
        "SELECT 'a'::INT",
        "",
    ],
)
def test_sql_refuses_everything_else_in_one_line(store, query, tmp_path):
    python_variable = Store(store.path).sql("SELECT 1 AS x")
    assert python_variable.num_rows == 1
    store.add_problems([problem(1)], "p")
    (tmp_path / "secret.txt").write_text("secret")
    part = next((store.path / "problems").glob("*.parquet"))
    before = part.read_bytes()
    with pytest.raises(StoreError) as error:
        store.sql(query.format(secret=tmp_path / "secret.txt", folder=tmp_path, part=part))
    assert "\n" not in str(error.value)
    assert "secret\n" not in str(error.value)
    assert part.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"secret.txt", "store"}


def test_a_missing_or_foreign_or_damaged_table_is_one_line(store, tmp_path):
    with pytest.raises(StoreError, match="holds no table"):
        Store(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match=r"may not hold '\['"):
        Store(tmp_path / "a[b")
    with pytest.raises(StoreError, match="no table 'verdict'"):
        store.has_batch("verdict", "a")
    store.add_problems([problem(1)], "p")
    next((store.path / "problems").glob("*.parquet")).unlink()
    with pytest.raises(StoreError) as error:
        Store(store.path).problems()
    assert "\n" not in str(error.value)


def test_paths_with_odd_characters_work(tmp_path):
    store = Store(tmp_path / "it's 100% é #1? *")
    store.add_problems([problem(1)], "p")
    assert Store(store.path).problems() == [problem(1)]
