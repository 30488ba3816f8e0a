"""A recipe's settings but those of its training stages (`stage_config`): frozen models, every key checked.

A stage whose section is absent does not run. This file does not know what the settings do (each stage's own file does), nor how a
recipe is read (`recipe`). Where a default is a published number, its comment says whose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from headway.stage_config import BaseConfig, DpoConfig, LoraConfig, MidtrainConfig, RlConfig, Section, SftConfig
from headway.types import Split


class SourceConfig(Section):
    """Where some problems come from: a reasoning-gym `family`, or a `data` set (file, folder or hub name)."""

    name: str = ""  # the source's name in the table; default: the family, or the file's stem
    family: str = ""  # a reasoning-gym family: problems are generated from `seed`
    settings: dict[str, Any] = Field(default={})  # the family's own settings
    data: str = ""  # JSONL, JSON or Parquet path, or a hub data set "owner/name"
    data_config: str = ""  # hub configuration ("main")
    data_split: str = "train"  # hub split
    split: Split = Split.TRAIN  # which work the problems may be used for
    count: int = Field(default=0, ge=0)  # how many to take; 0 = all (a family needs a number)
    seed: int = 0  # of a generated family, and of the draw when `count` is below the size
    last_number: bool = False  # a completion that marks no answer: its last formula or number counts (short-answer sets)
    base_only: bool = False  # only the base learns from these (elementary facts, say); the four stages never see them
    # import what the data carries as teacher rollouts: true, worked solutions and other models' traces; "traces", these alone
    solutions: bool | Literal["traces"] = False
    answered_only: bool = False  # rows that name no answer (proofs, code) are left out and counted; otherwise they are an error
    traces_only: bool = False  # no problems of its own: its solutions are for the same questions of the other sources
    strip: str = ""  # a text that is taken off the beginning or end of its questions, such as an instruction

    @property
    def label(self) -> str:
        """What its problems carry as `source`: the given name, the family, or the first part of the file's name."""
        return self.name or self.family or Path(self.data).name.split(".")[0] or "data"

    @model_validator(mode="after")
    def _one_origin(self) -> SourceConfig:
        if bool(self.family) == bool(self.data):
            raise ValueError("a source names either a `family` or a `data` set")
        if self.family and not self.count:
            raise ValueError("a generated family needs a `count`")
        if self.family and (self.answered_only or self.traces_only or self.strip):
            raise ValueError("`answered_only`, `traces_only` and `strip` are settings of a `data` set")
        if self.traces_only and (not self.solutions or self.split is not Split.TRAIN or self.count):
            raise ValueError("`traces_only` needs `solutions = true`, the split train, and no `count`")
        return self


class ProblemsConfig(Section):
    """All problems of the run, and the one prompt that asks them."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    instruction: str = "Please reason step by step, and put your final answer within \\boxed{}."  # follows the question


class ModelConfig(Section):
    """The policy: a `checkpoint` (folder or hub name), or a new decoder with a tokenizer trained on the base's text."""

    checkpoint: str = ""
    gguf_file: str = ""  # the file inside `checkpoint` when that is a folder of GGUF
    layers: int = Field(default=4, ge=1)
    width: int = Field(default=128, ge=8)
    heads: int = Field(default=4, ge=1)
    kv_heads: int = Field(default=4, ge=1)
    mlp_width: int = Field(default=384, ge=8)
    vocabulary: int = Field(default=512, ge=64)  # at most; the tokenizer may need fewer
    rope_theta: float = Field(default=10_000.0, gt=0)
    max_positions: int = Field(default=0, ge=0)  # longest sequence; 0: all that the checkpoint has, 1,024 of a new decoder


