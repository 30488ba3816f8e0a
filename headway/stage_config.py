"""The settings of the training stages: one frozen model a stage, every key checked.

This file does not know what the settings do: each stage's own file does. Where a default is a published number, its comment says
whose. `config` holds the rest of a recipe.
"""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headway.objectives import contradiction, filled

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)


class Section(BaseModel):
    """A part of a recipe: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OptimizerConfig(Section):
    """An optimizer on float32 master weights with a warm-up and a decay."""

    name: Literal["adamw", "muon"] = "adamw"  # muon: hidden matrices orthogonalised (Jordan 2024), the rest by AdamW
    lr: float = Field(default=1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    warmup: float = Field(default=0.1, ge=0, le=1)  # share of the steps (Phi-4-Mini-Reasoning: 0.1 in mid-training)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    final_lr: float = Field(default=0.1, ge=0, le=1)  # share of `lr` left at the last step


class StageConfig(Section):
    """What every training stage has: an optimizer, and how many tokens go through the model at once."""

    optimizer: OptimizerConfig = OptimizerConfig()
    micro_batch_tokens: int = Field(default=16_384, ge=16)  # memory only; never changes the gradient
    # activation checkpointing, the same numbers: what the backward pass makes again (docs/memory.md); auto: as memory asks
    recompute: Literal["auto", "none", "gates", "mlp", "blocks"] = "auto"
    checkpoint_seconds: float = Field(default=20.0, gt=0)  # how much work a kill may cost; longer where saves are slow
    checkpoints_kept: int = Field(default=2, ge=1)  # resume points on the disk; the last one stays until the new one is whole


class BaseConfig(StageConfig):
    """Pre-training from scratch on question -> answer text without reasoning. Only for a model without a checkpoint."""

    epochs: int = Field(default=1, ge=1)
    seq_len: int = Field(default=512, ge=16)
    batch_rows: int = Field(default=16, ge=1)
    train_on_prompt: bool = True  # plain language modelling; off: only the answers are learned
    own_sources: bool = False  # learn from the `base_only` sources alone, so that the stages' problems are new to the policy


class MidtrainConfig(StageConfig):
    """Every correct teacher rollout, packed, until the validation loss stops falling."""

    max_epochs: int = Field(default=5, ge=1)  # Phi-4-Mini-Reasoning: 5
    seq_len: int = Field(default=16_384, ge=16)
    batch_rows: int = Field(default=128, ge=1)
    validate_every: int = Field(default=50, ge=1)  # optimizer steps between validation losses
    validation_share: float = Field(default=0.05, gt=0, le=0.5)  # of the teacher's problems, kept out of the gradient
    patience: int = Field(default=3, ge=0)  # validations without a new best before stopping; 0 = never stop early
    train_on_prompt: bool = True  # plain causal language modelling, as in the paper


class LimoConfig(Section):
    """LIMO's subset (arXiv 2502.03387 v2) in place of the paper's. Models are named by the policy that rollouts carry."""

    easy: str = ""  # drop what this policy solved; "" drops nothing
    hard: str = ""  # whose tries are counted; "" = every other policy's
    solved_low: int = Field(default=1, ge=1)  # LIMO: solved 1 to 3 times
    solved_high: int = Field(default=3, ge=1)
    tries: int = Field(default=32, ge=1)  # of 32


class SftConfig(StageConfig):
    """A compact subset, unpacked, that teaches the form and when to stop."""

    epochs: int = Field(default=5, ge=1)  # Phi-4-Mini-Reasoning: 5
    batch_examples: int = Field(default=128, ge=1)
    max_tokens: int = Field(default=20_480, ge=16)  # longer examples are dropped, and counted
    per_problem: int = Field(default=1, ge=1)  # at most k rollouts a problem
    max_repetition: float = Field(default=0.2, ge=0, le=1)  # share of repeated lines above which a rollout is dropped
    shortest: bool = True  # of a problem's rollouts prefer the shortest ones
    max_examples: int = Field(default=0, ge=0)  # 0 = all that pass (with `limo`: its 800)
    balance: Literal["difficulty", "length", "diversity"] = "difficulty"  # what `max_examples` are balanced over
    limo: LimoConfig | None = None  # a section [sft.limo]; it then decides, with `max_examples`, and not the others above

    @model_validator(mode="after")
    def _all_count(self) -> SftConfig:
        own = sorted({"per_problem", "max_repetition", "shortest", "balance"} & self.model_fields_set)
        if self.limo is not None and own:
            raise ValueError(f"`{own[0]}` is a setting of the paper's subset, which [limo] replaces: leave one of the two out")
        if self.balance != "difficulty" and not self.max_examples:
            raise ValueError("`balance` needs `max_examples`: without it all examples are kept")
        return self


DpoLoss = Literal["sigmoid", "ipo", "hinge", "robust"]


class DpoConfig(StageConfig):
    """Correct against incorrect rollouts of the same problem, against the frozen start."""

    epochs: int = Field(default=1, ge=1)  # Phi-4-Mini-Reasoning: 1
    batch_pairs: int = Field(default=32, ge=1)
    loss: DpoLoss = "sigmoid"  # the formulas: train/losses.py; when to use which: docs/dpo.md
    beta: float = Field(default=0.1, gt=0)  # the common default; the paper gives none. With `length_normalised` 5 (Tulu 3)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)  # share of pairs that are the wrong way round; "robust": 0.1 (rDPO)
    nll_weight: float = Field(default=0.0, ge=0)  # added likelihood of the chosen rollout (Iterative RPO: 1.0)
    length_normalised: bool = False  # log-probs a token in place of those of whole rollouts (Tulu 3); "ipo" always takes them
    pairs_per_problem: int = Field(default=1, ge=1)
    teacher_pairs: bool = True  # pairs among the teacher's rollouts
    pair_by: Literal["beginning", "length", "hardest"] = "beginning"  # which pairs come first: see store/pairing.py
    max_length_ratio: float = Field(default=0.0, ge=0)  # pairs whose lengths differ by a larger factor are left out; 0 = none
    across_samplers: bool = False  # also pair a correct rollout of one author with a wrong one of another: teaches style, too
    own_problems: int = Field(default=0, ge=0)  # training problems on which the SFT model's own rollouts give pairs
    own_rollouts: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, gt=0)  # of the own rollouts
    max_tokens: int = Field(default=16_384, ge=16)

    @model_validator(mode="before")
    @classmethod
    def _published_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, Any]", values)
        published: dict[str, Any] = {"beta": 5.0} if given.get("length_normalised") is True else {}
        published |= {"label_smoothing": 0.1} if given.get("loss") == "robust" else {}
        return published | given

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> DpoConfig:
        if self.loss in ("ipo", "hinge") and self.label_smoothing:
            raise ValueError(f'`label_smoothing` belongs to the losses "sigmoid" and "robust", not to `loss` = "{self.loss}"')
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError('`loss` = "robust" needs a `label_smoothing` above 0: without it, it is "sigmoid"')
        if self.loss == "ipo" and self.length_normalised:
            raise ValueError('`loss` = "ipo" takes log-probs a token already: leave `length_normalised` out')
        if 0 < self.max_length_ratio < 1:
            raise ValueError("`max_length_ratio` is the longer length over the shorter one: 1 or more, or 0 for none")
        return self


class RlConfig(StageConfig):
    """Group-relative clipped policy gradient with verifiable rewards. Sampling is never truncated by top-k or top-p."""

    steps: int = Field(default=100, ge=1)
    prompts: int = Field(default=64, ge=1)  # problems a step
    group_size: int = Field(default=8, ge=2)
    max_tokens: int = Field(default=25_600, ge=16)
    minibatches: int = Field(default=1, ge=1)  # a batch of rollouts is parted into this many optimizer steps
    epochs_per_batch: int = Field(default=1, ge=1)  # and gone over this often
    # A name sets the nine keys below as published (docs/rl.md); "custom" is each by itself, and their defaults are DAPO's loss.
    objective: Literal["custom", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "ppo"] = "custom"
    baseline: Literal["group", "leave_one_out", "batch"] = "group"  # whose mean reward is taken off
    scale_by_std: bool = True  # GRPO; off: Dr. GRPO
    ratio_level: Literal["token", "sequence"] = "token"  # sequence: GSPO
    surrogate: Literal["clip", "weight", "reinforce"] = "clip"  # PPO's min; CISPO's weight; no ratio
    clip_low: float = Field(default=0.2, gt=0)  # DAPO
    clip_high: float = Field(default=0.28, gt=0)  # DAPO's clip-higher; 0.2 is plain GRPO
    # DAPO's token-level mean, GRPO's mean of sequence means, RLOO's mean of sequence sums, Dr. GRPO's constant
    loss_level: Literal["token", "sequence", "sequence_sum", "constant"] = "token"
    kl: Literal["k1", "k2", "k3"] = "k3"  # to the stage's start: k1 is taken off the reward, k2 and k3 are added to the loss
    kl_coef: float = Field(default=0.0, ge=0)  # 0 = no KL and no reference
    tis_cap: float = Field(default=0.0, ge=0)  # truncated importance sampling against the sampler (published: 2); 0 = none
    temperature_start: float = Field(default=1.0, gt=0)  # Phi-4-Mini-Reasoning: 1.0 -> 0.6 over the first half
    temperature_end: float = Field(default=0.6, gt=0)
    anneal_share: float = Field(default=0.5, ge=0, le=1)
    uniform_length: bool = False  # fix 1: keep prompts of uniform response length
    uniform_length_rounds: int = Field(default=1, ge=1)
    max_length_variation: float = Field(default=0.5, gt=0)  # highest population std / mean of the lengths kept
    uniform_length_problems: int = Field(default=512, ge=1)  # how many problems are tried for it
    rebalance: bool = False  # fix 2: every correct response, an equal number of wrong ones
    oversample: int = Field(default=1, ge=1)  # fix 2: hard prompts get up to this many times `group_size` samples
    hard_below: float = Field(default=0.25, ge=0, le=1)  # pass rate of the first group under which a prompt is hard
    drop_above: float = Field(default=1.0, ge=0, le=1)  # fix 2: drop prompts of a higher accuracy (paper: e.g. 0.5)
    dynamic_sampling: bool = False  # DAPO: refill until the batch is full of groups that disagree
    max_refills: int = Field(default=10, ge=1)  # verl's max_num_gen_batches
    overlong_penalty: bool = False  # DAPO's soft punishment
    overlong_cache: float = Field(default=0.2, gt=0, lt=1)  # DAPO: 4,096 of 20,480 tokens
    mask_truncated: bool = False  # SRPO: truncated responses get no advantage
    history_resampling: bool = False  # SRPO: after each epoch drop what was all correct
    problems: int = Field(default=0, ge=0)  # training problems in the pool; 0 = all
    pool: Literal["all", "mixed", "unsolved"] = "all"  # by the SFT model's stored rollouts (`dpo.own_problems`); see stages/rl.py
    log_gap: bool = True  # sampler_logprobs against the trainer's, each step
    log_entropy: bool = True  # of the policy over the trained tokens

    @model_validator(mode="before")
    @classmethod
    def _name_its_settings(cls, values: Any) -> Any:
        return filled(cast("dict[str, Any]", values)) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _agree(self) -> RlConfig:
        if wrong := contradiction(self.model_dump()):
            raise ValueError(wrong)
        return self


class LoraConfig(Section):
    """Adapters beside frozen weights, in place of full fine-tuning; see docs/lora.md. One section for all of its stages."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)  # the adapters count alpha / rank; 16 and 32 are TRL's
    targets: tuple[Projection, ...] = PROJECTIONS  # all seven: "LoRA without regret" (Thinking Machines 2025)
    stages: tuple[Literal["midtrain", "sft", "dpo", "rl"], ...] = ()  # which train adapters; (): all of the recipe's but the base

    @model_validator(mode="before")
    @classmethod
    def _no_dropout(cls, values: Any) -> Any:
        if isinstance(values, dict) and "dropout" in values:
            raise ValueError(
                "there is no `dropout`: with it the trainer's log-probs are not the sampler's, and depend on micro_batch_tokens"
            )
        return cast("Any", values)

    @model_validator(mode="after")
    def _named_once(self) -> LoraConfig:
        for key in ("targets", "stages"):
            names: tuple[str, ...] = getattr(self, key)
            if len(set(names)) < len(names) or (key == "targets" and not names):
                raise ValueError(f"`{key}` names at least one, and each once")
        return self
