"""Rotary position embedding at real-valued positions with any number of axes (RoFormer; Wan's split of the head over t, y, x).

A position is a vector of up to three coordinates. Axis ``a`` has ``d_a`` of the ``D`` head dims; it rotates adjacent pairs of them by
``position_a * 10000^(-2i / d_a)``. The split is the same for every modality. If a token has fewer coordinates (audio has only time), the
dims of the missing axes are not rotated.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

THETA = 10000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Head dims that belong to t, y and x: 44, 42, 42 of Wan's 128.

    Raises:
        ValueError: If ``head_dim`` is odd, so that its dims do not pair up.
    """
    if head_dim % 2:
        raise ValueError(f"rotary embedding rotates pairs of dims, so head_dim must be even, got {head_dim}")
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def rotary_phases(
    positions: Float[Tensor, "*B L A"], head_dim: int, *, dtype: torch.dtype = torch.float32
) -> Complex[Tensor, "*B L {head_dim//2}"]:
    """Unit complex numbers e^(i angle), one for every pair of head dims.

    Args:
        positions: Coordinates, up to three axes in the order t, y, x; the unit is a video token of that axis.
        head_dim: Dims D of a head.
        dtype: Precision of the features that are rotated; angles are always computed in float64.

    Raises:
        ValueError: If there are more than three axes.
    """
    dims = axis_dims(head_dim)
    if positions.shape[-1] > len(dims):
        raise ValueError(f"positions have at most {len(dims)} axes (t, y, x), got {positions.shape[-1]}")
    angles = []
    for axis, dim in enumerate(dims):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / max(dim, 1)
        coordinate = positions[..., axis : axis + 1].double() if axis < positions.shape[-1] else positions[..., :1].double() * 0
        angles.append(coordinate * THETA**-exponents)
    angle = torch.cat(angles, -1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex128 if dtype == torch.float64 else torch.complex64)


def grid_positions(grid: tuple[int, ...], device: torch.device | str | None = None) -> Float[Tensor, "L A"]:
    """Integer coordinates of a grid's tokens in t-y-x order (the last axis fastest), one row a token."""
    axes = [torch.arange(n, dtype=torch.float64, device=device) for n in grid]
    return torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], -1)


def apply_rotary(features: Float[Tensor, "B L H D"], phase: Complex[Tensor, "*B L P"] | None) -> Float[Tensor, "B L H D"]:
    """Rotates adjacent pairs of every head by the phases of its token.

    Args:
        features: Queries or keys. Half precision is rotated in float32 and converted back.
        phase: Result of :func:`rotary_phases`; ``None`` returns the features unchanged.
    """
    if phase is None:
        return features
    real = features if features.dtype in (torch.float32, torch.float64) else features.float()
    rotated = torch.view_as_complex(real.unflatten(-1, (-1, 2)).contiguous()) * phase.unsqueeze(-2)
    return torch.view_as_real(rotated).flatten(-2).to(features.dtype)
