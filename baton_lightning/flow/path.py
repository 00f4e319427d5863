"""The flow time convention of the library: t = 0 is clean, t = 1 is noise, with linear interpolation (rectified flow; Wan, Ovi).

    x_t = (1 - t) x_0 + t noise          velocity = dx_t / dt = noise - x_0

Training, samplers and networks all use this t. A network whose embedding expects 0 to 1000 multiplies t itself.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def broadcast_time(t: Float[Tensor, "B"], like: Float[Tensor, "B *X"]) -> Float[Tensor, "B *Y"]:
    """``t`` with singleton axes, so that it broadcasts over ``like``.

    Raises:
        ValueError: If ``like`` has half precision, which would round the flow time to 8 or 11 bits.
    """
    if like.dtype.itemsize < 4:
        raise ValueError(f"the flow is computed in float32 or float64, got latents in {like.dtype}")
    return t.to(like).reshape(-1, *[1] * (like.ndim - 1))


def interpolate(clean: Float[Tensor, "B *X"], noise: Float[Tensor, "B *X"], t: Float[Tensor, "B"]) -> Float[Tensor, "B *X"]:
    """Latents at flow time t: ``(1 - t) clean + t noise``."""
    t = broadcast_time(t, clean)
    return (1 - t) * clean + t * noise


def velocity(clean: Float[Tensor, "B *X"], noise: Float[Tensor, "B *X"]) -> Float[Tensor, "B *X"]:
    """The network's target: ``noise - clean``, the same at every t."""
    return noise - clean


def predict_clean(noisy: Float[Tensor, "B *X"], velocity: Float[Tensor, "B *X"], t: Float[Tensor, "B"]) -> Float[Tensor, "B *X"]:
    """Clean latents predicted from a velocity at flow time t: ``x_t - t v``."""
    return noisy - broadcast_time(t, noisy) * velocity


def shift_time(t: Float[Tensor, "*B"], shift: float) -> Float[Tensor, "*B"]:
    """Shifts flow times towards noise: ``s t / (1 + (s - 1) t)``, increasing on [0, 1]; shift 1 is the identity (SD3, Eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)
