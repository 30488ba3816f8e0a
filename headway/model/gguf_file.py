"""A GGUF file as a checkpoint: its settings, and its tensors one by one as float32, by what transformers reads it with.

    blk.3.attn_q, 4 bits --gguf: dequantise--> --transformers: undo llama.cpp's order; name--> model.layers.3.self_attn.q_proj

transformers' own loader makes the whole model beside ours; its parts, called here, need no more than a tensor at a time. The file
is mapped, and its pages are let go as it is read. It does not know what becomes of a tensor (`checkpoint`).
"""

# pyright: basic
# (neither library's reader is typed)

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.errors import CheckpointError
from headway.model.folder import first_line
from headway.model.tokenizer import require_gguf
from headway.model.weights import Header

_VALUES_AT_ONCE = 1 << 20  # dequantised together: what that takes beside the tensor is a few times as much
_PAGES_AT_ONCE = 16 << 20


class GgufFile:
    """One file. `values` are the settings as a config.json has them, `headers` what `tensors` will give, in its order.

    CheckpointError where the file, or what reads it, is not there, and where it cannot be read.
    """

    def __init__(self, folder: Path, name: str):
        require_gguf(folder, name)
        self.path = str(folder / name)
        with self._reading():
            self._open(folder, name)

    def _open(self, folder: Path, name: str) -> None:
        from gguf import GGUFReader
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers import modeling_gguf_pytorch_utils as theirs

        config = AutoConfig.from_pretrained(str(folder), gguf_file=name, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        self.values = {k: v for k, v in skeleton.config.to_dict().items() if not k.startswith("_")}
        self._reader = GGUFReader(self.path)
        architecture = theirs.read_field(self._reader, "general.architecture")[0]
        kind = theirs.TENSOR_PROCESSORS.get(architecture, theirs.TensorProcessor)
        self._processor = kind(config=self.values)
        self._names = theirs.get_gguf_hf_weights_map(skeleton, self._processor)
        found = [tensor for tensor in self._reader.tensors if tensor.name in self._names]  # llama.cpp's own tables are none
        self._tensors = found
        self.headers = [
            Header(self._names[t.name], self.path, tuple(int(size) for size in reversed(t.shape)), "F32", t.name) for t in found
        ]

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """(name, file, tensor in float32), each made when it is asked for."""
        size = 0
        for header, tensor in zip(self.headers, self._tensors, strict=True):
            with self._reading():
                more = {"tensor_key_mapping": self._names, "parsed_parameters": {}}
                made = self._processor.process(weights=_dequantised(tensor), name=tensor.name, **more).weights
                value = torch.from_numpy(np.ascontiguousarray(made))
            yield header.name, self.path, value
            size += tensor.n_bytes
            if size > _PAGES_AT_ONCE:
                size = 0
                _let_go(self._reader.data)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """No progress bars inside; whatever the readers raise becomes one line."""
        try:
            with redirect_stderr(io.StringIO()):
                yield
        except Exception as error:
            raise CheckpointError(f"{self.path}: cannot be read as GGUF: {first_line(error)}") from None


def _dequantised(tensor: Any) -> np.ndarray:
    """The values of a tensor, float32, made some rows at a time."""
    from gguf import dequantize

    shape = tuple(int(size) for size in reversed(tensor.shape))
    made = np.empty(shape, dtype=np.float32)
    rows = max(1, _VALUES_AT_ONCE // max(1, made[:1].size))
    for start in range(0, len(made), rows):
        made[start : start + rows] = dequantize(tensor.data[start : start + rows], tensor.tensor_type)
    return made


def _let_go(mapped: Any) -> None:
    """Forget the pages of a mapped file; they are read again where they are needed."""
    pages = getattr(mapped, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
