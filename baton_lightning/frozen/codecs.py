"""What a codec must do. Anything with these methods can stand in ``init_args``: a VAE with real weights, a random twin, or a
closed-form codec."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor


@runtime_checkable
class VideoCodec(Protocol):
    """Pictures to latents and back. The first frame is a latent frame of its own, so T = stride * k + 1."""

    def encode(self, frames: UInt8[Tensor, "B T Y X 3"]) -> Float[Tensor, "B C t y x"]:
        """Normalised latents (about zero mean and unit variance per channel)."""
        ...

    def decode(self, latents: Float[Tensor, "B C t y x"]) -> UInt8[Tensor, "B T Y X 3"]:
        """Pictures of normalised latents."""
        ...


@runtime_checkable
class AudioCodec(Protocol):
    """Waveforms to latents and back."""

    def encode(self, waveform: Float[Tensor, "B S"]) -> Float[Tensor, "B L C"]:
        """Latents of a waveform in [-1, 1] at the codec's sample rate."""
        ...

    def decode(self, latents: Float[Tensor, "B L C"], num_samples: int) -> Float[Tensor, "B S"]:
        """Waveform in [-1, 1], cut or zero-padded to ``num_samples``."""
        ...
