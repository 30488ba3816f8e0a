"""Stage 3, rollout preference learning.

Phi-4-Mini-Reasoning: for each question the correct rollout is preferred over an incorrect one, which puts the rejected rollouts
of the first stage to use; standard DPO against the stage-2 model (16K tokens, learning rate 5e-7, 1 epoch).

Deviations:
1. Beta is ours (0.1, the common default; the paper gives none).
2. Optionally the stage-2 model's own rollouts on further training problems give pairs beside the teacher's: its own mistakes
   are the ones it makes.
3. Optionally the chosen rollout's likelihood is added with a weight (Iterative RPO), which keeps it from falling.
4. A pair's two rollouts have one author, unless `across_samplers`: then a teacher's (or a data set's) correct solution may be
   preferred over the model's own wrong one. Such a pair teaches the author's style, too; the selection's report counts them.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import compress

from headway.sample import Plan
from headway.stages.workspace import Workspace
from headway.store.queries import dpo_pairs, pair_report, rl_problems
from headway.train.batching import Document, epochs
from headway.train.fit import Fitted
from headway.train.preference import DocumentPair, Preference, reference_logprobs
from headway.types import Example, Pair


def learn_preferences(work: Workspace) -> Fitted:
    """Train the policy in place on pairs; its weights at the start are the reference."""
    config = work.recipe.dpo
    assert config is not None
    samplers: tuple[str, ...] = ("teacher", "import") if config.teacher_pairs else ()
    if config.own_problems:
        samplers += ("dpo",)
        problems = rl_problems(work.store, seed=work.recipe.seed, limit=config.own_problems, exclude=work.base_only()).rows
        plan = Plan("dpo", 0, f"{work.recipe.name}/sft", config.temperature, 1.0, config.max_tokens)
        work.sample_stored(problems, config.own_rollouts, plan, "dpo", "dpo")
    selection = dpo_pairs(
        work.table("dpo"),
        samplers=samplers,
        pairs_per_problem=config.pairs_per_problem,
        seed=work.recipe.seed,
        across_samplers=config.across_samplers,
        pair_by=config.pair_by,
        max_length_ratio=config.max_length_ratio,
        verifier=work.recipe.verifier,
    )
    selected = list(selection.rows)
    found = document_pairs(work, selected)
    fits = [max(len(p.chosen.ids), len(p.rejected.ids)) <= config.max_tokens for p in found]
    pairs = list(compress(found, fits))
    rows = list(compress(selected, fits))
    lost = len({row.problem.id for row in selected}) - len({row.problem.id for row in rows})  # the funnel counts problems
    work.freeze("dpo", selection, list(compress(selection.ids, fits)), too_long=lost, report=pair_report(rows))
    reference = reference_logprobs(work.model, pairs, cache=work.cache("reference"), show=partial(work.tell, "dpo: reference"))
    batch = min(config.batch_pairs, len(pairs))
    steps = math.ceil(config.epochs * len(pairs) / batch)
    objective = Preference(work.model, pairs, lambda: epochs(len(pairs), batch, work.recipe.seed), config, reference)
    return work.fit("dpo", objective, config, steps)


def document_pairs(work: Workspace, pairs: list[Pair]) -> list[DocumentPair]:
    """Tokenized pairs, each side learned from its completion on."""
    chosen = work.documents([Example(p.problem, p.chosen_id, p.chosen) for p in pairs])
    rejected = work.documents([Example(p.problem, p.rejected_id, p.rejected) for p in pairs])
    both: list[tuple[Document, Document]] = list(zip(chosen, rejected, strict=True))
    return [DocumentPair(good, bad) for good, bad in both]
