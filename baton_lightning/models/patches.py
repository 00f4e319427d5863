"""Patch embedding of each modality: latents to tokens and back, and token positions. All other parts of a branch are the same code."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from baton_lightning.models.layers import ConvMLP
from baton_lightning.models.rope import grid_positions


class VideoPatches(nn.Conv3d):
    """Patch embedding of video latents [B, C, T, Y, X]: one token per patch, in t-y-x order.

    Args:
        channels: Latent channels.
        width: Channels of a token.
        patch: Patch size (T, Y, X), in latents.
        rate: Token frames per second.
    """

    unit = 1.0

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int], rate: float = 1.0) -> None:
        super().__init__(channels, width, kernel_size=patch, stride=patch)
        self.rate, self.values = rate, channels * math.prod(patch)

    def token_grid(self, latents: Float[Tensor, "B C T Y X"]) -> tuple[int, int, int]:
        """Tokens per axis.

        Raises:
            ValueError: If the latents' size is not a multiple of the patch.
        """
        if any(n % p for n, p in zip(latents.shape[2:], self.kernel_size, strict=True)):
            raise ValueError(f"video latents (T, Y, X) must divide by the patch {tuple(self.kernel_size)}, got {tuple(latents.shape[2:])}")
        t, y, x = (n // p for n, p in zip(latents.shape[2:], self.kernel_size, strict=True))
        return t, y, x

    def known(self, latents: Bool[Tensor, "B T Y X"]) -> Bool[Tensor, "B L"]:
        """Tokens whose latents are all known."""
        p, q, r = self.kernel_size
        return rearrange(latents, "b (t p) (y q) (x r) -> b (t y x) (p q r)", p=p, q=q, r=r).all(-1)

    def forward(self, latents: Float[Tensor, "B C T Y X"]) -> Float[Tensor, "B L W"]:
        return super().forward(latents).flatten(2).transpose(1, 2)

    def unpatchify(self, values: Float[Tensor, "B L V"], grid: tuple[int, ...]) -> Float[Tensor, "B C T Y X"]:
        """Values of the tokens' patches as latents; within a token the channel varies fastest."""
        (t, y, x), (p, q, r) = grid, self.kernel_size
        return rearrange(values, "b (t y x) (p q r c) -> b c (t p) (y q) (x r)", t=t, y=y, x=x, p=p, q=q, r=r)


class AudioPatches(nn.Sequential):
    """Convolutional embedding of audio latents [B, L, C]: one token per latent.

    Args:
        channels: Latent channels.
        width: Channels of a token.
        unit: Video latent frames per audio latent.
        rate: RoPE positions per second.
    """

    def __init__(self, channels: int, width: int, unit: float, rate: float = 1.0) -> None:
        super().__init__(nn.Conv1d(channels, width, kernel_size=7, padding=3), nn.SiLU(), ConvMLP(width, 4 * width))
        self.unit, self.rate, self.values = unit, rate, channels

    def token_grid(self, latents: Float[Tensor, "B L C"]) -> tuple[int]:
        """Tokens along time."""
        return (latents.shape[1],)

    def known(self, latents: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Tokens whose latents are known: one token is one latent."""
        return latents

    def forward(self, latents: Float[Tensor, "B L C"]) -> Float[Tensor, "B L W"]:
        return super().forward(latents.transpose(1, 2)).transpose(1, 2)

    def unpatchify(self, values: Float[Tensor, "B L V"], grid: tuple[int, ...]) -> Float[Tensor, "B L C"]:
        """The values unchanged: one token is one latent."""
        return values


Patches = VideoPatches | AudioPatches
"""Common attributes: ``unit`` (RoPE positions per step of the first axis), ``rate`` (RoPE positions per second), ``values`` (velocity
values per token), ``token_grid``, ``known``, ``forward`` and ``unpatchify``."""


def token_positions(patches: Patches, grid: tuple[int, ...], device: torch.device) -> Float[Tensor, "L A"]:
    """RoPE positions of a grid's tokens: integer coordinates times the modality's unit, so both modalities count in video latent frames."""
    return grid_positions(grid, device) * patches.unit
