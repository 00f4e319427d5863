"""Base class of video perceivers that are vision transformers: resizing, batching and pooling."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from baton_lightning.frozen.perceivers import VideoPerceiver


def resize(pictures: UInt8[Tensor, "B 3 Y X"], side: int) -> Float[Tensor, "B 3 side side"]:
    """Pictures resized to a square: antialiased bilinear, rounded to whole levels 0..255."""
    if pictures.shape[-2:] == (side, side):
        return pictures.float()
    return F.interpolate(pictures.float(), (side, side), mode="bilinear", antialias=True).round()


class PatchPerceiver(VideoPerceiver):
    """Patch features of a vision transformer on every keyframe, pooled to a grid.

    A subclass removes the last block of its model and defines the scaling of pixels (:meth:`scale`) and the patch tokens (:meth:`patches`).

    Args:
        model: The transformer, without its last block.
        side: Side that pictures are resized to, in pixels.
        patch: Side of a patch, in pixels.
        width: Channels C.
        grid: Rows and columns (h, w) of the features, by average pooling; ``None`` keeps the transformer's grid.
        frames_at_once: Pictures in one forward; bounds the memory.

    Raises:
        ValueError: If the grid is finer than the transformer's.
    """

    def __init__(self, model: nn.Module, side: int, patch: int, width: int, grid: tuple[int, int] | None, frames_at_once: int) -> None:
        super().__init__()
        self.side, self.width, self.frames_at_once = side, width, frames_at_once
        native = side // patch
        self.native_grid = (native, native)
        self.grid = (grid[0], grid[1]) if grid is not None else self.native_grid
        if max(self.grid) > native or min(self.grid) < 1:
            name = type(self).__name__
            raise ValueError(
                f"{name}: grid must be between 1 x 1 and the transformer's {native} x {native}, got {self.grid[0]} x {self.grid[1]}"
            )
        self.model = model
        self.freeze()

    @torch.no_grad()
    def forward(self, frames: UInt8[Tensor, "B N Y X 3"]) -> Float[Tensor, "B N h w C"]:
        """Features of N keyframes.

        Args:
            frames: Pictures of any size, 0..255.
        """
        batch, num = frames.shape[:2]
        pictures = frames.flatten(0, 1).permute(0, 3, 1, 2).to(self.device)
        features = torch.cat([self._perceive(chunk) for chunk in pictures.split(self.frames_at_once)])
        return features.unflatten(0, (batch, num))

    def _perceive(self, pictures: UInt8[Tensor, "B 3 Y X"]) -> Float[Tensor, "B h w C"]:
        hidden = self.patches(self.scale(resize(pictures, self.side)).to(self.dtype)).float()
        patches = hidden.transpose(1, 2).unflatten(2, self.native_grid)
        return F.adaptive_avg_pool2d(patches, self.grid).permute(0, 2, 3, 1)

    def scale(self, pixels: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 3 Y X"]:
        """Pixels 0..255 scaled for the transformer; by default to [-1, 1]."""
        return pixels / 127.5 - 1

    def patches(self, pixels: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B K C"]:
        """States of the patches before the last block, in row-column order, without other tokens."""
        return self.model(pixels).last_hidden_state
