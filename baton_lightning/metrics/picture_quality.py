"""AQ and IQ: how beautiful and how clean single pictures are, by two published predictors that are nobody's dependency here."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from baton_lightning.metrics.backend import Measured, best_device, required
from baton_lightning.metrics.pictures import chosen, resized

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip

RATE = 2
"""Frames/s that are looked at: neighbours look alike."""


class AestheticPredictor:
    """Aesthetic Predictor V2.5 on SigLIP, 1 to 10.

    Args:
        device: Where it runs; ``None`` = the GPU, if there is one.
    """

    protocol = f"aesthetic-predictor-v2-5, mean of {RATE} frames/s"

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    @cached_property
    def network(self) -> Any:
        """The predictor."""
        package = required("aesthetic_predictor_v2_5", "pip install aesthetic-predictor-v2-5")
        return package.convert_v2_5_from_siglip(low_cpu_mem_usage=True)[0].eval().to(self.device or best_device())

    @torch.inference_mode()
    def measure(self, clip: Clip) -> Measured:
        """``{"aesthetic": ...}``."""
        pixels = resized(chosen(clip.frames(), RATE), 384, 384) * 2 - 1
        scores = [self.network(picture.to(self.network.device)).logits.item() for picture in pixels.split(1)]
        return {"aesthetic": sum(scores) / len(scores)}


class Musiq:
    """MUSIQ (KonIQ) through pyiqa, 0 to 100.

    Args:
        device: Where it runs; ``None`` = the GPU, if there is one.
    """

    protocol = f"pyiqa musiq, mean of {RATE} frames/s"

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    @cached_property
    def network(self) -> Any:
        """The metric."""
        return required("pyiqa", "pip install pyiqa").create_metric("musiq", device=torch.device(self.device or best_device()))

    @torch.inference_mode()
    def measure(self, clip: Clip) -> Measured:
        """``{"quality": ...}``."""
        scores = [self.network(picture).item() for picture in chosen(clip.frames(), RATE).split(1)]
        return {"quality": sum(scores) / len(scores)}
