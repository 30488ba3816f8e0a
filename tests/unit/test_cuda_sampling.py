"""Sampling as on CUDA, on the CPU: bfloat16 under autocast, the kernels in Triton's interpreter, recorded steps, a step behind.

What is sampled must be what the trainer computes: its own forward pass under the same autocast, in PyTorch alone.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cuda_cases import interpreted, needs_interpreter
from random_models import both
from test_stepping import Recorder, noted

from headway.engine import engine as engine_module
from headway.engine import stepping
from headway.engine.cache import BlockCache
from headway.engine.engine import Engine
from headway.engine.sampling import sample_key
from headway.engine.tabled import CudaDecoding
from headway.model import cuda, products
from headway.model.adapters import Adapted, adapt, adapted
from headway.model.attention import lay_out
from headway.model.config import DecoderConfig
from headway.model.head import token_logprobs
from headway.model.transformer import Decoder, initialise
from headway.types import Request

pytestmark = needs_interpreter
Play = Callable[[Decoder], None]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The CPU plays CUDA where no gradient is recorded and autocast is on."""
    made, (elementwise, blocks) = Recorder(), interpreted()

    def autocast(_: Decoder) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def step_of(decoder: Decoder, cache: BlockCache) -> stepping.Step:
        return stepping.RecordedStep(decoder, CudaDecoding(cache, decoder.device), made)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "matrices", property(matrices))
    monkeypatch.setattr("headway.model.adapters.on_cuda", lambda _: torch.is_autocast_enabled("cpu"))
    for name in ("generation", "stepping", "batch"):
        monkeypatch.setattr(f"headway.engine.{name}.autocast", autocast)
    for name in ("generation", "engine"):
        monkeypatch.setattr(f"headway.engine.{name}.compute_dtype", lambda _: torch.bfloat16)
    monkeypatch.setattr(products, "on_cuda", lambda _: torch.is_autocast_enabled("cpu"))
    monkeypatch.setattr(products, "pack", pack)
    monkeypatch.setattr(engine_module, "pack", pack)
    for module, names in ((elementwise, ("rms_norm", "turn_heads", "gate")), (blocks, ("attend",))):
        for name in names:
            monkeypatch.setattr(module, name, noted(getattr(module, name)))
    assert cuda.elementwise is elementwise  # type: ignore[attr-defined]
    monkeypatch.setattr(engine_module, "_AHEAD", {"cpu": 1})
    monkeypatch.setattr("headway.engine.batch.step_of", step_of)
    return made


def matrices(decoder: Decoder) -> list[torch.Tensor]:
    """As on CUDA."""
    layers = [layer for block in decoder.blocks for layer in block.products]  # type: ignore[union-attr, operator]
    return [*(getattr(layer, "base", layer).weight for layer in layers), decoder.output_weight]  # type: ignore[union-attr]


def pack(weights: list[torch.Tensor], rows: int) -> None:
    """As `products.pack` does on CUDA."""
    for weight in weights:
        weight.packed = (weight._version, weight.detach().bfloat16())  # type: ignore[attr-defined]


def assert_sampled_is_trained(decoder: Decoder, temperature: float = 1.0) -> None:
    requests = [
        Request((5, 6, 7, 8), tuple(sample_key(0, i) for i in range(2)), 8, temperature=temperature),
        Request(tuple(range(3, 37)), (sample_key(1, 0),), 9, temperature=temperature),
    ]
    apart: list[torch.Tensor] = []
    for request, completions in zip(requests, Engine(decoder, [decoder.config.vocab_size]).generate(requests), strict=True):
        for completion in completions:
            ids = torch.tensor([*request.prompt_ids, *completion.token_ids])
            with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
                hidden = decoder(ids[:-1], lay_out([len(ids) - 1]))[len(request.prompt_ids) - 1 :]
            narrow = hidden.detach().bfloat16(), decoder.output_weight.detach().bfloat16()
            found = token_logprobs(*narrow, ids[-len(hidden) :], temperature)
            apart.append(torch.tensor(completion.logprobs) - found)
    gaps = torch.cat(apart)
    assert float(gaps.abs().mean()) < 0.01  # of log-probs in bfloat16
    assert float(gaps.abs().max()) < 0.06


# norms of heads; fused weights, partly rotated; norms of all heads, behind; windows, offsets, another activation
@pytest.mark.parametrize("variant", ["qwen3", "phi3", "olmo2", "gemma3_text"])
def test_families(variant: str, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as plain:
        plain.setattr(products, "on_cuda", lambda _: False)
        _, decoder = both(variant, 1, tmp_path)
    assert_sampled_is_trained(decoder)
    assert recorder.replayed > 3


def test_a_temperature(recorder: Recorder) -> None:
    config = DecoderConfig(96, 64, 2, 4, 2, 16, 96, qkv_bias=True, rotary_share=0.5, windows=(5, 0), max_positions=200)
    assert_sampled_is_trained(initialise(config, 0), 0.7)
    assert recorder.replayed > 3


def test_what_adapters_learned_stands_beside_the_weight(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 so little would be rounded away: the merged weight is never asked for."""
    decoder = initialise(DecoderConfig(96, 64, 2, 4, 2, 16, 96, max_positions=200), 0)
    adapt(decoder, 4, 8, ("q_proj", "v_proj", "gate_proj", "down_proj"), ("test",))
    with torch.no_grad():
        for _, _, product in adapted(decoder):
            for part in product.parts.values():
                part.lora_B["default"].weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))  # type: ignore[index, union-attr]

    def merged(_: Adapted) -> torch.Tensor:
        raise AssertionError("the merged weight was asked for")

    monkeypatch.setattr(Adapted, "weight", property(merged))
    assert_sampled_is_trained(decoder)
    assert recorder.replayed > 3
