"""Inputs of a branch's blocks besides its tokens, computed once per forward: time, text, positions, masks and the plan.

Clips of one shape are one tensor. Clips of different shapes are a list: each is embedded alone, then padded, and masks exclude the padding
from attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from baton_lightning.batch import Plan
from baton_lightning.models.attention import KeyValueSource
from baton_lightning.models.patches import Patches
from baton_lightning.models.plan_attention import PlanOptions
from baton_lightning.models.plan_window import Window, plan_windows
from baton_lightning.models.rope import rotary_phases
from baton_lightning.models.rs_rope import planned_positions

Latents: TypeAlias = Tensor | Sequence[Tensor]
Grid = tuple[int, ...]


@dataclass(frozen=True)
class BlockConditions:
    """Inputs of every block of a branch besides its tokens.

    Args:
        time: Time embedding [B, N, C]: a row of the clip's time and, if there are known tokens, a row of time 0.
        modulation: Projected time embedding [B, N, 6, C]: shift, scale and gate of self-attention and of the feed-forward network.
        context: Embedded text, without positions.
        phase: Rotary phases of the branch's tokens.
        mask: Which tokens exist [B, L], bool; ``None`` = all.
        known: Which tokens are known and clean, so that their time is 0 [B, L], bool; ``None`` = none.
        plan: Planned tokens of the modality.
        plan_phase: Rotary phases of the branch's tokens for attention to the plan.
        plan_updates: Updates by the plan that earlier evaluations left for this one, by layer; ``None`` computes and keeps none.
    """

    time: Tensor
    modulation: Tensor
    context: KeyValueSource
    phase: Tensor
    mask: Tensor | None = None
    known: Tensor | None = None
    plan: KeyValueSource | None = None
    plan_phase: Tensor | None = None
    plan_updates: dict[nn.Module, Tensor] | None = None


@dataclass(frozen=True)
class Kept:
    """What evaluations of one clip, or one batch of clips, keep for each other in sampling.

    Args:
        sources: Texts and plans with the keys and values that layers made of them; ``None`` keeps none. It is exact, and can be shared by
            evaluations with other texts or plans.
        plan_updates: Updates by plan attention, by layer; ``None`` keeps none. An evaluation fills what is missing and takes the rest as it
            is, so it is an approximation. Only for evaluations with the same text and plan.
    """

    sources: dict[tuple[str, int], tuple[Any, Any]] | None = None
    plan_updates: dict[nn.Module, Tensor] | None = None

    @property
    def projections(self) -> dict[nn.Module, tuple[Tensor, Tensor]] | None:
        """A place for a source's keys and values; ``None`` if none are kept."""
        return None if self.sources is None else {}

    def source(self, name: str, owner: Any, make: Callable[[], Any]) -> Any:
        """``make()``, or what it gave for the same object before."""
        if self.sources is None:
            return make()
        if (name, id(owner)) not in self.sources:
            self.sources[name, id(owner)] = (owner, make())  # the object is held, so that no other gets its id
        return self.sources[name, id(owner)][1]


def cast(latents: Latents, dtype: torch.dtype) -> Latents:
    """Latents converted to another type, as one tensor or as a list."""
    return latents.to(dtype) if isinstance(latents, Tensor) else [x.to(dtype) for x in latents]


def patchify(patches: Patches, latents: Latents) -> tuple[Float[Tensor, "B L C"], list[Grid], Bool[Tensor, "B L"] | None]:
    """Tokens, the token grid of every clip (one entry if all grids are equal), and which tokens exist."""
    if isinstance(latents, Tensor):
        return patches(latents), [patches.token_grid(latents)], None
    tokens = pad_sequence([patches(x[None])[0] for x in latents], batch_first=True)
    grids: list[Grid] = [patches.token_grid(x[None]) for x in latents]
    if len(set(grids)) == 1:
        return tokens, grids[:1], None
    return tokens, grids, token_indices(tokens) < count_per_clip(grids, math.prod, tokens)


def for_each_grid(grids: list[Grid], make: Callable[[Grid], Tensor]) -> Float[Tensor, "*B L A"]:
    """``make(grid)`` of the common grid, or of each clip's grid, padded with zeros."""
    return make(grids[0]) if len(grids) == 1 else pad_sequence([make(grid) for grid in grids], batch_first=True)


