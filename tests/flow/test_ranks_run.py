"""A whole recipe on two ranks: the run of one; a rank that is killed, points taken over, and every error."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rank_launcher import PATIENCE, ROOT, ended, environment, launch
from safetensors.torch import load_file

from headway.cli import main
from headway.store.store import Store

pytestmark = pytest.mark.flow

STAGES = ("midtrain", "sft", "dpo", "rl")
ADDITION = "settings = { min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1 }"
RECIPE = f"""
name = "several"
threads = 1
[problems]
instruction = ""
[[problems.sources]]
family = "chain_sum"
{ADDITION}
count = 60
[[problems.sources]]
name = "held"
family = "chain_sum"
{ADDITION}
split = "heldout"
count = 8
seed = 1
[model]
layers = 2
width = 32
heads = 2
kv_heads = 1
mlp_width = 64
vocabulary = 280
max_positions = 128
[teacher]
problems = 30
rollouts = 3
mistake_rate = 0.3
[base]
seq_len = 128
batch_rows = 16
optimizer = {{ lr = 2e-3, eps = 1e-4 }}
[midtrain]
max_epochs = 1
seq_len = 128
batch_rows = 5
validate_every = 3
checkpoint_seconds = 0.05
optimizer = {{ name = "muon", lr = 5e-3, eps = 1e-4 }}
[sft]
epochs = 1
batch_examples = 9
optimizer = {{ lr = 1e-3, eps = 1e-4 }}
[dpo]
batch_pairs = 4
own_problems = 8
own_rollouts = 2
max_tokens = 110
optimizer = {{ lr = 1e-3, eps = 1e-4 }}
[rl]
steps = 3
prompts = 4
group_size = 4
max_tokens = 24
minibatches = 2
overlong_cache = 0.8
overlong_penalty = 1.0
kl_coef = 0.02
tis_cap = 2.0
optimizer = {{ lr = 1e-3, eps = 1e-4 }}
[evaluate]
problems = 8
samples = 2
max_tokens = 32
hybrid = true
program_instruction = "P"
"""
# eps 1e-4 in the recipe: AdamW divides by the size of a gradient, and one of 1e-8 makes a whole step of what is rounding alone
TIMED = {"seconds", "tokens_per_s", "tokens"}  # documents that part are not computed together: more tokens go through the model


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "several.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def words(recipe: Path, root: Path, *more: str) -> list[str]:
    return ["run", str(recipe), "--root", str(root), *more]


def on_one(recipe: Path, root: Path, *more: str) -> Path:
    with pytest.raises(SystemExit) as ending:
        main(words(recipe, root, *more))
    assert not ending.value.code
    return root / "several"


def by_torchrun(arguments: list[str], count: int = 2) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "headway"]
    return subprocess.run([*start, *arguments], env=environment(), capture_output=True, text=True, timeout=PATIENCE)


def on_two(recipe: Path, root: Path, *more: str) -> Path:
    for code, _, error in ended(launch(["-m", "headway", *words(recipe, root, *more)], 2)):
        assert code == 0, error
    return root / "several"


@pytest.fixture(scope="module")
def one(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return on_one(recipe, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Through torchrun itself."""
    root = tmp_path_factory.mktemp("two")
    done = by_torchrun(words(recipe, root))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("page: ") == 1  # one rank speaks
    return root / "several"


def rows(run: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics" / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_run(run: Path, other: Path, bound: float, stages: tuple[str, ...] = STAGES) -> None:
    """Equal rows, but for timings, up to `bound`; weights too."""
    for stage in stages:
        found, expected = rows(run, stage), rows(other, stage)
        assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(1, len(expected) + 1))
        for own, theirs in zip(found, expected, strict=True):
            assert own.keys() == theirs.keys()
            for key in own.keys() - TIMED - ({"pair_accuracy"} if own["step"] == 1 else set()):  # its margins are 0 there
                assert own[key] == pytest.approx(theirs[key], rel=bound, abs=bound), (stage, own["step"], key)
        weights = [load_file(folder / "checkpoints" / stage / "final" / "model.safetensors") for folder in (run, other)]
        for name in weights[1]:
            assert float((weights[0][name] - weights[1][name]).abs().max()) <= bound


def content(run: Path) -> list[list[Any]]:
    """What the tables hold, in order, but for the recorded log-probs, whose last bits may differ."""
    store = Store(run / "store", create=False)
    rollouts = [
        [r.id, r.sampler, r.step, r.index, r.policy, r.text, r.token_ids, r.stop_reason] for r in store.rollouts(tokens=True)
    ]
    return [rollouts, [[p.id, p.question] for p in store.problems()], [[v.rollout_id, v.outcome] for v in store.verdicts()]]


def test_a_recipe_on_two_ranks_is_that_of_one(one: Path, two: Path) -> None:
    assert_same_run(two, one, 1e-5)
    assert content(two) == content(one)
    assert len(content(one)[0]) > 200
    for name in ("midtrain", "sft", "dpo", "rl"):
        selections = [(folder / "selections" / f"{name}.json").read_text(encoding="utf-8") for folder in (one, two)]
        assert selections[0] == selections[1]
    assert json.loads((two / "environment.json").read_text(encoding="utf-8"))["started_with"]["ranks"] == 2
    assert not list(two.rglob("*.tmp-*"))


