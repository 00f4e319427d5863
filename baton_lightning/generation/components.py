"""Frozen components of generation: codecs and text encoder, built at first use, and on the device only while they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from baton_lightning.placement import on_device


class FrozenComponents:
    """The codecs and the text encoder of a run.

    Args:
        factories: Name of the component -> its factory, or ``None`` if the configuration has none.
    """

    def __init__(self, factories: Mapping[str, Callable[[], nn.Module] | None]) -> None:
        self.factories = factories
        self.made: dict[str, nn.Module] = {}

    @contextmanager
    def on(self, name: str, device: torch.device) -> Iterator[nn.Module]:
        """Context in which a component is on a device. It is built at first use, and on the CPU otherwise.

        Args:
            name: ``video_codec``, ``audio_codec`` or ``text_encoder``.
            device: The device.

        Raises:
            ValueError: If the configuration has no such component.
        """
        with on_device(self.built(name), device, name) as component:
            yield component

    def built(self, name: str) -> nn.Module:
        """A component on its current device; it is built at first use. See :meth:`on`."""
        if name not in self.made:
            make = self.factories[name]
            if make is None:
                raise ValueError(f"generating needs model.init_args.{name}, but the configuration has none; add its class_path")
            self.made[name] = make()
        return self.made[name]

    def release(self, name: str) -> None:
        """Frees a component; it is built again at the next use."""
        del self.made[name]
