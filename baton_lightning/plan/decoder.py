"""Decoder of video tokens: a linear map from the tokens of a keyframe to a small picture of the benchmark world.

The map is fitted by ridge regression and reduced to a lower rank, both in closed form. That takes seconds, and depends on no seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from baton_lightning.clip import ClipSpec
from baton_lightning.world.render import motion, paint
from baton_lightning.world.scene import Scene

SIDE = 32
"""Rows of a decoded picture."""
RANK = 128
"""Rank of the map. On the demo's features, 128 of 577 cost 0.2 dB and leave a quarter of the numbers."""


class Decoder(nn.Module):
    """Linear map from the standardised tokens of a keyframe to a picture. Its numbers are kept in half precision.

    Args:
        clip: Geometry of the clips.
        inputs: Number of values of a keyframe, and a one.
    """

    weights: Tensor
    pictures: Tensor

    def __init__(self, clip: ClipSpec, inputs: int) -> None:
        super().__init__()
        self.size = SIDE, round(SIDE * clip.width / clip.height)
        rank = min(RANK, inputs)
        self.register_buffer("weights", torch.zeros(inputs, rank, dtype=torch.float16))
        self.register_buffer("pictures", torch.zeros(rank, 3 * self.size[0] * self.size[1], dtype=torch.float16))

    def forward(self, keyframes: Float[Tensor, "N F"]) -> UInt8[Tensor, "N Y X 3"]:
        """RGB pictures of keyframes."""
        pixels = keyframes.float() @ self.weights.float() @ self.pictures.float()
        return (127.5 * (pixels + 1)).round().clamp(0, 255).to(torch.uint8).unflatten(1, (*self.size, 3))

    @torch.no_grad()
    def fit(self, keyframes: Float[Tensor, "B N F"], scenes: Sequence[Scene], clip: ClipSpec, noise: float) -> None:
        """Fits the map.

        Args:
            keyframes: Inputs of each clip.
            scenes: Scene of each clip.
            clip: Geometry of the clips.
            noise: Standard deviation of the noise on the inputs for which the map is the best one.
        """
        inputs = keyframes.shape[-1]
        gram = noise**2 * keyframes.shape[:2].numel() * torch.eye(inputs, dtype=torch.float64)
        products = torch.zeros(inputs, self.pictures.shape[1], dtype=torch.float64)
        for shown, scene in zip(keyframes.double(), scenes, strict=True):
            wanted = torch.from_numpy(pictures_of(scene, clip, self.size)).flatten(1).double() / 127.5 - 1
            gram += shown.mT @ shown
            products += shown.mT @ wanted
        full = torch.linalg.solve(gram, products)
        # the best map of this rank projects the pictures on the first singular vectors of what the full map predicts
        vectors = torch.linalg.svd(torch.linalg.cholesky(gram).mT @ full, full_matrices=False).Vh[: len(self.pictures)]
        self.weights.copy_(full @ vectors.mT)
        self.pictures.copy_(vectors)


def pictures_of(scene: Scene, clip: ClipSpec, size: tuple[int, int]) -> UInt8[np.ndarray, "N Y X 3"]:
    """Pictures of a scene at the times of the keyframes, in this size."""
    shapes = {o.colour: o.shape for o in scene.objects}
    return paint(motion(scene, np.array(clip.keyframe_times)), shapes, *size)


def squared_error(pictures: UInt8[Tensor, "N Y X 3"], scene: Scene, clip: ClipSpec) -> float:
    """Mean squared error of decoded pictures, in grey levels of 0 to 255."""
    wanted = pictures_of(scene, clip, (pictures.shape[1], pictures.shape[2]))
    return float(np.square(pictures.numpy().astype(np.float64) - wanted).mean())
