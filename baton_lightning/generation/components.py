"""Frozen components that turn latents into media and texts into context: made when first used, on the device only while used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from baton_lightning.placement import on_device


class FrozenComponents:
    """The codecs and the text encoder of a run.

    Args:
        factories: Name of the component -> its factory; ``None`` where the configuration names none.
    """

    def __init__(self, factories: Mapping[str, Callable[[], nn.Module] | None]) -> None:
        self.factories = factories
        self.made: dict[str, nn.Module] = {}

    @contextmanager
    def on(self, name: str, device: torch.device) -> Iterator[nn.Module]:
        """A component on a device for as long as it is used; it is made when first asked for, and on the CPU in between.

        Args:
            name: ``video_codec``, ``audio_codec`` or ``text_encoder``.
            device: Where it is used.

        Raises:
            ValueError: If the configuration names none.
        """
        if name not in self.made:
            make = self.factories[name]
            if make is None:
                raise ValueError(f"generating needs model.init_args.{name}, the configuration names none; add its class_path")
            self.made[name] = make()
        with on_device(self.made[name], device, name) as component:
            yield component

    def forget(self, name: str) -> None:
        """Frees a component; it is made anew when it is asked for again."""
        del self.made[name]
