"""Teacher sampling against a server that fails at random, killed at random: is every rollout in the table exactly once?

    python benchmarks/flaky_teacher.py [--problems 1000] [--rollouts 4] [--kills 10] [--rate 0.4] [--seed 0]

The server (tests/unit/flaky_server.py) answers 429 with and without Retry-After, 500 and 503, drops connections before and
within a body, sends what is no JSON and what has no choices, trickles and stalls. `headway sample` is killed with SIGKILL that
many times at random moments and started again, then called until nothing is open. Prints one JSON line; exit code 1 unless
requested = kept, each (problem, index) is one row with the server's own text for it, and each row has a verdict.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from headway.config import ProblemsConfig
from headway.problems.prompt import question_text
from headway.store.store import Store
from headway.teacher.server import request_seed

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

from flaky_server import FlakyServer, text_for  # noqa: E402


def write_problems(path: Path, count: int) -> None:
    rows = [{"question": f"How much is {i} and {i * 7}?", "answer": str(i * 8)} for i in range(1, count + 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def command(server: FlakyServer, folder: Path, rollouts: int) -> list[str]:
    where = ["--data", str(folder / "problems.jsonl"), "--out", str(folder / "out"), "--base-url", server.url, "--model", "flaky"]
    sets = ["max_tries=8", "max_wait_seconds=0.2", "read_seconds=5", "total_seconds=1", "concurrency=64"]
    pairs = [word for pair in sets for word in ("--set", pair)]
    return [sys.executable, "-m", "headway", "sample", *where, *pairs, "-n", str(rollouts), "--max-tokens", "64", "--json"]


def run_and_kill(words: list[str], server: FlakyServer, kills: int, total: int, chance: random.Random) -> tuple[int, int]:
    """Start the command `kills` times and kill it while it is asking: how many kills hit, how many were in flight then."""
    hit = in_flight = 0
    for kill in range(kills):
        before = sum(server.met.values())
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        asked = chance.randrange(1, max(2, 2 * total // (kills + 2)))  # so that the kills lie all over the work
        while process.poll() is None and sum(server.met.values()) - before < asked and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(chance.random() * (1.0 if kill % 3 == 0 else 0.05))  # now and then in the closing work, too
        if process.poll() is None:
            in_flight += server.in_flight
            process.send_signal(signal.SIGKILL)
            hit += 1
        process.wait()
    return hit, in_flight


def check(folder: Path, server: FlakyServer, rollouts: int) -> dict[str, int]:
    """The table beside what the server said: how many rows are missing, doubled, of another text, without a verdict."""
    store = Store(folder / "out" / "store", create=False)
    instruction = ProblemsConfig.model_fields["instruction"].default
    wanted = {(problem.id, index): problem for problem in store.problems() for index in range(rollouts)}
    rows = Counter((rollout.problem_id, rollout.index) for rollout in store.rollouts())
    wrong = 0
    for rollout in store.rollouts():
        question = question_text(wanted[rollout.problem_id, rollout.index], instruction)
        wrong += rollout.text != text_for(question, request_seed(0, rollout.problem_id, rollout.index))
    judged = Counter(verdict.rollout_id for verdict in store.verdicts())
    unjudged = sum(judged[rollout.id] != 1 for rollout in store.rollouts())
    return {
        "rows": rows.total(),
        "missing": len(wanted.keys() - rows.keys()),
        "doubled": sum(count > 1 for count in rows.values()),
        "other_text": wrong,
        "not_judged_once": unjudged,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    total = options.problems * options.rollouts
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name, FlakyServer(options.rate, seed=options.seed) as server:
        folder = Path(name)
        write_problems(folder / "problems.jsonl", options.problems)
        words = command(server, folder, options.rollouts)
        hit, in_flight = run_and_kill(words, server, options.kills, total, chance)
        record: dict = {"kept": 0}
        calls = 0
        while record["kept"] < total and calls < 20:
            done = subprocess.run(words, capture_output=True, text=True)
            calls += 1
            if done.returncode != 0:
                sys.exit(f"headway sample ended with {done.returncode}: {done.stderr}")
            record = json.loads(done.stdout.splitlines()[-1])
        found = check(folder, server, options.rollouts)
        summed = record["kept"] + sum(sum(record[name].values()) for name in ("rejected", "failed", "not_asked"))
        print(
            json.dumps(
                {
                    "requested": record["requested"],
                    "kept": record["kept"],
                    "funnel_adds_up": summed == record["requested"] == total,
                    **found,
                    "kills": hit,
                    "calls_after_the_kills": calls,
                    "answered_in_full": server.answered.total(),
                    "answered_twice": server.answered.total() - len(server.answered),
                    "in_flight_at_the_kills": in_flight,
                    "met": dict(sorted(server.met.items())),
                    "most_in_flight": server.most_in_flight,
                    "seconds": round(time.monotonic() - started, 1),
                }
            )
        )
    bad = [name for name in ("missing", "doubled", "other_text", "not_judged_once") if found[name]]
    sys.exit(1 if bad or found["rows"] != total or summed != total else 0)


if __name__ == "__main__":
    main()
