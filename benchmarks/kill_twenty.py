"""Does a run that is killed end as the run that was not? SIGKILL at random moments of every stage, and inside saves.

    python benchmarks/kill_twenty.py [--kills 20] [--stages base midtrain sft dpo rl] [--chain 1] [--seed 0] [--folder DIR]

The recipe is that of tests/flow, with a resume point after almost every step. Each trial takes the run's folder as it was before
the stage (before the base stage with its problems gathered), starts the stage in a process of its own, kills it (half of the time
with all its children, else alone) at a moment drawn uniformly over its time (three times of four from when it has selected what
it learns from, else from its very start), starts it again (`--chain 4`: kills it there again, four times in all) and lets it end.
Then everything must equal the run without a kill: weights, optimizers, resume points and final checkpoints byte for byte, metric
rows but for their timings, the three tables row for row, selections and results.

A kill counts as inside a save where the killed process left a folder or a file of that save with its temporary name. Others are
judged, too, and not counted. Prints a JSON line a stage, one for saves and a total; exit code 1 unless all are equal.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch._dynamo  # what the first optimizer imports, in a second or two

from headway import verbs
from headway.cli import main as headway
from headway.config import STAGES

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / part) for part in ("flow", "")]
from test_recipe import command, content  # noqa: E402 (the recipe of the tests, and what must be equal)  # pyright: ignore

OFTEN = [word for stage in STAGES for word in ("--set", f"{stage}.checkpoint_seconds=0.001")]
FEWER = ["--set", "evaluate.problems=15"]
LIMIT = 900.0  # seconds without an end: a trial that hangs has failed


@dataclass
class Tally:
    """What the trials of one kind came to."""

    name: str
    kills: int = 0
    equal: int = 0
    inside_saves: int = 0
    alone: int = 0
    comparisons: int = 0
    where: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def started(root: Path, stage: str) -> int:
    """`headway run ... --until stage` in a process of its own."""
    return forked(root, lambda: headway(command("run", root, "--until", stage, *OFTEN, *FEWER)))


def forked(root: Path, work: Callable[[], object]) -> int:
    """`work` in a process of its own, forked from this one: no time goes to imports. This one opens no table, nor a thread."""
    assert verbs
    assert torch._dynamo
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        work()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def digests(root: Path, stage: str) -> dict[str, str]:
    """A hash of each thing that must be equal when the run is done up to `stage`."""

    def write() -> None:
        found = content(root / "small", STAGES[: STAGES.index(stage) + 1])
        (root / "content.json").write_text(
            json.dumps({k: hashlib.sha256(repr(v).encode()).hexdigest() for k, v in found.items()})
        )

    if ended(forked(root, write), wait=True):
        return {"content": (root / "log").read_text()[-500:]}
    return json.loads((root / "content.json").read_text())


def ended(child: int, wait: bool = False) -> int | None:
    """Its exit status, or None while it lives."""
    until = time.monotonic() + LIMIT
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if not wait:
            return None
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.002)


def at_work(root: Path, child: int) -> bool:
    """Has the child taken the run's lock?"""
    with contextlib.suppress(OSError):
        return (root / "small" / ".lock").read_text().split()[:1] == [str(child)]
    return False


def selected(root: Path, stage: str) -> int:
    """When the stage last wrote down what it learns from; 0 before."""
    with contextlib.suppress(OSError):
        return (root / "small" / "selections" / f"{stage}.json").stat().st_mtime_ns
    return 0


def straight_run(folder: Path) -> tuple[dict[str, Path], dict[str, dict[str, str]], dict[str, tuple[float, float]]]:
    """The run without a kill: the folder before each stage, what is there after it, its seconds in all and since it selected."""
    root = folder / "straight"
    root.mkdir()
    before: dict[str, Path] = {}
    after: dict[str, dict[str, str]] = {}
    seconds: dict[str, tuple[float, float]] = {}
    child = started(root, "base")  # the first kill of all: when the problems are gathered, which takes longer than a stage
    while not (root / "small" / "stages" / "problems.json").exists():
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    ended(child, wait=True)
    for stage in STAGES:
        before[stage] = folder / f"before-{stage}"
        shutil.copytree(root, before[stage])
        child = started(root, stage)
        while not at_work(root, child) and ended(child) is None:
            time.sleep(0.001)
        begun = time.monotonic()
        while not selected(root, stage) and ended(child) is None:
            time.sleep(0.001)
        learning = time.monotonic()
        if ended(child, wait=True) != 0:
            raise SystemExit(f"the run without a kill failed: {(root / 'log').read_text()[-2000:]}")
        seconds[stage] = time.monotonic() - begun, time.monotonic() - learning
        after[stage] = digests(root, stage)
    return before, after, seconds


def litter(root: Path) -> list[str]:
    """What a killed save left: the names below checkpoints/ that are still temporary."""
    return [str(path.relative_to(root)) for path in (root / "small" / "checkpoints").rglob("*.tmp-*")]


def saving(root: Path, stage: str) -> str:
    """The temporary name of the save that is going on, or ""."""
    with contextlib.suppress(OSError), os.scandir(root / "small" / "checkpoints" / stage) as found:
        return next((entry.name for entry in found if ".tmp-" in entry.name), "")
    return ""


def after_a_while(root: Path, child: int, stage: str, before: int, seconds: float) -> bool:
    """Wait until the child is at work (where `before` is given: has selected since), and `seconds` more; False if it ended."""
    while not at_work(root, child) or (before >= 0 and selected(root, stage) == before):
        if ended(child) is not None:
            return False
        time.sleep(0.001)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.0005)
    return True


