"""`headway plan`: counts that can be worked out by hand, what it says where something is missing, and what the table holds."""

import json
from pathlib import Path
from typing import Any

import pytest

from headway.cli import main
from headway.errors import CheckpointError
from headway.plan.evidence import Evidence, Solved, look
from headway.plan.planning import Plan, make_plan
from headway.plan.probe import _made_up
from headway.plan.shapes import shape_of_checkpoint
from headway.plan.work import Work, works
from headway.recipe import load_recipe, parse_recipe
from headway.train.batching import flatten

RECIPES = Path(__file__).parents[2] / "recipes"


def solved(prompt: int, right: list[int], wrong: list[int]) -> Solved:
    """A problem whose prompt and solutions have these many tokens."""
    return Solved((5,) * prompt, (6,) * 3, tuple((7,) * n for n in right), tuple((8,) * n for n in wrong))


def recipe(**sections: Any) -> Any:
    values: dict[str, Any] = {
        "name": "small",
        "threads": 1,
        "problems": {
            "sources": [{"family": "chain_sum", "count": 40}, {"family": "leg_counting", "count": 10, "split": "heldout"}]
        },
        "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "mlp_width": 16, "vocabulary": 280, "max_positions": 256},
        "teacher": {"problems": 40, "rollouts": 2},
        "base": {"seq_len": 128, "batch_rows": 2, "micro_batch_tokens": 256},
        "evaluate": {"samples": 2, "max_tokens": 32},
    }
    return parse_recipe(values | sections, "small.toml")


