"""The whole recipe in one function. Read this file first.

    problems -> teacher -> [base] -> midtrain -> sft -> dpo -> rl        after each: evaluate on held-out problems
                                                                         at the end: results.json, report.html

Every part asks the run's folder whether it is done, so the same command goes on where a killed one was. It does not know how
a stage works (`stages/`), what a query keeps (`store/queries`), or how the command line looks (`cli`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headway import ranks
from headway.config import STAGES, ModelConfig, Recipe, TeacherConfig
from headway.durable import CARD, MANIFEST
from headway.errors import ConfigError, RunError
from headway.evaluate.benchmark import evaluate, score
from headway.evaluate.hybrid import evaluate_hybrid, program_counts
from headway.model.adapters import need_peft
from headway.model.checkpoint import load_decoder, read_extra, save_decoder
from headway.model.transformer import Decoder
from headway.problems.clean import OVERLAP
from headway.problems.gather import gather, removals_record
from headway.problems.likeness.overlap import Removal
from headway.report.card import model_card, write_cards
from headway.report.page import write_page
from headway.runs import Clock, Run
from headway.sample import Sampler
from headway.stages.adapters import adapters
from headway.stages.base import train_base
from headway.stages.dpo import learn_preferences
from headway.stages.midtrain import midtrain
from headway.stages.preflight import check_start
from headway.stages.rl import reinforce
from headway.stages.sft import finetune
from headway.stages.teacher import teach
from headway.stages.workspace import Tell, Workspace, frozen
from headway.stages.xray import Looking, kept_record, need_teacher
from headway.start import device_of, engine_of, make_tokenizer, start_policy
from headway.store.queries import heldout_problems
from headway.store.store import Store
from headway.tracking import Tracking, check_trackers
from headway.train.fit import Fitted
from headway.types import Problem, content_id
from headway.verify.judge import Verifier
from headway.verify.program import need_sandbox
from headway.watchdog import Watchdog, at, beat

START = "base"  # the name of the first measurement: the model that the recipe starts from

_TRAIN: dict[str, Callable[[Workspace], Fitted]] = {
    "base": train_base,
    "midtrain": midtrain,
    "sft": finetune,
    "dpo": learn_preferences,
    "rl": reinforce,
}


def run_recipe(
    recipe: Recipe,
    origin: str,
    root: Path,
    tell: Tell,
    until: str = "",
    only: str = "",
    from_previous: bool = False,
    on_stage: Callable[[Run], None] = lambda run: None,
    say: Callable[[str], None] = lambda note: None,
) -> Path:
    """Run a recipe in `root/NAME` and return that folder; `until` ends after a stage, `only` runs no other stage.

    A start that is not measured yet is made and measured first in any case. `from_previous` sets damaged checkpoints aside and
    goes on from the ones before. Calls `on_stage(run)` after each measured stage, and `say` with what the user should know of a
    resume. Raises HeadwayError for everything that the user can mend.
    """
    for name in filter(None, (until, only)):
        if name not in recipe.stages:
            raise ConfigError(f"the recipe {recipe.name} has no stage {name!r}; it has {', '.join(recipe.stages)}")
    order = (START, *(stage for stage in recipe.stages if stage != START))
    wanted = order[: order.index(until or only or order[-1]) + 1]
    _set_up(recipe)
    dog = Watchdog(root / recipe.name, recipe.health.hang_seconds, say)
    with Run.open(root, recipe, origin, from_previous) as run, Verifier() as verifier, dog:
        for note in run.notes:
            say(note)
        for stage in wanted[1:-1]:
            if only and not run.done(stage):
                raise RunError(f"{run.folder}: stage {stage} comes before {only} and is not done; run it first")
        store = Store(run.folder / "store")
        tell = _living(tell)
        _problems(run, store, verifier, tell)
        work = _workspace(run, store, verifier, tell)
        _start(work, verifier)
        work.tracking = Tracking(recipe.track, run.folder, recipe.name, run.fingerprint, recipe.model_dump(mode="json"), say)
        heldout = list(heldout_problems(store, limit=recipe.evaluate.problems, seed=0).rows)
        for previous, stage in zip((None, *wanted), wanted, strict=False):
            if run.done(stage):
                _final_again(work, stage, previous)
                continue
            _stage(work, stage, previous, heldout)
            _results(run)
            write_cards(run.folder)
            on_stage(run)
        ranks.first(work.tracking.close)
        _results(run)
        write_cards(run.folder)
        write_page(run.folder)
        return run.folder


def evaluate_checkpoint(
    recipe: Recipe, origin: str, checkpoint: str, root: Path, tell: Tell, say: Callable[[str], None] = lambda note: None
) -> tuple[Path, dict[str, Any]]:
    """Measure a checkpoint on the recipe's held-out problems, in a run folder of its own: that folder and the numbers.

    The folder is named after the recipe and the checkpoint as it is now, so that measuring again goes on or gives the same,
    and other weights under the same path are measured anew.
    """
    name = f"{recipe.name}-eval-{_identity(checkpoint)}"
    source = ModelConfig(checkpoint=checkpoint, gguf_file=recipe.model.gguf_file)
    alone = recipe.model_copy(update={"name": name, "model": source, "base": None, "teacher": TeacherConfig()})
    _set_up(alone)
    tell = _living(tell)
    dog = Watchdog(root / name, recipe.health.hang_seconds, say)
    with Run.open(root, alone, origin) as run, Verifier() as verifier, dog:
        store = Store(run.folder / "store")
        _problems(run, store, verifier, tell)
        work = _workspace(run, store, verifier, tell)
        _start(work, verifier)
        heldout = list(heldout_problems(store, limit=recipe.evaluate.problems, seed=0).rows)
        if not run.done(START):
            _stage(work, START, None, heldout)
            _results(run)
        return run.folder, run.record(START)


def xray_stage(recipe: Recipe, origin: str, stage: str, root: Path, tell: Tell) -> dict[str, Any]:
    """What `stage` is about to learn from, token by token, and what the pre-flight check says (see `stages.preflight`).

    Where the run has checked it, that is shown; else it is checked now, on the weights that the run has before the stage. Nothing
    is trained, selected or sampled for good. Raises RunError where the stage waits for others that are not done.
    """
    if stage not in recipe.stages:
        raise ConfigError(f"the recipe {recipe.name} has no stage {stage!r}; it has {', '.join(recipe.stages)}")
    kept = kept_record(root / recipe.name, recipe, stage)
    if kept is not None:
        return kept
    _set_up(recipe)
    with Run.open(root, recipe, origin) as run, Verifier() as verifier:
        need_teacher(run)
        store = Store(run.folder / "store")
        _problems(run, store, verifier, tell)
        work = Looking.over(_workspace(run, store, verifier, tell))
        teach(work, verifier)
        before = [name for name in recipe.stages[: recipe.stages.index(stage)] if run.checkpoints(name).final.exists()]
        if before:
            _load_weights(work.model, run, before[-1])
        return work.look(stage, before, lambda: _TRAIN[stage](work))


def _identity(checkpoint: str) -> str:
    """An id of a checkpoint: of a folder its path and manifest (or the sizes and times of its files), else the hub's name."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return content_id(checkpoint)
    manifest = folder / MANIFEST
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    return content_id(folder.absolute(), manifest.read_text(encoding="utf-8") if manifest.is_file() else files)


