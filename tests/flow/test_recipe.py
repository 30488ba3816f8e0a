"""The whole recipe, very small: every stage, evaluation and page; killed and resumed; and every wrong input in one line.

It is recipes/tiny.toml with `--set` values that make it a few seconds long. Nothing is learned to speak of: RL's groups differ
in length (overlong penalty) where their answers do not.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_disk import Ballast, on_a_small_disk

from headway.cli import main
from headway.config import STAGES
from headway.model.tokenizer import Tokenizer
from headway.recipe import load_recipe
from headway.runs import Run
from headway.store.store import Store
from headway.types import Split

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "tiny.toml"
TIMINGS = {"seconds", "tokens_per_s"}


def small() -> list[str]:
    """The `--set` values: 300 training problems a family, 20 held out, some 20,000 parameters, 3 to 20 steps a stage."""
    sources = tomllib.loads(RECIPE.read_text(encoding="utf-8"))["problems"]["sources"]
    values: dict[str, Any] = {"name": "small", "threads": 1}
    for number, source in enumerate(sources):
        count = 20 if source.get("split") == "heldout" else 60 if source.get("base_only") else 300
        values[f"problems.sources.{number}.count"] = count
    values |= {"model.layers": 2, "model.width": 32, "model.heads": 2, "model.kv_heads": 1, "model.mlp_width": 64}
    values |= {"model.vocabulary": 280, "model.max_positions": 256, "teacher.problems": 100, "teacher.mistake_rate": 0.1}
    values |= {"base.seq_len": 256, "base.batch_rows": 30, "midtrain.seq_len": 256, "midtrain.batch_rows": 40}
    values |= {"midtrain.max_epochs": 2, "midtrain.validate_every": 2, "sft.epochs": 1, "sft.batch_examples": 40}
    values |= {
        "dpo.batch_pairs": 8,
        "dpo.teacher_pairs": "true",
        "dpo.own_problems": 8,
        "dpo.own_rollouts": 2,
        "dpo.max_tokens": 256,
    }
    values |= {
        "rl.steps": 3,
        "rl.prompts": 6,
        "rl.group_size": 4,
        "rl.max_tokens": 24,
        "rl.problems": 16,
        "rl.rebalance": "false",
        "rl.pool": "all",
    }
    values |= {"rl.overlong_penalty": "true", "rl.overlong_cache": 0.9, "rl.dynamic_sampling": "true", "rl.max_refills": 4}
    values |= {"evaluate.samples": 2, "evaluate.max_tokens": 32}
    values |= {f"{stage}.checkpoint_seconds": 0.05 for stage in STAGES}
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def command(verb: str, root: Path, *more: str) -> list[str]:
    return [verb, str(RECIPE), "--root", str(root), *small(), *more]


def said(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def done(words: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    root = tmp_path_factory.mktemp("straight")
    done(command("run", root))
    return root / "small"


def content(folder: Path, stages: Sequence[str] = STAGES) -> dict[str, Any]:
    """Everything that must be the same after any interruption: weights, optimizers, metrics, tables, selections, records.

    Of a run that is done up to some stage, name the `stages`.
    """
    store = Store(folder / "store", create=False)
    found: dict[str, Any] = {
        "problems": store.problems(),
        "rollouts": store.rollouts(tokens=True),
        "verdicts": store.verdicts(),
        "selections": {path.name: path.read_bytes() for path in (folder / "selections").iterdir()},
        "tokenizer": (folder / "tokenizer" / "tokenizer.json").read_bytes(),
    }
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found["results"] = [{k: v for k, v in stage.items() if k != "wall_s"} for stage in results["stages"]]
    for stage in stages:
        points = folder / "checkpoints" / stage
        last = sorted(points.glob("step-*"))[-1]
        found[f"{stage} final"] = {path.name: path.read_bytes() for path in (points / "final").iterdir()}
        found[f"{stage} last"] = {path.name: path.read_bytes() for path in last.iterdir()}
        lines = (folder / "metrics" / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()
        found[f"{stage} rows"] = [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert [name for name in one if one[name] != other[name]] == []
    assert one.keys() == other.keys()


# -- what a run leaves -------------------------------------------------------------------------------------------------


def test_results_have_the_fixed_names(run: Path) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert (results["seed"], results["recipe"]) == (0, "small")
    assert 50_000_000 < results["peak_memory_bytes"] < 3 * 2**30
    assert [stage["stage"] for stage in results["stages"]] == list(STAGES)
    fields = {"stage", "accuracy", "ci_low", "ci_high", "num_problems", "samples_per_problem", "truncated", "no_answer"}
    fields |= {"p_vs_previous", "train_tokens", "wall_s"}
    for number, stage in enumerate(results["stages"]):
        assert fields <= stage.keys()
        assert 0 <= stage["ci_low"] <= stage["accuracy"] <= stage["ci_high"] <= 1
        assert (stage["num_problems"], stage["samples_per_problem"]) == (60, 2)
        assert 0 <= stage["truncated"] <= 1
        assert 0 <= stage["no_answer"] <= 1
        assert (stage["p_vs_previous"] is None) == (number == 0)
        assert stage["train_tokens"] > 0
        assert stage["wall_s"] > 0


def test_the_page_lies_beside(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert len(page) > 20_000
    assert all(stage in page for stage in STAGES)


def test_no_held_out_problem_is_in_anything_that_was_learned(run: Path) -> None:
    store = Store(run / "store", create=False)
    split = {problem.id: problem.split for problem in store.problems()}
    problem_of = {rollout.id: rollout.problem_id for rollout in store.rollouts()}
    assert list(split.values()).count(Split.HELDOUT) == 60
    for stage in STAGES:
        ids = json.loads((run / "selections" / f"{stage}.json").read_text(encoding="utf-8"))["ids"]
        assert ids, stage
        parts = [part for one in ids for part in one.split("/")]  # a pair's id is chosen/rejected
        assert {split[problem_of.get(part, part)] for part in parts} == {Split.TRAIN}, stage
    learned = {r.problem_id for r in store.rollouts(["teacher", "dpo", "rl"])}
    assert {split[i] for i in learned} == {Split.TRAIN}
    measured = {r.problem_id for stage in STAGES for r in store.rollouts(f"eval:{stage}")}
    assert {split[i] for i in measured} == {Split.HELDOUT}


def test_base_only_problems_are_seen_by_the_base_alone(run: Path) -> None:
    names = [source.label for source in load_recipe(RECIPE).problems.sources if source.base_only]
    store = Store(run / "store", create=False)
    elementary = {problem.id for problem in store.problems(source=names)} if names else set()
    assert elementary.isdisjoint(rollout.problem_id for rollout in store.rollouts())
    learned = json.loads((run / "selections" / "base.json").read_text(encoding="utf-8"))["ids"]
    assert set(learned) <= elementary  # `own_sources`: and the base has seen nothing else


def test_sampler_and_trainer_agree_in_every_step_of_rl(run: Path) -> None:
    rows = content(run)["rl rows"]
    assert len(rows) == 3
    assert all(row["gap_max"] <= 1e-4 for row in rows)
    assert sum(row["gap_max"] > 0 and row["grad_norm"] > 0 for row in rows) >= 2  # groups were trained on, so a gap was measured
    asked = [(r.step, r.problem_id, r.index) for r in Store(run / "store", create=False).rollouts("rl")]
    assert len(set(asked)) == len(asked)


def test_every_stage_moved_the_weights(run: Path) -> None:
    finals = [(run / "checkpoints" / stage / "final" / "model.safetensors").read_bytes() for stage in STAGES]
    assert len(set(finals)) == len(STAGES)


def test_the_optimizer_of_every_stage_is_kept_with_its_last_step(run: Path) -> None:
    for stage in STAGES:
        last = sorted((run / "checkpoints" / stage).glob("step-*"))[-1]
        names = load_file(last / "tensors.safetensors").keys()
        learned = {name.removeprefix("model.") for name in names if name.startswith("model.")}
        assert learned == {name.removeprefix("optimizer.").rpartition(".")[0] for name in names if name.startswith("optimizer.")}
        rows = (run / "metrics" / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads((last / "state.json").read_text(encoding="utf-8"))["step"] == len(rows)


# -- the same again ----------------------------------------------------------------------------------------------------


def test_two_runs_are_equal_and_compare_says_so(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done(command("run", tmp_path))
    assert_same(content(tmp_path / "small"), content(run))
    capsys.readouterr()
    code, out, _ = said(capsys, ["compare", str(run), str(tmp_path / "small"), "--json"])
    found = json.loads(out)
    assert code == 0
    assert {"a", "b", "difference", "ci_low", "ci_high", "p"} <= found.keys()
    assert found["difference"] == 0
    assert found["p"] == 1
    before = content(run)
    done(command("run", run.parent))  # asked again: nothing is left to do
    assert_same(content(run), before)


def test_stage_by_stage_is_the_same_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, command("sft", tmp_path))
    assert (code, "midtrain comes before sft and is not done" in err) == (2, True)
    done(command("run", tmp_path, "--until", "midtrain"))
    folder = tmp_path / "small"
    recorded = {"problems", "teacher", "base", "midtrain"}
    assert {path.stem for path in (folder / "stages").iterdir()} == recorded
    done(command("run", tmp_path, "--until", "midtrain"))  # done already: nothing more is trained
    assert {path.stem for path in (folder / "stages").iterdir()} == recorded
    done(command("sft", tmp_path))
    assert {path.stem for path in (folder / "stages").iterdir()} == {*recorded, "sft"}
    code, _, err = said(capsys, command("rl", tmp_path))
    assert (code, "dpo comes before rl and is not done" in err) == (2, True)
    done(command("run", tmp_path))
    assert_same(content(folder), content(run))


def progress(folder: Path) -> int:
    """How far a run has come, in bytes of metric rows and entries of the tables' logs. It only grows, but for a kill."""
    rows = sum(path.stat().st_size for path in folder.glob("metrics/*.jsonl"))
    return rows + 500 * len(list(folder.glob("store/*/_delta_log/*.json")))