class EndpointConfig(Section):
    """A server that speaks OpenAI's chat completions: where it is, how it samples, how hard it may be asked, what it may cost."""

    base_url: str = Field(pattern=r"^https?://[^/@]+(/.*)?$")  # up to and with /v1; no name or password in it
    model: str = Field(min_length=1)
    temperature: float = Field(default=0.6, ge=0)  # DeepSeek-R1's advice for itself, with its top_p
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=32_768, ge=1)  # of one answer
    api_key_env: str = ""  # the variable that holds the key; "": OPENAI_API_KEY for https servers, none for http ones
    concurrency: int = Field(default=64, ge=1, le=1024)  # at most this many requests in flight; fewer when the server says so
    stream: bool = False  # answers come token by token: for servers or gateways that cut silent connections
    read_seconds: float = Field(default=600.0, gt=0)  # of silence; without `stream` the whole answer is one
    total_seconds: float = Field(default=1800.0, gt=0)  # one request from first to last byte, however it trickles
    max_tries: int = Field(default=6, ge=1)  # of one request
    max_wait_seconds: float = Field(default=60.0, gt=0)  # between two tries; caps Retry-After, too
    max_answer_mb: float = Field(default=16.0, gt=0)
    prompt_price: float = Field(default=0.0, ge=0)  # for a million tokens, in any currency
    completion_price: float = Field(default=0.0, ge=0)
    max_cost: float = Field(default=0.0, ge=0)  # 0 = no cap
    max_tokens_total: int = Field(default=0, ge=0)  # prompt and completion tokens; 0 = no cap
    extra: dict[str, Any] = Field(
        default={}
    )  # more keys of the request's body ({"top_k": 20}, say); one that is null is left out


class TeacherConfig(Section):
    """The teacher and its budget: a server, or the scripted one of the generated families, whose rates these are."""

    problems: int = Field(default=0, ge=0)  # how many training problems it works on
    rollouts: int = Field(default=0, ge=0)  # how many solutions of each
    server: EndpointConfig | None = None  # who works on them; absent: the scripted teacher
    mistake_rate: float = Field(default=0.05, ge=0, le=1)  # chance that a written step is wrong
    catch_rate: float = Field(default=0.5, ge=0, le=1)  # chance that its check finds the mistake and repairs it
    ramble_rate: float = Field(default=0.1, ge=0, le=1)  # chance that a solution repeats itself
    own_rollouts: int = Field(default=0, ge=0)  # samples of the starting model beside the teacher's (self-distillation)
    own_problems: int = Field(default=0, ge=0)  # on how many training problems


class EvaluateConfig(Section):
    """Held-out problems after every stage."""

    problems: int = Field(default=0, ge=0)  # per run, balanced over sources; 0 = all held-out problems
    samples: int = Field(default=4, ge=1)
    temperature: float = Field(default=0.6, ge=0)  # the paper's protocol
    top_p: float = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)  # the k likeliest tokens alone; 0 = all
    min_p: float = Field(default=0.0, ge=0, le=1)  # tokens at least this likely beside the likeliest; 0 = all
    max_tokens: int = Field(default=32_768, ge=8)
    hybrid: bool = (
        False  # programs first, run in the sandbox; the ordinary prompt where one does not run or has no value (MAmmoTH)
    )
    program_instruction: str = (  # follows the question where a program is asked for
        "Write a Python program that computes the answer, in one ```python block, and let it print the answer alone on its last "
        "line. It reads no input. It may import math, itertools, functools, collections, decimal and re, nothing else."
    )


class HealthConfig(Section):
    """When a run raises an alarm. Alarms, checks and the watchdog never change what is trained; the reasons: docs/health.md."""

    preflight: bool = True  # real batches are checked before the first step of each stage
    alarms: bool = True
    window: int = Field(default=20, ge=3)  # steps that "usual" is the median of; an alarm is not repeated within as many
    grad_spike: float = Field(default=10.0, gt=1)  # gradient norm over the usual one
    update_ratio: float = Field(default=0.1, gt=0)  # a step that moves a group of weights by more than this share of its norm
    entropy_share: float = Field(default=0.1, ge=0, lt=1)  # of RL's first steps' entropy, below which it has collapsed; 0 = never
    repetitive: float = Field(default=0.2, gt=0, le=1)  # share of rollouts that repeat themselves
    boxed_spam: float = Field(default=0.2, gt=0, le=1)  # share of rollouts that box more than three answers
    length_drift: float = Field(default=2.0, gt=1)  # factor from the first steps' mean length, right and wrong rollouts apart
    truncated: float = Field(default=0.3, gt=0, le=1)  # share of rollouts that reach max_tokens
    gap: float = Field(default=0.0, ge=0)  # sampler against trainer, nats; 0: 1e-3 in float32, 0.5 where bfloat16 computes
    idle_steps: int = Field(default=5, ge=0)  # RL steps in a row that teach nothing; 0 = never
    hang_seconds: float = Field(default=900.0, ge=0)  # of silence until the watchdog speaks; 0 = never


