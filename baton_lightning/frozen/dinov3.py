"""DINOv3 as the video perceiver: the paper's ablation of the perceptual encoder (Baton, "DINOv3 instead of SigLIP2")."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from baton_lightning.frozen.downloads import load_pretrained
from baton_lightning.frozen.freeze import Dtype, seeded
from baton_lightning.frozen.patch_perceiver import PatchPerceiver

if TYPE_CHECKING:
    from transformers import DINOv3ViTModel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's colours in [0, 1], with which DINOv3's input is standardised."""


class Dinov3Perceiver(PatchPerceiver):
    """Patch states of every keyframe before the last block of a DINOv3 vision transformer, pooled to a grid.

    The last block and the final norm are removed. Class token and register tokens are not part of the features.

    Args:
        model: The transformer; it is modified in place.
        side: Side that pictures are resized to, in pixels; rotary positions allow any. 432 gives 27 x 27 patches, as SigLIP2.
        grid: Rows and columns (h, w) of the features, by average pooling; ``None`` keeps the transformer's grid.
        frames_at_once: Pictures in one forward; bounds the memory.

    Raises:
        ValueError: If the side is not a multiple of the patch, or the grid is finer than the transformer's.
    """

    def __init__(self, model: DINOv3ViTModel, side: int, grid: tuple[int, int] | None = None, frames_at_once: int = 64) -> None:
        sizes = model.config
        if side % sizes.patch_size:
            below = side // sizes.patch_size * sizes.patch_size
            raise ValueError(
                f"dinov3: side must be a multiple of the patch of {sizes.patch_size} pixels, got {side}; "
                f"the nearest are {below} and {below + sizes.patch_size}"
            )
        model.model.layer = model.model.layer[:-1]
        model.norm = nn.Identity()
        super().__init__(model, side, sizes.patch_size, sizes.hidden_size, grid, frames_at_once)
        self.others = 1 + sizes.num_register_tokens

    def scale(self, pixels: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 3 Y X"]:
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return (pixels / 255 - mean) / std

    def patches(self, pixels: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B K C"]:
        return super().patches(pixels)[:, self.others :]


class TinyDinov3(Dinov3Perceiver):
    """A small, randomly initialised DINOv3, of the real class.

    Args:
        grid: Rows and columns of the features.
        width: Channels C.
        depth: Blocks, including the last one, which is removed.
        side: Side that pictures are resized to, in pixels.
        patch: Side of a patch, in pixels.
        num_heads: Attention heads.
        num_registers: Register tokens.
        seed: Seed of the weights; the global random state does not change.
    """

    def __init__(
        self,
        grid: tuple[int, int] = (4, 4),
        width: int = 64,
        depth: int = 3,
        side: int = 48,
        patch: int = 6,
        num_heads: int = 4,
        num_registers: int = 4,
        seed: int = 0,
    ) -> None:
        from transformers import DINOv3ViTConfig, DINOv3ViTModel

        config = DINOv3ViTConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=depth,
            num_attention_heads=num_heads,
            patch_size=patch,
            num_register_tokens=num_registers,
            layerscale_value=1.0,
        )
        with seeded(seed):
            super().__init__(DINOv3ViTModel(config), side, grid)


class Dinov3(Dinov3Perceiver):
    """A released DINOv3 vision transformer with patches of 16 pixels; ViT-L/16 gives 27 x 27 x 1024 features of a picture.

    Args:
        name_or_path: Hub name or a local directory.
        side: Side that pictures are resized to, in pixels.
        grid: Rows and columns of the features; ``None`` = native.
        dtype: Type of the weights; features are float32.
        frames_at_once: Pictures in one forward.

    Raises:
        ValueError: If the weights cannot be read. They are gated: accept the licence on the hub first.

    Note:
        The paper does not name the DINOv3 model; ViT-L/16 at 432 pixels, with SigLIP2's number of tokens, is our choice.
    """

    def __init__(
        self,
        name_or_path: str = "facebook/dinov3-vitl16-pretrain-lvd1689m",
        side: int = 432,
        grid: tuple[int, int] | None = None,
        dtype: Dtype = "float32",
        frames_at_once: int = 64,
    ) -> None:
        from transformers import DINOv3ViTModel

        licence = "DINOv3 License (commercial use allowed under its terms; accept it on the hub)"
        model = load_pretrained(DINOv3ViTModel, name_or_path, dtype=getattr(torch, dtype), licence=licence)
        super().__init__(model, side, grid, frames_at_once)