def assert_survives_kills(words: list[str], straight: Path, again: Path, kills: int, pause: float) -> None:
    """`words` write the run `again`, are killed at random moments and started anew: its content is that of `straight`."""
    seed = int(os.environ.get("HEADWAY_KILL_SEED", random.randrange(10**6)))
    print(f"HEADWAY_KILL_SEED={seed}")  # shown where the test fails
    chance = random.Random(seed)
    whole = progress(straight)
    words = [sys.executable, "-m", "headway", *words]
    told = {"cwd": again.parent, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.STDOUT}
    log = again.parent / "log"
    with log.open("wb") as output:
        for moment in sorted(chance.uniform(0, 0.97 * whole) for _ in range(kills)):
            process = subprocess.Popen(words, stdout=output, start_new_session=True, **told)
            while process.poll() is None and progress(again) < moment:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, pause))
            assert process.poll() is None, log.read_text(errors="replace")
            print(f"killed at {moment / whole:.1%}")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        ended = subprocess.run(words, stdout=output, check=False, **told)
    assert ended.returncode == 0, log.read_text(errors="replace")
    assert_same(content(again), content(straight))
    assert list(again.rglob("*.tmp-*")) == []


def test_killed_at_random_moments_and_resumed_is_the_uninterrupted_run(run: Path, tmp_path: Path) -> None:
    assert_survives_kills(command("run", tmp_path), run, tmp_path / "small", kills=3, pause=0.05)


