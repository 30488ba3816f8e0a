"""One of several ranks at work for `test_ranks`: `python ranks_worker.py WHAT FOLDER`, with torchrun's environment.

Rank r leaves what it saw as FOLDER/r.json, and rank 0 the tensors of all as FOLDER/tensors.safetensors.
"""

import json
import os
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rank_cases import CASES, OF_FOUR, measured
from safetensors.torch import save_file
from tiny_policy import tiny
from tiny_sampler import trained_weights
from tiny_workspace import workspace

from headway import ranks
from headway.cli.several import end
from headway.errors import ConfigError, DataError, HeadwayError, RunError
from headway.model.config import DecoderConfig
from headway.model.transformer import initialise
from headway.stage_config import SftConfig
from headway.train.batching import Document, Flat, flatten
from headway.train.frozen import fixed_logprobs
from headway.train.likelihood import Likelihood
from headway.train.processes import is_loss_of_rank, start
from headway.train.reference import Reference
from headway.train.sharding import collect, hand_out, learner, moved
from headway.types import Example


def gradients(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Every case; the model's weights come back as they were handed out."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for name in names:
        found, numbers[name] = measured(CASES[name]())
        tensors |= {f"{name}/{i}": gradient for i, gradient in enumerate(found)}
    if ranks.rank() == 0:
        save_file(tensors, folder / "tensors.safetensors")
    return numbers


def collected(folder: Path) -> dict[str, Any]:
    """Weights through the shards and back, at sizes that do not divide; then what the ranks share out without training."""
    model = initialise(DecoderConfig(37, 20, 2, 2, 1, 10, 23, tied=False, max_positions=64), 1)
    before = [p.detach().clone() for p in model.parameters()]
    learner(model)
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    moved(model)
    collect(model)
    is_same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    model.norm.weight.data.fill_(2.0)
    hand_out(model)
    moved(model)
    model.norm.weight.data.fill_(0.0)
    collect(model)
    documents = [Document((*range(4, 9 + i), 3), 2) for i in range(5)]
    fixed = fixed_logprobs(tiny(), documents, 20, 1.0)
    cached = Reference(tiny(), folder / "cache").logprobs(documents, per_token=True)
    again = Reference(tiny(), folder / "cache").logprobs(documents, per_token=True)
    held = Likelihood(tiny(), documents, lambda: iter([[0]]), 20, documents)
    return {
        "is_same": is_same,
        "norm": model.norm.weight.tolist(),
        "fixed": [values.tolist() for values in fixed],
        "cached": [values.tolist() for values in cached],
        "again": [values.tolist() for values in again],
        "validation": held.validation_loss(),
        "cores": (ranks.cores(), ranks.shared_out(8), ranks.shared_out(1)),
    }


def agreed(folder: Path) -> dict[str, Any]:
    """What one rank does for all, and errors of one rank that are everybody's."""
    path, seen = folder / "written", dict[str, Any]()

    def write() -> int:
        path.write_text("x", encoding="utf-8")
        return ranks.first(lambda: ranks.rank() + 40)  # inside, nobody is waited for

    seen["before"] = path.exists()  # nobody writes before everybody has looked
    seen["value"] = ranks.first(write)
    seen["after"] = path.exists()
    seen["gathered"] = ranks.gather(ranks.rank() * 10)

    def refused() -> None:
        raise ConfigError("'key' is wrong")

    def fails_on_the_last() -> None:
        with ranks.together():
            if ranks.rank() == ranks.size() - 1:
                raise DataError("line 7 is no row")

    def broken() -> None:
        raise ZeroDivisionError("a mistake of ours")

    for name, work in (("first", lambda: ranks.first(refused)), ("together", fails_on_the_last)):
        try:
            work()
        except HeadwayError as error:
            seen[name] = f"{type(error).__name__}: {error}"
    try:
        ranks.first(broken)
    except (ZeroDivisionError, RuntimeError) as error:
        seen["broken"] = str(error)
    seen["context"] = in_context(folder)
    seen["claims"] = sum(ranks.gather(ranks.claim("one")))
    return seen


def in_context(folder: Path) -> list[str]:
    """A context of rank 0 around the work of all; the second time the work fails."""
    entered: list[str] = []

    @contextmanager
    def noted() -> Any:
        entered.append("in")
        try:
            yield str(folder)
        finally:
            entered.append("out")

    with ranks.first_inside(noted()) as found:
        assert found == str(folder)
    try:
        with ranks.first_inside(noted()):
            ranks.first(lambda: (_ for _ in ()).throw(ConfigError("no room")))
    except ConfigError as error:
        entered.append(str(error))
    return entered


class Shifted:
    """An objective whose batch is wrong on rank 1: its targets lie one place aside."""

    max_tokens = 100

    def __init__(self, document: Document):
        self._document = document

    def updates(self, step: int) -> Iterable[list[Flat]]:
        flat = flatten([self._document])
        if ranks.rank() == 1:
            flat = Flat(flat.ids, flat.rows, flat.targets.roll(1), flat.owner, flat.layout, 1)
        return [[flat]]


def checked(folder: Path) -> dict[str, Any]:
    """A pre-flight check that fails on one rank."""
    try:
        with workspace(folder / "runs") as work:
            [problem, *_] = work.store.problems()
            [document] = work.documents([Example(problem, "", "a b c d")])
            work.check("sft", Shifted(document), SftConfig(), 3)  # type: ignore[arg-type]
    except HeadwayError as error:
        return {"error": str(error)}
    return {}


class Greedy(Likelihood):
    """An objective that finds no memory on rank 1."""

    def loss(self, micro: Flat) -> tuple[torch.Tensor, dict[str, float]]:
        if ranks.rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().loss(micro)


def out_of_memory(folder: Path) -> dict[str, Any]:
    """Memory runs out on one rank in the middle of an update: it says what to do, and the other notices that it is gone."""
    with workspace(folder / "memory", health={"preflight": False}) as work:
        documents = [Document((*range(4, 9 + i), 3), 2) for i in range(6)]
        objective = Greedy(work.model, documents, lambda: iter([range(6)]), 10_000)
        try:
            work.fit("sft", objective, SftConfig(), 1)
        except RunError as error:
            leave_word(folder, {"error": str(error)})
            os._exit(2)
        except RuntimeError as error:
            return {"is_loss": is_loss_of_rank(error)}
    return {}


def leave_word(folder: Path, found: dict[str, Any]) -> None:
    (folder / f"{ranks.rank()}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    trained_weights()  # of the tiny workspace: made as long as this process is alone
    start()
    what, place = sys.argv[1], Path(sys.argv[2])
    names = OF_FOUR if ranks.size() > 2 else tuple(CASES)
    work = {"gradients": lambda: gradients(place, names), "collected": lambda: collected(place)}
    work |= {"agreed": lambda: agreed(place), "checked": lambda: checked(place)}
    if what == "out_of_memory":
        leave_word(place, out_of_memory(place))
        os._exit(0)
    leave_word(place, {name: work[name]() for name in what.split(",")})
    ranks.leave()
    end(0)
