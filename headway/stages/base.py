"""Stage 0, only for a model from scratch: a base that answers without reasoning.

The recipe starts from a pre-trained model. A laptop has none of a million parameters, so this makes one: plain language
modelling on "question -> answer" text of every training problem, packed. It sees no worked solution, so what it scores is
what guessing and memory give; the four stages are measured against it.
"""

from __future__ import annotations

import math

from headway.problems.prompt import boxed
from headway.stages.packing import row_batches
from headway.stages.workspace import Workspace, frozen
from headway.store.queries import training_problems
from headway.train.fit import Fitted
from headway.train.likelihood import Likelihood
from headway.types import Example


def train_base(work: Workspace) -> Fitted:
    """Train the policy in place on question -> answer text."""
    config = work.recipe.base
    assert config is not None
    selection = training_problems(work.store)
    work.run.freeze("base", frozen(selection.funnel, [], selection.versions))
    examples = [Example(problem, "", boxed(problem.reference)) for problem in selection.rows]
    documents = work.documents(examples, on_prompt=True)
    rows, batches = row_batches(documents, config.seq_len, config.batch_rows, work.recipe.seed)
    steps = math.ceil(config.epochs * len(rows) / config.batch_rows)
    objective = Likelihood(work.model, documents, batches, config.micro_batch_tokens)
    return work.fit("base", objective, config, steps)
