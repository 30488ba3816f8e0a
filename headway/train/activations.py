"""What the forward pass keeps for the backward pass, in bytes, and which part of it is made again instead.

    numbers a token and layer    none    6 w + 3 q + 2 k + 4 m        w width, q query and k key dimensions of all heads, m MLP
                                 gates   6 w + 3 q + 2 k + 2 m        the activated half and the gated product: no matrix product
                                 mlp     4 w + 3 q + 2 k              the MLP: one more product with gate_up
                                 blocks  w, and one layer's at a time all of the layer: one more forward pass

The loss and the gradient are the same, bit for bit, so that memory may decide. It does not know the logits (`model.head` keeps
none), nor what an optimizer holds.
"""

from __future__ import annotations

import torch

from headway.machine import free_memory_bytes
from headway.model.config import DecoderConfig
from headway.model.transformer import Decoder, Recompute
from headway.ranks import gather, size
from headway.stage_config import StageConfig

POLICIES: tuple[Recompute, ...] = ("none", "gates", "mlp", "blocks")  # in the order of time, the fastest first
_SHARE = 0.55  # of the free memory: allocators hold 1.3 to 1.9 times what is alive (benchmarks/recompute.py)


def activation_bytes(config: DecoderConfig, policy: Recompute, tokens: int, narrow: bool = False) -> int:
    """About what `tokens` tokens at once keep, at the peak; `narrow`: products in 16 bits, as under autocast."""
    w, m = config.width, config.mlp_width
    q, k = config.heads * config.head_dim, config.kv_heads * config.head_dim
    whole = 6 * w + 3 * q + 2 * k + 4 * m
    kept = {"none": whole, "gates": whole - 2 * m, "mlp": 4 * w + 3 * q + 2 * k, "blocks": w}[policy]
    again = {"none": 0, "gates": 2 * m, "mlp": 2 * w + 4 * m, "blocks": whole}[policy]
    once = again + 6 * m  # what the backward pass has in its hands: one layer made again, and its gradients
    return tokens * (config.layers * kept + once) * (3 if narrow else 4)


def policy_for(model: Decoder, config: StageConfig) -> Recompute:
    """The recipe's policy; "auto" is the fastest whose activations fit beside gradients and optimizer state, on every rank."""
    if config.recompute != "auto":
        return config.recompute
    return max(gather(_fitting(model, config)), key=POLICIES.index)


def _fitting(model: Decoder, config: StageConfig) -> Recompute:
    on_cuda = model.device.type == "cuda"
    free = torch.cuda.mem_get_info(model.device)[0] if on_cuda else free_memory_bytes()
    if not free:  # a system that does not tell
        return "none"
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    room = _SHARE * (free - 12 * learned / size())  # a gradient and two moments of 4 bytes each
    for policy in POLICIES[:-1]:
        if activation_bytes(model.config, policy, config.micro_batch_tokens, on_cuda) <= room:
            return policy
    return POLICIES[-1]
