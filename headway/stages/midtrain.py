"""Stage 1, distillation as mid-training.

Phi-4-Mini-Reasoning (arXiv 2504.21233): the base model is trained on every verified-correct long chain of thought that the
teacher wrote, packed into long rows, as plain causal language modelling, adding epochs until the loss on a validation
set saturates (16K tokens a row, batch 128, learning rate 1e-5, 10 % warm-up, 5 epochs).

Deviations:
1. Packed documents do not attend across each other, and positions restart. The paper does not say; a mask is exact.
2. "Saturates" is made precise: the validation loss (rollouts of teacher problems kept out of the gradient) is measured every
   `validate_every` steps and at the end; training ends after `patience` measurements without a new best, or after
   `max_epochs`, and the best weights are kept.
3. Every document ends in the stop token, as text in pre-training does.
"""

from __future__ import annotations

import math

from headway.stages.packing import row_batches
from headway.stages.workspace import Workspace
from headway.store.queries import midtrain_examples
from headway.train.fit import Fitted
from headway.train.likelihood import Likelihood
from headway.types import Example, content_id


def midtrain(work: Workspace) -> Fitted:
    """Train the policy in place; the notes hold the best validation step and loss."""
    config = work.recipe.midtrain
    assert config is not None
    selection = midtrain_examples(work.table("midtrain"), verifier=work.recipe.verifier)
    examples = list(selection.rows)
    pairs = zip(examples, work.documents(examples, config.train_on_prompt), strict=True)
    found = {example.rollout_id: document for example, document in pairs if len(document.ids) <= config.seq_len}
    work.freeze("midtrain", selection, list(found), too_long=len(examples) - len(found))
    fitting = [example for example in examples if example.rollout_id in found]
    validation, training = split_validation(fitting, config.validation_share)
    documents = [found[example.rollout_id] for example in training]
    held = [found[example.rollout_id] for example in validation]
    rows, batches = row_batches(documents, config.seq_len, config.batch_rows, work.recipe.seed)
    steps = math.ceil(config.max_epochs * len(rows) / min(config.batch_rows, len(rows)))
    objective = Likelihood(
        work.model, documents, batches, config.micro_batch_tokens, held, config.validate_every, config.patience, steps
    )
    fitted = work.fit("midtrain", objective, config, steps)
    fill = sum(len(d.ids) for d in documents) / (len(rows) * config.seq_len)
    notes = {"documents": len(documents), "validation_documents": len(held), "fill": fill, **objective.take_best()}
    return Fitted(fitted.steps, fitted.train_tokens, notes)


def split_validation(examples: list[Example], share: float) -> tuple[list[Example], list[Example]]:
    """(validation, training): about `share` of the problems, chosen by their ids, at least one where there are two."""
    problems = sorted({example.problem.id for example in examples}, key=lambda i: content_id("validation", i))
    count = max(1, round(share * len(problems))) if len(problems) > 1 else 0
    chosen = set(problems[:count])
    validation = [example for example in examples if example.problem.id in chosen]
    return validation, [example for example in examples if example.problem.id not in chosen]
