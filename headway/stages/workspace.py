"""What every stage works with: the recipe, the run's folder, the table, the policy and its sampler.

It does not know what any stage does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.config import Recipe
from headway.durable import read_json, write_json
from headway.errors import RunError, StoreError
from headway.model.folder import first_line
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import Decoder
from headway.ranks import first, gather, size
from headway.runs import Run
from headway.sample import Plan, Sampler, chunk_of, rollouts_of, verdicts_of
from headway.stage_config import StageConfig
from headway.stages.preflight import joined, preflight, refuse, summary
from headway.stages.watch import StageWatch
from headway.store.binned import VERIFIER
from headway.store.combined import check_verifier
from headway.store.rows import Selection
from headway.store.store import Store
from headway.tracking import Tracking
from headway.train.batching import Document
from headway.train.budget import is_out_of_memory
from headway.train.fit import Fitted, Objective, fit
from headway.train.resume import StageFolder
from headway.types import Example, Funnel, Problem
from headway.watchdog import at

Tell = Callable[[str, int, int, dict[str, Any]], None]  # (stage, done, in all, numbers)


@dataclass(slots=True)
class Workspace:
    """The things of one run. `model` is the policy: stages train it in place."""

    recipe: Recipe
    run: Run
    store: Store
    tokenizer: Tokenizer
    model: Decoder
    sampler: Sampler
    tell: Tell
    tracking: Tracking = field(default_factory=lambda: Tracking((), Path(), "", "", {}))

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        """The problem's prompt as token ids."""
        return self.sampler.prompt_ids(problem)

    def cache(self, name: str) -> Path:
        """Where results that several runs may share are kept: `.cache/NAME` beside the runs. Deleting it loses time only."""
        return self.run.folder.parent / ".cache" / name

    def base_only(self) -> set[str]:
        """Ids of training problems that only the base may learn from."""
        names = [source.label for source in self.recipe.problems.sources if source.base_only]
        return {problem.id for problem in self.store.problems(source=names)} if names else set()

    def documents(self, examples: Sequence[Example], on_prompt: bool = False) -> list[Document]:
        """One document an example: prompt, completion, stop token; learned from the completion on, or all of it."""
        completions = self.tokenizer.encode_batch([example.completion for example in examples])
        documents: list[Document] = []
        for example, completion in zip(examples, completions, strict=True):
            prompt = self.prompt_ids(example.problem)
            ids = (*prompt, *completion, self.tokenizer.stop_id)
            documents.append(Document(ids, 1 if on_prompt else len(prompt)))
        return documents

    def sample_stored(self, problems: Sequence[Problem], count: int, plan: Plan, batch: str, stage: str) -> None:
        """Sample and append `count` rollouts of each problem, in chunks; a chunk that the store holds is not sampled again."""
        chunk = chunk_of(count)
        for start in range(0, len(problems), chunk):
            name = f"{batch}/{start}"
            if not self.store.has_batch("verdicts", name):
                groups = self.sampler.sample(problems[start : start + chunk], count, plan)
                self.store.add_rollouts(rollouts_of(groups), name)
                self.store.add_verdicts(verdicts_of(groups), name)
            done = min(len(problems), start + chunk)
            self.tell(stage, done * count, len(problems) * count, {"sampling": plan.sampler})

    def table(self, stage: str) -> Store:
        """The rollout table as the stage's query must read it: where it was frozen, the versions of then.

        So a stage that is resumed selects what it selected, however the table has grown since (RL adds to it itself).
        StoreError where the recipe names a verifier that has judged nothing yet.
        """
        kept = self.run.frozen(stage)
        if kept is None and self.recipe.verifier != VERIFIER:
            check_verifier(self.store, self.recipe.verifier)
        return self.store if kept is None else self.store.at(kept["versions"])

    def freeze(self, stage: str, selection: Selection[Any], ids: Sequence[str], too_long: int = 0, **report: Any) -> None:
        """Write down what `stage` learns from: the `ids` used, the table versions, the funnel.

        `too_long` of what the selection's funnel counts as kept were dropped after it. Raises StoreError, with the funnel,
        when nothing is left.
        """
        funnel = selection.funnel
        if too_long:
            dropped = funnel.dropped | {"longer than the stage allows": too_long}
            funnel = Funnel(funnel.name, funnel.considered, funnel.kept - too_long, dropped)
        if not funnel.kept:
            raise StoreError(f"the selection keeps nothing: {funnel}")
        self.run.freeze(stage, frozen(funnel, ids, selection.versions) | report)

    def fit(
        self, stage: str, objective: Objective[Any], config: StageConfig, steps: int, look: Objective[Any] | None = None
    ) -> Fitted:
        """Check the first batches, then train the policy in place under the run's folder, progress display and alarms.

        `look` gives the batches to check where `objective` cannot give them twice. Raises RunError where they are wrong, where a
        gradient is not finite, and where memory runs out for good.
        """
        watch = StageWatch(self, stage)

        def show(done: int, total: int, row: dict[str, Any]) -> None:
            told = watch.see(row)
            self.tell(stage, done, total, {name: value for name, value in row.items() if name != "alarm"} | told)

        try:
            self.check(stage, look or objective, config, steps)
            return fit(self.model, objective, config, steps, StageFolder(self.run, stage), show)
        except FloatingPointError as error:
            raise RunError(f"{stage}: {error}; training diverged: try a lower {stage}.optimizer.lr under another name") from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size() > 1:
                raise RunError(
                    f"{stage}: memory ran out on a rank ({first_line(error)}), where updates are not split further: "
                    f"lower {stage}.micro_batch_tokens, or start more ranks"
                ) from None
            longest = "seq_len" if hasattr(config, "seq_len") else "max_tokens"
            reason = first_line(error) if isinstance(error, MemoryError) else f"memory ran out ({first_line(error)})"
            raise RunError(f"{stage}: {reason}; lower {stage}.{longest}; `headway plan` says what the stage needs") from None

    def check(self, stage: str, objective: Objective[Any], config: StageConfig, steps: int) -> None:
        """The pre-flight check, once a run: kept as `preflight/STAGE.json`, one line in the terminal. RunError where it fails."""
        path = preflight_path(self.run.folder, stage)
        if not self.recipe.health.preflight or (path.exists() and read_json(path)["passed"]):
            return
        with at("pre-flight"):
            record = joined(gather(preflight(self, stage, objective, config, steps)))
        first(lambda: write_json(path, record))
        refuse(stage, record, str(path))
        self.tell(stage, 0, 1, {"note": summary(record)})


def preflight_path(folder: Path, stage: str) -> Path:
    """Where a run keeps what its pre-flight check of a stage saw."""
    return folder / "preflight" / f"{stage}.json"


def frozen(funnel: Funnel, ids: Sequence[Any], versions: dict[str, int]) -> dict[str, Any]:
    """A selection as plain JSON."""
    shape = {"name": funnel.name, "considered": funnel.considered, "kept": funnel.kept, "dropped": funnel.dropped}
    return {"name": funnel.name, "funnel": shape, "versions": versions, "ids": list(ids)}
