"""Sampling, scoring and training on a device that refuses what Apple's MPS refuses give what they give on the CPU."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_mps import OnMps, emulated
from test_engine import STOP, model, random_requests
from test_fit import Game
from test_preference import pairs_of
from tiny_policy import ragged, tiny
from torch import Tensor

from headway.engine.beam import beam_search
from headway.engine.engine import Engine
from headway.engine.sampling import drawing_device, sample_key
from headway.errors import ConfigError
from headway.model.checkpoint import load_decoder, save_decoder, weights_hash
from headway.model.device import NAMES, device_named
from headway.model.head import token_logprobs_and_entropy
from headway.model.precision import autocast, compute_dtype
from headway.model.transformer import Decoder
from headway.recipe import parse_recipe
from headway.runs import Run
from headway.stage_config import DpoConfig, RlConfig, StageConfig
from headway.start import device_of
from headway.train.batching import epochs, flatten
from headway.train.fit import fit
from headway.train.health import Movement
from headway.train.likelihood import Likelihood, document_logprobs
from headway.train.optim import trained
from headway.train.policy import PolicyGradient
from headway.train.preference import Preference, reference_logprobs
from headway.train.reference import Reference
from headway.train.resume import StageFolder
from headway.train.xray import isolation, next_token
from headway.types import Request


@pytest.fixture(autouse=True)
def _mps() -> Iterator[None]:
    with emulated():
        yield


def asked(**options: Any) -> Request:
    chance = random.Random(5)
    prompt = tuple(chance.randrange(40) for _ in range(50))  # more than one block of the cache
    return Request(prompt, (sample_key(1, 1), sample_key(1, 2)), 30, **options)


REQUESTS = [
    *random_requests(3, 6),
    asked(),
    asked(temperature=0.0, wants_entropies=True),
    asked(temperature=0.7, wants_entropies=True),
    asked(temperature=1.5, anneal=(0.0, 9)),
    asked(top_p=0.8),
    asked(top_k=5, temperature=0.6),
    asked(min_p=0.1, wants_entropies=True),
    asked(top_p=0.9, top_k=20, min_p=0.02, repetition_penalty=1.3, temperature=0.9),
]


def test_what_the_device_refuses_is_refused() -> None:
    x = torch.ones(3, device="mps")
    assert (type(x), x.device.type, (x + 1).device.type, compute_dtype(model().to("mps"))) == (OnMps, "mps", "mps", torch.float32)
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "float64", lambda: x.double()),
        (TypeError, "float64", lambda: x.cumsum(-1, dtype=torch.float64)),
        (TypeError, "float64", lambda: torch.tensor([0.5], dtype=torch.float64, device="mps")),
        (TypeError, "float64", lambda: torch.from_numpy(np.ones(3)).to("mps")),
        (RuntimeError, "same device", lambda: x + torch.ones(3)),
        (TypeError, "numpy", lambda: x.numpy()),
        (NotImplementedError, "linalg_eig", lambda: torch.linalg.eig(x * x[:, None])),
        (AssertionError, "wait", lambda: torch.ones(3).to(x.device, non_blocking=True)),
    ]
    for kind, words, call in refused:
        with pytest.raises(kind, match=words):
            call()
    assert torch.from_numpy(np.ones(3)).to("mps", torch.float32).tolist() == x.cpu().tolist() == [1.0] * 3


@pytest.mark.parametrize("limits", [{}, {"prefill_tokens": 16, "positions": 320}])  # prompts in pieces, samples that make way
@pytest.mark.parametrize("window", [0, 20])
def test_samples_are_those_of_the_cpu(limits: dict[str, int], window: int) -> None:
    plain, other = model(), model()
    if window:
        for one in (plain, other):
            one.config = replace(one.config, windows=(window, 0))
    wanted = Engine(plain, STOP, **limits).generate(REQUESTS)
    engine = Engine(other.to("mps"), STOP, **limits)
    found = engine.generate(REQUESTS)
    assert not limits or engine.statistics.preemptions > 0
    for ours, theirs in zip(found, wanted, strict=True):
        for one, two in zip(ours, theirs, strict=True):
            assert one.token_ids == two.token_ids
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)
            assert one.entropies == pytest.approx(two.entropies, abs=1e-4)


def test_a_large_vocabulary_is_drawn_from_as_on_the_cpu() -> None:
    """Wide enough for every level of truncation: see `truncation._LEVELS`."""
    assert drawing_device(torch.device("mps")) == torch.device("cpu")
    assert drawing_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    config = replace(model().config, vocab_size=20_000)
    plain, other = Decoder(config), Decoder(config)
    for one in (plain, other):
        with torch.no_grad():
            for weight in one.parameters():
                weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(weight.numel()))
    requests = [replace(one, stop_ids=()) for one in REQUESTS[6:]] + [asked(top_p=0.999), asked(top_k=300)]
    wanted, found = Engine(plain, [7]).generate(requests), Engine(other.to("mps"), [7]).generate(requests)
    assert [[c.token_ids for c in group] for group in found] == [[c.token_ids for c in group] for group in wanted]


def test_sessions_that_keep_and_beams_are_those_of_the_cpu() -> None:
    def run(decoder: Decoder) -> list[Any]:
        found: list[Any] = []
        with torch.inference_mode(), Engine(decoder, STOP).session(4, lambda samples: None, keeps=True) as session:
            for number in range(3):
                session.add(number, asked(top_p=0.9))
                while session.step():
                    pass
                found += [(number, index, c.token_ids) for number, index, c in session.collect()]
        beams = beam_search(decoder, asked().prompt_ids, 3, 20, STOP, count=3)
        return [*found, *(beam.token_ids for beam in beams)]

    assert run(model().to("mps")) == run(model())


def close(one: Tensor, other: Tensor, bound: float = 1e-5) -> bool:
    return float((one.cpu() - other.cpu()).norm()) <= bound * max(1.0, float(other.cpu().norm()))


@pytest.mark.parametrize("again", ["none", "gates", "mlp", "blocks"])
def test_log_probs_and_their_gradient_are_those_of_the_cpu(again: Any) -> None:
    documents = ragged(9)
    sides: list[tuple[Tensor, ...]] = []
    for made in (tiny().to("mps"), tiny()):
        made.recompute = again
        flat = flatten(documents, made.device)
        with autocast(made):
            logprobs = document_logprobs(made, flat, 0.8)
            hidden = made(flat.ids, flat.layout).index_select(0, flat.rows)
            both = token_logprobs_and_entropy(hidden, made.output_weight, flat.targets, 0.8)
        logprobs.square().sum().backward()
        assert logprobs.device.type == made.device.type
        gradients = [p.grad for p in made.parameters() if p.grad is not None]
        sides.append((logprobs.detach(), both[1], *gradients))
    assert len(sides[0]) == len(sides[1]) > 9
    assert all(close(one, other) for one, other in zip(*sides, strict=True))


def test_reference_log_probs_are_those_of_the_cpu(tmp_path: Path) -> None:
    pairs, documents = pairs_of(5), ragged(4)
    device, cpu = tiny().to("mps"), tiny()
    assert torch.allclose(reference_logprobs(device, pairs, cache=tmp_path), reference_logprobs(cpu, pairs), atol=1e-4)
    for one, other in zip(Reference(device).logprobs(documents, True), Reference(cpu).logprobs(documents, True), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def objective(kind: str, made: Decoder) -> Any:
    if kind == "nll":
        documents = ragged(12)
        return Likelihood(made, documents, lambda: epochs(12, 4, 0), 64, validation=ragged(3, 9), validate_every=2)
    if kind == "dpo":
        pairs = pairs_of(8)
        config = DpoConfig(micro_batch_tokens=64, nll_weight=0.2)
        return Preference(made, pairs, lambda: epochs(8, 4, 0), config, reference_logprobs(made, pairs))
    config = RlConfig(micro_batch_tokens=64, log_entropy=True, log_gap=True, tis_cap=2.0, minibatches=2)
    return PolicyGradient(made, Game(made), config)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", ["nll", "dpo", "rl"])
def test_training_is_that_of_the_cpu_and_goes_on_after_a_stop(kind: str, optimizer: str, tmp_path: Path) -> None:
    config = StageConfig(optimizer={"lr": 0.002, "name": optimizer, "clip_norm": 1.0}, micro_batch_tokens=64)  # type: ignore[arg-type]
    rows: dict[str, list[dict[str, Any]]] = {"cpu": [], "mps": []}
    ends: list[dict[str, Tensor]] = []
    for where in rows:
        made = tiny() if where == "cpu" else tiny().to("mps")
        for part, steps in enumerate((2, 4)):  # the second one resumes from the disk
            run = Run.open(tmp_path, parse_recipe({"name": f"{where}-{kind}", **_table()}, "one.toml"), "one.toml")
            made = made if not part else tiny() if where == "cpu" else tiny().to("mps")
            with run:
                fit(made, objective(kind, made), config, steps, StageFolder(run, "base"), lambda *row: rows[where].append(row[2]))  # noqa: B023
        ends.append({name: p.detach().cpu() for name, p in trained(made).items()})
    assert [row["step"] for row in rows["mps"]] == [1, 2, 3, 4]
    for one, other in zip(rows["mps"], rows["cpu"], strict=True):
        assert one.keys() == other.keys()
        for name in ("loss", "grad_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5)
    assert all(close(ends[1][name], ends[0][name], 1e-3) for name in ends[0])


def _table() -> dict[str, Any]:
    return {"problems": {"sources": [{"family": "chain_sum", "count": 3}]}, "base": {}}


def test_what_looks_at_a_run_works_there() -> None:
    made = tiny().to("mps")
    movement = Movement(made)
    with torch.no_grad():
        made.embedding.weight.add_(0.1)
    assert movement.ratios(made)["update_ratio_embedding"] > 0
    found = isolation(made, flatten(ragged(9), made.device))
    assert found.own > 0
    assert found.leaked is not None
    assert found.leaked < 1e-5 * found.own
    assert next_token(made, (5, 6, 7)).device.type == "mps"


def test_a_checkpoint_is_loaded_onto_the_device_and_saved_from_it(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    save_decoder(tiny(), tmp_path / "one")
    made = load_decoder(tmp_path / "one", device="mps")
    assert made.device.type == made.frequencies.device.type == "mps"
    save_decoder(made, tmp_path / "two")
    assert weights_hash(load_decoder(tmp_path / "two")) == weights_hash(tiny()) == weights_hash(made)


def test_the_device_is_taken_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_named("mps") == torch.device("mps")
    assert device_named("auto") == device_named("cuda" if torch.cuda.is_available() else "cpu"), "auto never takes it"
    with pytest.raises(ConfigError, match="one of auto, cpu, cuda, mps"):
        device_named("gpu")
    recipe = parse_recipe({"name": "a", "device": "mps", **_table()}, "one.toml")
    assert device_of(recipe) == torch.device("mps")
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "0")
        patch.setattr("headway.ranks.size", lambda: 2)
        with pytest.raises(ConfigError, match="one process has it alone"):
            device_of(recipe)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="this machine has none"):
        device_named("mps")
    assert {"auto", "cpu", "cuda", "mps"} == set(NAMES)
