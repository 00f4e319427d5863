"""Preconditioning of the velocity: the network corrects the best linear estimate instead of predicting the velocity itself.

For latents whose channels are independent Gaussians with mean m and deviation s, with D = (1 - t)^2 s^2 + t^2:

    E[velocity | x_t]   = -m + (t - (1 - t) s^2) / D (x_t - (1 - t) m)
    std[velocity | x_t] = s / sqrt(D)

The network reads ``(x_t - (1 - t) m) / sqrt(D)``, which has unit variance at every t, and its output F enters as
``E[velocity | x_t] + std[velocity | x_t] F``. This is the argument of EDM (arXiv 2206.00364) in flow coordinates. It is our choice;
the paper and Ovi predict the plain velocity.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baton_lightning.models.conditions import Latents
from baton_lightning.models.feature_norm import FeatureNorm


class Preconditioning(FeatureNorm):
    """Scales of one modality's latents. Before :meth:`fit`, latents count as having mean 0 and deviation 1.

    Args:
        width: Channels C of the latents.
        axis: Axis of the channels in a batch of latents: 1 for video [B, C, T, Y, X], -1 for audio [B, L, C].
    """

    def __init__(self, width: int, axis: int) -> None:
        super().__init__(width)
        self.axis = axis

    def network_input(self, noisy: Latents, t: Float[Tensor, "B"], known: Latents | None) -> Latents:
        """Noisy latents with unit variance at every flow time.

        Args:
            noisy: Latents at flow time t; one tensor, or a list with one tensor per clip.
            t: Flow time, 0 = clean, 1 = noise.
            known: Which latents are clean, at flow time 0; ``None`` = none.
        """
        if not isinstance(noisy, Tensor):
            return [self._scaled(*clip)[0] for clip in by_clip(noisy, t, known)]
        return self._scaled(noisy, t, known)

    def velocity(self, noisy: Latents, t: Float[Tensor, "B"], known: Latents | None, output: Latents) -> Latents:
        """Velocities of the latents in float32.

        Args:
            noisy: Latents as given to :meth:`network_input`.
            t: Flow time.
            known: Which latents are clean.
            output: The network's output, shaped as the latents.
        """
        if not isinstance(noisy, Tensor):
            return [self._velocity(*clip, made[None])[0] for clip, made in zip(by_clip(noisy, t, known), output, strict=True)]
        return self._velocity(noisy, t, known, output)

    def _scaled(self, noisy: Tensor, t: Tensor, known: Tensor | None) -> Tensor:
        t, mean, variance = self._by_channel(noisy, t, known)
        return (noisy - (1 - t) * mean) / ((1 - t).square() * variance + t.square()).sqrt()

    def _velocity(self, noisy: Tensor, t: Tensor, known: Tensor | None, output: Tensor) -> Tensor:
        t, mean, variance = self._by_channel(noisy, t, known)
        spread = (1 - t).square() * variance + t.square()
        linear = (t - (1 - t) * variance) / spread * (noisy - (1 - t) * mean) - mean
        return linear + (variance / spread).sqrt() * output

    def _by_channel(self, noisy: Tensor, t: Tensor, known: Bool[Tensor, "B *N"] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Flow time, mean and variance, each broadcast over the latents."""
        times = t.to(noisy).reshape(-1, *[1] * (noisy.ndim - 1))
        if known is not None:
            times = torch.where(known.unsqueeze(self.axis), 0.0, times)
        shape = [1] * noisy.ndim
        shape[self.axis] = -1
        return times, self.mean.to(noisy).view(shape), self.std.to(noisy).square().view(shape)


def by_clip(noisy: Latents, t: Tensor, known: Latents | None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Latents, flow time and known latents of each clip, as batches of one."""
    return [(clip[None], t[i : i + 1], None if known is None else known[i][None]) for i, clip in enumerate(noisy)]
