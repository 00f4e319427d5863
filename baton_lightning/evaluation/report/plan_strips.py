"""Pictures of plans for a page. Colours of all plans have the same principal components, so the same colour means the same features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baton_lightning.evaluation.report.assets import Picture, picture

CELL = 8
"""Pixels of a token."""
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
    import torch

    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.plan.picture import change, colours

    plans, notes = {}, []
    for name, file in there.items():
        try:
            plans[name] = ClipPlan.load(file)
        except ValueError as error:
            notes.append(str(error))
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
            changed = f", {len(plan.edits)} edits" if plan.edits else ""
            count, rows, columns = plan.video.shape[:3]
            strips[name] = PlanStrip(
                _tiles(keyframes),
                count / plan.clip.keyframe_fps,
                list(zip(plan.clip.audio_plan_times, heights, strict=True)),
                f"{origin}: {count} keyframes of {rows} x {columns}, {len(plan.audio)} audio tokens{changed}",
            )
    return strips, notes


def _tiles(keyframes: np.ndarray) -> Picture:
    """Keyframes [N, h, w, 3] side by side, each followed by a transparent gap."""
    count, rows, columns, _ = keyframes.shape
    gap = max(1, columns * CELL // 8)
    pixels = np.zeros((rows * CELL, count, columns * CELL + gap, 4), np.uint8)
    pixels[:, :, : columns * CELL, :3] = keyframes.repeat(CELL, 1).repeat(CELL, 2).transpose(1, 0, 2, 3)
    pixels[:, :, : columns * CELL, 3] = 255
    return picture(np.ascontiguousarray(pixels.reshape(rows * CELL, -1, 4)), quality=0)
