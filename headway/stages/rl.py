"""Stage 4, reinforcement learning with verifiable rewards.

Phi-4-Mini-Reasoning: group-relative policy gradient with reward +1 where the verifier accepts the final answer and -1 otherwise,
learning rate 5e-7, 25K tokens. A pilot was unstable for three reasons, each with a fix:

1. responses to one prompt differ much in length      ->  keep prompts whose responses are of uniform length (`uniform_length`)
2. groups that agree give no gradient, hard prompts      ->  oversample hard prompts, keep every correct response and an equal
   give few positives among many negatives                   number of wrong ones, drop prompts that are too easy (`rebalance`)
3. training explores hot, evaluation exploits cold       ->  temperature 1.0 -> 0.6 over the first half (`temperature_*`)

Deviations:
1. The length threshold, group sizes and clip are ours: the paper gives none. Clip-higher, the token-level mean, dynamic sampling
   and the soft overlong penalty are DAPO's (arXiv 2503.14476); resampling by history is SRPO's (arXiv 2504.14286).
2. No KL term unless the recipe asks for one: recent recipes train without. Its reference is the stage's starting policy.
3. Rollouts come from the trainer's own weights, so the ratio starts at 1 up to rounding (`gap_max` in the metrics).
4. "Hard prompts" may be known before the first step: the SFT model's own rollouts, sampled for DPO, say on which problems it
   disagrees with itself (`pool = "mixed"`), or is not always right (`"unsolved"`); only those are asked then.
5. The objective is a choice (`objective`, docs/rl.md). The paper's is GRPO's, with a clip and a KL that it does not give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from headway.errors import StoreError
from headway.model.transformer import Decoder
from headway.sample import Plan, rollouts_of, verdicts_of
from headway.stage_config import RlConfig
from headway.stages.preflight import RL_TOKENS
from headway.stages.rl_groups import Pool, choose, rewards, uniform_problems
from headway.stages.workspace import Workspace, frozen
from headway.store.queries import rl_problems
from headway.train.advantages import annealed, group_advantages
from headway.train.batching import Document
from headway.train.fit import Fitted
from headway.train.frozen import fixed_logprobs, frozen_copy
from headway.train.habits import habits
from headway.train.policy import PolicyGradient, Sampled, Trajectory
from headway.types import Funnel, Group, Problem, Rollout, StopReason


def reinforce(work: Workspace) -> Fitted:
    """Train the policy in place from fresh rollouts of training problems."""
    config = work.recipe.rl
    assert config is not None
    selection = rl_problems(
        work.table("rl"),
        seed=work.recipe.seed,
        limit=config.problems,
        exclude=work.base_only(),
        sampler="" if config.pool == "all" else "dpo",
        keep_all_wrong=config.pool == "unsolved",
        verifier=work.recipe.verifier,
    )
    problems = list(selection.rows)
    if config.uniform_length:
        problems = _uniform(work, problems)
    else:
        work.freeze("rl", selection, selection.ids)
    reference = frozen_copy(work.model) if config.kl_coef else None  # a resume, too, is given the weights of the stage's start
    rollouts = Rollouts(work, problems, reference)
    look = PolicyGradient(work.model, Glance(work, problems, reference), config, keeps_all=True)
    return work.fit("rl", PolicyGradient(work.model, rollouts, config), config, config.steps, look)


def _uniform(work: Workspace, problems: list[Problem]) -> list[Problem]:
    """Fix 1: several rounds of samples of the starting policy; problems with uniform response length stay."""
    config = work.recipe.rl
    assert config is not None
    kept_ids = work.run.frozen("rl")
    by_id = {problem.id: problem for problem in problems}
    if kept_ids is not None:  # resumed: the starting policy is gone, its choice is not
        return [by_id[i] for i in kept_ids["ids"]]
    tried = problems[: config.uniform_length_problems]
    plan = Plan("rl:lengths", 0, f"{work.recipe.name}/start of rl", config.temperature_start, 1.0, config.max_tokens)
    count = config.group_size * config.uniform_length_rounds
    work.sample_stored(tried, count, plan, "rl:lengths", "rl")
    lengths: dict[str, list[int]] = {}
    for rollout in work.store.rollouts(sampler="rl:lengths"):
        lengths.setdefault(rollout.problem_id, []).append(rollout.num_tokens)
    kept = uniform_problems(lengths, config.max_length_variation)
    funnel = Funnel("rl", len(tried), len(kept), {"responses of uneven length": len(tried) - len(kept)})
    if not kept:
        raise StoreError(f"the selection keeps nothing: {funnel}; raise rl.max_length_variation")
    work.run.freeze("rl", frozen(funnel, kept, work.store.versions()))
    return [by_id[i] for i in kept]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A rollout that was chosen to be learned from: the one with this number in its group."""

    group: Group
    number: int

    @property
    def rollout(self) -> Rollout:
        return self.group.rollouts[self.number]

    @property
    def document(self) -> Document:
        return Document((*self.group.prompt_ids, *self.rollout.token_ids), len(self.group.prompt_ids))


