"""Frames of a clip as inputs of networks: sampled by time, resized, in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from baton_lightning.media import Media


def sample_frames(media: Media, rate: float | None = None) -> Tensor:
    """Frames of a clip, [T, 3, Y, X] in [0, 1].

    Args:
        media: The clip.
        rate: Frames per second to sample, the nearest in time; ``None`` = all frames.
    """
    frames = media.frames
    if rate is not None and rate < media.fps:
        picked = np.round(np.arange(0, len(frames) / media.fps, 1 / rate) * media.fps).astype(int)
        frames = frames[picked[picked < len(frames)]]
    return torch.from_numpy(frames).permute(0, 3, 1, 2) / 255


def resize(pictures: Tensor, height: int, width: int) -> Tensor:
    """Pictures resized bilinearly, with antialiasing when they become smaller."""
    return F.interpolate(pictures, (height, width), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