class EngineConfig(Section):
    """What the sampler may take of the machine. No sample depends on it, so it may change while a run goes on."""

    # of keys and values, in GB; 0: 2 GiB, on a card half of what training leaves of it, but room for eight of the longest samples
    cache_gb: float = Field(default=0.0, ge=0)
    cache_positions: int = Field(default=0, ge=0)  # the same in tokens; one of the two
    slots: int = Field(default=0, ge=0)  # samples at once, at most; 0 = 1,024
    prefill_tokens: int = Field(default=4096, ge=1)  # prompt tokens a step, at most

    @model_validator(mode="after")
    def _is_one(self) -> EngineConfig:
        if self.cache_gb and self.cache_positions:
            raise ValueError("a cache has either `cache_gb` or `cache_positions`")
        return self


class Recipe(Section):
    """A whole run. The order of the stages is fixed: base, midtrain, sft, dpo, rl."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)  # CPU threads; 0 = all cores
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: CUDA where there is one, else the CPU
    verifier: str = Field(default="rules@1", min_length=1)  # whose verdicts the stages' selections go by; see docs/judge.md
    problems: ProblemsConfig
    model: ModelConfig = ModelConfig()
    teacher: TeacherConfig = TeacherConfig()
    base: BaseConfig | None = None
    midtrain: MidtrainConfig | None = None
    sft: SftConfig | None = None
    dpo: DpoConfig | None = None
    rl: RlConfig | None = None
    lora: LoraConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    engine: EngineConfig = EngineConfig()
    health: HealthConfig = HealthConfig()
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()  # who else gets each row of metrics; docs/health.md

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that this recipe trains, in order."""
        return tuple(stage for stage in STAGES if getattr(self, stage) is not None)

    @property
    def lora_stages(self) -> tuple[str, ...]:
        """The stages that train adapters, in order."""
        if self.lora is None:
            return ()
        return tuple(s for s in self.stages if s != "base" and (not self.lora.stages or s in self.lora.stages))

    @model_validator(mode="after")
    def _adapters_make_sense(self) -> Recipe:
        for stage in self.lora.stages if self.lora is not None else ():
            if stage not in self.stages:
                raise ValueError(f"lora.stages names {stage!r}, and the recipe has no section [{stage}]")
        if self.lora is not None and not self.lora_stages:
            raise ValueError("[lora] needs one of the sections [midtrain], [sft], [dpo] or [rl]: the base learns all its weights")
        for stage in self.lora_stages:
            if getattr(self, stage).optimizer.name == "muon":
                raise ValueError(
                    f"{stage}.optimizer.name = 'muon' with [lora]: Muon's step is for a whole matrix, not for its two factors; "
                    f"use 'adamw', or leave {stage} out of lora.stages"
                )
        return self

    @model_validator(mode="after")
    def _makes_sense(self) -> Recipe:
        if not self.stages:
            raise ValueError("a recipe needs at least one stage section: [base], [midtrain], [sft], [dpo] or [rl]")
        if bool(self.model.checkpoint) == (self.base is not None):
            raise ValueError("a model has either a `checkpoint` or a [base] stage to train it from scratch")
        if self.rl is not None and self.rl.pool != "all" and not (self.dpo and self.dpo.own_problems):
            raise ValueError(f"rl.pool = {self.rl.pool!r} goes by the rollouts of `dpo.own_problems`, and the recipe has none")
        if self.base is not None and self.base.own_sources and not any(source.base_only for source in self.problems.sources):
            raise ValueError("base.own_sources = true needs a source with `base_only = true`")
        return self


STAGES = ("base", "midtrain", "sft", "dpo", "rl")
