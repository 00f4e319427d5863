"""Interfaces of codecs. Any class with these methods can be configured: a released VAE, a random one, or a closed-form codec."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor


@runtime_checkable
class VideoCodec(Protocol):
    """Encodes pictures to latents and decodes them. The first frame is encoded alone, so T = stride * k + 1."""

    def encode(self, frames: UInt8[Tensor, "B T Y X 3"]) -> Float[Tensor, "B C t y x"]:
        """Normalised latents (about zero mean and unit variance per channel)."""
        ...

    def decode(self, latents: Float[Tensor, "B C t y x"]) -> UInt8[Tensor, "B T Y X 3"]:
        """Pictures of normalised latents."""
        ...


@runtime_checkable
class AudioCodec(Protocol):
    """Encodes waveforms to latents and decodes them."""

    def encode(self, waveform: Float[Tensor, "B S"]) -> Float[Tensor, "B L C"]:
        """Latents of a waveform in [-1, 1] at the codec's sample rate."""
        ...

    def decode(self, latents: Float[Tensor, "B L C"], num_samples: int) -> Float[Tensor, "B S"]:
        """Waveform in [-1, 1], cut or zero-padded to ``num_samples``."""
        ...
