"""A device that behaves like Apple's MPS as far as this house meets it, played over the CPU's memory.

    with emulated():  tensors made on, or moved to, "mps" are `OnMps`: their `.device` says mps, their numbers are the CPU's

It refuses what MPS refuses: float64, an operator for which PyTorch's own table has no MPS kernel, an operand that lies on the
CPU, a view as a numpy array; and what corrupts data there: a copy from the CPU that does not wait. It knows no speed, no rounding
of Metal's kernels, and none of their bugs. The table is that of the installed PyTorch (torchgen's native_functions.yaml).
"""

import contextlib
import inspect
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torchgen
import yaml
from torch import Tensor
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
        table = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(file).get_single_data()
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


ran = Counter[str]()  # how often each operator was computed on the device


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
        asked = _asked(args, kwargs) if func is Tensor.to else None
        if asked is not None and asked.where == "cpu":
            held = args[0].detach().held.clone()
            return held if asked.kind is None else held.to(asked.kind)
        if asked is not None:
            return args[0] if asked.kind is None else args[0].type(asked.kind)
        if func is Tensor.numpy and not kwargs.get("force"):
            raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func in (Tensor.cpu, Tensor.numpy, Tensor.tolist):
            return getattr(args[0].detach().held.clone(), func.__name__)()
        if func in (Tensor.data_ptr, Tensor.storage, Tensor.untyped_storage):
            asks = inspect.stack(0)[1:5]  # safetensors only looks whether two tensors lie in one place
            assert any("safetensors" in frame.filename for frame in asks), "an address on the device is no place to read from"
            return func(args[0].held)
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
                raise RuntimeError(
                    f"{name}: expected all tensors to be on the same device, but found at least two: mps:0 and cpu"
                )
        ran[name] += 1
        plain_args, plain_kwargs = tree_map_only(OnMps, lambda t: t.held, (args, kwargs))
        out = func(*plain_args, **plain_kwargs)
        if name == "aten::_local_scalar_dense":
            return out
        if any(isinstance(t, Tensor) and not isinstance(t, OnMps) for t in tree_leaves(args[:1])) and name == "aten::copy_":
            return args[0]  # from here to the CPU
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, OnMps, out))


class _Asked(NamedTuple):
    """What a call of `to` asks for; "" and None where it says nothing of the device or the type."""

    where: str
    kind: torch.dtype | None
    waits: bool


def _asked(args: Any, kwargs: Any) -> _Asked:
    said = [*args[1:], *kwargs.values()]
    where = next((torch.device(x).type for x in said if isinstance(x, str | torch.device)), "")
    kind = next((x for x in said if isinstance(x, torch.dtype)), None)
    others = [x for x in said if isinstance(x, Tensor)]
    if others:
        where, kind = others[0].device.type, others[0].dtype
    is_hasty = kwargs.get("non_blocking", next((x for x in args[1:] if isinstance(x, bool)), False))
    return _Asked(where, kind, not is_hasty)


class _Making(TorchFunctionMode):
    """Tensors that are made on "mps", or moved there from the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to and not isinstance(args[0], OnMps) and (asked := _asked(args, kwargs)).where == "mps":
            assert asked.waits, "a copy to MPS that does not wait reads memory that may be gone"
            held = args[0].detach().clone()
            return OnMps(held if asked.kind is None else held.to(asked.kind))
        if "device" in kwargs and kwargs["device"] is not None and torch.device(kwargs["device"]).type == "mps":
            made = func(*args, **(kwargs | {"device": "cpu"}))
            return made if isinstance(made, OnMps) else OnMps(made)
        return func(*args, **kwargs)


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """MPS is there."""
    with pytest.MonkeyPatch.context() as patch, _Making():
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        patch.setattr(torch.__future__, "get_swap_module_params_on_conversion", lambda: True)  # Module.to keeps the class
        yield
