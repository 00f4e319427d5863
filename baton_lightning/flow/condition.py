"""Conditioning of the transformer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Text and plan of one evaluation of the transformer.

    Args:
        video_context: Text for the video branch [B, N, C].
        audio_context: Text for the audio branch [B, N, C].
        plan: Planned tokens in the transformer's format; ``None`` = no plan.
    """

    video_context: Tensor
    audio_context: Tensor
    plan: object | None = None
