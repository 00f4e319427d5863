"""What the blocks of a branch read besides tokens, made once per forward: times, places, masks and the plan.

Clips of one shape travel as one tensor. Clips of different shapes come as a list: each is embedded alone, then padded, and masks keep
the padding from being read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from baton_lightning.batch import Plan
from baton_lightning.models.attention import Located
from baton_lightning.models.patches import Patches
from baton_lightning.models.plan_attention import PlanOptions
from baton_lightning.models.rope import phases
from baton_lightning.models.rs_rope import planned_positions

Latents = Tensor | Sequence[Tensor]
Grid = tuple[int, ...]


@dataclass(frozen=True)
class Conditions:
    """What every block of a branch reads besides tokens.

    Args:
        time: Time embedding [B, N, C]; N is 1, or L if tokens have times of their own.
        modulation: Its six rows [B, N, 6, C].
        context: Embedded text [B, M, C].
        phase: Rotation of the branch's tokens.
        mask: Tokens that exist [B, L]; ``None`` says all.
        plan: Planned tokens of the modality.
        plan_phase: Rotation of the branch's tokens towards the plan.
    """

    time: Tensor
    modulation: Tensor
    context: Tensor
    phase: Tensor
    mask: Tensor | None = None
    plan: Located | None = None
    plan_phase: Tensor | None = None


def tokenise(patches: Patches, latents: Latents) -> tuple[Float[Tensor, "B L C"], list[Grid], Bool[Tensor, "B L"] | None]:
    """Tokens, the token grid of every clip (one grid, if all are alike), and which tokens exist."""
    if isinstance(latents, Tensor):
        return patches(latents), [patches.token_grid(latents)], None
    tokens = pad_sequence([patches(x[None])[0] for x in latents], batch_first=True)
    grids: list[Grid] = [patches.token_grid(x[None]) for x in latents]
    if len(set(grids)) == 1:
        return tokens, grids[:1], None
    return tokens, grids, counting(tokens) < per_clip(grids, math.prod, tokens)


def alike(grids: list[Grid], make: Callable[[Grid], Tensor]) -> Float[Tensor, "*B L A"]:
    """What ``make`` gives for the one grid, or for each clip's own, padded with zeros."""
    return make(grids[0]) if len(grids) == 1 else pad_sequence([make(grid) for grid in grids], batch_first=True)


def clean_first_frame(t: Float[Tensor, "B 1"], tokens: Float[Tensor, "B L C"], grids: list[Grid]) -> Float[Tensor, "B L"]:
    """The flow time of every token: 0 in the first latent frame, the clip's elsewhere."""
    return torch.where(counting(tokens) < per_clip(grids, lambda grid: math.prod(grid[1:]), tokens), torch.zeros_like(t), t)


def counting(tokens: Float[Tensor, "B L C"]) -> Tensor:
    """0, 1, ..., L - 1."""
    return torch.arange(tokens.shape[1], device=tokens.device)


def per_clip(grids: list[Grid], count: Callable[[Grid], int], tokens: Float[Tensor, "B L C"]) -> Tensor:
    """A count for every clip, as a column."""
    return torch.tensor([[count(grid)] for grid in grids], device=tokens.device)


def plan_of(plan: Plan, name: str) -> tuple[Tensor, Grid, Tensor | None]:
    """Features, grid and times of one modality's plan.

    Raises:
        ValueError: If there is not one feature vector per place of the grid.
    """
    if name == "video":
        features, grid, times = plan.video, tuple(plan.video_grid), plan.video_times
    else:
        features, grid, times = plan.audio, (plan.audio.shape[1],), plan.audio_times
    if math.prod(grid) != features.shape[1]:
        raise ValueError(f"the {name} plan must have one token per place of its grid {grid}, got {features.shape[1]} tokens")
    return features, grid, times


def plan_phases(
    planned: Grid,
    times: Tensor | None,
    options: PlanOptions,
    patches: Patches,
    grids: list[Grid],
    place: Float[Tensor, "*B L A"],
    head_dim: int,
    dtype: torch.dtype,
) -> tuple[Tensor | None, Tensor | None]:
    """Rotations of the branch's tokens (queries) and of the planned tokens (keys) against each other.

    Args:
        planned: Grid of the plan.
        times: Times of its first axis, in s, if known.
        options: How the plan is read.
        patches: The branch's patches, which know its units.
        grids: Token grids of the clips.
        place: Positions of the branch's tokens.
        head_dim: Dims of a head.
        dtype: Precision of the tokens.
    """
    if options.rs_rope == "none":
        return None, None
    spread = {"unit": patches.unit, "alignment": options.alignment, "rate": patches.rate, "device": place.device}
    times = times if options.timestamps else None
    planned_place = alike(grids, lambda grid: planned_positions(planned, grid, times=times, **spread))
    axes = slice(1 if options.rs_rope == "temporal" else None)
    return phases(place[..., axes], head_dim, dtype=dtype), phases(planned_place[..., axes], head_dim, dtype=dtype)
