"""SigLIP2, the video perceiver: the penultimate hidden state of a frozen image encoder (Baton, Sec. 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from baton_lightning.frozen.downloads import load_pretrained
from baton_lightning.frozen.freeze import Dtype, seeded
from baton_lightning.frozen.patch_perceiver import PatchPerceiver

if TYPE_CHECKING:
    from transformers import SiglipVisionModel


class SiglipPerceiver(PatchPerceiver):
    """``hidden_states[-2]`` of a SigLIP vision transformer on every keyframe, pooled to a grid.

    The last block, the final norm and the pooling head are removed. Pictures are resized to the model's square input and scaled to [-1, 1],
    x / 127.5 - 1.

    Args:
        model: The vision transformer; it is modified in place.
        grid: Rows and columns (h, w) of the features, by average pooling; ``None`` keeps the transformer's grid (27, 27).
        frames_at_once: Pictures in one forward; bounds the memory.

    Raises:
        ValueError: If the grid is finer than the transformer's.
    """

    def __init__(self, model: SiglipVisionModel, grid: tuple[int, int] | None = None, frames_at_once: int = 64) -> None:
        model.encoder.layers = model.encoder.layers[:-1]
        model.post_layernorm = nn.Identity()
        model.use_head, model.head = False, None
        sizes = model.config
        super().__init__(model, sizes.image_size, sizes.patch_size, sizes.hidden_size, grid, frames_at_once)


class TinySiglip(SiglipPerceiver):
    """A small, randomly initialised SigLIP vision transformer, of the real class.

    Args:
        grid: Rows and columns of the features.
        width: Channels C.
        depth: Blocks, including the last one, which is removed.
        side: Side that pictures are resized to, in pixels.
        patch: Side of a patch, in pixels.
        num_heads: Attention heads.
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


class PlacelessSiglip(TinySiglip):
    """:class:`TinySiglip` without position embeddings: a token says what its patch shows and what else is in the picture, not where it is.

    Attention without positions is equivariant under permutations of patches. So only the positions that plan attention gives to the tokens
    (RS-RoPE) tell where they are.
    """

    def __init__(self, grid: tuple[int, int] = (4, 4), width: int = 64) -> None:
        super().__init__(grid, width)
        self.model.embeddings.position_embedding.weight.data.zero_()


class Siglip2(SiglipPerceiver):
    """The released SigLIP2 so400m/14 at 384 pixels: 27 x 27 x 1152 features of a picture.

    Args:
        name_or_path: Hub name of a fixed-resolution SigLIP or SigLIP2, or a local directory.
        grid: Rows and columns of the features; ``None`` = native.
        dtype: Type of the weights; features are float32.
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

        model = load_pretrained(SiglipVisionModel, name_or_path, dtype=getattr(torch, dtype), licence="Apache-2.0 (SigLIP2)")
        super().__init__(model, grid, frames_at_once)
