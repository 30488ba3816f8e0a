"""A policy that learns on several ranks: its weights, gradients and moments in shards (FSDP2), and who learns which documents.

    model             whole, on every rank: samples, is measured and saved
    learner(model)    a shard of every weight on each rank: learns            alone: the model itself
    hand_out(model)   model  --> learner    after weights were loaded
    collect(model)    learner --> model     before weights are sampled from, measured or saved; the same bytes

    update's documents --own_share--> a share of about equal tokens a rank --micro-batches, evened--> gradient, summed over ranks

A loss is normalised by the whole update, which every rank knows, so the sum over ranks is the gradient of one process but for the
order of a float32 sum. FSDP gathers a layer's weights when they are needed, which all ranks must do equally often: a rank with
fewer micro-batches has idle ones. Weights, gradients and sums over ranks are float32. It does not know losses.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import add
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from headway.model.attention import lay_out
from headway.model.precision import autocast
from headway.model.transformer import Decoder
from headway.ranks import gather, rank, size
from headway.train.batching import Document, bundles
from headway.train.shards import as_sharded, local, whole

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Micro = TypeVar("Micro")


class _Learners:
    """The sharded module of each model that learns, and the models that are behind theirs."""

    def __init__(self) -> None:
        self.of: WeakKeyDictionary[Decoder, Decoder] = WeakKeyDictionary()
        self.behind: WeakKeyDictionary[Decoder, bool] = WeakKeyDictionary()


_LEARNERS = _Learners()


def learner(model: Decoder) -> Decoder:
    """The module that learns in the place of `model`: sharded over the ranks, made when it is first asked for; alone itself."""
    if size() == 1:
        return model
    if model not in _LEARNERS.of:
        _LEARNERS.of[model] = _sharded(model)
        hand_out(model)
    return _LEARNERS.of[model]


@torch.no_grad()
def hand_out(model: Decoder) -> None:
    """Give the learner the weights of the model."""
    if size() == 1:
        return
    shards = dict(learner(model).named_parameters())
    for name, whole_weight in model.named_parameters():
        local(shards[name]).copy_(local(as_sharded(whole_weight.detach(), shards[name])))
    _LEARNERS.behind[model] = False


@torch.no_grad()
def collect(model: Decoder) -> None:
    """Give the model the weights of the learner, where these have moved; every rank calls it."""
    if size() == 1 or not _LEARNERS.behind.get(model, False):
        return
    shards = dict(learner(model).named_parameters())
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.copy_(whole(shards[name].detach()))
    _LEARNERS.behind[model] = False


def moved(model: Decoder) -> None:
    """The learner has taken a step: the model is behind until `collect`."""
    if size() > 1:
        _LEARNERS.behind[model] = True


def release(model: Decoder) -> None:
    """Collect, and let go of the learner: the training is over."""
    collect(model)
    _LEARNERS.of.pop(model, None)


def _sharded(model: Decoder) -> Decoder:
    """A module like `model` whose weights, not set yet, lie in shards; the model itself is left as it is."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # nothing writes into it
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in model.parameters()
    }
    shell = copy.deepcopy(model, memo)  # its own modules, with weights that take no memory
    mesh = _mesh(model.device.type)
    for block in shell.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(shell, mesh=mesh)
    for module in shell.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the sum, not the mean
            module.set_force_sum_reduction_for_comms(True)
    shell.to_empty(device=model.device)
    buffers = dict(model.named_buffers())
    for name, buffer in shell.named_buffers():
        buffer.copy_(buffers[name])
    return shell


@cache
def _mesh(device: str) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (size(),))


def own_share(lengths: Sequence[int]) -> list[int]:
    """Which of an update's items of these lengths this rank learns, in order: the longest first to whoever has the least.

    Alone: all. The shares are a function of the lengths and the number of ranks; every rank knows all of them.
    """
    if size() == 1:
        return list(range(len(lengths)))
    return sorted(shares(lengths, size())[rank()])


def shares(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Items of these lengths in `ranks` shares of about the same sum.

    >>> shares([5, 3, 3, 2], 2)
    [[0, 3], [1, 2]]
    """
    found: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = loads.index(min(loads))
        found[least].append(i)
        loads[least] += lengths[i]
    return found


def own_documents(documents: Sequence[Document]) -> list[int]:
    """As `own_share`, documents of one prompt together as long as they are no more than a fair share."""
    if size() == 1:
        return list(range(len(documents)))
    fair = -(-sum(len(d.ids) for d in documents) // size())
    parts, costs = bundles(documents, max(1, fair))
    return sorted(i for part in own_share(costs) for i in parts[part])


def evened(micros: Sequence[Micro]) -> list[Micro | None]:
    """The micro-batches, and None for each that another rank has more: all ranks go through the model equally often."""
    most = max(gather(len(micros)))
    return [*micros, *[None] * (most - len(micros))]


def idle_loss(model: Decoder) -> Tensor:
    """A loss of 0 for a micro-batch that is not there: it goes through the whole learner, and every weight's gradient is 0."""
    module, device = learner(model), model.device
    with autocast(model):
        hidden = module(torch.zeros(1, dtype=torch.int64, device=device), lay_out([1], device))
    return 0.0 * (hidden.float().sum() + module.output_weight[:1].float().sum())


def summed(numbers: Mapping[str, float]) -> dict[str, float]:
    """Numbers that add up over the micro-batches of an update, added up over the ranks."""
    return _over_ranks(numbers, add)


def largest(numbers: Mapping[str, float]) -> dict[str, float]:
    """Of each number the largest that a rank has."""
    return _over_ranks(numbers, max)


def _over_ranks(numbers: Mapping[str, float], join: Callable[[float, float], float]) -> dict[str, float]:
    """Numbers of the same name joined, in order of rank; a rank may lack some. Alone, nothing is sent."""
    first, *others = gather(dict(numbers))
    for found in others:
        for name, value in found.items():
            first[name] = join(first[name], value) if name in first else value
    return first
