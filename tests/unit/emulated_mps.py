"""A device that behaves like Apple's MPS as far as this house meets it, played over the CPU's memory.

    with emulated():  tensors made on, or moved to, "mps" are `OnMps`: their `.device` says mps, their numbers are the CPU's

It refuses what MPS refuses: float64, an operator for which PyTorch's own table has no MPS kernel, an operand that lies on the
CPU, the memory of a numpy array; and what corrupts data there: a copy from the CPU that does not wait. It knows no speed, no
rounding of Metal's kernels, and none of their bugs. The table is that of the installed PyTorch (torchgen's native_functions.yaml).
"""

import contextlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
import yaml
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

MPS = torch.device("mps:0")
EVERYWHERE = ("MPS", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
# On the CPU, attention of a batch is one operator of its own; on MPS it is `_math_for_mps`, or matmul and softmax
OF_THE_CPU = {
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
}
# Where MPS takes an operand from the CPU: a copy, and rows chosen by an index
FROM_THE_CPU = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


@cache
def on_mps() -> frozenset[str]:
    """The operators, without overloads, that PyTorch's table gives a kernel on MPS or composes of others."""
    path = Path(str(torchgen.__file__)).parent / "packaged/ATen/native/native_functions.yaml"
    found: set[str] = set()
    with path.open() as file:
        table = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for entry in table:
        name = entry["func"].split("(")[0].split(".")[0]
        keys = {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}
        delegate = entry.get("structured_delegate", "")
        if delegate:
            found |= {name} if delegate.split(".")[0] in found else set()
        if keys & set(EVERYWHERE) or not (keys or delegate):
            found |= {name, name.removesuffix("_"), f"{name}_"}
    for entry in table:  # once more: a delegate may stand behind what it serves
        name, delegate = entry["func"].split("(")[0].split(".")[0], entry.get("structured_delegate", "")
        if delegate.split(".")[0] in found:
            found.add(name)
    return frozenset(f"aten::{name}" for name in found)


class OnMps(Tensor):
    """A tensor whose device reads as MPS; `held` is its memory."""

    held: Tensor
    device = property(lambda self: MPS)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor, **_: Any) -> "OnMps":
        if held.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
        with torch.inference_mode(False):  # else no view of it could be made
            made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device="cpu"
            )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnMps({self.held!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.cpu, Tensor.numpy, Tensor.tolist) or (func is Tensor.to and _device_of(args, kwargs) == "cpu"):
            if func is Tensor.numpy and not kwargs.get("force"):
                raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first.")
            held = args[0].detach().held.clone()
            rest = [x for x in args[1:] if not isinstance(x, str | torch.device)]
            kwargs.pop("device", None)
            return held.to(*rest, **kwargs) if func is Tensor.to and (rest or kwargs) else getattr(held, func.__name__)()
        if func in (Tensor.data_ptr, Tensor.storage, Tensor.untyped_storage):
            asks = inspect.stack(0)[1:5]  # safetensors only looks whether two tensors lie in one place
            assert any("safetensors" in frame.filename for frame in asks), "an address on the device is no place to read from"
            return func(args[0].held)
        if func is Tensor.to:
            args = tuple(x for x in args if not isinstance(x, str | torch.device))
            kwargs.pop("device", None)
            if len(args) == 1 and not kwargs:
                return args[0]
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name.startswith("aten::") and name not in on_mps() | OF_THE_CPU:
            raise NotImplementedError(f"The operator '{name}' is not currently implemented for the MPS device.")
        if name not in FROM_THE_CPU:
            strangers = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and not isinstance(t, OnMps)]
            if any(t.dim() for t in strangers):
                raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found at least two: mps:0 and cpu")
        plain_args, plain_kwargs = tree_map_only(OnMps, lambda t: t.held, (args, kwargs))
        out = func(*plain_args, **plain_kwargs)
        if name == "aten::_local_scalar_dense":
            return out
        if any(isinstance(t, Tensor) and not isinstance(t, OnMps) for t in tree_leaves(args[:1])) and name == "aten::copy_":
            return args[0]  # from here to the CPU
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, OnMps, out))


def _device_of(args: Any, kwargs: Any) -> str:
    """The device that a call of `to` names, "" where it names none."""
    named = [x for x in (*args[1:], kwargs.get("device")) if isinstance(x, str | torch.device)]
    return torch.device(named[0]).type if named else ""


class _Making(TorchFunctionMode):
    """Tensors that are made on "mps", or moved there from the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to and not isinstance(args[0], OnMps) and _device_of(args, kwargs) == "mps":
            assert not kwargs.pop("non_blocking", False), "a copy to MPS that does not wait reads memory that may be gone"
            rest = [x for x in args[1:] if not isinstance(x, str | torch.device)]
            kwargs.pop("device", None)
            held = args[0].detach()
            return OnMps(held.to(*rest, **kwargs).clone() if rest or kwargs else held.clone())
        if "device" in kwargs and kwargs["device"] is not None and torch.device(kwargs["device"]).type == "mps":
            made = func(*args, **(kwargs | {"device": "cpu"}))
            return made if isinstance(made, OnMps) else OnMps(made)
        return func(*args, **kwargs)


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """MPS is there."""
    with pytest.MonkeyPatch.context() as patch, _Making():
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        yield


def moved(model: Any) -> Any:
    """The module with its weights and buffers on the device, in place (`Module.to` keeps the class of a weight)."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(OnMps(weight.detach().clone()), requires_grad=weight.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, OnMps(buffer.detach().clone()))
    return model
