"""Stage 0, only for a model from scratch: a base that answers without reasoning.

The recipe starts from a pre-trained model. A laptop has none of a million parameters, so this makes one: it learns
"question -> answer" text of every training problem, packed, elementary ones (`base_only` sources) among them, or with
`own_sources` of those alone, so that the problems of the stages are new to it. It sees no worked solution, so what it scores is
what guessing and memory give; the four stages are measured against it.
"""

from __future__ import annotations

import math

from headway.problems.prompt import boxed
from headway.stages.packing import row_batches
from headway.stages.workspace import Workspace
from headway.store.queries import training_problems
from headway.train.fit import Fitted
from headway.train.likelihood import Likelihood
from headway.types import Example


def train_base(work: Workspace) -> Fitted:
    """Train the policy in place on question -> answer text."""
    config = work.recipe.base
    assert config is not None
    own = [source.label for source in work.recipe.problems.sources if source.base_only] if config.own_sources else []
    selection = training_problems(work.table("base"), own)
    examples = [Example(problem, "", boxed(problem.reference)) for problem in selection.rows]
    pairs = zip(selection.ids, work.documents(examples, config.train_on_prompt), strict=True)
    found = {problem_id: document for problem_id, document in pairs if len(document.ids) <= config.seq_len}
    work.freeze("base", selection, list(found), too_long=len(examples) - len(found))
    documents = list(found.values())
    rows, batches = row_batches(documents, config.seq_len, config.batch_rows, work.recipe.seed)
    steps = math.ceil(config.epochs * len(rows) / min(config.batch_rows, len(rows)))
    objective = Likelihood(work.model, documents, batches, config.micro_batch_tokens)
    return work.fit("base", objective, config, steps)
