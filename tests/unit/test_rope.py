"""Rotary positions against numbers worked out by hand."""

import math

import pytest
import torch
from random_models import LLAMA3

from headway.model.config import DecoderConfig
from headway.model.rope import frequencies, rotate, rotation


def config(head_dim: int, theta: float, **more: object) -> DecoderConfig:
    shape = {"vocab_size": 8, "width": 8, "layers": 1, "heads": 1, "kv_heads": 1, "mlp_width": 8}
    return DecoderConfig(**shape, head_dim=head_dim, rope_theta=theta, **more)  # type: ignore[arg-type]


def test_frequencies_fall_by_theta() -> None:
    # f_i = theta^(-2i/d): 100^0, 100^(-2/4)
    assert frequencies(config(4, 100.0)).tolist() == pytest.approx([1.0, 0.1])


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    # original 32, high 4: waves shorter than 32/4 = 8 stay; low 1: waves longer than 32/1 = 32 are 8 times longer; else blended
    # theta 10^4, d = 8: f = 1, 0.1, 0.01, 0.001, waves 2 pi / f = 6.28, 62.8, 628, 6283
    found = frequencies(config(8, 1e4, rope_scaling=LLAMA3))
    assert found.tolist() == pytest.approx([1.0, 0.1 / 8, 0.01 / 8, 0.001 / 8])
    # theta 16, d = 4: f = 1, 0.25; the wave 2 pi / 0.25 = 25.13 is between: smooth = (32 / 25.13 - 1) / (4 - 1) = 0.09108
    smooth = (32 * 0.25 / (2 * math.pi) - 1) / 3
    assert smooth == pytest.approx(0.09108, abs=1e-5)
    expected = (1 - smooth) * 0.25 / 8 + smooth * 0.25
    assert frequencies(config(4, 16.0, rope_scaling=LLAMA3)).tolist() == pytest.approx([1.0, expected])


def test_linear_scaling_stretches_every_wave() -> None:
    found = frequencies(config(4, 100.0, rope_scaling={"rope_type": "linear", "factor": 4.0}))
    assert found.tolist() == pytest.approx([0.25, 0.025])


def test_longrope_has_one_set_of_factors_for_all_sequences() -> None:
    scaling = {
        "rope_type": "longrope",
        "original_max_position_embeddings": 100,
        "short_factor": [1.0, 2.0],
        "long_factor": [4.0, 50.0],
        "attention_factor": 1.2,
    }
    # theta 100, d = 4: 1 and 0.1, each divided by its factor; which set is decided by max_positions, here 100 and 101
    assert frequencies(config(4, 100.0, rope_scaling=scaling, max_positions=100)).tolist() == pytest.approx([1.0, 0.05])
    assert frequencies(config(4, 100.0, rope_scaling=scaling, max_positions=101)).tolist() == pytest.approx([0.25, 0.002])
    cos, sin = rotation(torch.tensor([0.5]), torch.tensor([2]), 1.2)
    assert cos.flatten().tolist() == pytest.approx([1.2 * math.cos(1)] * 2)
    assert sin.flatten().tolist() == pytest.approx([1.2 * math.sin(1)] * 2)


def test_a_share_of_each_head_turns() -> None:
    # three quarters of 8 dimensions are 6: f = theta^(-2i/6) = 1000^0, 1000^(-1/3), 1000^(-2/3); dimensions 6 and 7 pass
    freq = frequencies(config(8, 1000.0, rotary_share=0.75))
    assert freq.tolist() == pytest.approx([1.0, 0.1, 0.01])
    x = torch.arange(8.0)[None, None]
    turned = rotate(x, *rotation(freq, torch.tensor([1])))[0, 0]
    assert turned[6:].tolist() == [6.0, 7.0]
    # the pair (0, 3) of values (0, 3) turns by one radian: (-3 sin 1, 3 cos 1)
    assert turned[[0, 3]].tolist() == pytest.approx([-3 * math.sin(1), 3 * math.cos(1)])


def test_rotate_turns_the_pair_i_and_i_plus_half() -> None:
    # position 2, f = (1, 0.1): (x0, x2) turns by 2 radians, (x1, x3) by 0.2
    cos, sin = rotation(torch.tensor([1.0, 0.1]), torch.tensor([2]))
    [[turned]] = rotate(torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]), cos, sin).tolist()
    # (1, 0) by 2: (cos 2, sin 2); (0, 1) by 0.2: (-sin 0.2, cos 0.2)
    assert turned == pytest.approx([math.cos(2), -math.sin(0.2), math.sin(2), math.cos(0.2)], abs=1e-6)


def test_position_zero_turns_nothing() -> None:
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rotate(x, *rotation(frequencies(config(8, 1e4)), torch.tensor([0]))), x)


def test_only_the_distance_counts() -> None:
    freq = frequencies(config(16, 1e4))
    q, k = torch.randn(2, 1, 1, 16, generator=torch.Generator().manual_seed(0))

    def score(at: int, seen: int) -> float:
        turned = [rotate(x, *rotation(freq, torch.tensor([p]))) for x, p in ((q, at), (k, seen))]
        return float((turned[0] * turned[1]).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-4)