def before_rl(run: Path, root: Path) -> Path:
    """A copy of the run as it was before the record of its last stage: with resume points of all, and RL not done."""
    shutil.copytree(run, root / "small")
    (root / "small" / "stages" / "rl.json").unlink()
    results = json.loads((root / "small" / "results.json").read_text(encoding="utf-8"))
    results["stages"].pop()
    (root / "small" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    shutil.rmtree(root / "small" / "checkpoints" / "rl" / "final")
    return root / "small" / "checkpoints"


def test_damage_is_refused_by_name_and_the_one_before_makes_the_same_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest resume point holds the weights of the one before, and the finished weights of the stage before are flipped."""
    points = before_rl(run, tmp_path)
    shutil.copy(points / "rl/step-000002/tensors.safetensors", points / "rl/step-000003/tensors.safetensors")
    weights = points / "dpo/final/model.safetensors"
    content_of = bytearray(weights.read_bytes())
    content_of[-5] ^= 1
    weights.write_bytes(content_of)
    offer = ["dpo/final/model.safetensors is damaged", "to make it again from step-000007, which is whole", "--from-previous"]
    refused(capsys, command("run", tmp_path), *offer)
    shutil.rmtree(points / "dpo/final")  # as the line says
    offer = ["rl/step-000003/tensors.safetensors is damaged", "to go on from step-000002, which is whole", "--from-previous"]
    refused(capsys, command("run", tmp_path), *offer)
    assert (points / "dpo/final/model.safetensors").read_bytes() == (run / "checkpoints/dpo/final/model.safetensors").read_bytes()
    weights.write_bytes(content_of)
    code, out, _ = said(capsys, command("run", tmp_path, "--from-previous"))
    assert code == 0
    aside = [points / "dpo/final.damaged", points / "rl/step-000003.damaged"]
    assert all(f"kept as {path}, which may be deleted" in out for path in aside)
    for path in aside:
        shutil.rmtree(path)
    assert_same(content(tmp_path / "small"), content(run))


@pytest.mark.skipif("HEADWAY_FULL_DISK" not in os.environ, reason="HEADWAY_FULL_DISK asks for the run whose disk fills up")
def test_a_disk_that_fills_up_again_and_again_is_the_uninterrupted_run(run: Path, tmp_path: Path) -> None:
    on_a_small_disk(tmp_path, 64 * 2**20, "test_recipe.fill_up_again_and_again", run)


def fill_up_again_and_again(disk: Path, straight: Path) -> None:
    """On a disk of its own, on which there is ever again a little room, drawn at random around the mebibyte kept in reserve."""
    ballast, chance, stops = Ballast(disk), random.Random(0), []
    for _ in range(60):
        ballast.leave(chance.randrange(60, 900))
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
            main(command("run", disk))
        if ended.value.code == 0:
            break
        lines = errors.getvalue().splitlines()
        assert (ended.value.code, len(lines)) == (2, 1), errors.getvalue()
        assert re.search(r"cannot (write|save|keep) .*(No space left on device|its disk has .* free)", lines[0]), lines
        stops.append(lines[0])
        assert list((disk / "small").glob("checkpoints/*/*.tmp-*")) == []
    print(len(stops), *stops, sep="\n")
    ballast.remove()
    done(command("run", disk))
    assert len(stops) >= 5
    assert_same(content(disk / "small"), content(straight))


@pytest.mark.skipif("HEADWAY_TINY_RUN" not in os.environ, reason="HEADWAY_TINY_RUN names no finished run of recipes/tiny.toml")
@pytest.mark.timeout(7200)
def test_the_whole_tiny_recipe_killed_ten_times_is_the_uninterrupted_run(tmp_path: Path) -> None:
    straight = Path(os.environ["HEADWAY_TINY_RUN"]).absolute()
    made = json.loads((straight / "recipe.json").read_text(encoding="utf-8"))
    sets = [word for key in ("name", "seed", "threads") for word in ("--set", f"{key}={made[key]}")]
    assert load_recipe(RECIPE, sets[1::2]).model_dump(mode="json") == made
    words = ["run", str(RECIPE), "--root", str(tmp_path), *sets]
    assert_survives_kills(words, straight, tmp_path / made["name"], kills=10, pause=2.0)


# -- wrong input -------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], words: Sequence[str], *parts: str) -> None:
    """Exit code 2, and one line on standard error that holds every part."""
    code, _, err = said(capsys, words)
    assert code == 2, err
    assert err.startswith("headway: ")
    assert err.count("\n") == 1, err
    assert [part for part in parts if part not in err] == [], err


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("rl.stepz", "3", ["unknown key 'rl.stepz'", "nearest", "'rl.steps'"]),
        ("mid_train.epochs", "3", ["'mid_train'", "'midtrain'"]),
        ("rl.steps", "many", ["'rl.steps' = 'many'", "integer"]),
        ("rl.steps", "0", ["'rl.steps' = 0", "greater than or equal to 1"]),
        ("evaluate.top_p", "1.5", ["'evaluate.top_p' = 1.5"]),
        ("problems.sources.0.settings", "{min_termz = 2}", ["min_termz", "min_terms"]),
        ("problems.sources.0.family", "chain_summ", ["chain_summ", "chain_sum"]),
        ("model.heads", "3", ["width 32", "heads 3"]),
        ("model.vocabulary", "100", ["model.vocabulary = 100", "260"]),
        ("device", "cuda", ["'device' = 'cuda'", "this machine has none"]),
    ],
)
def test_a_wrong_key_or_value(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str, parts: list[str]) -> None:
    import torch

    if value == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    refused(capsys, command("run", tmp_path, "--set", f"{key}={value}"), *parts)
    if key == "device":
        assert not list(tmp_path.rglob("store")), "it is said before anything is made"


def test_a_missing_recipe_and_an_unknown_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, ["run", str(tmp_path / "none.toml")], "no recipe at", "none.toml")
    refused(capsys, command("run", tmp_path, "--until", "rlvr"), "no stage 'rlvr'", "midtrain")


GOOD = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(40)]
HEADER = """
name = "own"
threads = 1
[[problems.sources]]
data = "train.jsonl"
[[problems.sources]]
data = "heldout.jsonl"
split = "heldout"
[model]
layers = 1
width = 16
heads = 2
kv_heads = 1
mlp_width = 16
vocabulary = 280
max_positions = 128
[base]
seq_len = 64
batch_rows = 8
[evaluate]
samples = 1
max_tokens = 8
"""


def own(folder: Path, train: str | list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A recipe on the user's own files, `train` in one of them; the words of the command."""
    monkeypatch.chdir(folder)
    (folder / "own.toml").write_text(HEADER, encoding="utf-8")
    text = train if isinstance(train, str) else "".join(json.dumps(row) + "\n" for row in train)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    held = [{"question": f"How much is {i} less {i - 1}?", "answer": "1"} for i in range(60, 70)]
    (folder / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held), encoding="utf-8")
    return ["run", "own.toml"]


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = own(tmp_path, GOOD, monkeypatch)
    (tmp_path / "train.jsonl").unlink()
    refused(capsys, words, "train.jsonl")


