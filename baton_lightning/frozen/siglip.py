"""SigLIP2, the video perceiver: the last hidden state but one of a frozen picture encoder (Baton, Sec. 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from baton_lightning.frozen.downloads import weights_of
from baton_lightning.frozen.freeze import Dtype, seeded
from baton_lightning.frozen.perceivers import VideoPerceiver

if TYPE_CHECKING:
    from transformers import SiglipVisionModel


def resize(pictures: UInt8[Tensor, "B 3 Y X"], side: int) -> Float[Tensor, "B 3 side side"]:
    """Pictures stretched to a square as image libraries do it: antialiased bilinear, rounded to whole levels 0..255."""
    if pictures.shape[-2:] == (side, side):
        return pictures.float()
    return F.interpolate(pictures.float(), (side, side), mode="bilinear", antialias=True).round()


class SiglipPerceiver(VideoPerceiver):
    """``hidden_states[-2]`` of a SigLIP vision tower on every keyframe, pooled to a grid.

    The last block, the final norm and the pooling head are dropped, not computed. Pictures are resized to the tower's square side
    and scaled to [-1, 1] on tensors, x / 127.5 - 1.

    Args:
        model: The tower; it is cut in place.
        grid: Rows and columns (h, w) of the features, by average pooling; ``None`` keeps the tower's own (27, 27).
        frames_at_once: Pictures in one forward, a bound on memory.

    Raises:
        ValueError: If the grid is finer than the tower's.
    """

    def __init__(self, model: SiglipVisionModel, grid: tuple[int, int] | None = None, frames_at_once: int = 64) -> None:
        super().__init__()
        self.side: int = model.config.image_size
        native = self.side // model.config.patch_size
        self.native_grid = (native, native)
        self.grid = (grid[0], grid[1]) if grid is not None else self.native_grid
        if max(self.grid) > native or min(self.grid) < 1:
            raise ValueError(
                f"siglip: grid must lie between 1 x 1 and the tower's {native} x {native}, got {self.grid[0]} x {self.grid[1]}"
            )
        self.width: int = model.config.hidden_size
        self.frames_at_once = frames_at_once
        model.encoder.layers = model.encoder.layers[:-1]
        model.post_layernorm = nn.Identity()
        model.use_head, model.head = False, None
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
        pixels = resize(pictures, self.side) / 127.5 - 1
        hidden = self.model(pixels.to(self.dtype)).last_hidden_state.float()
        patches = hidden.transpose(1, 2).unflatten(2, self.native_grid)
        return F.adaptive_avg_pool2d(patches, self.grid).permute(0, 2, 3, 1)


class TinySiglip(SiglipPerceiver):
    """A random SigLIP tower: real class, real path, a laptop's size.

    Args:
        grid: Rows and columns of the features.
        width: Channels C.
        depth: Blocks, the dropped last one included.
        side: Side pictures are resized to, in pixels.
        patch: Side of a patch, in pixels.
        num_heads: Attention heads.
        seed: Decides the weights; the global random state is left alone.
    """

    def __init__(
        self,
        grid: tuple[int, int] = (4, 4),
        width: int = 64,
        depth: int = 3,
        side: int = 48,
        patch: int = 6,
        num_heads: int = 4,
        seed: int = 0,
    ) -> None:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        config = SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=depth,
            num_attention_heads=num_heads,
            image_size=side,
            patch_size=patch,
        )
        with seeded(seed):
            super().__init__(SiglipVisionModel(config), grid)


class Siglip2(SiglipPerceiver):
    """The released SigLIP2 so400m/14 at 384 pixels: 27 x 27 x 1152 features of a picture.

    Args:
        name_or_path: Hub name of a fixed-resolution SigLIP or SigLIP2, or a local directory.
        grid: Rows and columns of the features; ``None`` = native.
        dtype: Type the weights are held in; features come out in float32.
        frames_at_once: Pictures in one forward.

    Raises:
        ValueError: If the weights cannot be read.
    """

    def __init__(
        self,
        name_or_path: str = "google/siglip2-so400m-patch14-384",
        grid: tuple[int, int] | None = None,
        dtype: Dtype = "float32",
        frames_at_once: int = 64,
    ) -> None:
        from transformers import SiglipVisionModel

        with weights_of(name_or_path, licence="Apache-2.0 (SigLIP2)"):
            model = SiglipVisionModel.from_pretrained(name_or_path, dtype=getattr(torch, dtype))
        super().__init__(model, grid, frames_at_once)
