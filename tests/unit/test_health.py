"""Alarms as a function of rows, habits of rollouts, how far weights move: by hand. What is kept of alarms when a run goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_policy import tiny
from tiny_sampler import parities
from tiny_workspace import workspace

from headway.config import HealthConfig, SftConfig
from headway.errors import ConfigError, RunError
from headway.journal import Metrics
from headway.recipe import parse_recipe
from headway.stage_config import OptimizerConfig
from headway.stages.rl import reinforce
from headway.stages.watch import rewind
from headway.train.batching import Document, epochs
from headway.train.habits import example, habits, repeated
from headway.train.health import Alarm, Health, Movement, group_of
from headway.train.likelihood import Likelihood
from headway.train.optim import make_optimizer, update
from headway.train.policy import gaps_by_place
from headway.types import Group, Outcome, Rollout, StopReason, Verdict

LOOP = (1, 2, 3, 4, 5, 6, 7, 8) * 4  # 25 pieces of 8, the first 8 of them different: 17/25 = 0.68 repeated


def alarms(rows: list[dict[str, Any]], gap: float = 1e-3, **settings: Any) -> list[Alarm]:
    health = Health(HealthConfig(**settings), gap)
    return [alarm for number, row in enumerate(rows, 1) for alarm in health.see({"step": number} | row)]


def steps(found: list[Alarm], metric: str) -> list[int]:
    return [alarm.step for alarm in found if alarm.metric == metric]


def test_a_spike_of_the_gradient() -> None:
    """Usual is 1; ten times that is no spike, 10.5 is. After it the median is still 1."""
    norms = [1.0] * 6 + [10.0, 10.5, 1.0]
    found = alarms([{"grad_norm": norm} for norm in norms])
    assert found == [Alarm(8, "grad_norm", 10.5, "the gradient norm is 10.5, usually 1: a spike")]
    assert alarms([{"grad_norm": 1.0}, {"grad_norm": 99.0}]) == []  # nothing is usual yet


def test_a_gradient_that_explodes_by_and_by() -> None:
    """It doubles every two steps: never ten times the usual one, but more than ten times that of the beginning."""
    norms = [1.0 * 2 ** (step / 2) for step in range(14)]
    (found,) = alarms([{"grad_norm": norm} for norm in norms])
    assert (found.step, found.metric) == (12, "grad_norm")  # median of 5 rows: 2^4.5 = 22.6 > 10 x 2^1 = 20, after 16 at step 11
    assert found.says == "the gradient norm grew from 2 to 22.6: it explodes, lower the learning rate"


def test_an_alarm_that_goes_on_is_not_repeated_at_once() -> None:
    rows = [{"truncated": 0.9}] * 12
    assert steps(alarms(rows, window=4), "truncated") == [3, 7, 11]
    assert steps(alarms(rows, truncated=0.9), "truncated") == []


def test_a_loss_that_is_no_number_and_a_stage_s_own_alarm() -> None:
    found = alarms([{"loss": None}, {"loss": 1.0, "alarm": "chosen log-probs collapse"}])
    assert [(alarm.step, alarm.metric) for alarm in found] == [(1, "loss"), (2, "alarm")]
    assert found[1].says == "chosen log-probs collapse"


def test_entropy_is_compared_with_its_beginning() -> None:
    """Five rows of 2.0; below a tenth of that, 0.2, is a collapse: the mean of five rows of 0.1 is."""
    rows: list[dict[str, float]] = [{"surprise": 2.0}] * 5 + [{"surprise": 0.1}] * 5
    (found,) = alarms(rows)
    assert (found.step, found.metric, found.is_high) == (10, "surprise", False)  # before: (2 + 4 x 0.1) / 5 = 0.48
    assert found.value == pytest.approx(0.1)
    exact = [{"entropy": 2.0, "surprise": 0.0001 + step % 2} for step in range(20)]
    assert alarms(exact) == []  # the exact entropy is looked at where there is one
    assert alarms(rows, entropy_share=0) == []


def test_lengths_of_right_and_of_wrong_rollouts_drift_apart() -> None:
    rows = [{"mean_tokens_correct": 100.0, "mean_tokens_wrong": 100.0}] * 5
    rows += [{"mean_tokens_correct": 45.0, "mean_tokens_wrong": 210.0}] * 5
    found = alarms(rows)
    assert [(a.step, a.metric, a.is_high) for a in found] == [(10, "mean_tokens_correct", False), (10, "mean_tokens_wrong", True)]
    assert found[1].says == "wrong rollouts grew from 100 to 210 tokens"


def test_the_gap_names_its_place() -> None:
    row = {"gap_max": 0.02, "gap_at_0": 1e-6, "gap_at_256": 0.02, "gap_at_16": 1e-5}
    (found,) = alarms([row])
    assert found.says == "sampler and trainer differ by up to 0.02 nats (budget 0.001), most from token 256 of the completion on"
    assert alarms([row], gap=0.5) == []
    assert len(alarms([{"gap_max": 0.4}], gap=0.5) + Health(HealthConfig(gap=0.3), 0.5).see({"step": 1, "gap_max": 0.4})) == 1


def test_steps_that_teach_nothing() -> None:
    assert steps(alarms([{"trained_rollouts": n} for n in (4, 0, 0, 0, 0, 0)]), "trained_rollouts") == [6]
    assert alarms([{"trained_rollouts": n} for n in (0, 0, 0, 0, 4)] * 3) == []
    assert alarms([{"trained_rollouts": 0}] * 9, idle_steps=0) == []


def test_a_healthy_run_raises_nothing() -> None:
    row = {
        "loss": 1.0,
        "grad_norm": 2.0,
        "surprise": 1.0,
        "repetitive": 0.1,
        "boxed_spam": 0.0,
        "truncated": 0.1,
        "gap_max": 1e-6,
    }
    row |= {"mean_tokens_correct": 90.0, "mean_tokens_wrong": 120.0, "trained_rollouts": 12, "update_ratio_mlp": 0.01}
    assert alarms([row | {"grad_norm": 2.0 + step % 3} for step in range(60)]) == []


def test_weights_that_move_too_far_are_named() -> None:
    (found,) = alarms([{"update_ratio_embedding": 0.25, "update_ratio_mlp": 0.01}])
    assert found.says == "one step moved the weights of embedding by 25.0 % of their norm: the learning rate is high"


def test_movement_is_measured_by_group() -> None:
    """Every weight of the MLPs grows by 1 %: that group's ratio is 0.01, the others' 0."""
    model = tiny()
    movement = Movement(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if group_of(name) == "mlp":
                weight.mul_(1.01)
    found = movement.ratios(model)
    assert found.pop("update_ratio_mlp") == pytest.approx(0.01, rel=1e-4)
    assert found == {f"update_ratio_{group}": 0.0 for group in ("embedding", "norms", "attention")}
    assert {group_of(name) for name, _ in model.named_parameters()} == {"embedding", "norms", "attention", "mlp"}


def test_gaps_lie_where_they_are_in_their_completion() -> None:
    """Two completions of 20 and 3 tokens: places 0 to 19 and 0 to 2."""
    gaps = torch.zeros(23)
    gaps[17], gaps[21] = 0.5, 0.25  # place 17 of the first, place 1 of the second
    owner = torch.tensor([0] * 20 + [1] * 3)
    assert gaps_by_place(gaps, owner) == {"gap_at_0": 0.25, "gap_at_16": 0.5}


# -- habits ------------------------------------------------------------------------------------------------------------


def rollout(index: int, ids: tuple[int, ...], text: str = "", stop: StopReason = StopReason.STOP) -> Rollout:
    more = {"stop_reason": stop, "num_tokens": len(ids), "token_ids": ids}
    return Rollout.make("p", "rl", 0, index, "tiny/rl@0", text, **more)


def test_habits_of_a_group() -> None:
    spam = "\\boxed{1}" * 4
    found = (rollout(0, LOOP), rollout(1, tuple(range(40)), spam), rollout(2, (1, 2), "\\boxed{1}"), rollout(3, (1, 2, 3, 4)))
    outcomes = (Outcome.WRONG, Outcome.CORRECT, Outcome.CORRECT, Outcome.UNVERIFIABLE)
    verdicts = tuple(Verdict(r.id, "rules@1", outcome) for r, outcome in zip(found, outcomes, strict=True))
    group = Group(parities(1)[0], (5,), found, verdicts)
    assert repeated(LOOP) == pytest.approx(0.68)
    assert (repeated(()), repeated(range(8))) == (0.0, 0.0)
    assert habits([group]) == {
        "repetitive": 0.25, "boxed_spam": 0.25, "mean_tokens_correct": 21.0, "mean_tokens_wrong": 32.0
    }  # fmt: skip
    by_id = {verdict.rollout_id: verdict.outcome for verdict in verdicts}
    shown = [example(metric, found, by_id) for metric in ("repetitive", "boxed_spam", "mean_tokens_wrong", "truncated")]
    assert shown == [found[0], found[1], found[0], None]
    assert example("mean_tokens_correct", found, by_id, is_high=False) == found[2]


# -- what is kept of them ----------------------------------------------------------------------------------------------


def test_alarms_of_steps_that_are_made_again_are_dropped(tmp_path: Path) -> None:
    kept = Metrics(tmp_path / "alarms.jsonl")
    for stage, step in (("sft", 9), ("rl", 2), ("rl", 3), ("rl", 7)):
        kept.append({"step": step, "stage": stage})
    rewind(kept, "rl", 3)
    assert [(row["stage"], row["step"]) for row in kept.rows()] == [("sft", 9), ("rl", 2)]
    kept.append({"step": 3, "stage": "rl"})
    assert len(kept.rows()) == 3


def test_an_alarm_reaches_the_file_and_the_terminal_with_a_rollout_to_look_at(tmp_path: Path) -> None:
    """With a budget of 1e-12 nats, which float32 cannot keep, the first step's gap is an alarm."""
    settings = {"steps": 2, "prompts": 4, "group_size": 4, "max_tokens": 16, "optimizer": {"lr": 0.003}}
    told: list[str] = []
    with workspace(tmp_path, rl=settings, health={"gap": 1e-12, "preflight": False}) as work:
        work.tell = lambda stage, done, total, row: told.append(row["alarm"]) if "alarm" in row else None
        reinforce(work)
        rows = [json.loads(line) for line in (work.run.folder / "alarms.jsonl").read_text().splitlines()]
        (row,) = [row for row in rows if row["metric"] == "gap_max"]
        (shown,) = work.store.rollouts(ids=row["examples"])
    assert (row["stage"], row["step"], shown.sampler, shown.step) == ("rl", 1, "rl", 0)
    assert row["look"] == f"headway show {shown.id} --run {tmp_path / 'tiny'}"
    assert told[0].startswith("alarm: sampler and trainer differ by up to ")
    assert told[0].splitlines()[0].endswith(f"of the completion on (step 1); look at one: {row['look']}")