def known_tokens(patches: Patches, known: Latents) -> Bool[Tensor, "B L"]:
    """Which tokens are known: those whose patch holds known latents only.

    Args:
        patches: The branch's patches.
        known: Which latents are known, bool: [B, T, Y, X] or [B, L], or a list without B if clips differ in size.
    """
    if isinstance(known, Tensor):
        return patches.known(known)
    return pad_sequence([patches.known(mask[None])[0] for mask in known], batch_first=True)


def token_indices(tokens: Float[Tensor, "B L C"]) -> Tensor:
    """0, 1, ..., L - 1."""
    return torch.arange(tokens.shape[1], device=tokens.device)


def count_per_clip(grids: list[Grid], count: Callable[[Grid], int], tokens: Float[Tensor, "B L C"]) -> Tensor:
    """``count(grid)`` of every clip, [B, 1]."""
    return torch.tensor([[count(grid)] for grid in grids], device=tokens.device)


def modality_plan(plan: Plan, name: str) -> tuple[Tensor, Grid, Tensor | None]:
    """Features, grid and times of one modality's plan.

    Raises:
        ValueError: If the number of tokens is not the product of the grid.
    """
    if name == "video":
        features, grid, times = plan.video, tuple(plan.video_grid), plan.video_times
    else:
        features, grid, times = plan.audio, (plan.audio.shape[1],), plan.audio_times
    if math.prod(grid) != features.shape[1]:
        raise ValueError(f"the {name} plan must have {math.prod(grid)} tokens, one per cell of its grid {grid}, got {features.shape[1]}")
    return features, grid, times


def plan_rotary_phases(
    planned: Grid,
    times: Tensor | None,
    options: PlanOptions,
    patches: Patches,
    grids: list[Grid],
    positions: Float[Tensor, "*B L A"],
    head_dim: int,
    dtype: torch.dtype,
) -> tuple[Tensor | None, Tensor | None]:
    """Rotary phases of the branch's tokens (queries) and of the planned tokens (keys) for attention to the plan.

    Args:
        planned: Grid of the plan.
        times: Times of its first axis, in s; ``None`` = unknown.
        options: How the plan is read.
        patches: The branch's patches, which have its unit and rate.
        grids: Token grids of the clips.
        positions: Positions of the branch's tokens.
        head_dim: Dims D of a head.
        dtype: Precision of the tokens.
    """
    if options.rs_rope == "none":
        return None, None
    layout = {"unit": patches.unit, "alignment": options.alignment, "rate": patches.rate, "device": positions.device}
    times = times if options.timestamps else None
    key_positions = for_each_grid(grids, lambda grid: planned_positions(planned, grid, times=times, **layout))
    axes = slice(1 if options.rs_rope == "temporal" else None)
    return rotary_phases(positions[..., axes], head_dim, dtype=dtype), rotary_phases(key_positions[..., axes], head_dim, dtype=dtype)


def windows_of_grids(
    planned: Grid, times: Tensor | None, num_keyframes: int, options: PlanOptions, patches: Patches, grids: list[Grid]
) -> tuple[tuple[Window, ...], ...] | None:
    """Windows of the branch's tokens over the plan, for each grid; ``None`` if all tokens read the whole plan.

    They are computed on the CPU, from the times by which RS-RoPE positions the plan. The meta device has no times, so there the plan is
    aligned with the latents.

    Args:
        planned: Grid of the plan.
        times: Times of its first axis, in s; ``None`` = unknown.
        num_keyframes: Keyframes of the plan.
        options: How the plan is read.
        patches: The branch's patches, which have its unit and rate.
        grids: Token grids of the clips.
    """
    if options.window is None:
        return None
    seconds = None if times is None or times.is_meta or not options.timestamps else times.cpu()
    planned_size, windows = math.prod(planned[1:]), []
    for grid in grids:
        layout: dict[str, Any] = {"unit": patches.unit, "alignment": options.alignment, "rate": patches.rate, "device": "cpu"}
        steps = torch.arange(grid[0], dtype=torch.float64, device="cpu") * patches.unit
        planned_steps = planned_positions(planned, grid, times=seconds, **layout)[::planned_size, 0]
        windows.append(plan_windows(steps, planned_steps, (math.prod(grid[1:]), planned_size), num_keyframes, options.window))
    return tuple(windows)