def _set_up(recipe: Recipe) -> None:
    """Threads and number formats, once; what the recipe needs and this machine or installation lacks is said before any work."""
    with ranks.together():
        device_of(recipe)
    if recipe.evaluate.hybrid:
        need_sandbox()
    if recipe.lora is not None:
        need_peft()
    check_trackers(recipe.track)
    torch.set_num_threads(ranks.shared_out(recipe.threads or os.cpu_count() or 1))
    torch.set_float32_matmul_precision("highest")


@ranks.by_first
def _problems(run: Run, store: Store, verifier: Verifier, tell: Tell) -> None:
    """Gather, check and store all problems, once."""
    if run.done("problems"):
        return
    tell("problems", 0, 1, {})
    removals: list[Removal] = []
    with at("gathering"):
        found, funnels = gather(run.recipe.problems, verifier.verifies_itself, run.recipe.seed, removals)
        store.add_problems(found, "problems")
    for funnel in funnels:
        more = removals_record(removals) if funnel.name == OVERLAP else {}
        run.freeze(f"problems-{funnel.name.replace(' ', '-')}", frozen(funnel, [], store.versions()) | more)
    tell("problems", 1, 1, {"problems": len(found)})
    run.finish("problems", {"problems": len(found)})


def _workspace(run: Run, store: Store, verifier: Verifier, tell: Tell) -> Workspace:
    """The policy as the recipe starts it, and its tokenizer."""
    recipe, source = run.recipe, run.recipe.model
    if not source.checkpoint:
        make_tokenizer(run, store)
    with ranks.together():
        tokenizer, model = start_policy(run, device_of(recipe))
    engine = engine_of(recipe.engine, model, tokenizer)
    sampler = Sampler(engine, tokenizer, verifier, recipe.problems.instruction, recipe.seed)
    return Workspace(recipe, run, store, tokenizer, model, sampler, tell)


