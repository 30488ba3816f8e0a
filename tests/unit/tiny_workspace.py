"""A workspace around the tiny sampler: a run's folder, a table of problems, a policy. For the tests of the stages."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_sampler import parities, policy, sampler, tokenizer

from headway.recipe import parse_recipe
from headway.runs import Run
from headway.stages.workspace import Workspace
from headway.store.store import Store
from headway.types import Outcome, Problem, Rollout, Split, StopReason, Verdict
from headway.verify.judge import Verifier

OPTIMIZER = {"lr": 0.003}


@contextmanager
def workspace(
    root: Path, problems: int = 12, sources: Sequence[dict[str, Any]] = (), instruction: str = "", **sections: Any
) -> Iterator[Workspace]:
    """Open `root/tiny` (again) with this many training problems and a held-out one."""
    sources = list(sources) or [{"family": "chain_sum", "count": 3}]
    values = {"name": "tiny", "problems": {"sources": sources, "instruction": instruction}, "base": {}} | sections
    model = policy()
    with Run.open(root, parse_recipe(values, "tiny.toml"), "tiny.toml") as run, Verifier() as verifier:
        store = Store(run.folder / "store")
        store.add_problems(parities(problems) + parities(1, Split.HELDOUT, first=1000), "problems")
        recipe = run.recipe
        yield Workspace(recipe, run, store, tokenizer(), model, sampler(verifier, model), lambda *_: None)


def taught(store: Store, solutions: dict[Problem, list[tuple[str, Outcome]]], batch: str = "teacher") -> list[str]:
    """Append teacher rollouts with these texts and outcomes; their ids."""
    rollouts = [
        Rollout.make(problem.id, "teacher", 0, index, "scripted", text, stop_reason=StopReason.IMPORTED)
        for problem, found in solutions.items()
        for index, (text, _) in enumerate(found)
    ]
    outcomes = [outcome for found in solutions.values() for _, outcome in found]
    store.add_rollouts(rollouts, batch)
    store.add_verdicts([Verdict(r.id, "rules@1", o) for r, o in zip(rollouts, outcomes, strict=True)], batch)
    return [rollout.id for rollout in rollouts]
