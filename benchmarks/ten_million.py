"""Ten million rollouts of 1.6 million problems through the store: each step's wall time and peak memory.

    python benchmarks/ten_million.py --folder DIR [--rollouts 10000000] [--problems 1600000] [--lines 16] [--steps write,sft,...]

The rows are made up (arithmetic-looking lines, about 55 characters each, answers right at a rate of each problem's own) and
are the same every time. Each step runs in a process of its own, whose peak memory is then that step's; one JSON line a step:

    write      problems, rollouts and verdicts as records, appended in batches of --batch; the making of the rows is not timed
    midtrain   the query, and in `stream_s` reading every row that it kept
    sft, dpo   the same; sft with at most 2 a problem and 200,000 in all, dpo with one pair a problem
    rl         problems whose teacher rollouts disagree
    pass_rates counts of correct and judged rollouts a problem
    compact    small files to large ones, without losing a version
    kills      a writer killed at 20 random moments; every time the tables open and hold whole batches

A rerun with the same folder does not write again what is there.
"""

import argparse
import itertools
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict

STEPS = ("write", "midtrain", "sft", "dpo", "rl", "pass_rates", "compact", "kills")
POOL = [
    f"Step: {a % 97} times {b % 89} is {(a % 97) * (b % 89)}, so {a % 971} is left over."
    for a, b in zip(range(7, 160_007, 8), range(3, 200_003, 10), strict=True)
]
FIRST = 4  # rollouts of a problem that are written together; the rest comes in a second pass


def problem(i: int) -> Problem:
    chance = random.Random(i)
    a, b, c = chance.randrange(10, 9999), chance.randrange(10, 9999), chance.randrange(2, 99)
    question = f"A depot holds {a} crates and receives {b} more each day. How many does it hold after {c} days? (case {i})"
    family = f"family-{i % 20}"
    split = Split.HELDOUT if i % 100 == 0 else Split.TRAIN
    return Problem.make(f"source-{i % 5}", family, question, str(a + b * c), split, difficulty=float(i % 7))


