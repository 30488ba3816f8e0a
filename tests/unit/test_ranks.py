"""Several ranks: one gradient, one writer, one error; processes of gloo on the CPU, a thread each."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_cases import CASES, OF_FOUR, measured
from rank_launcher import ended, launch
from safetensors.torch import load_file
from tiny_policy import assert_same_gradients, tiny
from torch import Tensor

from headway import ranks
from headway.train.batching import Document
from headway.train.frozen import fixed_logprobs
from headway.train.processes import Processes
from headway.train.reference import Reference
from headway.train.sharding import evened, learner, own_documents, own_share, shares
from headway.train.shards import as_sharded, whole

BOUND = 1e-6
DONE = dict[str, Any]
WORKER = Path(__file__).with_name("ranks_worker.py")


def at_work(what: str, count: int, folder: Path) -> list[DONE]:
    """What each rank saw."""
    for code, _, error in ended(launch([str(WORKER), what, str(folder)], count)):
        assert code == 0, error
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[DONE], dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("two")
    seen = at_work("gradients,collected,agreed,checked", 2, folder)
    return seen, load_file(folder / "tensors.safetensors")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[DONE], dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("four")
    seen = at_work("gradients,collected", 4, folder)
    return seen, load_file(folder / "tensors.safetensors")


def assert_same(name: str, of_ranks: tuple[list[DONE], dict[str, Tensor]]) -> None:
    """Each update's gradient and numbers are those of one process; every rank knows them."""
    seen, tensors = of_ranks
    gradients, numbers = measured(CASES[name]())
    assert_same_gradients([tensors[f"{name}/{i}"] for i in range(len(gradients))], gradients, BOUND)
    for rank in seen:
        found = rank["gradients"][name]
        assert len(found) == len(numbers)
        for own, expected in zip(found, numbers, strict=True):
            assert own.keys() == expected.keys()
            for key, value in expected.items():
                bound = BOUND if key == "loss" else 2 * BOUND
                assert own[key] == pytest.approx(value, rel=bound, abs=bound), (name, key)


@pytest.mark.parametrize("name", list(CASES))
def test_two_ranks_have_the_gradient_of_one(name: str, two: Any) -> None:
    assert_same(name, two)


@pytest.mark.parametrize("name", OF_FOUR)
def test_four_ranks_have_the_gradient_of_one(name: str, four: Any) -> None:
    assert_same(name, four)


@pytest.mark.parametrize("stage", ["nll", "dpo", "rl"])
def test_micro_batching_on_two_ranks_changes_nothing(stage: str, two: Any) -> None:
    _, tensors = two
    [whole_update], _ = measured(CASES[f"split, {stage} 1"]())
    for count in (1, 2, 4, 8):
        assert_same_gradients([tensors[f"split, {stage} {count}/0"]], [whole_update], BOUND)


@pytest.mark.parametrize("of_ranks", ["two", "four"])
def test_weights_come_back_as_they_were_handed_out(of_ranks: str, request: pytest.FixtureRequest) -> None:
    seen, _ = request.getfixturevalue(of_ranks)
    assert [rank["collected"]["is_same"] for rank in seen] == [True] * len(seen)
    assert [rank["collected"]["norm"] for rank in seen] == [[2.0] * 20] * len(seen)


