"""Stage 2, distillation as supervised fine-tuning.

Phi-4-Mini-Reasoning: the mid-trained model is fine-tuned on a compact, representative, high-quality subset of the stage-1 data
of several difficulties, this time without packing, so that it learns when to stop (20K tokens, batch 128, learning rate 1e-5,
5 epochs).

Deviations:
1. What "high-quality" means is ours, since the paper gives no rule: correct, not repetitive (share of repeated lines),
   at most `per_problem` rollouts a problem (the shortest ones, if `shortest`), balanced over family and difficulty, or over
   length, or over like questions (`balance`). LIMO's subset may take its place (`[sft.limo]`).
2. Unpacked means that a step counts examples, not rows; they are still computed without padding.
3. Only the completion and its stop token are learned, not the prompt.
"""

from __future__ import annotations

import math

from headway.stage_config import SftConfig
from headway.stages.workspace import Workspace
from headway.store.limo import limo_examples
from headway.store.queries import sft_examples
from headway.store.rows import Selection
from headway.train.batching import epochs
from headway.train.fit import Fitted
from headway.train.likelihood import Likelihood
from headway.types import Example


def finetune(work: Workspace) -> Fitted:
    """Train the policy in place on the compact subset."""
    config = work.recipe.sft
    assert config is not None
    selection = _selected(work, config)
    pairs = zip(selection.ids, work.documents(list(selection.rows)), strict=True)
    found = {rollout_id: document for rollout_id, document in pairs if len(document.ids) <= config.max_tokens}
    work.freeze("sft", selection, list(found), too_long=len(selection.ids) - len(found))
    documents = list(found.values())
    batch = min(config.batch_examples, len(documents))
    steps = math.ceil(config.epochs * len(documents) / batch)
    objective = Likelihood(
        work.model,
        documents,
        lambda: epochs(len(documents), batch, work.recipe.seed),
        config.micro_batch_tokens,
    )
    return work.fit("sft", objective, config, steps)


def _selected(work: Workspace, config: SftConfig) -> Selection[Example]:
    """The compact subset, by the recipe's rule."""
    table = work.table("sft")
    if config.limo is not None:
        limo = config.limo
        return limo_examples(
            table,
            easy=limo.easy,
            hard=limo.hard,
            low=limo.solved_low,
            high=limo.solved_high,
            tries=limo.tries,
            max_examples=config.max_examples or 800,
            verifier=work.recipe.verifier,
        )
    return sft_examples(
        table,
        per_problem=config.per_problem,
        max_repetition=config.max_repetition,
        shortest=config.shortest,
        max_examples=config.max_examples,
        seed=work.recipe.seed,
        by=config.balance,
        verifier=work.recipe.verifier,
    )