class Rollouts:
    """Fresh groups for every step (see `train.policy.Sampling`). They are appended to the store on the way."""

    def __init__(self, work: Workspace, problems: list[Problem], reference: Decoder | None = None):
        assert work.recipe.rl is not None
        self._work, self._config, self._reference = work, work.recipe.rl, reference
        self._pool = Pool(problems, work.recipe.seed, self._config.history_resampling)

    def sample(self, step: int) -> Sampled:
        """Sample groups until the step has its prompts, choose and weigh their responses."""
        config = self._config
        temperature = annealed(config.temperature_start, config.temperature_end, config.anneal_share, step, config.steps)
        groups: list[Group] = []
        trained: list[tuple[Group, list[int]]] = []
        for _ in range(config.max_refills if config.dynamic_sampling else 1):
            fresh = self._groups(step, temperature, {group.problem.id for group in groups})
            if not fresh:  # a small pool: every problem was asked in this step
                break
            groups += fresh
            for group in fresh:
                self._pool.record(group.problem.id, group.pass_rate)
            trained += self._chosen(fresh, step)
            if len(trained) >= config.prompts:
                break
        trained = trained[: config.prompts]
        self._store(step, groups)
        drawn = [_Drawn(group, i) for group, kept in trained for i in kept]
        advantages, references = self._advantages(drawn, temperature)
        trajectories: list[Trajectory] = []
        for one, advantage, reference in zip(drawn, advantages, references, strict=True):
            is_masked = config.mask_truncated and one.rollout.stop_reason is StopReason.LENGTH
            advantage = 0.0 if is_masked else advantage
            if self._is_kept(advantage):
                trajectories.append(Trajectory(one.document, one.rollout.logprobs, advantage, reference))
        trained_groups = len({one.group.problem.id for one, advantage in zip(drawn, advantages, strict=True) if advantage})
        numbers = _numbers(groups, trained_groups, sum(bool(t.advantage) for t in trajectories), config)
        return Sampled(trajectories, temperature, numbers)

    def _chosen(self, groups: list[Group], step: int) -> list[tuple[Group, list[int]]]:
        """Of these groups those that are learned from, each with the numbers of its rollouts that are."""
        chosen = ((group, choose(group, self._config, seed=step)) for group in groups)
        return [(group, kept) for group, kept in chosen if kept]

    def _is_kept(self, advantage: float) -> bool:
        """Is a rollout of this advantage given to training?"""
        return self._reference is not None or bool(advantage)

    def _groups(self, step: int, temperature: float, asked: set[str]) -> list[Group]:
        """One batch of prompts, none `asked` in this step before; with oversampling, hard ones get more samples."""
        config = self._config
        policy = f"{self._work.recipe.name}/rl@{step}"
        plan = Plan("rl", step, policy, temperature, 1.0, config.max_tokens, is_for_ratios=True)
        problems = self._pool.take(config.prompts, without=asked)
        if not problems:
            return []
        groups = self._work.sampler.sample(problems, config.group_size, plan)
        if config.oversample <= 1:
            return groups
        hard = [g.problem for g in groups if g.pass_rate <= config.hard_below]
        if not hard:
            return groups
        more = self._work.sampler.sample(hard, config.group_size * (config.oversample - 1), plan, first_index=config.group_size)
        extra = {g.problem.id: g for g in more}
        return [_joined(g, extra.get(g.problem.id)) for g in groups]

    def _advantages(self, drawn: list[_Drawn], temperature: float) -> tuple[list[float], list[tuple[float, ...]]]:
        """The advantage of each rollout within its group (or the step's batch), and the reference's log-probs of its tokens.

        Those are () without a KL; a KL by k1 is taken off the reward before the baseline is.
        """
        config = self._config
        values = [rewards(one.group, config)[one.number] for one in drawn]
        references: list[tuple[float, ...]] = [()] * len(drawn)
        if self._reference is not None and drawn:
            documents = [one.document for one in drawn]
            found = fixed_logprobs(self._reference, documents, config.micro_batch_tokens, temperature)
            references = [tuple(logprobs.tolist()) for logprobs in found]
            if config.kl == "k1":
                values = [
                    value - config.kl_coef * (math.fsum(one.rollout.logprobs) - math.fsum(reference))
                    for value, one, reference in zip(values, drawn, references, strict=True)
                ]
        advantages: list[float] = []
        for _, members in groupby(range(len(drawn)), lambda i: config.baseline == "batch" or drawn[i].group.problem.id):
            own = [values[i] for i in members]
            advantages += group_advantages(own, config.scale_by_std, config.baseline == "leave_one_out")
        return advantages, references

    def _store(self, step: int, groups: list[Group]) -> None:
        self._work.store.add_rollouts(rollouts_of(groups), f"rl/{step}")
        self._work.store.add_verdicts(verdicts_of(groups), f"rl/{step}")

    def state(self) -> dict[str, Any]:
        """The position in the pool of problems."""
        return self._pool.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Put back the position in the pool."""
        self._pool.restore(state)


class Glance(Rollouts):
    """The rollouts of the first step's first problems, sampled to be looked at: the same ones, and nothing is kept of them.

    They are shorter than RL's where those are very long. Where every group agrees, all of them are shown, without an advantage.
    """

    def __init__(self, work: Workspace, problems: list[Problem], reference: Decoder | None):
        super().__init__(work, problems, reference)
        some = {"prompts": min(4, self._config.prompts), "max_tokens": min(RL_TOKENS, self._config.max_tokens)}
        alone = {"dynamic_sampling": False, "oversample": 1, "drop_above": 1.0}
        self._config = self._config.model_copy(update=some | alone)

    def _chosen(self, groups: list[Group], step: int) -> list[tuple[Group, list[int]]]:
        """As in training; all rollouts of all groups where that would be none."""
        return super()._chosen(groups, step) or [(group, list(range(len(group.rollouts)))) for group in groups]

    def _is_kept(self, advantage: float) -> bool:
        """All are looked at."""
        return True

    def _store(self, step: int, groups: list[Group]) -> None:
        """They are no rollouts of the run: its first step draws them again."""


def _joined(group: Group, more: Group | None) -> Group:
    """A group and its further samples as one."""
    if more is None:
        return group
    return Group(group.problem, group.prompt_ids, group.rollouts + more.rollouts, group.verdicts + more.verdicts)


def _numbers(groups: list[Group], trained_groups: int, trained_rollouts: int, config: RlConfig) -> dict[str, float]:
    """What the step's sampling looked like."""
    rollouts = rollouts_of(groups)
    correct = [good for group in groups for good in group.is_correct]
    tokens = [rollout.num_tokens for rollout in rollouts]
    logprobs = sum(sum(rollout.logprobs) for rollout in rollouts)
    return {
        "accuracy": sum(correct) / len(correct),
        "reward": math.fsum(value for group in groups for value in rewards(group, config)) / len(rollouts),
        "mean_tokens": sum(tokens) / len(tokens),
        "truncated": sum(r.stop_reason is StopReason.LENGTH for r in rollouts) / len(rollouts),
        "surprise": -logprobs / sum(tokens),
        "sampled_tokens": sum(tokens),
        "sampled_rollouts": len(rollouts),
        "trained_groups": trained_groups,
        "trained_rollouts": trained_rollouts,
        "all_correct": sum(group.pass_rate == 1 for group in groups) / len(groups),
        "all_wrong": sum(group.pass_rate == 0 for group in groups) / len(groups),
        **habits(groups),
    }
