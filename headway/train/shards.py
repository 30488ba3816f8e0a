"""Tensors of which each rank has a shard (DTensor), whole and back. Alone there are none, and every function is the identity.

    whole(shards)  ->  the tensor, on every rank            as_sharded(tensor, beside)  ->  shards that lie as `beside` does

It does not know who shards what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

from headway.ranks import size

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor from all ranks, on every rank; any other as it is. Every rank calls it."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor, the very memory; any other as it is."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def as_sharded(tensor: Tensor, beside: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, in the shards that `beside` has; as it is beside a plain one. Nothing travels."""
    if not _is_sharded(beside):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, beside.device_mesh, beside.placements, src_data_rank=None)


def norm_of(total: Tensor) -> float:
    """A gradient's norm as a number, over all shards."""
    return float(whole(total.detach()))


def _is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Asked of every tensor, so the second that loading DTensor takes is spent with several ranks only."""
    if size() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
