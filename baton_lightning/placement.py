"""Where networks are while clips are made, and what type their weights have."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

log = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16")


def device_of(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:n`` names; ``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        ValueError: If it is none of these, or this machine does not have it.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (":" in name and not index.isdecimal()):
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:n, got {name!r}")
    if int(index or 0) >= count:
        there = ", ".join(["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count))])
        raise ValueError(f"--device {name} must be a device of this machine, which has {there}; give one of these, or auto")
    return torch.device("cuda", int(index or 0))


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The type of weights that one of :data:`DTYPES` names; ``auto`` is bfloat16 on a GPU and float32 on the CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts the floating parameters, and nothing else: statistics and rotary frequencies are buffers, and stay as they are."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


@contextmanager
def on_device(component: nn.Module, device: torch.device, name: str) -> Iterator[nn.Module]:
    """A component on a device for as long as it is used, and on the CPU afterwards.

    Args:
        component: Moved in place.
        device: Where it is used.
        name: For the log, whose debug lines say where components go.
    """
    log.debug("%s to %s", name, device)
    component.to(device)
    try:
        yield component
    finally:
        log.debug("%s away", name)
        component.to("cpu")


class Placement:
    """Components on a device: all of them for good, or with ``offload`` each only while it is used.

    Args:
        device: Where they work.
        offload: Keep them on the CPU in between, so that the device holds one at a time.
    """

    def __init__(self, device: torch.device, *, offload: bool) -> None:
        self.device, self.offload = device, offload

    def settle(self, *components: nn.Module) -> None:
        """Moves components to the device, unless they are to be there only while they are used."""
        if not self.offload:
            for component in components:
                component.to(self.device)

    def using(self, component: nn.Module, name: str) -> AbstractContextManager[object]:
        """The context in which a component works."""
        return on_device(component, self.device, name) if self.offload else nullcontext()
