"""AQ and IQ: aesthetic and technical quality of single pictures, by two published predictors (optional packages)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from baton_lightning.metrics.backend import Measured, default_device, import_optional
from baton_lightning.metrics.pictures import resize, sample_frames

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip

RATE = 2
"""Frames/s that are measured; neighbouring frames have similar scores."""


class AestheticPredictor:
    """Aesthetic Predictor V2.5 on SigLIP, 1 to 10.

    Args:
        device: Device of the network; ``None`` = the GPU, if there is one.
    """

    protocol = f"aesthetic-predictor-v2-5, mean of {RATE} frames/s"

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    @cached_property
    def network(self) -> Any:
        """The predictor."""
        package = import_optional("aesthetic_predictor_v2_5", "pip install aesthetic-predictor-v2-5")
        return package.convert_v2_5_from_siglip(low_cpu_mem_usage=True)[0].eval().to(self.device or default_device())

    @torch.inference_mode()
    def measure(self, clip: Clip) -> Measured:
        """``{"aesthetic": ...}``."""
        pixels = resize(sample_frames(clip.frames(), RATE), 384, 384) * 2 - 1
        scores = [self.network(picture.to(self.network.device)).logits.item() for picture in pixels.split(1)]
        return {"aesthetic": sum(scores) / len(scores)}


class Musiq:
    """MUSIQ (KonIQ) through pyiqa, 0 to 100.

    Args:
        device: Device of the network; ``None`` = the GPU, if there is one.
    """

    protocol = f"pyiqa musiq, mean of {RATE} frames/s"

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    @cached_property
    def network(self) -> Any:
        """The metric."""
        return import_optional("pyiqa", "pip install pyiqa").create_metric("musiq", device=torch.device(self.device or default_device()))

    @torch.inference_mode()
    def measure(self, clip: Clip) -> Measured:
        """``{"quality": ...}``."""
        scores = [self.network(picture).item() for picture in sample_frames(clip.frames(), RATE).split(1)]
        return {"quality": sum(scores) / len(scores)}
