"""A stage that trains adapters: they are put beside the policy's weights before it, and merged into them after it.

    weights of the stage before ── fresh adapters ── the stage trains them alone ── checkpoints/STAGE/adapter ── merged ── final

So every stage ends as a whole checkpoint, and the next one starts from it, with adapters or without. It does not know what the
stage does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headway.durable import write_folder_atomic
from headway.model.adapter_folder import save_adapter, start_of
from headway.model.adapters import adapt, merge
from headway.ranks import first
from headway.stages.workspace import Workspace


@contextmanager
def adapters(work: Workspace, stage: str) -> Iterator[None]:
    """Around the training of `stage`: nothing, unless the recipe has adapters for it."""
    recipe = work.recipe
    lora = recipe.lora
    if lora is None or stage not in recipe.lora_stages:
        yield
        return
    adapt(work.model, lora.rank, lora.alpha, lora.targets, ("lora", recipe.seed, stage))
    yield
    earlier = recipe.stages[: recipe.stages.index(stage)]
    before = work.run.checkpoints(earlier[-1]).folder if earlier else None
    stacked = before is not None and earlier[-1] in recipe.lora_stages
    if stacked:
        assert before is not None
        start = start_of(before / "adapter")
    else:
        start = str(before / "final") if before is not None else recipe.model.checkpoint
    first(lambda: _keep(work, stage, start, before / "adapter" if stacked and before else ""))
    merge(work.model)


def _keep(work: Workspace, stage: str, start: str, below: Path | str) -> None:
    """Write the adapters beside the stage's weights."""
    lora, points = work.recipe.lora, work.run.checkpoints(stage)
    assert lora is not None
    with write_folder_atomic(points.folder / "adapter", f"{work.run.fingerprint}/{stage}/adapter") as folder:
        save_adapter(work.model, folder, start, lora.alpha, lora.rank, below)
