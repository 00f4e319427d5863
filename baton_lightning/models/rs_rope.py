"""Relative Semantic RoPE: planned tokens and latents in one coordinate frame (Baton, section 3.4).

Planned tokens have a coarser (or finer) grid than latents. Their keys are rotated at real-valued positions in units of latent tokens, with
the same frequencies, so that a latent and the planned token at the same place have the same position:

    p_t = k (T-1)/(N-1),  p_h = i (H-1)/(h-1),  p_w = j (W-1)/(w-1)       planned video token (k, i, j) of N x h x w on T x H x W tokens
    p   = l (T_a-1)/(L_a-1) * unit                                        planned audio token l of L_a on T_a audio latents

Note: the formula is our reconstruction; the paper states only the purpose. An axis with one planned token has position 0.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from baton_lightning.models.rope import grid_positions

Alignment = Literal["ends", "centres"]


def align(
    planned: tuple[int, ...], tokens: tuple[int, ...], alignment: Alignment = "ends", device: torch.device | str | None = None
) -> Float[Tensor, "K A"]:
    """Positions of a grid of planned tokens on a grid of latent tokens, in latent tokens, one row a planned token.

    Args:
        planned: Planned tokens per axis (N, h, w) or (L_a,).
        tokens: Latent tokens per axis (T, H, W) or (T_a,).
        alignment: ``ends`` puts the first and the last planned token on the first and the last latent; ``centres`` spreads cells of
            equal size over the same extent.
        device: Device of the result.

    Raises:
        ValueError: If the two grids have different numbers of axes.
    """
    if len(planned) != len(tokens):
        raise ValueError(f"planned and latent grids need the same axes, got {planned} and {tokens}")
    index = grid_positions(planned, device)
    if alignment == "centres":
        ratio = index.new_tensor([n / m for n, m in zip(tokens, planned, strict=True)])
        return (index + 0.5) * ratio - 0.5
    return index * index.new_tensor([(n - 1) / (m - 1) if m > 1 else 0.0 for n, m in zip(tokens, planned, strict=True)])


def planned_positions(
    planned: tuple[int, ...],
    tokens: tuple[int, ...],
    *,
    unit: float = 1.0,
    alignment: Alignment = "ends",
    times: Float[Tensor, "N"] | None = None,
    rate: float = 1.0,
    device: torch.device | str | None = None,
) -> Float[Tensor, "K A"]:
    """RoPE positions of planned tokens among the tokens of a branch.

    Args:
        planned: Planned tokens per axis.
        tokens: Latent tokens per axis.
        unit: RoPE position per latent token: 1 for video, video latent frames per audio latent for audio.
        alignment: As for :func:`align`.
        times: Time of each step of the planned grid's first axis, in s. Replaces the first coordinate by ``time * rate``, without clamping:
            a plan may be longer than the clip.
        rate: RoPE positions per second.
        device: Device of the result.
    """
    place = align(planned, tokens, alignment, device) * unit
    if times is not None:
        place[:, 0] = times.to(place).repeat_interleave(math.prod(planned[1:])) * rate
    return place
