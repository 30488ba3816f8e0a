"""A policy that does not learn, and the log-probs that it gives documents: RL's reference, and its weights of a step's start.

The copy is a function of the weights that a stage starts from, which a resume loads again: no resume point holds it. It does not
know what the log-probs are for.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from headway.model.precision import autocast
from headway.model.transformer import Decoder
from headway.ranks import gather, size
from headway.train.batching import Document, flatten, micro_batches_by_prompt
from headway.train.likelihood import document_logprobs
from headway.train.sharding import own_documents


def frozen_copy(model: Decoder) -> Decoder:
    """The model as it is now, with weights of its own (as many bytes again) and without gradients."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def fixed_logprobs(model: Decoder, documents: Sequence[Document], micro_batch_tokens: int, temperature: float) -> list[Tensor]:
    """log p in nats of every learned token of each document under the model as it is: float32 [targets] each, on its device.

    In the arithmetic of training (`fit.autocast`), each prompt once, at most `micro_batch_tokens` tokens at a time. Several
    ranks share the documents out, and every one gets all numbers.
    """
    found = [torch.empty(0)] * len(documents)
    own = own_documents(documents)
    for mine in micro_batches_by_prompt([documents[i] for i in own], micro_batch_tokens):
        part = [own[i] for i in mine]
        with autocast(model):
            logprobs = document_logprobs(model, flatten([documents[i] for i in part], model.device), temperature)
        for i, values in zip(part, logprobs.split([documents[i].num_targets for i in part]), strict=True):
            found[i] = values
    if size() > 1:
        every = gather({i: found[i].cpu().numpy() for i in own})
        for i, known in ((i, known) for shared in every for i, known in shared.items()):
            found[i] = torch.from_numpy(known).to(model.device)
    return found