@pytest.mark.parametrize("train", ["", "\n\n", [{"question": "1 + 1?", "answer": "} no number {"}] * 3])
def test_an_empty_problem_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, train: Any
) -> None:
    refused(capsys, own(tmp_path, train, monkeypatch), "train.jsonl" if isinstance(train, str) else "no training problem is left")


@pytest.mark.parametrize(
    ("row", "parts"),
    [('{"question": "1 + 1?", "answer": ', ["train.jsonl", "5"]), ('{"question": "1 + 1?"}', ["train.jsonl", "5", "answer"])],
)
def test_a_broken_row_names_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, row: str, parts: list[str]
) -> None:
    lines = [json.dumps(one) for one in GOOD]
    lines.insert(4, row)
    refused(capsys, own(tmp_path, "\n".join(lines) + "\n", monkeypatch), *parts)


def test_a_reference_that_does_not_verify_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [{"question": f"What is {i} over nothing?", "answer": "1/0"} for i in range(3)]
    code, _, err = said(capsys, own(tmp_path, GOOD[:20] + broken + GOOD[20:], monkeypatch))
    assert code == 0, err
    funnel = json.loads((tmp_path / "runs/own/selections/problems-references.json").read_text(encoding="utf-8"))["funnel"]
    assert funnel["dropped"] == {"reference does not verify": 3}
    assert funnel["kept"] == 50
    assert "reference does not verify" in (tmp_path / "runs/own/report.html").read_text(encoding="utf-8")


