"""Standardisation of perceiver features. The planner is trained on standardised features, and the transformer reads them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from baton_lightning.models.precision import upcast_half


class FeatureNorm(nn.Module):
    """Per-channel standardisation of perceiver features with the statistics of the training set.

    ``forward(features) = (features - mean) / std``. The statistics are buffers: they are saved with the weights, so all stages use the same
    ones. Before :meth:`fit`, the module is the identity and ``fitted`` is false.

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
            floor: Lower bound of the standard deviation, so that a constant channel stays finite.

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
        """Distance of other statistics from these: the larger of the mean shift, in standard deviations, and \\|ln(std ratio)\\|, each
        averaged over channels."""
        mean, std = mean.to(self.mean), std.to(self.std)
        shift = ((mean - self.mean).abs() / self.std).mean()
        stretch = (std.clamp_min(1e-4) / self.std).log().abs().mean()
        return max(shift.item(), stretch.item())

    def forward(self, features: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """Raw features to standardised features, in float32 for any input type up to float32."""
        return (upcast_half(features) - self.mean) / self.std

    def inverse(self, tokens: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """Standardised tokens back to raw features, in float32 for any input type up to float32."""
        return upcast_half(tokens) * self.std + self.mean
