"""The model card: what the hub reads of it, its numbers against results.json, and that it never touches the weights."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from tiny_sampler import policy, tokenizer
from tiny_workspace import workspace

from headway.durable import CARD, read_json
from headway.errors import CheckpointError
from headway.model.checkpoint import save_decoder
from headway.report.card import UNMEASURED, model_card, write_cards
from headway.report.card_use import how_to_use
from headway.runs import Run

PARTS = ("Training", "Results", "Data", "Use", "Limits", "Made with")
ASKED = "Box the answer."
SOURCES = [
    {"name": "sums", "family": "chain_sum", "count": 3},
    {"name": "gsm8k", "data": "openai/gsm8k", "data_config": "main", "solutions": True},
    {"name": "told|again", "data": "/secret/place/numbers.jsonl", "split": "heldout"},
]


def record(stage: str, accuracy: float, **more: Any) -> dict[str, Any]:
    """A stage's record with numbers that no other field has."""
    return {
        "stage": stage, "accuracy": accuracy, "ci_low": accuracy - 0.0321, "ci_high": accuracy + 0.0456,
        "num_problems": 417, "samples_per_problem": 4, "truncated": 0.0834, "no_answer": 0.0512, "unverifiable": 0.0023,
        "mean_tokens": 87.64, "pass_at_k": {"1": accuracy, "4": accuracy + 0.11}, "majority": accuracy + 0.07,
        "families": {"sums": 0.2718, "words": 0.3141}, "p_vs_previous": None, "difference_vs_previous": None,
        "train_tokens": 1_234_567, "steps": 89, "wall_s": 3.5,
    } | more  # fmt: skip


RECORDS = {
    "base": record("base", 0.2347),
    "midtrain": record("midtrain", 0.5, p_vs_previous=0.00042, difference_vs_previous=0.2653, validation_documents=37),
    "sft": record("sft", 0.4871, p_vs_previous=0.3456, difference_vs_previous=-0.0129),
}


def save(run: Run, stage: str) -> Path:
    """The stage's weights with the card of before its evaluation, as the pipeline writes them."""
    points = run.checkpoints(stage)
    with points.save_final() as folder:
        save_decoder(policy(), folder, tokenizer(), {"tokenizer": tokenizer().fingerprint})
        (folder / CARD).write_text(model_card(run.folder, stage, folder))
    return points.check_final()