def test_counts_by_hand() -> None:
    """Two sampled problems stand for 40: one with right rollouts of 9 and 19 tokens, one with one of 29 and a wrong one."""
    sections = {
        "midtrain": {"seq_len": 64, "batch_rows": 2, "max_epochs": 3, "train_on_prompt": False, "validation_share": 0.1},
        "sft": {"epochs": 2, "batch_examples": 8, "max_tokens": 64},
        "dpo": {"batch_pairs": 4, "max_tokens": 64},
        "rl": {"steps": 5, "prompts": 4, "group_size": 2, "max_tokens": 64, "rebalance": True},
    }
    made = recipe(**sections)
    sample = (solved(10, [9, 19], []), solved(10, [29], [12]))
    evidence = Evidence(40, 0, 10, 40, sample, (), 280, ())
    shape = shape_of(made)
    found = {work.stage: work for work in works(made, shape, evidence)}
    assert list(found) == ["start", "base", "midtrain", "sft", "dpo", "rl"]
    # base: 40 documents of 10 + 3 + 1 tokens, so 13 through the model; two sampled fit into one row of 128: 20 rows, 2 a step
    assert (found["base"].trained, found["base"].longest) == (40 * 13, 14)
    assert found["base"].steps == 10
    # midtrain: three documents of 20, 30 and 40 tokens stand for 60, a tenth held back: 54 x (19 + 29 + 39) / 3 x 3 epochs
    assert found["midtrain"].trained == 54 * 29 * 3
    # sft: the shortest of each: 20 and 40 tokens, 40 documents, 2 epochs in batches of 8
    assert (found["sft"].steps, found["sft"].trained) == (10, 2 * 40 * 29)
    # dpo: half of the problems have a right and a wrong rollout: 20 pairs, 5 steps; 29 tokens and 20 of the other completion
    assert (found["dpo"].steps, found["dpo"].trained) == (5, 20 * (29 + 20))
    # rl: 40 rollouts as long as what SFT learns, (9 + 29) / 2 = 19, of which a quarter is trained, and half of 20 prompts of 10
    assert (found["rl"].steps, found["rl"].trained) == (5, 40 * 19 // 4 + 100)
    assert found["rl"].sampled == 40 * 19 + 10 * 2 * 19  # and the evaluation
    assert found["base"].sampled == 10 * 2 * 19  # (9 + 19 + 29) / 3 = 19 too
    assert found["rl"].longest == 10 + 64
    assert all(work.from_data for work in found.values() if work.stage != "start")


def shape_of(made: Any) -> Any:
    from headway.start import shape_of as of

    return of(made, 280)


def test_the_evidence_of_generated_problems() -> None:
    evidence = look(recipe(), None)
    assert (evidence.training, evidence.heldout, evidence.taught) == (40, 10, 40)
    assert len(evidence.solved) == 40
    assert 0 < sum(len(one.right) for one in evidence.solved) <= 80
    assert evidence.completion() > evidence.completion(1) > 0  # the shortest are shorter


@pytest.fixture(scope="module")
def probed() -> Plan:
    return make_plan(recipe(), Path("runs"), wants_probe=True)


def test_a_probe_gives_times_and_what_was_measured(probed: Plan) -> None:
    assert [stage.stage for stage in probed.stages] == ["start", "base"]
    assert probed.seconds is not None
    assert probed.seconds > 0
    assert probed.warnings == ()
    assert probed.measured["saved bytes a token"] > 0
    assert any(name.startswith("base: tokens/s over ") for name in probed.measured)
    assert 0 < probed.peak < 3 * 2**30
    stage = probed.stages[1]
    assert stage.from_data
    assert stage.memory["moments"] == 2 * stage.memory["weights"] == 8 * sum(probed.parameters.values())


def test_documents_that_stand_for_rollouts_fill_the_micro_batch() -> None:
    """RL's have no texts yet. 40 of 50 tokens, each of another prompt: all but their last tokens go through the model."""
    work = Work("rl", 1, None, None, 2000, 50, 8, 50, 64)
    found = _made_up(work, shape_of(recipe()))
    assert flatten(found).num_tokens == 40 * 49


def test_a_recipe_without_its_checkpoint_and_data(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.plan.probe.memory_bytes", lambda device: 80 * 2**30)
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(RECIPES / "phi4-mini.toml"), "--no-probe", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["parameters"].values()) == 3_836_021_760
    assert found["shape_from"].startswith("its published sizes; the checkpoint is not on this machine")
    assert [stage["micro_batch"] for stage in found["stages"]] == [0, 16_384, 20_480, 16_384, 25_600]
    assert not any(stage["from_data"] for stage in found["stages"])
    assert found["seconds"] is None
    assert any("open-r1/OpenR1-Math-220k is not on this machine" in note for note in found["notes"])
    assert any(line.startswith("sft needs ") and "lower sft.max_tokens" in line for line in found["warnings"])
    assert found["stages"][1]["memory"]["weights"] == 4 * 3_836_021_760


def test_a_micro_batch_that_is_too_large_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_recipe(RECIPES / "smollm2-gsm8k.toml", ["dpo.own_problems=0", "evaluate.problems=4", "teacher.own_problems=0"])
    monkeypatch.setattr("headway.plan.probe.memory_bytes", lambda device: 14 * 2**30)
    lines = make_plan(made, Path("runs"), wants_probe=False).warnings
    assert any("midtrain" in line and "lower midtrain.micro_batch_tokens from 16,384 to about " in line for line in lines)


def test_each_of_two_ranks_holds_all_weights_and_half_of_the_rest() -> None:
    made = load_recipe(RECIPES / "smollm2-gsm8k.toml", ["dpo.own_problems=0", "evaluate.problems=4", "teacher.own_problems=0"])
    one, two = (make_plan(made, Path("runs"), wants_probe=False, ranks=ranks) for ranks in (1, 2))
    start, *trained = zip(one.stages, two.stages, strict=True)
    assert start[0].memory["weights"] == start[1].memory["weights"]
    for alone, of_two in trained:
        assert of_two.memory["weights"] == 1.5 * alone.memory["weights"]
        assert of_two.memory["moments"] == alone.memory["moments"] / 2
        assert of_two.memory["gathered"] > 0
        assert of_two.disk == alone.disk
    assert any(note.startswith("memory is that of each of 2 ranks") for note in two.notes)


def test_a_model_of_unknown_size_is_one_line() -> None:
    made = load_recipe(RECIPES / "smollm2-gsm8k.toml", ["model.checkpoint=nobody/nothing"])
    with pytest.raises(CheckpointError, match=r"nobody/nothing: no such folder, .* its size is unknown"):
        shape_of_checkpoint(made)


def test_the_table_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(RECIPES / "smollm2-gsm8k.toml"), "--no-probe"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for part in ("134,515,008 parameters", "midtrain", "activations", "moments", "(limit)", "not measured: no probe was made"):
        assert part in out
