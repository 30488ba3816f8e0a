"""A watched run of four stages from a small checkpoint: refused and mended, looked at, and the same bytes as an unwatched one."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from headway import pipeline
from headway.cli import main
from headway.lock import FolderLock
from headway.model.checkpoint import save_decoder
from headway.model.config import DecoderConfig
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import initialise
from headway.report.glossary import ENTRIES
from headway.stages.sft import finetune
from headway.stages.workspace import Workspace
from headway.store.store import Store
from headway.train.batching import Document
from headway.train.fit import Fitted
from headway.types import Example

pytestmark = pytest.mark.flow

STAGES = ("midtrain", "sft", "dpo", "rl")
SUM = 'family = "chain_sum"\nsettings = { min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1 }'
RECIPE = f"""
name = "watched"
threads = 1
track = ["tensorboard"]
[problems]
instruction = "Box it."
[[problems.sources]]
{SUM}
count = 60
[[problems.sources]]
name = "heldout"
split = "heldout"
seed = 1
{SUM}
count = 6
[model]
checkpoint = "CHECKPOINT"
[teacher]
problems = 60
rollouts = 2
mistake_rate = 0.4
catch_rate = 0.2
[midtrain]
max_epochs = 1
seq_len = 128
batch_rows = 6
validate_every = 2
optimizer = {{ lr = 1e-3 }}
[sft]
epochs = 1
batch_examples = 16
max_tokens = 128
[dpo]
batch_pairs = 4
max_tokens = 128
[rl]
steps = 3
prompts = 4
group_size = 4
max_tokens = 16
overlong_penalty = true
overlong_cache = 0.9
tis_cap = 2.0
kl_coef = 0.01
minibatches = 2
[evaluate]
samples = 1
max_tokens = 16
"""
UNWATCHED = ("preflight=false", "alarms=false", "hang_seconds=0")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    words = Tokenizer.train([f"{a} + {b} = \\boxed{{{a + b}}} Box it." for a in range(10) for b in range(10)], 300)
    save_decoder(initialise(DecoderConfig(words.size, 16, 1, 2, 1, 8, 24, max_positions=160), 0), folder, words, {})
    return folder


def recipe(root: Path, checkpoint: Path) -> str:
    path = root / "watched.toml"
    path.write_text(RECIPE.replace("CHECKPOINT", str(checkpoint)), encoding="utf-8")
    return str(path)


def said(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """The folder of a whole run with everything that watches."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    root = tmp_path_factory.mktemp("watched")
    with pytest.raises(SystemExit) as ended:
        main(["run", recipe(root, checkpoint), "--root", str(root)])
    assert ended.value.code == 0
    return root / "watched"


def rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    lines = {stage: (folder / "metrics" / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines() for stage in STAGES}
    return {stage: [json.loads(line) for line in found] for stage, found in lines.items()}


def test_whoever_watches_changes_no_byte(watched: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ["run", recipe(tmp_path, checkpoint), "--root", str(tmp_path), "--set", "track=[]"]
    words += [word for value in UNWATCHED for word in ("--set", f"health.{value}")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    for stage in STAGES:
        one, other = (
            folder / "checkpoints" / stage / "final" / "model.safetensors" for folder in (watched, tmp_path / "watched")
        )
        assert one.read_bytes() == other.read_bytes(), stage
        assert (watched / "preflight" / f"{stage}.json").is_file()
    assert not (tmp_path / "watched" / "preflight").exists()
    ids = [[r.id for r in Store(folder / "store").rollouts()] for folder in (watched, tmp_path / "watched")]
    assert ids[0] == ids[1]


def test_each_number_that_is_logged_is_explained_and_each_explained_one_is_logged(watched: Path) -> None:
    explained = {name for key in ENTRIES for name in key.split(", ")}
    logged = {name for found in rows(watched).values() for row in found for name in row}
    assert logged - explained == {"step"}
    record = json.loads((watched / "results.json").read_text(encoding="utf-8"))
    kept = {name for stage in record["stages"] for name in stage}
    assert kept <= explained
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    table = text.partition("## The table of rollouts")[2]
    rare = {  # what this run has no occasion for
        "alarm", "micro_batch_tokens", "update_ratio_others", "mean_tokens_correct",
        *(f"gap_at_{place}" for place in (16, 64, 256, 1024, 4096, 16_384)),
    }  # fmt: skip
    assert {name for name in explained - logged - kept - rare if f"`{name}`" not in table} == set()


def test_a_tracker_has_every_row(watched: Path) -> None:
    sent = [json.loads(line) for line in (watched / "tracking" / "tensorboard.jsonl").read_text(encoding="utf-8").splitlines()]
    found = rows(watched)
    assert [(row["stage"], row["step"]) for row in sent] == [(stage, row["step"]) for stage in STAGES for row in found[stage]]


# -- refused, and mended -----------------------------------------------------------------------------------------------


def test_a_start_that_cannot_be_asked_costs_nothing_and_another_may_take_its_place(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(checkpoint), str(broken)], check=True)
    (broken / "headway.json").unlink(missing_ok=True)
    (broken / "chat_template.jinja").write_text("{% for m in messages %}<user>Hm.{% endfor %}<assistant>", encoding="utf-8")
    words = ["--root", str(tmp_path), "--until", "midtrain"]
    code, out, err = said(capsys, ["run", recipe(tmp_path, broken), *words])
    assert code == 2
    assert err.count("\n") == 1
    assert f"{broken} fails the check before the start: template: the chat template leaves out" in err
    assert "evaluation" not in out
    code, _, err = said(capsys, ["run", recipe(tmp_path, checkpoint), *words])
    assert code == 0, err
    assert (tmp_path / "watched" / "checkpoints" / "midtrain" / "final").is_dir()


def test_a_stage_with_a_wrong_mask_does_not_start_and_goes_on_once_it_is_mended(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured before stays; the run then is whole."""
    right = Workspace.documents

    def shifted(work: Workspace, examples: Sequence[Example], on_prompt: bool = False) -> list[Document]:
        return [Document(d.ids, d.first_target + 1) for d in right(work, examples, on_prompt)]

    words = ["sft", recipe(tmp_path, checkpoint), "--root", str(tmp_path)]
    assert said(capsys, ["run", *words[1:], "--until", "midtrain"])[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "documents", shifted)
        code, _, err = said(capsys, words)
        assert code == 2
        assert err.count("\n") == 1
        assert "sft does not start: the pre-flight check of its batches fails: mask: " in err
        assert "1 of the completion is masked" in err
        code, out, err = said(capsys, ["xray", words[1], "sft", "--root", str(tmp_path)])
        assert (code, "WRONG mask" in re.sub(" +", " ", out)) == (2, True)
    assert not (tmp_path / "watched" / "metrics" / "sft.jsonl").exists()
    midtrain = (tmp_path / "watched" / "stages" / "midtrain.json").stat().st_mtime_ns
    assert said(capsys, words)[0] == 0
    assert (tmp_path / "watched" / "stages" / "midtrain.json").stat().st_mtime_ns == midtrain
    assert json.loads((tmp_path / "watched" / "preflight" / "sft.json").read_text(encoding="utf-8"))["passed"]


def test_a_stage_that_sleeps_in_its_data_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hang of a second where half a one is allowed: the stage, the part, the line of code; and the run ends well."""

    def sleeping(work: Workspace) -> Fitted:
        time.sleep(1.5)
        return finetune(work)

    monkeypatch.setitem(pipeline._TRAIN, "sft", sleeping)
    words = ["run", recipe(tmp_path, checkpoint), "--root", str(tmp_path), "--until", "sft", "--set", "health.hang_seconds=0.5"]
    code, out, err = said(capsys, words)
    assert code == 0, err
    assert re.search(r"the watchdog: no sign of life for \d+ s in sft: preparing; all stacks are in .*watchdog.txt", out)
    assert "the watchdog: it goes on; the silence in sft: preparing is over" in out
    assert " in sleeping" in (tmp_path / "watched" / "watchdog.txt").read_text(encoding="utf-8")


# -- headway xray ------------------------------------------------------------------------------------------------------


def test_a_look_before_any_run(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the weights of the start; nothing is trained, and the run that follows may be of another kind of weights or not."""
    words = [recipe(tmp_path, checkpoint), "--root", str(tmp_path)]
    for stage in STAGES:
        code, out, err = said(capsys, ["xray", words[0], stage, *words[1:]])
        assert code == 0, err
        assert f"{stage}: weights as the recipe starts them" in out
        assert "WRONG" not in out
    folder = tmp_path / "watched"
    assert {path.name for path in folder.iterdir()}.isdisjoint({"metrics", "checkpoints", "preflight"})
    assert Store(folder / "store").rollouts(["rl", "dpo"]) == []


def test_a_look_at_a_finished_run(watched: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [recipe(watched.parent, checkpoint), "rl", "--root", str(watched.parent)]
    lock = FolderLock(watched)  # as by another process at work
    try:
        code, out, err = said(capsys, ["xray", *words])
        assert code == 0, err
        assert "rl: weights as they were before the stage's first step" in out
        record = json.loads(said(capsys, ["xray", *words, "--json"])[1])
    finally:
        lock.release()
    assert record["checks"] == json.loads((watched / "preflight" / "rl.json").read_text(encoding="utf-8"))["checks"]


def wrong() -> Iterator[tuple[list[str], str]]:
    yield ["sfft"], "the recipe watched has no stage 'sfft'; it has midtrain, sft, dpo, rl"
    yield ["base"], "the recipe watched has no stage 'base'"
    yield ["sft", "--set", "sft.epoch=2"], "unknown key 'sft.epoch'; the nearest key is 'sft.epochs'"
    yield ["sft", "--set", "teacher.own_rollouts=2", "--set", "teacher.own_problems=2"], "teacher first samples 4 rollouts"
    yield ["dpo", "--set", "dpo.own_problems=2"], "dpo first samples 16 rollouts"
    yield ["sft", "--set", "track=tensorboard"], "'track' = 'tensorboard': Input should be a list"
    yield ["sft", "--set", 'track=["tensorbord"]'], "'track.0' = 'tensorbord': Input should be 'tensorboard', 'wandb' or"
    yield ["sft", "--set", "health.window=1"], "'health.window' = 1: Input should be greater than or equal to 3"


@pytest.mark.parametrize(("words", "says"), list(wrong()))
def test_a_look_that_cannot_be_had_is_one_line(
    words: list[str], says: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, ["xray", recipe(tmp_path, checkpoint), *words, "--root", str(tmp_path)])
    assert code == 2
    assert says in err
    assert "Traceback" not in err


def test_a_look_while_another_process_runs(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the run has no check of the stage yet: one line that says who is at work."""
    (tmp_path / "watched").mkdir()
    script = "import sys, time; from pathlib import Path; from headway.lock import FolderLock; FolderLock(Path(sys.argv[1]));"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{script} print('held', flush=True); time.sleep(60)", str(tmp_path / "watched")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        code, _, err = said(capsys, ["xray", recipe(tmp_path, checkpoint), "sft", "--root", str(tmp_path)])
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    assert code == 2
    assert f"is in use by process {holder.pid}" in err
