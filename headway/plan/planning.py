"""A recipe's plan: parameters, memory, tokens, steps, seconds and disk of every stage, from data, shape and a short probe.

    shape + evidence --> work of each stage --+--> memory (formulas), seconds (tokens / measured rates), disk --> Plan, warnings
                             probe -----------+

It does not know how a plan is shown.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from headway.config import Recipe
from headway.engine.cache import card_bytes
from headway.machine import peak_memory_bytes
from headway.model.config import DecoderConfig
from headway.plan import memory, probe
from headway.plan.evidence import Evidence, look
from headway.plan.shapes import local_folder, shape_of_checkpoint
from headway.plan.work import ASSUMED, Work, works
from headway.stage_config import OptimizerConfig, StageConfig
from headway.start import device_of, shape_of

_RANKS = "memory is that of each of {} ranks; times and tokens are those of one process that does all the work"
_BUSY = 0.6  # share of the threads' time below which times are not this machine's own
SAFETY = 0.10  # of the sum: fragments, and what the formulas leave out
_TABLES = 150 << 20  # bytes that a run holds beside what a plan does: its tables, their queries, what judging leaves
_ROLLOUT_BYTES = 7  # of a sampled token on the disk: its id, its log-prob and its text, compressed
_POINTS = 3  # resume points of a stage on the disk at most: the last two, and the one being written


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage needs. Bytes by part are in `memory`; `peak` is the process's, with safety. None: not known."""

    stage: str
    steps: int | None
    trained_tokens: int | None
    sampled_tokens: int | None
    micro_batch: int  # tokens through the model at once, at most
    from_data: bool  # the largest micro-batch is one of real documents; else of the longest that the settings allow
    memory: dict[str, int]
    peak: int
    seconds: float | None
    disk: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan; `measured` says what the probe measured, `notes` what is not known, `warnings` what does not fit."""

    recipe: str
    device: str
    shape_from: str
    parameters: dict[str, int]
    available: int
    free_disk: int
    stages: tuple[StagePlan, ...]
    measured: dict[str, float]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def peak(self) -> int:
        """Bytes of the stage that needs the most."""
        return max(stage.peak for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Of all stages; None where one is not known."""
        known = [stage.seconds for stage in self.stages]
        return None if None in known else sum(s for s in known if s is not None)

    @property
    def disk(self) -> int:
        """Bytes in all."""
        return sum(stage.disk for stage in self.stages)


def make_plan(
    recipe: Recipe, root: Path, wants_probe: bool, say: Callable[[str], None] = lambda note: None, ranks: int = 1
) -> Plan:
    """Plan a recipe on this machine, with memory as each of `ranks` processes on it needs it.

    Raises CheckpointError where the model's size is not known, ConfigError as a run would.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    device = device_of(recipe)
    say("reading a sample of the data")
    evidence = look(recipe, local_folder(recipe))
    if recipe.model.checkpoint:
        shape, origin = shape_of_checkpoint(recipe)
    else:
        shape, origin = shape_of(recipe, evidence.vocabulary or recipe.model.vocabulary), "the recipe"
    found, count = works(recipe, shape, evidence), memory.parameters(shape)
    base, available = peak_memory_bytes() + _TABLES, probe.memory_bytes(device) // (1 if device.type == "cuda" else ranks)
    measured, note = _probed(recipe, shape, found, device, available, wants_probe, say)
    gc.collect()
    stages = tuple(_stage(recipe, shape, work, measured, base, device, ranks) for work in found)
    root = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(root).free
    parts = {"embedding": count.embedding, "output": count.output, "layers": count.hidden, "norms and biases": count.vectors}
    notes = (*evidence.notes, *note, f"assumed: {ASSUMED}", *([_RANKS.format(ranks)] if ranks > 1 else []))
    told = _told(measured)
    plan = Plan(recipe.name, device.type, origin, parts, available, free, stages, told, notes, ())
    return Plan(recipe.name, device.type, origin, parts, available, free, stages, told, notes, _warnings(recipe, plan, evidence))


def optimizer_of(recipe: Recipe, stage: str) -> OptimizerConfig:
    """A stage's optimizer; the default's for the start, which trains nothing."""
    config: StageConfig | None = getattr(recipe, stage, None)
    return config.optimizer if config is not None else OptimizerConfig()


def _probed(
    recipe: Recipe,
    shape: DecoderConfig,
    found: list[Work],
    device: torch.device,
    available: int,
    wants_probe: bool,
    say: Callable[[str], None],
) -> tuple[probe.Measured, tuple[str, ...]]:
    """The probe's numbers, as far as the machine can; and what to say of it."""
    if not wants_probe:
        return probe.Measured(), ("no probe was made: seconds are not known",)
    optimizers = {work.stage: optimizer_of(recipe, work.stage) for work in found}
    needed = max(memory.training(shape, optimizers[w.stage].name, w.micro_tokens, cuda=device.type == "cuda").peak for w in found)
    if needed > 0.8 * available:
        say("measuring the machine's products")
        line = f"the probe of the model needs {_gib(needed)}, and {_gib(available)} are free: seconds are estimated from the rate"
        return probe.probe_products(device), (f"{line} of one large product",)
    say("probing the largest micro-batch, an optimizer step and sampling")
    measured = probe.probe(shape, found, optimizers, device)
    if measured.share > _BUSY:
        return measured, ()
    line = (
        f"other work left the probe {measured.share:.0%} of its threads' time: undisturbed, the times would be about that share"
    )
    return measured, (line,)


