"""THE time convention. t runs from 0 = clean to 1 = noise, on the straight line between them (rectified flow; Wan, Ovi).

    x_t = (1 - t) x_0 + t noise          velocity = dx_t / dt = noise - x_0

Training, samplers and networks take t from here; a network that wants 0 to 1000 multiplies for itself.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def expand(t: Float[Tensor, "B"], like: Float[Tensor, "B *X"]) -> Float[Tensor, "B *Y"]:
    """``t`` with singleton axes, so that it multiplies ``like`` clip by clip.

    Raises:
        ValueError: If ``like`` is of half precision: its 8 or 11 bits would round the time that the network is told.
    """
    if like.dtype.itemsize < 4:
        raise ValueError(f"the flow is computed in float32 or float64, got latents in {like.dtype}")
    return t.to(like).reshape(-1, *[1] * (like.ndim - 1))


def interpolate(clean: Float[Tensor, "B *X"], noise: Float[Tensor, "B *X"], t: Float[Tensor, "B"]) -> Float[Tensor, "B *X"]:
    """Latents at flow time t: ``(1 - t) clean + t noise``."""
    t = expand(t, clean)
    return (1 - t) * clean + t * noise


def velocity(clean: Float[Tensor, "B *X"], noise: Float[Tensor, "B *X"]) -> Float[Tensor, "B *X"]:
    """What the network is to predict: ``noise - clean``, the same at every t."""
    return noise - clean


def clean_from(noisy: Float[Tensor, "B *X"], velocity: Float[Tensor, "B *X"], t: Float[Tensor, "B"]) -> Float[Tensor, "B *X"]:
    """Clean latents that a velocity at flow time t points to: ``x_t - t v``."""
    return noisy - expand(t, noisy) * velocity


def shift_time(t: Float[Tensor, "*B"], shift: float) -> Float[Tensor, "*B"]:
    """Moves flow times towards noise: ``s t / (1 + (s - 1) t)``, an increasing map of [0, 1] onto itself; 1 leaves them (SD3, Eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)
