"""Transformers and inputs of `bench gpu`: the paper's width with a clip of the paper's size, or tiny sizes, with random inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.estimate.footprint import blank_plan
from baton_lightning.models.dit import DualBranchDiT

PAPER = ClipSpec(
    seconds=5.0,
    fps=24,
    height=704,
    width=704,
    video_stride=(4, 16),
    video_channels=48,
    video_patch=(1, 2, 2),
    audio_latents=157,
    audio_position_scale=0.19676,
    plan_grid=(27, 27),
    video_plan_width=1152,
    audio_plan_width=512,
    text_tokens=512,
    text_width=4096,
)
SHORT = ClipSpec(**{**vars(PAPER), "seconds": 1.0, "height": 256, "width": 256, "audio_latents": 32, "plan_grid": (9, 9)})
TINY = ClipSpec(seconds=1.0, height=32, width=32)


@dataclass(frozen=True)
class Scale:
    """Sizes of a benchmark.

    Args:
        clip: Geometry of the clip for training and sampling.
        short: Geometry of a smaller clip, for parts that run in float32.
        width: Channels of both branches.
        num_heads: Number of attention heads.
        ffn_width: Hidden channels of the feed-forward networks.
        most_blocks: Largest number of blocks.
        warm_up: Number of steps before timing.
        steps: Number of timed steps; the result is their median.
    """

    clip: ClipSpec
    short: ClipSpec
    width: int
    num_heads: int
    ffn_width: int
    most_blocks: int
    warm_up: int
    steps: int

    def dit(self, clip: ClipSpec, depth: int, **options: Any) -> DualBranchDiT:
        """A transformer with ``depth`` blocks, on torch's default device."""
        return DualBranchDiT(clip, self.width, depth, self.num_heads, self.ffn_width, **options)


WIDE = Scale(PAPER, SHORT, width=3072, num_heads=24, ffn_width=14336, most_blocks=30, warm_up=2, steps=6)
SMALL = Scale(TINY, TINY, width=48, num_heads=4, ffn_width=96, most_blocks=2, warm_up=1, steps=2)


def scale(device: torch.device) -> Scale:
    """The paper's sizes on a GPU, tiny sizes on the CPU."""
    return WIDE if device.type == "cuda" else SMALL


@dataclass(frozen=True)
class Inputs:
    """Random inputs of one clip.

    Args:
        clean: Video latents [1, C, T, Y, X] and audio latents [1, L, C].
        noise: Noise of the same shapes.
        t: Flow time [1].
        context: Text [1, N, C].
        plan: The plan.
    """

    clean: tuple[Tensor, Tensor]
    noise: tuple[Tensor, Tensor]
    t: Tensor
    context: Tensor
    plan: Plan

    def forward(self, dit: DualBranchDiT) -> tuple[Tensor, Tensor]:
        """Predicted velocities of both modalities."""
        noisy = [clean + self.t * (noise - clean) for clean, noise in zip(self.clean, self.noise, strict=True)]
        return dit(*noisy, self.t, self.context, self.context, self.plan)

    def loss(self, dit: DualBranchDiT) -> Tensor:
        """Sum of both modalities' mean squared errors of the velocity, in float32."""
        targets = [noise - clean for clean, noise in zip(self.clean, self.noise, strict=True)]
        return sum((v.float() - target).square().mean() for v, target in zip(self.forward(dit), targets, strict=True))


def inputs(clip: ClipSpec, device: torch.device | str) -> Inputs:
    """Inputs that are drawn on the CPU, so that they are the same on every device."""
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        if torch.device(device).type == "meta":
            return torch.empty(1, *shape, device="meta")
        return torch.randn(1, *shape, generator=generator, device="cpu").to(device)

    shapes = ((clip.video_channels, *clip.latent_grid), (clip.num_audio_latents, clip.audio_channels))
    clean, noise = (tuple(draw(*shape) for shape in shapes) for _ in range(2))
    return Inputs(clean, noise, torch.full((1,), 0.5, device=device), draw(clip.text_tokens, clip.text_width), blank_plan(clip, draw))
