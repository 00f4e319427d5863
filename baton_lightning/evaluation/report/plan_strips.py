"""Pictures of plans for a page. Colours of all plans have the same principal components, so the same colour means the same features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from baton_lightning.evaluation.report.assets import Picture, picture
from baton_lightning.names import counted

if TYPE_CHECKING:
    from baton_lightning.plan.clip_plan import ClipPlan

CELL = 8
"""Pixels of a token."""
WIDEST = 12_000
"""Largest width of keyframes side by side, without the gaps, in pixels. Their tokens are drawn smaller if they need more."""
MOST_FITTED = 4096
"""Largest number of tokens from which the components are computed."""


@dataclass(frozen=True)
class PlanStrip:
    """A plan as a picture.

    Args:
        tiles: Keyframes side by side, with gaps.
        seconds: Time that the tiles span.
        sound: (time in s, height in [0, 1]) of each audio token: its distance from the median token.
        text: Origin and size in words.
    """

    tiles: Picture
    seconds: float
    sound: list[tuple[float, float]]
    text: str


def plan_strips(files: Mapping[str, Path]) -> tuple[dict[str, PlanStrip], list[str]]:
    """Pictures of plans.

    Args:
        files: Name -> file of a plan. Files that do not exist are ignored.

    Returns:
        Pictures by name, and what could not be read.
    """
    there = {name: file for name, file in files.items() if file.is_file()}
    if not there:
        return {}, []
    from baton_lightning.plan.clip_plan import ClipPlan

    plans, notes = {}, []
    for name, file in there.items():
        try:
            plans[name] = ClipPlan.load(file)
        except ValueError as error:
            notes.append(str(error))
    return strips_of(plans), notes


def strips_of(plans: Mapping[str, ClipPlan]) -> dict[str, PlanStrip]:
    """Pictures of plans by name."""
    import torch

    from baton_lightning.plan.picture import change, colours

    strips = {}
    for width in {plan.video.shape[-1] for plan in plans.values()}:
        group = {name: plan for name, plan in plans.items() if plan.video.shape[-1] == width}
        tokens = torch.cat([plan.video.flatten(0, 2) for plan in group.values()])
        painted = colours(tokens, tokens[:: -(-len(tokens) // MOST_FITTED)])
        loudest = max(float(change(plan.audio).max()) for plan in group.values()) or 1.0
        parts = painted.split([plan.video.shape[:3].numel() for plan in group.values()])
        for (name, plan), part in zip(group.items(), parts, strict=True):
            keyframes = (part.reshape(*plan.video.shape[:3], 3).numpy() * 255).astype(np.uint8)
            heights = (change(plan.audio) / loudest).tolist()
            origin = {"planner": "planned tokens", "truth": "features of the true clip"}.get(plan.source, "tokens")
            changed = f", {counted(len(plan.edits), 'edit')}" if plan.edits else ""
            count, rows, columns = plan.video.shape[:3]
            strips[name] = PlanStrip(
                tiles(keyframes),
                count / plan.clip.keyframe_fps,
                list(zip(plan.clip.audio_plan_times, heights, strict=True)),
                f"{origin}: {count} keyframes of {rows} x {columns}, {len(plan.audio)} audio tokens{changed}",
            )
    return strips


def tiles(keyframes: np.ndarray, largest: int = CELL) -> Picture:
    """Keyframes [N, h, w, 3] side by side, each followed by a transparent gap.

    Args:
        keyframes: Pictures, uint8.
        largest: Pixels of a token, or of a pixel of a decoded keyframe, in both directions.
    """
    count, rows, columns, _ = keyframes.shape
    cell = max(1, min(largest, WIDEST // (count * columns)))
    gap = max(1, columns * cell // 8)
    pixels = np.zeros((rows * cell, count, columns * cell + gap, 4), np.uint8)
    pixels[:, :, : columns * cell, :3] = keyframes.repeat(cell, 1).repeat(cell, 2).transpose(1, 0, 2, 3)
    pixels[:, :, : columns * cell, 3] = 255
    return picture(np.ascontiguousarray(pixels.reshape(rows * cell, -1, 4)), quality=0)
