"""Clips of a tiny geometry, for the tests of stage 3."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec

CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)


def made(count: int) -> Batch:
    draw = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=draw)

    return Batch(
        [f"k{i}" for i in range(count)],
        torch.arange(count),
        3,
        ["a red circle on the left. first the red circle jumps."] * count,
        ["first a thump."] * count,
        video_latents=tensor(CLIP.video_channels, *CLIP.latent_grid),
        audio_latents=tensor(CLIP.num_audio_latents, CLIP.audio_channels),
        video_features=tensor(CLIP.num_video_planned, CLIP.video_plan_width),
        audio_features=tensor(CLIP.num_audio_planned, CLIP.audio_plan_width),
        context=tensor(CLIP.text_tokens, CLIP.text_width),
    )


@pytest.fixture(scope="session")
def clips() -> Callable[[int], Batch]:
    """Makes a number of clips with latents, features and context; the same ones every time."""
    return made