def inside_save(root: Path, child: int, stage: str, number: int, delay: float) -> bool:
    """Wait for the `number`-th save that begins (or the last one before the end), and `delay` seconds more."""
    seen = ""
    while number > 0:
        name = saving(root, stage)
        number -= bool(name) and name != seen
        seen = name or seen
        if not name and ended(child) is not None:
            return False
    until = time.monotonic() + delay
    while time.monotonic() < until:
        pass
    return True


def kill(child: int, chance: random.Random, tally: Tally) -> bool:
    """SIGKILL; whether there was somebody left to kill."""
    alone = chance.random() < 0.5
    with contextlib.suppress(ProcessLookupError):
        (os.kill if alone else os.killpg)(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        killed = ended(child, wait=True) == signal.SIGKILL
        tally.alone += killed and alone
        return killed
    return False


def progress(root: Path, stage: str) -> str:
    """Where the kill fell, in words: rows of metrics, the newest resume point, whether inside a save."""
    metrics = root / "small" / "metrics" / f"{stage}.jsonl"
    rows = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    points = sorted(path.name for path in (root / "small" / "checkpoints" / stage).glob("step-??????"))
    final = (root / "small" / "checkpoints" / stage / "final").exists()
    return f"{rows} rows, {'final' if final else points[-1] if points else 'no point'}{', inside a save' if litter(root) else ''}"


def trial(
    root: Path, stage: str, before: Path, after: dict[str, str], wait: Callable[[int], bool], kills: int, tally: Tally,
    chance: random.Random, must_save: bool,
) -> None:  # fmt: skip
    """Kill the stage up to `kills` times, one after the other, and let it end; counted where a kill fell as it should."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(before, root)
    where: list[str] = []
    saves = 0
    for _ in range(3 * kills):
        child = started(root, stage)
        if not wait(child) or not kill(child, chance, tally):
            break
        inside = bool(litter(root))
        saves += inside
        if inside or not must_save:
            where.append(progress(root, stage))
        if len(where) == kills:
            break
    status = ended(started(root, stage), wait=True)
    difference = _difference(root, after, stage) if status == 0 else f"exit {status}: {(root / 'log').read_text()[-300:]}"
    tally.kills += len(where)
    tally.inside_saves += saves
    tally.where += where
    tally.comparisons += 1
    tally.equal += 0 if difference else len(where)
    print(f"{tally.name} {stage} {tally.kills}: {where}: {difference or 'equal'}", file=sys.stderr, flush=True)
    if difference:
        tally.differences.append(f"{where}: {difference}")
        shutil.copytree(root, root.with_name(f"{stage}-differs-{tally.kills}"), dirs_exist_ok=True)


def _difference(root: Path, after: dict[str, str], stage: str) -> str:
    found = digests(root, stage)
    names = [name for name in {**after, **found} if after.get(name) != found.get(name)]
    left = [str(path) for path in (root / "small").rglob("*.tmp-*")]
    return ", ".join([*names, *left])


def saves_of(folder: Path, stage: str) -> tuple[int, float]:
    """How often the straight run saved in the stage, and the mean seconds of a save."""
    saves = json.loads((folder / "usage.json").read_text())["saves"][stage]
    return saves["count"], saves["seconds"] / saves["count"]


def trials(folder: Path, wanted: list[str], kills: int, chain: int, chance: random.Random) -> Iterator[Tally]:
    """All trials, one tally a stage and one for saves."""
    before, after, seconds = straight_run(folder)
    print(
        json.dumps({"straight_seconds": {stage: [round(value, 2) for value in both] for stage, both in seconds.items()}}),
        flush=True,
    )
    root = folder / "killed"
    for stage in wanted:
        tally = Tally(stage)

        def wait(child: int, stage: str = stage) -> bool:
            before = selected(root, stage) if chance.random() < 0.75 else -1
            whole, learning = seconds[stage]
            return after_a_while(root, child, stage, before, chance.uniform(0, learning if before >= 0 else whole))

        for _ in range(4 * kills):
            if tally.kills >= kills:
                break
            trial(root, stage, before[stage], after[stage], wait, min(chain, kills - tally.kills), tally, chance, must_save=False)
        yield tally
    tally = Tally("inside saves")
    for number in range(6 * kills):
        if tally.kills >= kills:
            break
        stage = wanted[number % len(wanted)]
        count, length = saves_of(folder / "straight" / "small", stage)

        def wait_for_save(child: int, stage: str = stage, most: int = max(1, count // chain), length: float = length) -> bool:
            return inside_save(root, child, stage, chance.randint(1, most), chance.uniform(0, length))

        number = min(chain, kills - tally.kills)
        trial(root, stage, before[stage], after[stage], wait_for_save, number, tally, chance, must_save=True)
    yield tally


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--chain", type=int, default=1, help="kills of one run, one after the other, before it may end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty folder for the runs; default: a temporary one")
    options = parser.parse_args()
    chance, begun, all_equal = random.Random(options.seed), time.monotonic(), True
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for tally in trials(folder, options.stages, options.kills, options.chain, chance):
            all_equal = all_equal and tally.equal == tally.kills == options.kills
            print(json.dumps(vars(tally)), flush=True)
    print(json.dumps({"all_equal": all_equal, "seconds": round(time.monotonic() - begun)}))
    sys.exit(0 if all_equal else 1)


if __name__ == "__main__":
    main()
