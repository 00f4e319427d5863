"""`python -m tests.second_device VERB ...`: the verbs with tensors on a device that is not the CPU, on machines without a GPU.

Tensors on the device `second` are computed on the CPU, but an operation that mixes them with tensors of the CPU fails, as on a GPU. torch's
backend for Python devices makes it; what that backend lacks (storages, some factories) is done on the CPU and moved.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from baton_lightning import deferred, placement
from baton_lightning.__main__ import main

CROSSING = {"aten::copy_", "aten::_to_copy"}
"""Operations that may have tensors of both devices."""
MADE_ON_CPU = ("tensor", "as_tensor", "arange", "linspace", "eye", "full", "randperm", "hann_window")
_setup_privateuseone_for_python_backend("second")
DEVICE = torch.device("second", 0)


class SecondTensor(Tensor):
    """A tensor on the second device; ``host`` has its values."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> SecondTensor:
        shape = {"strides": host.stride(), "storage_offset": host.storage_offset(), "dtype": host.dtype}
        made = Tensor._make_wrapper_subclass(cls, host.shape, device=DEVICE, **shape)
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(operation, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.host.tolist()

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        return self.host.new_tensor(data, dtype=dtype).to(device or self.device)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a tensor of another device has no numpy array; use Tensor.cpu() first")

    __array__ = numpy


def compute(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Computes an operation on the CPU; refuses tensors of two devices."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, SecondTensor) for tensor in tensors)
    here = any(not isinstance(tensor, SecondTensor) and tensor.ndim > 0 for tensor in tensors)
    name = operation._schema.name
    if there and here and name not in CROSSING:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    target = kwargs.get("device")
    if target is not None:
        kwargs["device"] = torch.device("cpu")
    kwargs |= {"pin_memory": False} if kwargs.get("pin_memory") else {}
    values, named = tree_map_only(SecondTensor, lambda tensor: tensor.host, (args, kwargs))
    result = operation(*values, **named)
    if name.endswith("_"):
        return args[0]
    if (target is not None and torch.device(target).type == "cpu") or not (there or target is not None):
        return result
    return tree_map_only(Tensor, lambda tensor: tensor if isinstance(tensor, SecondTensor) else SecondTensor(tensor), result)


class SecondAccelerator(Accelerator):
    """Lightning's view of the device: ``--trainer.accelerator=second``."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "second"


def made_on_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A factory whose tensors for the second device are made on the CPU and moved."""

    def made(*args: Any, device: Any = None, **options: Any) -> Tensor:
        if device is None or torch.device(device).type != DEVICE.type:
            return make(*args, device=device, **options)
        return make(*args, device="cpu", **options).to(device)

    return made


def replay_on_cpu(self: deferred.Tape, targets: Any, device: torch.device, run: bool = True) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Deferred construction, which works on storages, on the CPU; each tensor is then moved."""
    for target, value in REPLAY(self, targets, torch.device("cpu"), run=run):
        yield target, None if value is None else value.to(device)


REPLAY = deferred.Tape.replay

if __name__ == "__main__":
    library = torch.library.Library("_", "IMPL")
    library.fallback(compute, "PrivateUse1")
    AcceleratorRegistry.register("second", SecondAccelerator, description="a device that is not the CPU")
    for factory in MADE_ON_CPU:
        setattr(torch, factory, made_on_cpu(getattr(torch, factory)))
    deferred.Tape.replay = replay_on_cpu
    placement.parse_device = lambda name: DEVICE
    sys.exit(main())
