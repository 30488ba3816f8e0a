"""Memory and time of a training step under each `recompute` policy: one JSON line, for one policy a process.

    for p in none gates mlp blocks; do OMP_NUM_THREADS=1 python benchmarks/recompute.py $p; done

A random Llama of 12 layers, 256 wide; 16 documents of 512 tokens at once; processor seconds of forward and backward, one thread.
"""

import argparse
import json
import resource
import time

import torch

from headway.model.config import DecoderConfig
from headway.model.transformer import initialise
from headway.train.activations import POLICIES, activation_bytes
from headway.train.batching import Document, flatten
from headway.train.likelihood import document_logprobs


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", choices=POLICIES)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = initialise(DecoderConfig(1024, 256, 12, 4, 2, 64, 768, max_positions=2048), 0)
    model.recompute = arguments.policy
    ids = torch.randint(2, 1000, (16, 512), generator=torch.Generator().manual_seed(0)).tolist()
    documents = [Document(tuple(row)) for row in ids]
    (-document_logprobs(model, flatten(documents[:1])).mean()).backward()  # the gradients have their memory
    flat, before, seconds, loss = flatten(documents), peak_mib(), [], 0.0
    for _ in range(arguments.repeats):
        started = time.process_time()
        value = -document_logprobs(model, flat).mean()
        value.backward()
        seconds.append(round(time.process_time() - started, 2))
        loss = float(value.detach())
    estimate = activation_bytes(model.config, arguments.policy, flat.num_tokens) / 2**20
    found = {"peak_mib": round(peak_mib() - before), "estimate_mib": round(estimate), "cpu_s": seconds, "loss": loss}
    print(json.dumps({"policy": arguments.policy, **found}))


if __name__ == "__main__":
    main()
