"""The cache of reference log-probs: the same bytes looked up or computed, and nothing that is damaged is ever trusted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_preference import pairs_of
from tiny_policy import STOP, naive_logprobs, ragged, tiny

from headway.model.transformer import Decoder
from headway.train.batching import Document
from headway.train.preference import reference_logprobs
from headway.train.reference import Reference, make_room, weights_hash


class Watch:
    """Counts the documents that are computed, and keeps the notes."""

    def __init__(self, stop_after: int = 1 << 30) -> None:
        self.computed, self.notes, self._stop_after = 0, list[str](), stop_after

    def __call__(self, done: int, total: int, numbers: dict[str, str]) -> None:
        if "note" in numbers:
            self.notes.append(numbers["note"])
            return
        self.computed += 1
        if self.computed == self._stop_after:
            raise KeyboardInterrupt


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def asked(model: Decoder, documents: list[Document], folder: Path | None, temperature: float = 1.0) -> tuple[bytes, int]:
    """The bytes of all sums, and how many documents were computed for them."""
    watch = Watch()
    found = Reference(model, folder, temperature, watch).logprobs(documents)
    assert watch.notes == []
    return torch.cat(found).numpy().tobytes(), watch.computed


def test_from_the_cache_or_computed_the_bytes_are_the_same(tmp_path: Path) -> None:
    documents = ragged(9)
    plain, computed = asked(tiny(), documents, None)
    assert computed == 9
    assert asked(tiny(), documents, tmp_path) == (plain, 9)
    assert asked(tiny(), documents, tmp_path) == (plain, 0)
    grown = ragged(4, seed=7) + documents[::-1]  # another selection, in another order: only what is new is computed
    assert asked(tiny(), grown, tmp_path) == (asked(tiny(), grown, None)[0], 4)
    assert reference_logprobs(tiny(), pairs_of(5)).equal(reference_logprobs(tiny(), pairs_of(5), cache=tmp_path))


def test_log_probs_of_tokens_and_of_documents_are_those_of_the_whole_logits(tmp_path: Path) -> None:
    model, documents = tiny(1), ragged(5)
    for _ in range(2):  # computed, then looked up
        reference = Reference(model, tmp_path, 0.7)
        sums, tokens = reference.logprobs(documents), reference.logprobs(documents, per_token=True)
        for document, together, each in zip(documents, sums, tokens, strict=True):
            by_hand = naive_logprobs(model, document, 0.7)
            assert each.tolist() == pytest.approx(by_hand, abs=2e-5)
            assert together.item() == pytest.approx(sum(by_hand), abs=1e-4)


def test_a_document_that_stands_twice_is_computed_once(tmp_path: Path) -> None:
    (document,) = ragged(1)
    found, computed = asked(tiny(), [document, document], tmp_path)
    assert computed == 1
    assert found[:4] == found[4:]


def changed_weight(model: Decoder) -> Decoder:
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] += 1e-6
    return model


def renamed_settings(model: Decoder) -> Decoder:
    object.__setattr__(model.config, "rope_theta", 20_000.0)
    return model


@pytest.mark.parametrize("change", [changed_weight, renamed_settings, lambda model: model.double()])
def test_another_function_is_another_key(tmp_path: Path, change: Callable[[Decoder], Decoder]) -> None:
    documents = ragged(3)
    assert asked(tiny(), documents, tmp_path)[1] == 3
    assert asked(change(tiny()), documents, tmp_path)[1] == 3
    assert asked(tiny(), documents, tmp_path)[1] == 0


def test_temperature_first_target_and_threads_are_in_the_key(tmp_path: Path, threads: int) -> None:
    document, other = Document((5, 6, 7, STOP), 2), Document((5, 6, 7, STOP), 1)
    assert asked(tiny(), [document], tmp_path)[1] == 1
    assert asked(tiny(), [document], tmp_path, 0.5)[1] == 1
    assert asked(tiny(), [other], tmp_path)[1] == 1
    assert asked(tiny(), [document], tmp_path)[1] == 0
    torch.set_num_threads(3 - threads)  # the last bits may depend on them
    assert asked(tiny(), [document], tmp_path)[1] == 1


def test_where_the_settings_were_read_from_is_not_in_the_key(tmp_path: Path) -> None:
    documents, model = ragged(2), tiny()
    asked(model, documents, tmp_path)
    object.__setattr__(model.config, "source", {"model_type": "llama", "torch_dtype": "bfloat16"})
    assert asked(model, documents, tmp_path)[1] == 0


def test_the_hash_of_weights_sees_names_and_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    other.load_state_dict(one.state_dict())
    assert weights_hash(one) == weights_hash(other)
    assert weights_hash(torch.nn.ModuleDict({"a": one})) != weights_hash(torch.nn.ModuleDict({"b": one}))
    monkeypatch.setattr("headway.train.reference._PIECE", 20)  # 48 bytes of weight are three pieces
    with torch.no_grad():
        other.weight[2, 3] += 1
    assert weights_hash(one) != weights_hash(other)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the last log-prob
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def swapped(path: Path) -> None:
    path.write_bytes(b"{}")


@pytest.mark.parametrize("harm", [flipped, truncated, swapped])
def test_a_damaged_file_is_computed_again_and_said_in_a_line(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    documents, watch = ragged(6), Watch()
    plain, _ = asked(tiny(), documents, tmp_path)
    (path,) = files(tmp_path)
    harm(path)
    found = Reference(tiny(), tmp_path, show=watch).logprobs(documents)
    assert torch.cat(found).numpy().tobytes() == plain
    assert watch.computed == 6
    (note,) = watch.notes
    assert str(path) in note
    assert "\n" not in note
    assert asked(tiny(), documents, tmp_path) == (plain, 0)  # whole again


def test_another_functions_files_are_no_help(tmp_path: Path) -> None:
    """A file moved from one function's folder to another's is whole, but its keys are not asked for."""
    documents = ragged(4)
    asked(tiny(0), documents, tmp_path)
    (path,) = files(tmp_path)
    asked(tiny(1), [documents[0]], tmp_path)
    (other,) = (folder for folder in tmp_path.iterdir() if folder != path.parent)
    path.rename(other / path.name)
    assert asked(tiny(1), documents, tmp_path) == (asked(tiny(1), documents, None)[0], 3)


def test_what_was_computed_before_an_interrupt_is_kept(tmp_path: Path) -> None:
    documents = ragged(8)
    with pytest.raises(KeyboardInterrupt):
        Reference(tiny(), tmp_path, show=Watch(stop_after=5)).logprobs(documents)
    assert asked(tiny(), documents, tmp_path) == (asked(tiny(), documents, None)[0], 3)


_SLOW = """
import sys, time
from pathlib import Path
from tiny_policy import ragged, tiny
from headway.train.reference import Reference
def show(done, total, numbers):
    time.sleep(0.02)
