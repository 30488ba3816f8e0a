"""Decoding on a card: recorded steps, kernels over tables, a host that is a step behind; the trainer's policy is drawn from."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from headway.engine import engine as engine_module
from headway.engine import stepping
from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.engine.tabled import CudaDecoding
from headway.model import cuda
from headway.model.config import DecoderConfig
from headway.model.transformer import Decoder, initialise
from headway.train.batching import Document, flatten
from headway.train.fit import autocast
from headway.train.likelihood import document_logprobs
from headway.types import Completion, Request

pytestmark = pytest.mark.gpu
needs_kernels = pytest.mark.skipif(not cuda.is_there(), reason="needs a CUDA card of generation 8.0 and Triton")
CONFIG = DecoderConfig(4096, 256, 4, 8, 2, 64, 512, qk_norm="head", max_positions=2048)


def model(config: DecoderConfig = CONFIG, seed: int = 0) -> Decoder:
    return initialise(config, seed).to("cuda")


def requests(count: int = 24, temperature: float = 1.0) -> list[Request]:
    return [
        Request(
            tuple((7 * number + place) % 4000 for place in range(1 + 37 * number % 300)),
            tuple(sample_key(0, number, index) for index in range(1 + number % 4)),
            20 + 61 * number % 200,
            temperature=temperature,
        )
        for number in range(count)
    ]


def flat(found: list[list[Completion]]) -> list[Completion]:
    return [completion for completions in found for completion in completions]


def gaps(made: Decoder, asked: list[Request], found: list[list[Completion]]) -> torch.Tensor:
    """Recorded log-probs less those of the trainer's forward pass."""
    documents, recorded = [], []
    for request, completions in zip(asked, found, strict=True):
        for completion in completions:
            documents.append(Document(request.prompt_ids + completion.token_ids, len(request.prompt_ids)))
            recorded += completion.logprobs
    with autocast(made):
        scored = document_logprobs(made, flatten(documents, "cuda")).detach().cpu()
    return torch.tensor(recorded) - scored


@needs_kernels
@pytest.mark.parametrize("windows", [(), (100, 0, 100, 0)])
def test_what_is_sampled_is_the_trainers_policy(windows: tuple[int, ...]) -> None:
    made, asked = model(replace(CONFIG, windows=windows or (0, 0, 0, 0))), requests()
    engine = Engine(made, [4095])
    found = engine.generate(asked)
    apart = gaps(made, asked, found)
    assert float(apart.abs().mean()) < 0.02
    assert float(apart.mean().abs()) < 0.002  # and no bias
    assert engine.statistics.preemptions == 0


@needs_kernels
def test_recorded_steps_draw_what_plain_ones_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 sums depend on the number of rows, so a few samples part ways; most do not."""
    made, asked = model(), requests(temperature=0.7)
    recorded = flat(Engine(made, [4095]).generate(asked))
    monkeypatch.setattr(stepping, "_PAYS_AFTER", 10**9)
    plain = flat(Engine(made, [4095]).generate(asked))
    monkeypatch.setattr(engine_module, "_AHEAD", {})
    waiting = flat(Engine(made, [4095]).generate(asked))
    assert plain == waiting  # the same operators on the same rows: only the host reads later
    same = [a.token_ids[:20] == b.token_ids[:20] for a, b in zip(recorded, plain, strict=True)]
    assert sum(same) > 0.8 * len(same)


@needs_kernels
def test_short_of_memory_samples_make_way_and_go_on() -> None:
    made, asked = model(), requests()
    engine = Engine(made, [4095], positions=3000, prefill_tokens=64)
    found = engine.generate(asked)
    assert engine.statistics.preemptions > 0
    assert [len(c.token_ids) for c in flat(found)] == [r.max_tokens for r in asked for _ in r.keys]
    assert float(gaps(made, asked, found).abs().mean()) < 0.02


@needs_kernels
@pytest.mark.parametrize("truncations", [[{}], [{"top_p": 0.9}], [{"top_p": 0.9}, {}, {"top_k": 40, "min_p": 0.01}]])
@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_step_does_not_wait_for_the_card(
    truncations: list[dict[str, Any]], is_recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy and no question waits, but for the drawing that is read a step late."""
    if not is_recorded:
        monkeypatch.setattr(stepping, "_PAYS_AFTER", 10**9)
    made = model()
    session = Engine(made, [4095]).session(64, lambda samples: None)
    for number in range(16):
        temperature, cut = 0.9 if number % 2 else 1.0, truncations[number % len(truncations)]
        session.add(number, Request((5, 6, 7), (sample_key(0, number),), 400, temperature=temperature, **cut))
    with torch.inference_mode():
        for _ in range(40):  # recorded by now, and no sample needs another block soon
            session.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(10):
                session.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    session.close()


@needs_kernels
def test_weights_that_change_are_drawn_from() -> None:
    """A new generation has new copies and new recordings; a session that mixes goes on with the new weights."""
    made, asked = model(), requests()
    engine = Engine(made, [4095])
    engine.generate(asked)
    session = engine.session(64, lambda samples: None, mixes_versions=True)
    for number, request in enumerate(asked):
        session.add(number, request)
    with torch.inference_mode():
        for _ in range(10):
            session.step()
    with torch.no_grad():
        made.norm.weight.mul_(0.5)
    with torch.inference_mode():
        while session.step():
            pass
    session.close()
    found = engine.generate(asked)
    assert float(gaps(made, asked, found).abs().mean()) < 0.02


@needs_kernels
def test_the_kernels_are_used() -> None:
    made = model()
    from headway.engine.cache import BlockCache

    step = stepping.step_of(made, BlockCache(CONFIG, 4096, torch.bfloat16, made.device))
    assert isinstance(step, stepping.RecordedStep)
    assert isinstance(step.decoding, CudaDecoding)
