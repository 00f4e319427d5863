"""What a perceiver must do: turn pictures or sound into the features a planner is trained to predict (Baton, Sec. 3)."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor


@runtime_checkable
class VideoPerceiver(Protocol):
    """Features of single pictures on a grid of rows and columns."""

    grid: tuple[int, int]
    width: int

    def __call__(self, frames: UInt8[Tensor, "B N Y X 3"]) -> Float[Tensor, "B N h w C"]:
        """Features of N keyframes, pooled to ``grid``."""
        ...


@runtime_checkable
class AudioPerceiver(Protocol):
    """Features of sound at a constant rate, in tokens/s."""

    rate: float
    width: int

    def __call__(self, waveform: Float[Tensor, "B S"], sample_rate: int) -> Float[Tensor, "B K C"]:
        """Features of a whole clip, K = ceil(S / sample_rate * rate)."""
        ...