def measure(run: Run, *stages: str) -> None:
    for stage in stages:
        run.finish(stage, RECORDS[stage])
    done = [RECORDS[stage] for stage in RECORDS if run.done(stage)]
    run.write_results({"stages": done, "seed": 0, "recipe": "tiny", "peak_memory_bytes": 1})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with three stages saved and measured, each card written when the pipeline writes it."""
    with workspace(tmp_path, sources=SOURCES, instruction=ASKED, base={}, midtrain={}, sft={"per_problem": 3}) as work:
        run = work.run
        funnel = {"name": "sft", "considered": 905, "kept": 641, "dropped": {"over k a problem": 264}}
        run.freeze("sft", {"name": "sft", "funnel": funnel, "versions": {}, "ids": []})
        run.finish("teacher", {"scripted": 0, "imported": 905})
        for stage in RECORDS:
            save(run, stage)
            measure(run, stage)
            write_cards(run.folder)
    return tmp_path / "tiny"


def card(run_dir: Path, stage: str) -> Path:
    return run_dir / "checkpoints" / stage / "final" / CARD


def test_the_hub_reads_it(run_dir: Path) -> None:
    found = ModelCard.load(card(run_dir, "sft"))
    assert (found.data.library_name, found.data.pipeline_tag) == ("transformers", "text-generation")
    assert found.data.datasets == ["openai/gsm8k"]
    assert "headway" in (found.data.tags or [])
    assert (found.data.license, found.data.base_model, found.data.language) == (None, None, None)  # not known, so not said
    assert re.findall(r"^## (.+)$", found.text, re.MULTILINE) == list(PARTS)


def test_every_number_of_the_table_is_that_of_results_json(run_dir: Path) -> None:
    text = card(run_dir, "sft").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| base", "| midtrain", "| sft"))]
    expected = []
    for one in read_json(run_dir / "results.json")["stages"]:
        p, change = one["p_vs_previous"], one["difference_vs_previous"]
        claim = "-" if p is None else f"{100 * change:+.1f} ({'better' if p < 0.05 else 'no visible difference'})"
        shares = [one["pass_at_k"]["4"], one["majority"], one["truncated"], one["no_answer"]]
        expected.append(
            [
                one["stage"],
                f"{100 * one['accuracy']:.1f} %",
                f"{100 * one['ci_low']:.1f} % to {100 * one['ci_high']:.1f} %",
                claim.replace("-1.3", "\u22121.3"),
                {None: "-", 0.00042: "p < 0.001", 0.3456: "p = 0.35"}[p],
                *(f"{100 * share:.1f} %" for share in shares),
                "87.6",
            ]
        )
    assert rows == expected
    assert "417 held-out problems" in text
    assert "share of 4 samples" in text
    assert "sums 27.2 %, words 31.4 %" in text
    assert "89 optimizer steps, 1,234,567 training tokens" in text
    assert "Learned from 641 of 905 rollouts (left out: 264 over k a problem)." in text
    assert "37 of these were held back" in text
    assert "`per_problem = 3`" in text
    assert "micro_batch_tokens" not in text


def test_a_card_shows_no_later_stage(run_dir: Path) -> None:
    text = card(run_dir, "midtrain").read_text()
    assert "after midtrain" in text
    assert "sft" not in text
    assert "48.7" not in text


def test_data_is_named_without_paths_and_counted(run_dir: Path) -> None:
    text = card(run_dir, "sft").read_text()
    assert "/secret" not in text
    assert "| told\\|again | a file `numbers.jsonl` | evaluation | 0 |" in text
    assert "[openai/gsm8k](https://huggingface.co/datasets/openai/gsm8k) | train | 0 |" in text
    assert "905 imported" in text


def test_hashes_are_those_of_the_checkpoint_and_the_run(run_dir: Path) -> None:
    folder = card(run_dir, "sft").parent
    text = card(run_dir, "sft").read_text()
    extra, label = read_json(folder / "headway.json"), read_json(folder / "manifest.json")["label"]
    assert f"recipe: `{label.split('/')[0]}`, weights: `{extra['weights']}`, tokenizer: `{extra['tokenizer']}`" in text
    assert f"torch {read_json(run_dir / 'environment.json')['started_with']['versions']['torch']}" in text


def test_an_unmeasured_card_says_so_and_becomes_measured(tmp_path: Path) -> None:
    with workspace(tmp_path, base={}, midtrain={}) as work:
        run = work.run
        save(run, "base")
        first = card(run.folder, "base").read_text()
        assert UNMEASURED in first
        assert "%" not in first.split("## Results")[1].split("## Data")[0]
        assert "could not be judged" not in first
        write_cards(run.folder)
        assert card(run.folder, "base").read_text() == first  # a kill before the evaluation changes nothing
        measure(run, "base")
        write_cards(run.folder)
        assert UNMEASURED not in card(run.folder, "base").read_text()
        save(run, "midtrain")
        text = card(run.folder, "midtrain").read_text()
        assert UNMEASURED in text
        assert "| base | 23.5 % |" in text  # what is measured already is there
        run.checkpoints("midtrain").check_final()


def test_an_edited_card_is_kept_and_belongs_to_no_manifest(run_dir: Path) -> None:
    path = card(run_dir, "base")
    path.write_text("---\nlicense: mit\n---\nMine.\n")
    weights = (path.parent / "model.safetensors").read_bytes()
    write_cards(run_dir)
    assert path.read_text().endswith("Mine.\n")
    assert (path.parent / "model.safetensors").read_bytes() == weights
    assert CARD not in read_json(path.parent / "manifest.json")["files"]
    with workspace(run_dir.parent, sources=SOURCES, instruction=ASKED, base={}, midtrain={}, sft={"per_problem": 3}) as work:
        work.run.checkpoints("base").check_final()
        path.unlink()
        work.run.checkpoints("base").check_final()
        (path.parent / "notes.md").write_text("x")
        with pytest.raises(CheckpointError, match="does not belong there"):
            work.run.checkpoints("base").check_final()


def test_a_start_from_the_hub_or_a_folder_is_named_with_its_licence_where_known(tmp_path: Path) -> None:
    start = tmp_path / "start-of-mine"
    start.mkdir()
    (start / CARD).write_text("---\nlicense: apache-2.0\n---\n# Start\n")
    for checkpoint, base_model, licence in ((str(start), None, "apache-2.0"), ("owner/some-start", "owner/some-start", None)):
        name = "folder" if licence else "hub"
        with workspace(tmp_path / name, base=None, sft={}, model={"checkpoint": checkpoint}) as work:
            save(work.run, "sft")
            data = ModelCard.load(card(work.run.folder, "sft")).data
            text = card(work.run.folder, "sft").read_text()
        assert (data.base_model, data.license) == (base_model, licence)
        assert str(tmp_path) not in text
        assert Path(checkpoint).name in text


def test_the_run_names_its_last_weights(run_dir: Path) -> None:
    text = (run_dir / CARD).read_text()
    assert "those after sft: [checkpoints/sft/final](checkpoints/sft/final)" in text
    assert all((run_dir / target).is_dir() for target in re.findall(r"\]\((.+?)\)", text))


def test_the_example_is_what_the_run_asks(run_dir: Path) -> None:
    text = card(run_dir, "sft").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("messages = ")]
    [turn] = json.loads(line.removeprefix("messages = "))
    assert turn == {"role": "user", "content": f"What is 7 + 5?\n{ASKED}"}
    [body] = re.findall(r"-d '(.+)'$", text, re.MULTILINE)
    assert json.loads(body)["messages"] == [turn]
    assert json.loads(body)["temperature"] == 0.6


def test_a_stage_that_trained_adapters_says_so(tmp_path: Path) -> None:
    lora = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"], "stages": ["sft"]}
    with workspace(tmp_path, sources=SOURCES, base={}, midtrain={}, sft={"recompute": "mlp"}, lora=lora) as work:
        for stage in ("base", "midtrain", "sft"):
            save(work.run, stage)
        text = card(tmp_path / "tiny", "sft").read_text(encoding="utf-8")
    said = "Adapters of rank 4 (alpha 8) on q_proj, v_proj learned, merged since."
    assert text.count(said) == 1
    assert said in text.partition("**sft**")[2]
    assert "recompute" not in text  # it changes no weight


def test_a_card_says_what_the_evaluation_cut(run_dir: Path) -> None:
    recipe = {"problems": {"instruction": ""}, "evaluate": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 99}}
    plain = how_to_use(card(run_dir, "sft").parent, recipe)
    assert "top_k=0, max_new_tokens=99" in plain
    assert "min_p" not in plain
    recipe["evaluate"] |= {"top_k": 20, "min_p": 0.05}
    cut = how_to_use(card(run_dir, "sft").parent, recipe)
    assert "top_k=20, min_p=0.05, max_new_tokens=99" in cut
    assert '"top_k": 20, "min_p": 0.05}' in cut
    assert "--max-tokens 99 --top-k 20 --min-p 0.05" in cut