def test_a_policy_that_runs_in_circles_is_shown(tmp_path: Path) -> None:
    """A policy that was taught to say one word for ever: RL's third step says so, and names a rollout that does it."""
    settings = {"steps": 3, "prompts": 4, "group_size": 4, "max_tokens": 24, "optimizer": {"lr": 1e-6}}
    with workspace(tmp_path, rl=settings) as work:
        word = work.tokenizer.encode("7")[0]
        prompts = [work.prompt_ids(problem) for problem in parities(12)]
        loops = [Document((*prompt, *[word] * 25), len(prompt)) for prompt in prompts]
        optimizer = make_optimizer(work.model, OptimizerConfig(lr=0.02))
        objective = Likelihood(work.model, loops, lambda: epochs(12, 12, 0), 10_000)
        for step in range(40):
            for micros in objective.updates(step):
                for micro in micros:
                    objective.loss(micro)[0].backward()
                update(optimizer, work.model, 0.02, 1.0)
        reinforce(work)
        rows = [json.loads(line) for line in (work.run.folder / "alarms.jsonl").read_text().splitlines()]
        (row,) = [row for row in rows if row["metric"] == "repetitive"]
        shown = next(r for r in work.store.rollouts("rl", tokens=True) if r.id == row["examples"][0])
    assert row["step"] == 3
    assert row["says"].endswith(" % of the last 3 steps' rollouts repeat themselves")
    assert repeated(shown.token_ids) > 0.5
    assert {row["metric"] for row in rows} == {"repetitive", "truncated"}


