"""The engine from its user's side: tokens as they come, cancelling, statistics, and what a recipe gives it of the machine."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_engine import STOP, model, random_requests
from tiny_sampler import parities, policy, tokenizer

from headway.config import EngineConfig
from headway.engine.cache import bytes_per_position
from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.errors import ConfigError, EngineError
from headway.model.checkpoint import save_decoder
from headway.recipe import load_recipe
from headway.runs import plain
from headway.sample import Plan, Sampler
from headway.start import engine_of
from headway.types import Completion, Request
from headway.verify.judge import Verifier

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("slots", [0, 3])
def test_a_stream_is_the_completions_token_by_token(slots: int) -> None:
    decoder, requests = model(), random_requests(11)
    expected = Engine(decoder, STOP).generate(requests)
    tokens: dict[tuple[int, int], list[int]] = {}
    logprobs: dict[tuple[int, int], list[float]] = {}
    ended: dict[tuple[int, int], Completion] = {}
    for one in Engine(decoder, STOP, slots).stream(requests):
        key = one.request, one.index
        assert key not in ended
        tokens.setdefault(key, []).append(one.token)
        logprobs.setdefault(key, []).append(one.logprob)
        if one.completion is not None:
            ended[key] = one.completion
    assert len(ended) == sum(len(request.keys) for request in requests)
    for (request, index), completion in ended.items():
        wanted = expected[request][index]
        assert completion.token_ids == wanted.token_ids == tuple(tokens[request, index])
        assert completion.stop_reason is wanted.stop_reason
        assert np.allclose(logprobs[request, index], wanted.logprobs, atol=1e-4)
    assert list(Engine(decoder, STOP).stream([])) == []


def test_whoever_stops_listening_cancels_the_rest() -> None:
    decoder = model()
    stream = Engine(decoder, [39]).stream([Request((5, 6), tuple(sample_key(0, i) for i in range(8)), 150)])
    heard = [next(stream) for _ in range(8 * 40)]
    assert {one.index for one in heard} == set(range(8))
    assert any(getattr(weight, "packed", None) for weight in decoder.matrices) == torch.backends.mkldnn.is_available()
    stream.close()
    assert not any(getattr(weight, "packed", None) for weight in decoder.matrices)
    with pytest.raises(EngineError, match="request 0 has an empty prompt"):
        Engine(decoder, STOP).stream([Request((), (1,), 5)])  # at once, before anything is asked of it


def test_statistics_say_how_full_batch_and_cache_were() -> None:
    decoder = model()
    engine = Engine(decoder, [39], slots=4, positions=512)
    engine.generate([Request((1, 2, 3), tuple(sample_key(0, i) for i in range(8)), 40)])
    found = engine.statistics
    assert found.slots == 4
    assert found.cache_limit == 512 * bytes_per_position(decoder.config, torch.float32)
    assert 0 < found.batch_fill <= 1
    assert found.batch_fill == found.batch / 4
    assert 0 < found.cache_use <= 1
    assert found.prefill_rate > 0
    assert found.decode_rate > 0


def test_what_the_engine_gets_of_the_machine_changes_no_sample() -> None:
    plan = Plan("rl", 0, "p", 1.0, 1.0, 20)
    found = []
    gb = 200 * bytes_per_position(policy().config, torch.float32) / 1e9
    for config in (
        EngineConfig(),
        EngineConfig(slots=2, prefill_tokens=3),
        EngineConfig(cache_positions=128),
        EngineConfig(cache_gb=gb),
    ):
        engine = engine_of(config, policy(), tokenizer())
        with Verifier() as verifier:
            groups = Sampler(engine, tokenizer(), verifier, "", 0).sample(parities(20), 4, plan)
        found.append([rollout.token_ids for group in groups for rollout in group.rollouts])
        limit = engine.statistics.cache_limit // bytes_per_position(policy().config, torch.float32)
        if config.cache_positions or config.cache_gb:
            assert limit == (config.cache_positions or 200)
            assert engine.statistics.preemptions > 0
        assert engine.statistics.slots == (config.slots or 80)
    assert all(one == found[0] for one in found)


def test_a_run_may_go_on_with_another_engine() -> None:
    recipe = load_recipe(ROOT / "recipes" / "tiny.toml", ["engine.cache_gb=1.5", "engine.slots=9"])
    assert (recipe.engine.cache_gb, recipe.engine.slots) == (1.5, 9)
    assert plain(recipe) == plain(load_recipe(ROOT / "recipes" / "tiny.toml"))
    with pytest.raises(ConfigError, match="either `cache_gb` or `cache_positions`"):
        load_recipe(ROOT / "recipes" / "tiny.toml", ["engine.cache_gb=1.5", "engine.cache_positions=9"])


def test_the_example_in_the_docs_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(from headway\.serve\.loading.*?)```", text, re.DOTALL)
    save_decoder(policy(), tmp_path, tokenizer())
    done = subprocess.run(
        [sys.executable, "-c", example.replace("runs/tiny/checkpoints/rl/final", str(tmp_path))],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "boxed" in done.stdout
    assert "batch fill" in done.stdout