def solved(key: str, answer: str, rate: float, indices: range, lines: int) -> Iterator[tuple[Rollout, Verdict]]:
    """Rollouts of one problem, each with its verdict."""
    for index in indices:
        chance = random.Random(f"{key}/{index}")
        number = max(2, int(chance.expovariate(1 / lines)))
        start, fork, turn = int(key[:6], 16) % 9_000, min(number, chance.randrange(1, 6)), chance.randrange(9_000)
        steps = POOL[start : start + fork] + POOL[turn : turn + number - fork]
        luck = chance.random()
        if luck < 0.02:  # a text that the problem has already
            steps = POOL[start : start + 3]
        elif luck < 0.04:  # one that goes round in circles
            steps = steps[:2] * (number // 2 + 1)
        is_right, is_cut = chance.random() < rate, chance.random() < 0.03
        text = "\n".join(steps) + ("" if is_cut else f"\nSo \\boxed{{{answer if is_right else chance.randrange(10**6)}}}")
        stop = StopReason.LENGTH if is_cut else StopReason.IMPORTED
        rollout = Rollout.make(key, "teacher", 0, index, "teacher-r1", text, stop_reason=stop, num_tokens=len(text) // 3)
        outcome = Outcome.NO_ANSWER if is_cut else Outcome.CORRECT if is_right else Outcome.WRONG
        if luck > 0.98:
            outcome = Outcome.UNVERIFIABLE
        yield rollout, Verdict(rollout.id, "rules@1", outcome, "equal" if is_right else "numbers_differ", answer)


def all_rollouts(num_problems: int, num_rollouts: int, lines: int) -> Iterator[tuple[Rollout, Verdict]]:
    """The first FIRST rollouts of every problem, then the others: a problem's rows lie in two places."""
    each, more = divmod(num_rollouts, num_problems)
    for wave in range(2):
        for i in range(num_problems):
            made = problem(i)
            count = each + (i < more)
            indices = range(min(FIRST, count)) if wave == 0 else range(FIRST, count)
            rate = random.Random(-i).betavariate(0.8, 0.6)
            yield from solved(made.id, made.reference, rate, indices, lines)


def batches(rows: Iterator, size: int) -> Iterator[list]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def write(store: Store, options: argparse.Namespace) -> dict:
    """Appends everything that is not there yet; a batch's name is its number."""
    spent = {"problems": 0.0, "rollouts": 0.0, "verdicts": 0.0}

    def timed(table: str, rows: list, name: str) -> None:
        start = time.perf_counter()
        getattr(store, f"add_{table}")(rows, name)
        spent[table] += time.perf_counter() - start

    for number, rows in enumerate(batches(map(problem, range(options.problems)), options.batch)):
        timed("problems", rows, f"p{number}")
    made = all_rollouts(options.problems, options.rollouts, options.lines)
    for number, rows in enumerate(batches(made, options.batch)):
        timed("rollouts", [rollout for rollout, _ in rows], f"b{number}")
        timed("verdicts", [verdict for _, verdict in rows], f"b{number}")
        if number % 20 == 0:
            print(f"{number * options.batch:,} rollouts", file=sys.stderr, flush=True)
    return {f"{name}_s": round(seconds, 1) for name, seconds in spent.items()} | {
        "rows_per_s": round(options.rollouts / sum(spent.values()))
    }


def stream(rows) -> dict:
    """Reads every row that a query kept."""
    start, characters = time.perf_counter(), 0
    for row in rows:
        characters += len(row.completion) if hasattr(row, "completion") else len(row.chosen) + len(row.rejected)
    return {"stream_s": round(time.perf_counter() - start, 1), "characters": characters}


def query(name: str, store: Store) -> dict:
    from headway.store import queries

    start = time.perf_counter()
    if name == "midtrain":
        found = queries.midtrain_examples(store)
    elif name == "sft":
        found = queries.sft_examples(store, per_problem=2, max_repetition=0.2, shortest=True, max_examples=200_000, seed=0)
    elif name == "dpo":
        found = queries.dpo_pairs(store, samplers=("teacher",), pairs_per_problem=1, seed=0)
    else:
        found = queries.rl_problems(store, seed=0, sampler="teacher")
    told = {"query_s": round(time.perf_counter() - start, 1), "kept": found.funnel.kept, "considered": found.funnel.considered}
    told["query_peak_gb"] = peak()
    return told | ({} if name == "rl" else stream(found.rows))


def pass_rates(store: Store) -> dict:
    from headway.store.labels import pass_counts

    rates = pass_counts(store, ("teacher",))
    return {"problems": rates.num_rows, "judged": sum(rates.column("n").to_pylist())}


def compact(store: Store) -> dict:
    before = disk(store.path)
    counts = store.compact()
    now = sum(Path(file).stat().st_size for name in counts for file in store.files(name)) / 2**30
    return {"files": counts, "disk_before_gb": before, "now_gb": round(now, 2)}


def kills(options: argparse.Namespace) -> dict:
    """Kills a writer at 20 random moments: what the tables hold is then a whole number of batches, and nothing else."""
    folder, chance, sizes = options.folder / "killed", random.Random(0), set()
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, __file__, "--folder", str(folder), "--rollouts", "2000000", "--problems", "320000"]
    for _ in range(20):
        with subprocess.Popen([*command, "--batch", "2000", "--inside", "write"], stderr=subprocess.DEVNULL) as child:
            time.sleep(chance.uniform(1.0, 8.0))
            child.send_signal(signal.SIGKILL)
        store = Store(folder / "store")
        for name in ("problems", "rollouts", "verdicts"):
            places = store.sql(f"SELECT count(*), count(DISTINCT place), coalesce(max(place), -1) FROM {name}").to_pydict()
            count, different, last = (value[0] for value in places.values())
            if count % 2000 or count != different or count != last + 1:
                raise SystemExit(f"after a kill {name} holds {count} rows, {different} places, the last {last}")
            sizes.add(count)
        orphans = store.sql("SELECT count(*) FROM verdicts WHERE rollout_id NOT IN (SELECT id FROM rollouts)")
        if orphans.column(0)[0].as_py():
            raise SystemExit("after a kill a verdict has no rollout")
    return {
        "kills": 20,
        "different_sizes_seen": len(sizes),
        "rollouts": store.sql("SELECT count(*) FROM rollouts").column(0)[0].as_py(),
    }


def peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def disk(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*.parquet")) / 2**30, 2)


def step(name: str, options: argparse.Namespace) -> dict:
    store = Store(options.folder / "store")
    if name == "write":
        return write(store, options) | {"disk_gb": disk(store.path)}
    if name == "kills":
        return kills(options)
    if name == "pass_rates":
        return pass_rates(store)
    return compact(store) if name == "compact" else query(name, store)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rollouts", type=int, default=10_000_000)
    parser.add_argument("--problems", type=int, default=1_600_000)
    parser.add_argument("--lines", type=int, default=16, help="mean number of lines of a rollout")
    parser.add_argument("--batch", type=int, default=20_000)
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--inside", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        start = time.perf_counter()
        told = step(options.inside, options)
        row = {"step": options.inside, "wall_s": round(time.perf_counter() - start, 1), "peak_gb": peak()}
        print(json.dumps(row | told), flush=True)
        return 0
    for name in options.steps.split(","):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--inside", name], check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
