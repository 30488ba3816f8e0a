"""Memory that runs out in a step: what is left is what a recipe with half the `micro_batch_tokens` leaves, byte for byte."""

import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fit import STEPS, TIMINGS, Stop, likelihood, policy, preference, recipe
from tiny_policy import ragged, tiny
from tiny_workspace import workspace
from torch import Tensor

from headway.errors import RunError
from headway.model.attention import Layout
from headway.model.transformer import Decoder
from headway.runs import Run
from headway.stage_config import StageConfig
from headway.train.batching import epochs
from headway.train.budget import is_out_of_memory, replayed
from headway.train.fit import fit
from headway.train.likelihood import Likelihood
from headway.train.resume import StageFolder


class _Fails(torch.autograd.Function):
    """x as it is; memory runs out on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Narrow(Decoder):
    """A decoder on a device whose memory ends at `most` tokens, on the way forward or back."""

    most: float = math.inf
    on_the_way_back = False
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def forward(self, ids: Tensor, layout: Layout, keep: Any = None) -> Tensor:
        is_too_much = torch.is_grad_enabled() and len(ids) > self.most
        if is_too_much and not self.on_the_way_back:
            raise self.error
        hidden = super().forward(ids, layout, keep)
        return _Fails.apply(hidden) if is_too_much else hidden  # type: ignore[no-any-return]


def narrow(most: float = math.inf) -> Narrow:
    start = tiny(0)
    model = Narrow(start.config)
    model.load_state_dict(start.state_dict())
    model.most = most
    return model


Make = Callable[[Decoder], tuple[Any, StageConfig]]
FULL = {likelihood: 64, preference: 128, policy: 64}  # micro_batch_tokens in test_fit's objectives
MOST = {likelihood: 40, preference: 90, policy: 40}  # less than the first layout needs, enough for half of it


def train(root: Path, make: Make, model: Narrow, max_tokens: int, on_step: Callable[[int], None] = lambda step: None) -> Any:
    """Train in `root/small`: the newest resume point's bytes, the rows without timings and budget, and what was said."""
    objective, config = make(model)
    objective.max_tokens = max_tokens
    said: list[str] = []

    def show(step: int, steps: int, row: dict[str, Any]) -> None:
        said.extend([row["note"]] if "note" in row else [])
        on_step(step)

    with Run.open(root, recipe(), "small.toml") as run:
        fit(model, objective, config, STEPS, StageFolder(run, "base"), show)
        point, rows = run.checkpoints("base").latest(), run.metrics("base").rows()
        assert point is not None
        left = {path.name: path.read_bytes() for path in point.path.iterdir()}
    lowered = [row.pop("micro_batch_tokens", None) for row in rows]
    return left, [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows], lowered, said


