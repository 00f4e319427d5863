"""Interfaces of perceivers: frozen encoders whose features the planner is trained to predict (Baton, Sec. 3)."""

from __future__ import annotations

from jaxtyping import Float, UInt8
from torch import Tensor

from baton_lightning.frozen.freeze import Frozen


class VideoPerceiver(Frozen):
    """Features of single pictures on a grid.

    Attributes:
        grid: Rows and columns (h, w).
        width: Channels C.
    """

    grid: tuple[int, int]
    width: int

    def forward(self, frames: UInt8[Tensor, "B N Y X 3"]) -> Float[Tensor, "B N h w C"]:
        """Features of N keyframes of any size, 0..255."""
        raise NotImplementedError


class AudioPerceiver(Frozen):
    """Features of sound at a constant rate.

    Attributes:
        rate: Tokens per second.
        width: Channels C.
    """

    rate: float
    width: int

    def forward(self, waveform: Float[Tensor, "B S"], sample_rate: int) -> Float[Tensor, "B K C"]:
        """Features of a whole clip in [-1, 1] at ``sample_rate`` Hz; K = ceil(S / sample_rate * rate)."""
        raise NotImplementedError
