"""The whole recipe on a device that refuses what Apple's MPS refuses: every stage, evaluation and page; a part with adapters."""

import json
from pathlib import Path

import pytest
from emulated_mps import emulated, ran
from test_recipe import command

from headway.cli import main

pytestmark = pytest.mark.flow

MORE = {
    "device": "mps",
    "lora.rank": 4,
    "lora.alpha": 8,
    "lora.stages": '["sft", "rl"]',
    "base.optimizer.name": "muon",
    "base.recompute": "blocks",
    "rl.tis_cap": 2,
    "rl.kl_coef": 0.01,
    "evaluate.top_k": 20,
    "evaluate.min_p": 0.01,
}


def test_a_recipe_runs_on_mps_and_sampler_and_trainer_agree(tmp_path: Path) -> None:
    ran.clear()
    words = [word for key, value in MORE.items() for word in ("--set", f"{key}={value}")]
    with emulated(), pytest.raises(SystemExit) as ended:
        main(command("run", tmp_path, *words))
    assert ended.value.code == 0
    assert min(ran[f"aten::{name}"] for name in ("baddbmm", "_fused_adamw_", "index_copy_", "scatter_add_")) > 0
    assert not {"aten::cumsum", "aten::topk", "aten::sort"} & ran.keys(), "tokens are drawn on the CPU"
    rows = [json.loads(line) for line in (tmp_path / "small/metrics/rl.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["gap_max"] <= 1e-4 for row in rows)
    assert (tmp_path / "small/report.html").is_file()
