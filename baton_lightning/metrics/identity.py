"""ID: similarity of the clip and its reference image, as the mean cosine similarity of DINOv3 embeddings over all frames."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from baton_lightning.frozen.dinov3 import MEAN, STD
from baton_lightning.frozen.downloads import explain_weight_errors
from baton_lightning.metrics.backend import Measured, default_device
from baton_lightning.metrics.pictures import resize, sample_frames

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class Dinov3Identity:
    """DINOv3's class token, an embedding of the whole picture.

    Args:
        name_or_path: Hub name or a local directory.
        side: Side that pictures are resized to, in pixels.
        frames_at_once: Pictures in one forward.
        device: Device of the network; ``None`` = the GPU, if there is one.
    """

    def __init__(
        self,
        name_or_path: str = "facebook/dinov3-vitl16-pretrain-lvd1689m",
        side: int = 224,
        frames_at_once: int = 32,
        device: str | None = None,
    ) -> None:
        self.name, self.side, self.frames_at_once, self.device = name_or_path, side, frames_at_once, device

    @property
    def protocol(self) -> str:
        return f"DINOv3 {self.name}, class token at {self.side} x {self.side}, every frame against the reference image"

    @cached_property
    def network(self) -> Any:
        """The transformer."""
        from transformers import DINOv3ViTModel

        with explain_weight_errors(self.name, licence="DINOv3 License (accept it on the hub)"):
            return DINOv3ViTModel.from_pretrained(self.name).eval().to(self.device or default_device())

    @torch.inference_mode()
    def embed(self, pictures: Tensor) -> Tensor:
        """Embeddings [T, C] of pictures [T, 3, Y, X] in [0, 1]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        parts = []
        for part in pictures.split(self.frames_at_once):
            pixels = (resize(part, self.side, self.side) - mean) / std
            parts.append(self.network(pixels.to(self.network.device)).pooler_output.float().cpu())
        return torch.cat(parts)

    def measure(self, clip: Clip) -> Measured:
        """``{"similarity": ...}``, mean over frames, in [-1, 1]."""
        from PIL import Image

        with Image.open(clip.picture) as image:
            reference = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
        frames = self.embed(sample_frames(clip.frames()))
        return {"similarity": torch.cosine_similarity(frames, self.embed(reference)).mean().item()}