def _start(work: Workspace, verifier: Verifier) -> None:
    """Check the model that the recipe starts from, then have the teacher's rollouts in the store."""
    if work.recipe.health.preflight and work.recipe.model.checkpoint:
        with at("pre-flight"):
            try:
                with ranks.together():
                    check_start(work)
            except RunError:
                ranks.first(lambda: _begin_anew(work))
                raise
    with at("teacher"):
        teach(work, verifier)


def _begin_anew(work: Workspace) -> None:
    if not work.store.files("rollouts"):
        work.run.begin_anew()


def _living(tell: Tell) -> Tell:
    """`tell`, each call of which is a sign of life for the watchdog."""

    def told(stage: str, done: int, total: int, numbers: dict[str, Any]) -> None:
        beat(stage)
        tell(stage, done, total, numbers)

    return told


def _stage(work: Workspace, stage: str, previous: str | None, heldout: list[Problem]) -> None:
    """Train one stage, keep its weights, measure it against the stage before, and write its record."""
    run = work.run
    beat(stage)
    clock = run.clock(stage)
    if previous is not None:
        _load_weights(work.model, run, previous)
    trained: dict[str, Any] = {"train_tokens": 0, "steps": 0}
    if getattr(work.recipe, stage) is not None:
        trained = _train(work, stage)

    def show(done: int, total: int, rate: float) -> None:
        work.tell(f"{stage}: evaluation", done, total, {"tokens_per_s": rate} if rate else {})

    beat(f"{stage}: evaluation")
    config = work.recipe.evaluate
    measure = evaluate_hybrid if config.hybrid else evaluate
    measure(work.sampler, work.store, heldout, config, stage, f"{work.recipe.name}/{stage}", show)
    ranks.first(lambda: _measured(work, stage, previous, heldout, trained, clock))


def _measured(
    work: Workspace, stage: str, previous: str | None, heldout: list[Problem], trained: dict[str, Any], clock: Clock
) -> None:
    """Count the stage's evaluation, and write its record."""
    run, config = work.run, work.recipe.evaluate
    families = {problem.id: problem.family for problem in heldout}
    record = {"stage": stage} | score(work.store, stage, previous, families, config.samples)
    if config.hybrid:
        record["programs"] = program_counts(work.store, stage, heldout)
    run.save_usage()
    run.finish(stage, record | trained | {"wall_s": round(clock.seconds, 1)})


def _train(work: Workspace, stage: str) -> dict[str, Any]:
    """Train, or load what an earlier process trained; the stage's numbers, kept beside the weights."""
    points = work.run.checkpoints(stage)
    if points.final.exists():
        return _load_weights(work.model, work.run, stage)
    with adapters(work, stage), at("preparing"):
        fitted = _TRAIN[stage](work)
    ranks.first(lambda: _save_final(work, stage, fitted))
    return dict(read_extra(points.final)["trained"])  # as a restart reads them: the record has its keys in one order


def _save_final(work: Workspace, stage: str, fitted: Fitted) -> None:
    """Write the stage's final weights, and its card."""
    points = work.run.checkpoints(stage)
    numbers = {"train_tokens": fitted.train_tokens, "steps": fitted.steps, **fitted.notes}
    with points.save_final(sum(p.nbytes for p in work.model.parameters())) as folder:
        extra = {"trained": numbers, "tokenizer": work.tokenizer.fingerprint, "instruction": work.recipe.problems.instruction}
        save_decoder(work.model, folder, work.tokenizer, extra)
        (folder / CARD).write_text(model_card(work.run.folder, stage, folder), encoding="utf-8")


def _final_again(work: Workspace, stage: str, previous: str | None) -> None:
    """Make the final weights of a measured stage again where they are gone: from its last resume point, or from its start."""
    if getattr(work.recipe, stage) is None or work.run.checkpoints(stage).final.exists():
        return
    if previous is not None:
        _load_weights(work.model, work.run, previous)
    _train(work, stage)


def _load_weights(model: Decoder, run: Run, stage: str) -> dict[str, Any]:
    """Put a finished stage's weights into the policy; the numbers kept beside them."""
    points = run.checkpoints(stage)
    if getattr(run.recipe, stage) is None:  # a measured checkpoint that the recipe did not train
        return {}
    with ranks.together():
        folder = points.check_final()
        beat()
        model.load_state_dict(load_decoder(folder, device=model.device).state_dict())
    return dict(read_extra(folder).get("trained", {}))


@ranks.by_first
def _results(run: Run) -> None:
    """`results.json` from the records of the stages that are done."""
    stages = [run.record(stage) for stage in STAGES if run.done(stage)]
    run.write_results(
        {
            "stages": stages,
            "seed": run.recipe.seed,
            "recipe": run.recipe.name,
            "peak_memory_bytes": run.peak_memory_bytes(),
        }
    )