@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("make", list(FULL), ids=lambda make: make.__name__)
def test_a_step_that_did_not_fit_is_that_of_half_the_budget_byte_for_byte(tmp_path: Path, make: Make, back: bool) -> None:
    model, half = narrow(MOST[make]), FULL[make] // 2
    model.on_the_way_back = back
    left, rows, lowered, said = train(tmp_path / "short", make, model, FULL[make])
    assert (left, rows) == train(tmp_path / "half", make, narrow(), half)[:2]
    assert json.loads(left["state.json"])["micro_batch_tokens"] == half
    assert lowered == [half, None, None, None, None]  # it holds from then on
    assert len(said) == 1
    assert f"micro_batch_tokens is {half} in place of {FULL[make]}" in said[0]
    whole = train(tmp_path / "whole", make, narrow(), FULL[make])
    assert whole[0]["tensors.safetensors"] != left["tensors.safetensors"]  # so the bytes do tell
    assert [row["loss"] for row in whole[1]] == pytest.approx([row["loss"] for row in rows], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("make", [likelihood, preference], ids=lambda make: make.__name__)
def test_memory_that_runs_out_later_and_a_resume_after_it(tmp_path: Path, make: Make) -> None:
    """Two steps with all memory, then less; and the same killed before the last step: it goes on with the smaller budget."""

    def ends(model: Narrow, stop_at: float = math.inf) -> Callable[[int], None]:
        def on_step(step: int) -> None:
            model.most = MOST[make] if step == 2 else model.most
            if step >= stop_at:
                raise Stop

        return on_step

    model = narrow()
    left, rows, lowered, said = train(tmp_path / "later", make, model, FULL[make], ends(model))
    half = FULL[make] // 2
    place = lowered.index(half)
    assert place >= 2
    assert lowered == [half if number == place else None for number in range(STEPS)]
    assert len(said) == 1
    other = narrow()
    with pytest.raises(Stop):
        train(tmp_path / "again", make, other, FULL[make], ends(other, place + 1))  # goes on from step `place`
    assert (left, rows) == train(tmp_path / "again", make, narrow(), half)[:2]
    if place < STEPS - 1:
        model = narrow()
        with pytest.raises(Stop):
            train(tmp_path / "killed", make, model, FULL[make], ends(model, STEPS))
        assert train(tmp_path / "killed", make, narrow(), FULL[make]) == (left, rows, lowered, [])


def test_a_document_that_does_not_fit_alone_is_one_line(tmp_path: Path) -> None:
    model = narrow(most=9)
    documents = ragged(11)
    objective = Likelihood(model, documents, lambda: epochs(11, 4, 1), 64)
    longest = max(objective.tokens(micro) for micro in next(iter(objective.updates(0))))
    before = [p.detach().clone() for p in model.parameters()]
    with workspace(tmp_path, sft={"max_tokens": 64}, health={"preflight": False}) as work:  # random tokens: no prompts
        work.model = model
        assert work.recipe.sft is not None
        with pytest.raises(RunError, match=r"^sft: memory ran out .*; lower sft\.max_tokens; `headway plan` says") as caught:
            work.fit("sft", objective, work.recipe.sft, 3)
    assert "\n" not in str(caught.value)
    assert longest > 9
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_other_errors_are_no_shortage() -> None:
    class Other(Narrow):
        error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model = Other(tiny(0).config)
    model.most = 0
    objective = Likelihood(model, ragged(3), lambda: epochs(3, 3, 0), 64)
    [micros] = objective.updates(0)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        replayed(lambda parts: [objective.loss(part) for part in parts], model, objective, micros)
    assert objective.max_tokens == 64
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_words_of_the_cpu_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)  # 4 EiB
    assert is_out_of_memory(caught.value)


REAL = """
    import resource, sys
    import torch
    from headway.stage_config import StageConfig
    from headway.model.config import DecoderConfig
    from headway.model.transformer import initialise
    from headway.train.batching import Document, epochs
    from headway.train.budget import replayed
    from headway.train.likelihood import Likelihood

    torch.set_num_threads(1)
    model = initialise(DecoderConfig(64, 64, 2, 4, 2, 16, 256, max_positions=2048), 0)
    documents = [Document(tuple(i % 60 + 1 for i in range(first, first + 512))) for first in range(32)]
    objective = Likelihood(model, documents, lambda: epochs(32, 32, 0), 16_384)

    def gradient(micros):
        for micro in micros:
            objective.loss(micro)[0].backward()
        return len(micros)

    [micros] = objective.updates(0)
    for line in open("/proc/self/status"):
        if line.startswith("VmSize"):
            now = int(line.split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + (200 << 20), resource.RLIM_INFINITY))
    print(replayed(gradient, model, objective, micros), objective.max_tokens)
    print(float(sum(p.grad.abs().sum() for p in model.parameters())) > 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_a_real_shortage_is_split_until_it_fits() -> None:
    """16,384 tokens take more than 200 MiB here, and the process may have 200 MiB more than it has."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(REAL)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()
    micros, max_tokens = map(int, first.split())
    assert max_tokens < 16_384
    assert micros == 16_384 // max_tokens
    assert second == "True"