def test_a_rank_killed_at_a_random_moment_ends_the_run_and_it_goes_on(recipe: Path, two: Path, tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    chance = random.Random(seed)
    ranks = launch(["-m", "headway", *words(recipe, tmp_path)], 2)
    stage, row = chance.choice([("base", 1), ("midtrain", 1), ("midtrain", 4), ("sft", 2), ("dpo", 1), ("rl", 1)])
    metrics = tmp_path / "several" / "metrics" / f"{stage}.jsonl"
    until = time.monotonic() + PATIENCE
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= row):
        assert time.monotonic() < until
        assert ranks[0].poll() is None
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3))
    killed = chance.randrange(2)
    print(f"seed {seed}: rank {killed} is killed after row {row} of {stage}")
    ranks[killed].kill()
    seen = ended(ranks)
    code, _, error = seen[1 - killed]
    assert (seen[killed][0], code) == (-9, 2)
    assert [line for line in error.splitlines() if line.startswith("headway: ")] == [
        "headway: another rank of this run has ended, so this one ends: start the same command again, it goes on from there"
    ]
    assert "Traceback" not in error
    assert_same_run(on_two(recipe, tmp_path), two, 0.0)  # the very numbers of the uninterrupted run
    assert content(tmp_path / "several") == content(two)


@pytest.mark.parametrize("before", [1, 2])
def test_a_point_of_one_or_two_ranks_is_taken_over_by_two_or_one(recipe: Path, one: Path, tmp_path: Path, before: int) -> None:
    """Stopped in the middle of mid-training (Muon's moments, the best weights so far), gone on with the other number."""
    ranks = launch(["-m", "headway", *words(recipe, tmp_path, "--until", "midtrain")], before)
    points = tmp_path / "several" / "checkpoints" / "midtrain"
    until = time.monotonic() + PATIENCE
    while not list(points.glob("step-??????/manifest.json")):
        assert time.monotonic() < until
        time.sleep(0.005)
    for rank in ranks:
        rank.kill()
    ended(ranks)
    assert not (points / "final").exists()
    reached = max(int(path.name.partition("-")[2]) for path in points.glob("step-??????"))
    assert 0 < reached < len(rows(one, "midtrain"))
    again = (on_two if before == 1 else on_one)(recipe, tmp_path, "--until", "midtrain")
    assert_same_run(again, one, 1e-5, ("midtrain",))
    assert len(json.loads((again / "environment.json").read_text(encoding="utf-8"))["resumed_with"]) == 1


def refusal(ranks: list[subprocess.Popen[str]]) -> str:
    """The one line that all ranks together say; each ends with exit code 2."""
    seen = ended(ranks)
    assert [code for code, _, _ in seen] == [2, 2], seen
    lines = [line for _, _, error in seen for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("headway: ")
    return lines[0]


def test_bad_data_ends_both_ranks_with_one_line(recipe: Path, tmp_path: Path) -> None:
    data = tmp_path / "problems.jsonl"
    data.write_text('{"question": "1 + 1?", "answer": "2"}\n{"question": 7}\n', encoding="utf-8")
    own = tmp_path / "own.toml"
    text = RECIPE.replace(f'family = "chain_sum"\n{ADDITION}\ncount = 60', f'data = "{data}"')
    assert text != RECIPE
    own.write_text(text, encoding="utf-8")
    line = refusal(launch(["-m", "headway", *words(own, tmp_path / "runs")], 2))
    assert "problems.jsonl" in line
    assert "line 2" in line


def test_a_full_disk_ends_both_ranks_with_one_line(recipe: Path, one: Path, tmp_path: Path) -> None:
    point = next((one / "checkpoints" / "base").glob("step-*")) / "tensors.safetensors"
    limit = point.stat().st_size // 2
    line = refusal(launch(["-m", "headway", *words(recipe, tmp_path)], 2, limit))
    assert re.search(r"headway: cannot write .*/checkpoints/base/step-\d+: File too large", line)
    assert not list((tmp_path / "several" / "checkpoints").rglob("*.tmp-*"))


def test_torchrun_with_a_wrong_recipe(recipe: Path, tmp_path: Path) -> None:
    """One line of ours; torchrun's own report, which ends with 1 whatever the ranks end with, has it too."""
    done = by_torchrun(words(recipe, tmp_path, "--set", "rl.stepz=3"))
    assert done.returncode == 1
    ours = [line for line in done.stderr.splitlines() if line.startswith("headway: ")]
    assert len(ours) == 1
    assert "stepz" in ours[0]
    assert done.stderr.count(f"traceback : {ours[0]}") == 2
    assert "exitcode  : 2" in done.stderr
    assert f'File "{ROOT / "headway"}' not in done.stderr  # no traceback of a rank


def test_what_one_process_does_is_refused_on_several(recipe: Path, tmp_path: Path) -> None:
    line = refusal(launch(["-m", "headway", "xray", str(recipe), "sft", "--root", str(tmp_path)], 2))
    assert line.startswith("headway: headway xray: one process does this, start it without torchrun")


def test_half_an_environment_is_refused(recipe: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headway", *words(recipe, tmp_path)],
        env=environment(WORLD_SIZE="2"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("headway: WORLD_SIZE=2 in the environment asks for several processes, but RANK, MASTER_ADDR")
