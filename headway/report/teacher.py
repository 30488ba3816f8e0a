"""`headway sample` in the terminal: options to a teacher and its problems, live progress, a funnel at the end.

It does not know how anybody is asked (`teacher/`). It loads torch for a checkpoint alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from headway.config import EndpointConfig, ProblemsConfig, SourceConfig
from headway.durable import refusing
from headway.errors import ConfigError, DataError
from headway.lock import FolderLock
from headway.problems.clean import deduplicate
from headway.problems.gather import check_references, gather
from headway.problems.load import load
from headway.recipe import load_recipe
from headway.report.markup import amount, clean, duration
from headway.report.progress import Display
from headway.store.store import Store
from headway.teacher.sampling import Sampled, Settings, Teacher, sample_teacher
from headway.teacher.server import ServerTeacher
from headway.types import Problem, Split
from headway.verify.judge import Verifier


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for: either `server` (keys of EndpointConfig) or `checkpoint`, either `data` or `recipe`."""

    out: Path
    rollouts: int
    server: Mapping[str, Any]
    checkpoint: str
    data: str
    data_split: str
    recipe: str
    split: str
    num_problems: int
    policy: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    instruction: str | None
    system: str
    top_k: int = 0
    min_p: float = 0.0
    device: str = "auto"  # of a checkpoint

    @property
    def cuts(self) -> dict[str, float]:
        """top_k and min_p, where they cut: what a request's body, or a policy's settings, say beside the usual."""
        return {key: value for key, value in (("top_k", self.top_k), ("min_p", self.min_p)) if value}


def sample(order: Order, as_json: bool) -> None:
    """Sample the teacher until every request has its end; then the funnel. Raises what the call ends with."""
    console = Console(stderr=as_json)
    if bool(order.server) == bool(order.checkpoint):
        raise ConfigError("a teacher is either a server (--base-url and --model) or a --checkpoint")
    if bool(order.data) == bool(order.recipe):
        raise ConfigError("problems come either from --data or from --recipe")
    instruction = order.instruction
    if instruction is None:
        default = ProblemsConfig.model_fields["instruction"].default
        instruction = load_recipe(order.recipe).problems.instruction if order.recipe else str(default)

    def say(note: str) -> None:
        console.print(Text(clean(note)), soft_wrap=True)

    with refusing(order.out):
        order.out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(order.out)
    try:
        with Verifier(workers=os.cpu_count() or 1) as verifier, Display(console) as display:
            teacher = _teacher(order, instruction, verifier, say)
            problems = _problems(order, verifier, say)
            store = Store(order.out / "store")
            place = order.out / "teacher"
            found = sample_teacher(teacher, problems, order.rollouts, order.policy, store, place, verifier, display)
    finally:
        lock.release()
    _tell(found, order.out, say, as_json)
    if found.failure is not None:
        raise found.failure


def _tell(found: Sampled, out: Path, say: Any, as_json: bool) -> None:
    """The funnel, and what it took."""
    if as_json:
        print(json.dumps(found.record))
    say(str(found.funnel))
    tokens = f"{amount(found.prompt_tokens)} prompt and {amount(found.completion_tokens)} completion tokens"
    cost = f", cost {found.cost:.4g}" if found.cost else ""
    say(f"{found.policy}: {tokens}{cost}, {found.tries} tries; this call {duration(found.seconds)}; table in {out / 'store'}")
    if found.stopped and found.failure is None:
        say(f"stopped early: {found.stopped}; the same command goes on from here")


def _teacher(order: Order, instruction: str, verifier: Verifier, say: Any) -> Teacher:
    if order.server:
        if order.device != "auto":
            raise ConfigError("--device is for a --checkpoint: a server has its own")
        sampling = {"temperature": order.temperature, "top_p": order.top_p, "max_tokens": order.max_tokens}
        config = endpoint_config({**sampling, **order.server})
        config = config.model_copy(update={"extra": order.cuts | config.extra})
        return ServerTeacher(config, order.seed, instruction, order.system, say)
    if order.system:
        raise ConfigError("--system is for servers: a checkpoint is asked as the student will be")
    if order.seed < 0:
        raise ConfigError(f"--seed {order.seed}: a checkpoint's noise needs a seed from 0 on")
    from headway.report.local_teacher import load_teacher

    if order.temperature < 0 or not 0 < order.top_p <= 1:
        raise ConfigError("--temperature is 0 or more, and --top-p above 0 and at most 1")
    extra = json.dumps(order.cuts, sort_keys=True)
    own = order.temperature, order.top_p, order.max_tokens, order.seed
    settings = Settings(order.checkpoint, *own, instruction, extra=extra)
    return load_teacher(order.checkpoint, settings, verifier, order.device)


def server_settings(base_url: str, model: str, max_cost: float, pairs: Sequence[str]) -> dict[str, Any]:
    """The keys of EndpointConfig that the command line gives; {} where it names no server."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, not {pair!r}")
        try:
            values[key.strip()] = json.loads(text)
        except ValueError:
            values[key.strip()] = text
    values |= {"max_cost": max_cost} if max_cost else {}
    if not base_url:
        if values or model:
            raise ConfigError("--model, --max-cost and --set are for a server: give its --base-url")
        return {}
    return {"base_url": base_url, "model": model, **values}


def endpoint_config(values: Mapping[str, Any]) -> EndpointConfig:
    """Checked settings of a server; ConfigError names the key."""
    try:
        return EndpointConfig.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(EndpointConfig.model_fields)
            raise ConfigError(f"--set {key}: a server has no such setting; it has {known}") from None
        if key == "base_url":  # not shown: it may hold a password
            raise ConfigError("base_url should be like http://127.0.0.1:8000/v1, without a name or password in it") from None
        raise ConfigError(f"{key} = {first['input']!r}: {first['msg']}") from None


def _problems(order: Order, verifier: Verifier, say: Any) -> Sequence[Problem]:
    """The problems of the wanted split whose references verify, each once; a recipe's are decontaminated, too."""
    if order.split not in tuple(Split):
        raise ConfigError(f"--split {order.split!r}: it is one of {', '.join(Split)}")
    split = Split(order.split)
    if order.recipe:
        recipe = load_recipe(order.recipe)
        found, funnels = gather(recipe.problems, verifier.verifies_itself, recipe.seed)
        base_only = {source.label for source in recipe.problems.sources if source.base_only}
        problems = [problem for problem in found if problem.split is split and problem.source not in base_only]
        problems = problems[: order.num_problems or None]
    else:
        source = SourceConfig(data=order.data, data_split=order.data_split, split=split, count=order.num_problems)
        distinct, doubles = deduplicate(load(source))
        problems, references = check_references(distinct, verifier.verifies_itself)
        funnels = [doubles, references]
    for funnel in funnels:
        if funnel.considered != funnel.kept:
            say(str(funnel))
    if not problems:
        raise DataError(f"{order.recipe or order.data} has no problem of split {split.value!r} to sample")
    return problems
