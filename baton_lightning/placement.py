"""Devices and types of networks for generation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

log = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16")


def parse_device(name: str) -> torch.device:
    """Device of ``auto``, ``cpu``, ``cuda`` or ``cuda:n``; ``auto`` is the first GPU, or the CPU if there is none.

    Raises:
        ValueError: If the name is invalid, or this machine does not have the device.
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
        raise ValueError(f"--device {name} must be a device of this machine, which has {there}; use one of these, or auto")
    return torch.device("cuda", int(index or 0))


def parse_dtype(name: str, device: torch.device) -> torch.dtype:
    """Type of weights of a name in :data:`DTYPES`; ``auto`` is bfloat16 on a GPU and float32 on the CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts floating-point parameters. Buffers (statistics, rotary frequencies) are not cast."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


@contextmanager
def on_device(component: nn.Module, device: torch.device, name: str) -> Iterator[nn.Module]:
    """Context in which a component is on a device; afterwards it is on the CPU.

    Args:
        component: The component; it is moved in place.
        device: The device.
        name: Name of the component in debug messages.
    """
    log.debug("%s to %s", name, device)
    component.to(device)
    try:
        yield component
    finally:
        log.debug("%s away", name)
        component.to("cpu")


class Placement:
    """Placement of components on a device: permanently, or with ``offload`` only while they are used.

    Args:
        device: The device.
        offload: Keep components on the CPU while they are not used, so that only one is on the device.
    """

    def __init__(self, device: torch.device, *, offload: bool) -> None:
        self.device, self.offload = device, offload

    def move(self, *components: nn.Module) -> None:
        """Moves components to the device, unless they are offloaded."""
        if not self.offload:
            for component in components:
                component.to(self.device)

    def in_use(self, component: nn.Module, name: str) -> AbstractContextManager[object]:
        """Context in which a component is on the device."""
        return on_device(component, self.device, name) if self.offload else nullcontext()