found = Reference(tiny(), Path(sys.argv[1]), show=show, flush_seconds=0.05).logprobs(ragged(60))
print("done")
"""


def start(folder: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", _SLOW, str(folder)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)


def test_a_killed_process_and_two_at_once_leave_a_whole_cache(tmp_path: Path) -> None:
    first, second = start(tmp_path), start(tmp_path)
    deadline = time.monotonic() + 300
    while len(files(tmp_path)) < 2 and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=300)[0].strip() == "done"
    first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL
    assert asked(tiny(), ragged(60), tmp_path) == (asked(tiny(), ragged(60), None)[0], 0)


def test_a_folder_that_cannot_be_written_costs_a_note_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    watch = Watch()
    found = Reference(tiny(), tmp_path / "cache", show=watch).logprobs(ragged(3))
    assert torch.cat(found).numpy().tobytes() == asked(tiny(), ragged(3), None)[0]
    assert [note.split(":")[0] for note in watch.notes] == ["the cache of reference log-probs is not kept"]


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "used", "old", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.safetensors").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    leftover, recent = tmp_path / "new" / "b.safetensors.tmp-7", tmp_path / "new" / "c.safetensors.tmp-8"
    for path in (leftover, recent):
        path.write_bytes(b"")
    os.utime(leftover, (1e9, 1e9))
    os.utime(tmp_path / "new", (1e9, 1e9))

    def left(limit: int) -> list[str]:
        make_room(tmp_path, limit, tmp_path / "used")
        return sorted(path.name for path in tmp_path.iterdir())

    assert left(400) == ["new", "old", "oldest", "used"]
    assert (leftover.exists(), recent.exists()) == (False, True)
    os.utime(tmp_path / "new", (1e9, 1e9))
    assert left(399) == ["new", "old", "used"]
    assert left(150) == ["used"]
    assert left(0) == ["used"]


def test_every_folder_says_whose_it_is(tmp_path: Path) -> None:
    asked(tiny(), ragged(2), tmp_path, 0.8)
    (about,) = tmp_path.glob("*/about.json")
    told: dict[str, Any] = json.loads(about.read_text())
    assert (told["family"], told["temperature"]) == ("llama", 0.8)
    assert told["parameters"] == sum(p.numel() for p in tiny().parameters())
