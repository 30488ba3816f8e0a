"""Which activations are kept: the recipe's choice, or the fastest that memory has room for; in training, the same bytes."""

from pathlib import Path

import pytest
from test_fit import likelihood, preference, recipe, trained
from tiny_policy import tiny

from headway.machine import free_memory_bytes
from headway.model.config import DecoderConfig
from headway.model.transformer import Decoder
from headway.recipe import parse_recipe
from headway.stage_config import StageConfig
from headway.train import activations
from headway.train.activations import POLICIES, activation_bytes, policy_for

QWEN = DecoderConfig(151_936, 1024, 28, 16, 8, 128, 3072)  # Qwen3-0.6B's shape


def test_bytes_by_hand() -> None:
    # w 1024, q 2048, k 1024, m 3072: 6144 + 6144 + 2048 + 12288 = 26624 numbers a token and layer, 4 bytes each
    assert activation_bytes(QWEN, "none", 1000) == 1000 * (28 * 26_624 + 6 * 3072) * 4
    assert activation_bytes(QWEN, "gates", 1000) == 1000 * (28 * (26_624 - 6144) + (2 + 6) * 3072) * 4
    assert activation_bytes(QWEN, "mlp", 1000) == 1000 * (28 * (4096 + 6144 + 2048) + 2048 + (4 + 6) * 3072) * 4
    assert activation_bytes(QWEN, "blocks", 1000) == 1000 * (28 * 1024 + 26_624 + 6 * 3072) * 4
    assert activation_bytes(QWEN, "none", 1000, narrow=True) == activation_bytes(QWEN, "none", 1000) * 3 // 4


@pytest.mark.parametrize("config", [QWEN, tiny().config], ids=["qwen3-0.6b", "tiny"])
def test_each_policy_keeps_less_than_the_one_before(config: DecoderConfig) -> None:
    sizes = [activation_bytes(config, policy, 512) for policy in POLICIES]
    assert sizes[:3] == sorted(sizes[:3], reverse=True)
    if config is QWEN:  # of two layers, one layer at a time is nothing won
        assert sizes[3] < sizes[2]


def test_auto_takes_the_fastest_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    config = StageConfig(micro_batch_tokens=4096)
    state = 12 * sum(p.numel() for p in model.parameters())
    found = []
    for policy in POLICIES[:3]:
        room = activation_bytes(model.config, policy, 4096) / 0.55
        for free in (state + int(room) + 8, state + int(room) - 8):
            monkeypatch.setattr(activations, "free_memory_bytes", lambda free=free: free)
            found.append(policy_for(model, config))
    assert found == ["none", "gates", "gates", "mlp", "mlp", "blocks"]
    monkeypatch.setattr(activations, "free_memory_bytes", lambda: 0)
    assert policy_for(model, config) == "none"
    assert policy_for(model, StageConfig(recompute="mlp")) == "mlp"


def test_the_machine_tells_its_free_memory() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("not Linux")
    assert 2**20 < free_memory_bytes() < 2**50


@pytest.mark.parametrize("make", [likelihood, preference], ids=lambda make: make.__name__)
def test_training_is_the_same_whatever_is_recomputed(tmp_path: Path, make: object) -> None:
    found = {}
    for policy in ("auto", *POLICIES):

        def made(model: Decoder, policy: str = policy) -> tuple[object, StageConfig]:
            objective, config = make(model)  # type: ignore[operator]
            return objective, config.model_copy(update={"recompute": policy})

        found[policy] = trained(tmp_path / policy, made)  # type: ignore[arg-type]
    assert all(one == found["auto"] for one in found.values())


def test_a_policy_that_does_not_exist_is_named() -> None:
    from headway.errors import ConfigError

    values = recipe().model_dump(mode="json") | {"base": {"recompute": "block"}}
    with pytest.raises(
        ConfigError, match=r"'base\.recompute' = 'block': Input should be 'auto', 'none', 'gates', 'mlp' or 'blocks'"
    ):
        parse_recipe(values, "small.toml")