@pytest.mark.parametrize("of_ranks", ["two", "four"])
def test_log_probs_are_shared_out_and_are_those_of_one_process(of_ranks: str, request: pytest.FixtureRequest) -> None:
    seen, _ = request.getfixturevalue(of_ranks)
    documents = [Document((*range(4, 9 + i), 3), 2) for i in range(5)]
    fixed = [values.tolist() for values in fixed_logprobs(tiny(), documents, 20, 1.0)]
    alone = [values.tolist() for values in Reference(tiny()).logprobs(documents, per_token=True)]
    total = sum(len(values) for values in fixed)
    for rank in seen:
        done = rank["collected"]
        assert done["cached"] == done["again"] == alone  # a document goes alone through the model: the very bytes
        for own, expected in zip(done["fixed"], fixed, strict=True):
            assert own == pytest.approx(expected, abs=2e-6)
        assert done["validation"] == pytest.approx(-sum(map(sum, fixed)) / total, rel=1e-6)
        assert done["cores"][1:] == [8 // len(seen), 1]


def test_one_writes_and_all_know(two: Any) -> None:
    seen = [rank["agreed"] for rank in two[0]]
    for done in seen:
        assert (done["before"], done["value"], done["after"]) == (False, 40, True)
        assert done["gathered"] == [0, 10]
        assert done["claims"] == 1


def test_an_error_of_one_rank_is_everybodys(two: Any) -> None:
    seen = [rank["agreed"] for rank in two[0]]
    assert [done["first"] for done in seen] == ["ConfigError: 'key' is wrong"] * 2
    assert [done["together"] for done in seen] == ["DataError: line 7 is no row"] * 2
    assert [done["broken"] for done in seen] == [
        "a mistake of ours",
        "ZeroDivisionError on rank 0: a mistake of ours",
    ]
    assert [done["context"] for done in seen] == [["in", "out", "in", "out", "no room"], ["no room"]]


def test_a_pre_flight_check_that_fails_on_one_rank_ends_all(two: Any) -> None:
    one, other = (rank["checked"]["error"] for rank in two[0])
    assert one == other
    assert one.startswith(
        "sft does not start: the pre-flight check of its batches fails: targets: step 1, micro-batch 0: document"
    )


def test_memory_that_runs_out_on_one_rank_is_said_there_and_noticed_by_the_other(tmp_path: Path) -> None:
    seen = ended(launch([str(WORKER), "out_of_memory", str(tmp_path)], 2))
    assert [code for code, _, _ in seen] == [0, 2], seen
    other, one = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    assert one["error"].startswith("sft: memory ran out on a rank (CUDA out of memory. Tried to allocate 2.00 GiB)")
    assert "lower sft.micro_batch_tokens" in one["error"]
    assert other == {"is_loss": True}


def test_alone_everything_is_the_plain_thing() -> None:
    model, tensor = tiny(), torch.ones(3)
    assert (ranks.rank(), ranks.size(), ranks.gather(5), ranks.first(lambda: 6)) == (0, 1, [5], 6)
    assert learner(model) is model
    assert whole(tensor) is tensor is as_sharded(tensor, tensor)
    assert own_share([3, 1, 2]) == own_documents([Document((5, 6, 7), 1)] * 3) == [0, 1, 2]
    assert evened(["a", "b"]) == ["a", "b"]


def test_shares_are_of_about_the_same_length_and_hold_everything_once() -> None:
    # 9 | 7 | 6, then 5 to the 6 and 4 to the 7, 3 to the 9: 12, 11, 11
    assert shares([9, 7, 6, 5, 4, 3], 3) == [[0, 5], [1, 4], [2, 3]]
    assert shares([4, 4, 4], 4) == [[0], [1], [2], []]
    lengths = [document % 37 + 1 for document in range(200)]
    found = shares(lengths, 8)
    assert sorted(i for share in found for i in share) == list(range(200))
    sums = [sum(lengths[i] for i in share) for share in found]
    assert max(sums) - min(sums) <= max(lengths)


def test_the_store_s_own_rank_lets_the_others_ask_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no torchrun holds the store it ends with rank 0, and torch shows its stack to whoever asks then."""
    store = torch.distributed.HashStore()
    first, second = (Processes(store, rank, 2, 2) for rank in (0, 1))
    said: list[bool] = []
    thread = threading.Timer(0.3, lambda: said.append(second.claim("end")))
    thread.start()
    started = time.monotonic()
    assert first.claim("end")
    assert time.monotonic() - started > 0.25
    thread.join()
    assert said == [False]
    monkeypatch.setattr("headway.train.processes._ASKING", 0.2)
    assert first.claim("another end"), "but not for ever"
    assert second.claim("a third"), "and the others do not wait"
