"""The processes that torchrun started, joined: objects over gloo, tensors over NCCL (CUDA) or gloo (CPU).

    torchrun --nproc-per-node 2 -m headway run RECIPE     -->  RANK, WORLD_SIZE, MASTER_ADDR ... in the environment  -->  start()

Without torchrun's environment nothing happens. A process that ends closes its connections, so that the others notice, and
torchrun ends them; how long anything takes is not limited here, since rank 0 may ask a teacher for hours. It does not know
what the ranks do.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from headway import ranks
from headway.errors import ConfigError

_JOINING = timedelta(minutes=5)
_WORKING = timedelta(days=30)
_ASKING = 3.0  # seconds
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo/transport", "NCCL", "Socket", "socket")


class Processes:
    """The ranks as `ranks.Group` (see there)."""

    def __init__(self, store: Store, rank: int, size: int, local_size: int):
        self._store, self.rank, self.size, self.local_size = store, rank, size, local_size

    def gather(self, value: Any) -> list[Any]:
        """What each rank gives, in order of rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def share(self, value: Any) -> Any:
        """What rank 0 gives."""
        found = [value]
        dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
        return found[0]

    def claim(self, name: str) -> bool:
        """The store outlives ranks where torchrun holds it; where it is gone, whoever asks is told yes.

        Else it is rank 0's, which lets the others ask before it goes on, for a while: who comes too late is shown torch's stack.
        """
        try:
            is_first = self._store.add(name, 1) == 1
            latest = time.monotonic() + _ASKING
            while self.rank == 0 and self._store.add(name, 0) < self.size and time.monotonic() < latest:
                time.sleep(0.02)
            return is_first
        except RuntimeError:
            return True

    def leave(self) -> None:
        """Wait for every rank. Connections end with the process: taken down one by one, their threads may abort it."""
        self.gather(None)


def start() -> None:
    """Join the ranks. ConfigError where the environment names several, but not which one this is."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size in ("", "1") or ranks.size() > 1:
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing or not size.isdigit():
        raise ConfigError(
            f"WORLD_SIZE={size} in the environment asks for several processes, but {', '.join(missing) or 'it is no number'}"
            f"{' is not set' if missing else ''}: start with `torchrun --nproc-per-node N -m headway run RECIPE`, or unset it"
        )
    try:
        store, rank, count = next(iter(rendezvous("env://", timeout=_JOINING)))
        store = PrefixStore("headway", store)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(count)))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        if torch.cuda.is_available() and local_rank() < torch.cuda.device_count():
            torch.cuda.set_device(local_rank())
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_WORKING)
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"the {size} ranks of this run do not find each other: {str(error).splitlines()[0]}") from None
    ranks.join(Processes(store, rank, count, local))


def local_rank() -> int:
    """The number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if "RANK" in os.environ else 0


def is_loss_of_rank(error: BaseException) -> bool:
    """Whether an error says that another rank is gone."""
    if ranks.size() == 1 or not isinstance(error, RuntimeError):
        return False
    is_of_torch = isinstance(error, dist.DistError)
    return is_of_torch or any(word in str(error) for word in _LOST)