def test_a_checkpoint_of_another_tokenizer(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A larger one does not fit; one of the same size is known by its fingerprint."""
    final = run / "checkpoints" / "base" / "final"
    size = Tokenizer.load(final).size
    for name, vocabulary, parts in [
        ("larger", size + 20, ["larger", "embedding rows"]),
        ("same", size, ["same", "trained with another tokenizer"]),
    ]:
        folder = tmp_path / name
        shutil.copytree(final, folder)
        other = Tokenizer.train(
            ["colourless green ideas sleep furiously " * 3, "the quick brown fox jumps over it"] * 9, vocabulary
        )
        assert other.size == vocabulary
        other.save(folder)
        refused(capsys, ["eval", str(folder), *command("run", tmp_path)[1:]], *parts)


def test_a_checkpoint_that_is_evaluated_is_the_stage_that_made_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = run / "checkpoints" / "sft" / "final"
    code, out, _ = said(capsys, ["eval", str(final), *command("run", tmp_path)[1:], "--json"])
    assert code == 0
    found = json.loads(out)
    assert (found["num_problems"], found["samples_per_problem"]) == (60, 2)
    code, again, _ = said(capsys, ["eval", str(final), *command("run", tmp_path)[1:], "--json"])
    assert json.loads(again) == found
    copy = tmp_path / "copy"
    for stage in ("base", "sft"):  # other weights under the same path are measured anew
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run / "checkpoints" / stage / "final", copy)
        assert said(capsys, ["eval", str(copy), *command("run", tmp_path)[1:], "--json"])[0] == 0
    assert len(list(tmp_path.glob("small-eval-*"))) == 3


def test_a_changed_environment_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "small")
    path = tmp_path / "small" / "environment.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    kept["started_with"]["versions"]["torch"] = "0.4.1"
    path.write_text(json.dumps(kept), encoding="utf-8")
    code, out, _ = said(capsys, command("run", tmp_path))
    assert code == 0
    assert "the environment changed since this run began (versions.torch" in out


def test_a_run_folder_in_use(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(RECIPE, small()[1::2])
    with Run.open(run.parent, recipe, str(RECIPE)):
        refused(capsys, command("run", run.parent), str(run), "in use by process", str(os.getpid()))


def test_a_recipe_that_changed_under_a_half_finished_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, command("run", run.parent, "--set", "sft.epochs=2"), str(run), "different recipe", "sft.epochs: 1 -> 2")
