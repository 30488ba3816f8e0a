"""SFT and every loss of the DPO family, ten steps beside TRL on the same batches: the same losses (benchmarks/equal_to_trl.py).

TRL is none of our dependencies: HEADWAY_TRL_PYTHON names a Python that has it, or this one has; else the test is skipped.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_sampler import parities, tokenizer

from headway.model.checkpoint import save_decoder
from headway.model.config import DecoderConfig
from headway.model.transformer import initialise

ROOT = Path(__file__).parents[2]
STEPS = 10


def python_with_trl() -> str:
    """That Python; skips the test where there is none."""
    named = os.environ.get("HEADWAY_TRL_PYTHON", "")
    if not named and importlib.util.find_spec("trl") is None:
        pytest.skip("TRL is not installed: HEADWAY_TRL_PYTHON may name a Python that has it")
    return named or sys.executable


def test_ten_steps_of_every_loss_are_those_of_trl(tmp_path: Path) -> None:
    python = python_with_trl()
    model = initialise(DecoderConfig(tokenizer().size, 32, 2, 2, 1, 16, 48, max_positions=256), 0)
    (tmp_path / "model").mkdir()
    save_decoder(model, tmp_path / "model", tokenizer(), {})
    rows = [{"question": p.question, "answer": p.reference} for p in parities(16 * STEPS)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [python, str(ROOT / "benchmarks/equal_to_trl.py"), str(tmp_path), "--steps", str(STEPS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"job"')]
    assert len(found) == 7, done.stderr[-2000:]
    for line in found:
        assert line["largest_loss_difference"] <= 1e-4, line
        assert line["largest_relative_norm_difference"] <= 1e-3, line
        assert line["largest_lr_difference"] <= 1e-15, line
        assert line["first_loss"][0] != line["last_loss"][0], line  # something was learned
    assert done.returncode == 0
