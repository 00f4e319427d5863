"""Standardised feature space: the one in which plans are regressed, handed over and read by the diffusion transformer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from baton_lightning.models.precision import widen


class FeatureNorm(nn.Module):
    """Per-channel standardisation of perceiver features with the statistics of the training set.

    ``forward(features) = (features - mean) / std``. The statistics are buffers, so they travel with the weights from stage to
    stage and every stage speaks of the same space. Until :meth:`fit` it is the identity and ``fitted`` is false.

    Args:
        width: Channels C of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, mean: Float[Tensor, C], std: Float[Tensor, C], *, floor: float = 1e-4) -> None:
        """Sets the statistics.

        Args:
            mean: Mean of each channel.
            std: Standard deviation of each channel, >= 0.
            floor: Smallest standard deviation used: a channel that never moves stays finite.

        Raises:
            ValueError: If the number of channels differs.
        """
        if mean.shape != self.mean.shape or std.shape != self.std.shape:
            raise ValueError(
                f"FeatureNorm has {self.mean.numel()} channels, got statistics of {mean.numel()} and {std.numel()}; "
                "clip.video_plan_width and clip.audio_plan_width must equal the perceivers' widths"
            )
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(floor))
        self.fitted.fill_(True)

    @torch.no_grad()
    def drift(self, mean: Float[Tensor, C], std: Float[Tensor, C]) -> float:
        """How far other statistics lie from these: the larger of the mean shift, in our standard deviations, and \\|ln(std ratio)\\|,
        each averaged over channels."""
        mean, std = mean.to(self.mean), std.to(self.std)
        shift = ((mean - self.mean).abs() / self.std).mean()
        stretch = (std.clamp_min(1e-4) / self.std).log().abs().mean()
        return max(shift.item(), stretch.item())

    def forward(self, features: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """Raw features to the standardised space, in float32 whatever the type of the features."""
        return (widen(features) - self.mean) / self.std

    def inverse(self, tokens: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """Standardised tokens back to raw features, in float32 likewise."""
        return widen(tokens) * self.std + self.mean
