"""Several processes at one run (torchrun's ranks): who am I, and what all of them must agree on.

    rank 0    ──first(write)──>  writes the table, the metrics, the checkpoints       one process writes
    rank 1..  ──first(write)──>  wait until it is written, and get its result         or its error, the same one

    gather(x)     what every rank has, on every rank            together()    what fails on one rank, fails on all

Alone, every function here is the plain call, and costs nothing. Whatever is read by several ranks is written through `first`:
it begins only when all ranks have come that far, so none reads what the others could not have read. How values travel is
the business of whoever joins the ranks (`train.processes`). It does not know what the values are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

from headway.errors import HeadwayError

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


class Group(Protocol):
    """The ranks of a run, joined."""

    rank: int
    size: int
    local_size: int  # of them, those on this machine

    def gather(self, value: Any) -> list[Any]:
        """What each rank gives, in order of rank, on every rank."""
        ...

    def share(self, value: Any) -> Any:
        """What rank 0 gives."""
        ...

    def claim(self, name: str) -> bool:
        """True for the one rank that asks first, however the others are."""
        ...

    def leave(self) -> None:
        """Wait until every rank is here: the run is over."""
        ...


class _Joined:
    """This process's ranks; none as long as it is alone."""

    group: Group | None = None
    has_left = False
    is_first_at_work: bool = False  # inside `first` nothing waits for ranks that wait


_JOINED = _Joined()


def join(group: Group) -> None:
    """From now on this process is one of several."""
    _JOINED.group = group


def leave() -> None:
    """The end of a run that went well: wait until every rank is there."""
    if _JOINED.group is not None:
        _JOINED.group.leave()
        _JOINED.group, _JOINED.has_left = None, True


def were_joined() -> bool:
    """Whether this process is, or was, one of several."""
    return _JOINED.has_left or _JOINED.group is not None


def rank() -> int:
    """This process's number, from 0."""
    return _JOINED.group.rank if _JOINED.group is not None else 0


def size() -> int:
    """How many processes are at work on the run."""
    return _JOINED.group.size if _JOINED.group is not None else 1


def cores() -> int:
    """The processors that are this process's share: all of the machine's, over its ranks."""
    return shared_out(os.cpu_count() or 1)


def shared_out(threads: int) -> int:
    """This process's share of that many threads of the machine, at least one."""
    return max(1, threads // (_JOINED.group.local_size if _JOINED.group is not None else 1))


def gather(value: Result) -> list[Result]:
    """What each rank gives, in order of rank; alone [value]."""
    group = _together()
    return [value] if group is None else group.gather(value)


def first(work: Callable[[], Result]) -> Result:
    """Let rank 0 do it once all ranks are here; every rank gets the result (small: it travels), or the same error."""
    group = _together()
    if group is None:
        return work()
    group.gather(None)  # nobody is still reading what is written now
    if group.rank:
        value, error = group.share(None)
        if error is not None:
            raise error
        return value
    try:
        _JOINED.is_first_at_work = True
        value = work()
    except Exception as error:
        group.share((None, _plain(error)))
        raise
    finally:
        _JOINED.is_first_at_work = False
    group.share((value, None))
    return value


def by_first(work: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A function that rank 0 does for all (see `first`)."""

    @wraps(work)
    def done(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return first(lambda: work(*args, **kwargs))

    return done


@contextmanager
def first_inside(context: AbstractContextManager[Result]) -> Iterator[Result]:
    """A context that rank 0 enters and leaves for all; the block is every rank's, and rank 0's failure there ends the context."""
    if _together() is None:
        with context as value:
            yield value
        return
    found = first(context.__enter__)
    try:
        yield found
    except BaseException as error:
        if rank() == 0:
            context.__exit__(type(error), error, error.__traceback__)
        raise
    first(lambda: context.__exit__(None, None, None))


@contextmanager
def together() -> Iterator[None]:
    """What fails on one rank inside, fails on all with that error. Nothing inside may wait for other ranks."""
    group = _together()
    if group is None:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    found = [error for error in group.gather(own and _plain(own)) if error is not None]
    if own is not None:
        raise own
    if found:
        raise found[0]


def claim(name: str) -> bool:
    """True for the one rank that asks first, also where others have failed; alone always."""
    return _JOINED.group is None or _JOINED.group.claim(name)


def _together() -> Group | None:
    """The ranks, unless this process is alone, or does alone what the others wait for."""
    return None if _JOINED.is_first_at_work else _JOINED.group


def _plain(error: Exception) -> Exception:
    """An error that can travel: ours as they are, others as their text."""
    if isinstance(error, HeadwayError):
        return type(error)(str(error))
    return RuntimeError(f"{type(error).__name__} on rank {rank()}: {error}")
