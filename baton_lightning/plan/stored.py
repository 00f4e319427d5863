"""Reading of a plan's file. It may come from an untrusted source: every field is checked, and tensors are read last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from baton_lightning.clip import ClipSpec
from baton_lightning.names import quoted
from baton_lightning.plain_files import parse_json
from baton_lightning.runs.weights import opened
from baton_lightning.shards.stored_clip import clip_of

FORMAT = "baton_lightning plan 1"
MODALITIES = ("video", "audio")
TEXTS = ("video_prompt", "audio_prompt", "source", "planner")
DTYPES = ("F16", "BF16", "F32", "F64")
LARGEST = 2**30
"""Size of the largest file that is read, in bytes. A plan of 10 s in the paper's geometry has 180 MB."""
MOST_KEYFRAMES, MOST_TOKENS = 2**12, 2**22
"""Largest number of keyframes (11 minutes at 6 per second), and of tokens of a modality. Every keyframe is drawn as a picture."""


def token_shapes(clip: ClipSpec) -> dict[str, tuple[int, ...]]:
    """Modality -> shape of the tokens of a clip: video [N, h, w, C_v], audio [K_a, C_a]."""
    return {"video": (*clip.video_plan_grid, clip.video_plan_width), "audio": (clip.num_audio_planned, clip.audio_plan_width)}


def read(path: Path) -> dict[str, Any]:
    """The fields of :class:`~baton_lightning.plan.clip_plan.ClipPlan` in a file that its ``save`` wrote.

    Raises:
        ValueError: If the file is not a plan, is damaged or too large. The message is one line that names the file.
    """
    try:
        if path.is_file() and path.stat().st_size > LARGEST:
            raise ValueError(f"plan: {path} must have at most {LARGEST:,} bytes, it has {path.stat().st_size:,}")
        with opened(path) as file:
            told: Mapping[str, str] = file.metadata() or {}
            if told.get("format") != FORMAT:
                raise ValueError(f"plan: {path} must be a file of the format {FORMAT!r}, got {quoted(told.get('format'))}")
            try:
                return described(told) | tensors(file, clip_of(parse_json(told["clip"], "its clip")))
            except (ValueError, KeyError) as error:
                missing = f"it has no {quoted(error.args[0])}" if isinstance(error, KeyError) else error
                raise ValueError(f"plan: {path} is damaged: {missing!s:.300}; make it again with `plan make`") from error
    except OSError as error:
        raise ValueError(f"plan: {path} must be a plan that `plan make` wrote, got {str(error) or type(error).__name__}") from error


def described(told: Mapping[str, str]) -> dict[str, Any]:
    """The fields that are no tensors, without the geometry.

    Raises:
        KeyError: If a field is missing.
        ValueError: If the edits are not a list of mappings.
    """
    edits = parse_json(told["edits"], "its list of edits")
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise ValueError("its edits must be a list of operations")
    texts: dict[str, Any] = {name: told[name] for name in TEXTS}
    planner = None if told["planner"] == "null" else told["planner"]
    return texts | {"planner": planner, "run": told.get("run", ""), "edits": tuple(edits)}  # plans of earlier versions name no run


def tensors(file: Any, clip: ClipSpec) -> dict[str, Any]:
    """The geometry, the tokens and the statistics. All shapes are compared before a tensor is read.

    Args:
        file: The open file.
        clip: Geometry, as the file states it.

    Raises:
        ValueError: If a tensor is missing, or has another shape or type than a plan of this geometry has, or the statistics are invalid.
    """
    shapes = token_shapes(clip)
    for name, shape in shapes.items():
        count, most = math.prod(shape[:-1]), MOST_KEYFRAMES if name == "video" else MOST_TOKENS
        if min(shape) < 1 or shape[0] > most or count > MOST_TOKENS:
            raise ValueError(
                f"a plan must have 1 to {MOST_KEYFRAMES:,} keyframes and 1 to {MOST_TOKENS:,} tokens of a modality, got {name} tokens of "
                f"the shape {shape!s:.80}"
            )
    shapes |= {f"statistics.{name}": (2, shapes[name][-1]) for name in MODALITIES}
    there = set(file.keys())
    for name, shape in shapes.items():
        if name not in there:
            raise KeyError(name)
        found = file.get_slice(name)
        if tuple(found.get_shape()) != shape or found.get_dtype() not in DTYPES:
            got = f"{found.get_shape()!s:.80} of {found.get_dtype()}"
            raise ValueError(f"{name} must have the shape {list(shape)} and be of {', '.join(DTYPES)}, got {got}")
    read: dict[str, Tensor] = {name: file.get_tensor(name).float() for name in shapes}
    statistics = {name: read[f"statistics.{name}"] for name in MODALITIES}
    for name, rows in statistics.items():
        if not rows.isfinite().all() or not (rows[1] > 0).all():
            raise ValueError(f"statistics.{name} must be finite means and positive standard deviations")
    return {"video": read["video"], "audio": read["audio"], "clip": clip, "statistics": statistics}
