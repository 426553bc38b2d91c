"""A second device that is none: tensors with CPU data that say they lie on torch's "meta" device.

As on a GPU, an operation on tensors of both devices is an error, unless the other one is a number or an index.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

META, CPU = torch.device("meta"), torch.device("cpu")
ITEMS = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class Elsewhere(torch.Tensor):
    """A tensor of the pretended device."""

    data_here: torch.Tensor

    @staticmethod
    def __new__(cls, data: torch.Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls, data.size(), strides=data.stride(), dtype=data.dtype, device=META, requires_grad=False
        )
        made.data_here = data
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.data_here})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


@dataclass
class Waits:
    """How often the CPU waited for the pretended device: for numbers, or for a shape that depends on them."""

    count: int = 0


WAITS: list[Waits] = []  # of the blocks being run


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the data, and check that its tensors lie on one device."""
    target = kwargs.get("device")
    checked = args[:1] if func in INDEXED else args
    tensors = [value for value in tree_flatten((checked, kwargs))[0] if isinstance(value, torch.Tensor)]
    here = [value for value in tensors if not isinstance(value, Elsewhere) and value.ndim > 0]
    if any(value.device == META for value in here):
        raise RuntimeError(f"{func} got a tensor without values")
    there = [value for value in tensors if isinstance(value, Elsewhere)]
    if here and there and func is not torch.ops.aten.copy_.default:
        raise RuntimeError(f"{func} got tensors of two devices")
    indices = [value for value in tree_flatten(args[1:])[0] if isinstance(value, Elsewhere)]
    if func in INDEXED and here and indices:
        raise RuntimeError(f"{func} got an index of another device")
    if target is not None and torch.device(target) == META:
        kwargs = {**kwargs, "device": CPU}
    away = target is not None and torch.device(target) != META
    if there and WAITS and (away or func in WAITING):
        WAITS[-1].count += 1
    plain = tree_map(lambda value: value.data_here if isinstance(value, Elsewhere) else value, (args, kwargs))
    result = func(*plain[0], **plain[1])
    if func._schema.name.endswith("_") and args:  # in place
        return args[0]
    moved = torch.device(target) == META if target is not None else bool(there)
    wrap = lambda value: Elsewhere(value) if isinstance(value, torch.Tensor) else value  # noqa: E731
    return tree_map(wrap, result) if moved else result


class _Factories(TorchDispatchMode):
    """Lets operations that make or move tensors name the pretended device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Keeps the values of `torch.tensor(values, device="meta")` and of indices that are lists, which torch drops."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or CPU) == META:
            return Elsewhere(func(*args, **{**kwargs, "device": CPU}))
        if func is torch.Tensor.tolist and isinstance(args[0], Elsewhere):
            WAITS[-1].count += 1
            return args[0].data_here.tolist()
        if func in ITEMS and isinstance(args[0], Elsewhere):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(_positions(part) if isinstance(part, list | range) else part for part in index)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


def _positions(index: list[int] | range) -> torch.Tensor:
    return torch.tensor(list(index)) if len(index) else torch.zeros(0, dtype=torch.long)


def move(model: torch.nn.Module) -> None:
    """Move a frozen model to the pretended device."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(Elsewhere(parameter.data), requires_grad=False)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)


@contextmanager
def pretended() -> Iterator[Waits]:
    """Let tensors be made on the pretended device while the block runs; count the waits for it."""
    WAITS.append(Waits())
    try:
        with _Literals(), _Factories():
            yield WAITS[-1]
    finally:
        WAITS.pop()