def test_a_gradient_that_is_no_number_ends_the_stage_in_one_line(tmp_path: Path) -> None:
    """After a step of 1e30 nothing is finite any more; the alarm of the step before names the weights."""
    config = SftConfig.model_validate({"optimizer": {"lr": 1e30, "warmup": 0.0}})
    with workspace(tmp_path, health={"preflight": False}) as work:
        prompts = [work.prompt_ids(problem) for problem in parities(4)]
        learned = [Document((*prompt, 20, work.tokenizer.stop_id), len(prompt)) for prompt in prompts]
        objective = Likelihood(work.model, learned, lambda: epochs(4, 4, 0), 10_000)
        with pytest.raises(RunError, match=r"sft: .*; training diverged: try a lower sft\.optimizer\.lr under another name"):
            work.fit("sft", objective, config, 5)
        rows = [json.loads(line) for line in (work.run.folder / "alarms.jsonl").read_text().splitlines()]
    assert (rows[0]["step"], rows[0]["metric"].startswith("update_ratio_")) == (1, True)
    assert "the learning rate is high" in rows[0]["says"]


def test_an_unknown_key_of_health_is_an_error_and_thresholds_may_change_on_the_way(tmp_path: Path) -> None:
    values = {"name": "x", "problems": {"sources": [{"family": "chain_sum", "count": 3}]}, "base": {}}
    with pytest.raises(ConfigError, match=r"unknown key 'health\.grad_spikes'; the nearest key is 'health\.grad_spike'"):
        parse_recipe(values | {"health": {"grad_spikes": 3}}, "x.toml")
    with pytest.raises(ConfigError, match="track"):
        parse_recipe(values | {"track": ["mlflow"]}, "x.toml")
    with workspace(tmp_path):
        pass
    with workspace(tmp_path, health={"grad_spike": 3.0}, track=["tensorboard"]) as work:
        assert work.recipe.health.grad_spike == 3.0


def test_every_key_of_health_is_on_its_page_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "health.md").read_text(encoding="utf-8")
    for key, value in HealthConfig().model_dump().items():
        if isinstance(value, bool):
            assert f"`{key} = false`" in page, key
        else:
            assert f"`{key}` = {value:g}" in page or f"`{key}` ({value:g}" in page, key