def _stage(
    recipe: Recipe, shape: DecoderConfig, work: Work, measured: probe.Measured, base: int, device: torch.device, ranks: int
) -> StagePlan:
    """Memory, seconds and disk of one stage."""
    cuda, name, trains = device.type == "cuda", optimizer_of(recipe, work.stage).name, work.micro_tokens > 0
    is_kept, saved = work.stage == "midtrain", measured.saved_per_token
    training = memory.training(shape, name, work.micro_tokens, is_kept, cuda, saved, ranks if trains else 1)
    sampling = memory.sampling(shape, max(1, -(-work.samples // ranks)), work.length, work.limit, card_bytes(device))
    held = training.weights + (training.moments if work.stage == "rl" else 0)
    peak = max(training.peak if trains else 0, held + sampling.peak)
    parts = {
        "weights": training.weights,
        "gradients": training.gradients if trains else 0,
        "moments": training.moments if trains else 0,
        "kept": training.kept,
        "activations": training.activations if trains else 0,
        "vocabulary": training.vocabulary if trains else 0,
        "update": training.update if trains else 0,
        **({"gathered": training.gathered if trains else 0} if ranks > 1 else {}),
        "packed": sampling.packed,
        "cache": sampling.cache,
        "drawing": sampling.drawing + sampling.products,
        "process": base,
    }
    parts["safety"] = round(SAFETY * (peak + base))
    weights = memory.FLOAT * memory.parameters(shape).total
    point = weights + memory.moments(shape, name) + training.kept
    disk = (_POINTS * point + weights if trains else 0) + _ROLLOUT_BYTES * (work.sampled or 0)
    seconds = _seconds(shape, work, measured)
    total = peak + base + parts["safety"]
    return StagePlan(
        work.stage, work.steps, work.trained, work.sampled, work.micro_tokens, work.from_data, parts, total, seconds, disk
    )


def _seconds(shape: DecoderConfig, work: Work, measured: probe.Measured) -> float | None:
    """Tokens over the rates, and the optimizer's steps."""
    if not measured.flops or work.trained is None or work.sampled is None or work.steps is None:
        return None
    trained, sampled = probe.rates(measured, memory.parameters(shape).total, work.stage)
    return work.trained / trained + work.sampled / sampled + work.steps * measured.update_s.get(work.stage, 0.0)


def _told(measured: probe.Measured) -> dict[str, float]:
    """The probe's numbers by name."""
    found = {f"{stage}: tokens/s over {measured.probed_tokens[stage]:,} tokens": v for stage, v in measured.tokens_per_s.items()}
    found |= {f"{stage}: seconds of an update": value for stage, value in measured.update_s.items()}
    found["saved bytes a token"], found["new tokens/s"] = measured.saved_per_token, measured.new_tokens_per_s
    found["product, GFLOP/s"], found["seconds of the probe"] = measured.flops / 1e9, measured.seconds
    found["share of the threads' time"] = measured.share if measured.is_whole else 0.0
    return {name: value for name, value in found.items() if value}


def _warnings(recipe: Recipe, plan: Plan, evidence: Evidence) -> tuple[str, ...]:
    """What does not fit, each with the key to change."""
    lines: list[str] = []
    for stage in plan.stages:
        if stage.peak <= plan.available:
            continue
        lines.append(
            f"{stage.stage} needs {_gib(stage.peak)}, and {_gib(plan.available)} are free: {_remedy(recipe, stage, plan)}"
        )
    if plan.disk > plan.free_disk:
        lines.append(f"the run's folder may come to {_gib(plan.disk)}, and {_gib(plan.free_disk)} are free: give another --root")
    if evidence.vocabulary > recipe.model.vocabulary and not recipe.model.checkpoint:
        lines.append(f"the tokenizer needs {evidence.vocabulary} tokens: raise model.vocabulary")
    return tuple(lines)


def _remedy(recipe: Recipe, stage: StagePlan, plan: Plan) -> str:
    """The key that helps most."""
    parts, name = stage.memory, stage.stage
    fixed = sum(parts.get(key, 0) for key in ("weights", "gradients", "moments", "kept", "gathered", "process"))
    config: StageConfig | None = getattr(recipe, name, None)
    if fixed > plan.available:
        return f"the model alone takes {_gib(fixed)} (weights, gradients, optimizer); a smaller model or a larger machine"
    if config is None or parts["activations"] < parts["cache"] + parts["packed"] + parts["drawing"]:
        where = name if hasattr(config, "max_tokens") else "evaluate"
        return (
            f"lower {where}.max_tokens, or the number of rollouts at once ({where}.{'prompts' if name == 'rl' else 'problems'})"
        )
    if stage.micro_batch > config.micro_batch_tokens:
        return f"its longest document has {stage.micro_batch:,} tokens: lower {name}.{_longest(config)}"
    room = plan.available - (stage.peak - parts["activations"] - parts["safety"])
    tokens = max(16, int(0.9 * stage.micro_batch * room / max(1, parts["activations"])))
    return f"lower {name}.micro_batch_tokens from {config.micro_batch_tokens:,} to about {tokens:,}"


def _longest(config: StageConfig) -> str:
    return "seq_len" if hasattr(config, "seq_len") else "max_tokens"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
