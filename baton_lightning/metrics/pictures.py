"""Pictures of a clip as networks take them: chosen by time, resized, in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from baton_lightning.media import Media


def chosen(media: Media, rate: float | None = None) -> Tensor:
    """Frames of a clip, [T, 3, Y, X] in [0, 1].

    Args:
        media: The clip.
        rate: Frames/s that are looked at, the nearest in time; ``None`` = all.
    """
    frames = media.frames
    if rate is not None and rate < media.fps:
        picked = np.round(np.arange(0, len(frames) / media.fps, 1 / rate) * media.fps).astype(int)
        frames = frames[picked[picked < len(frames)]]
    return torch.from_numpy(frames).permute(0, 3, 1, 2) / 255


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, with a low-pass filter where it shrinks."""
    return F.interpolate(pictures, (height, width), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
