"""The test bench, stricter than the world: annotations are checked, the network is off, threads are few and known."""

import os
import sys
from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which nothing has done so far
if not os.path.exists("/dev/nvidiactl"):  # no card: Triton's kernels are interpreted, which it must know as it is imported
    os.environ["TRITON_INTERPRET"] = "1"

install_import_hook(["headway.train", "headway.model"], "typecheck.check")


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    """A test that changes torch's threads does not change them for the next one."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> int:
    """Run the test with one and with two torch threads."""
    import torch

    torch.set_num_threads(request.param)
    return request.param
