"""What a transformer is told besides the noisy latents and the time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Text and plan.

    Args:
        video_context: Text for the video branch [B, N, C].
        audio_context: Text for the audio branch [B, N, C].
        plan: Planned tokens in the form that the transformer takes, or ``None``.
    """

    video_context: Tensor
    audio_context: Tensor
    plan: object | None = None
