"""Edits of a plan: a list of operations. Applying the same list again gives bit-identical tokens. Remove an operation to undo it.

An operation is a mapping of ``op``, its fields and a region. The fields of a region, with their defaults in parentheses, are

    modality   video, audio or both (both; video for move and swap)
    start      start of the time span, in s (0)
    stop       end of the time span, in s, exclusive (the clip's end)
    rows       [first, end) rows of the video grid (all)
    columns    [first, end) columns of the video grid (all)

and the operations are

    {"op": "shift", "seconds": 0.5, ...}                moves the region in time
    {"op": "move", "columns_by": 1, "rows_by": 0, ...}  moves the region's video tokens in space
    {"op": "swap", "first": [0, 1], "second": [2, 3]}   exchanges two spans of columns, from start to stop
    {"op": "swap", "first": [0.2, 0.6], "second": [1.0, 1.4], "modality": "audio"}   exchanges two spans of sound, in s
    {"op": "scale", "factor": 0.0, ...}                 multiplies the tokens; 0 replaces them with the training set's mean
    {"op": "mix", "other": "b.safetensors", "share": 1.0, ...}   interpolates to the same region of another plan; 1 replaces
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baton_lightning.clip import ClipSpec
from baton_lightning.names import quoted
from baton_lightning.plain_files import parse_json, read_bytes
from baton_lightning.shards.records import is_number

MOST_BYTES = 2**20
"""Largest file of operations that is read."""
REGION = ("modality", "start", "stop", "rows", "columns")
FIELDS = {
    "shift": ("seconds",),
    "move": ("rows_by", "columns_by"),
    "swap": ("first", "second"),
    "scale": ("factor",),
    "mix": ("share", "other", "other_digest"),
}
WITH_OTHER = ("mix",)
SLACK = 1e-6
"""Tolerance of comparisons of times, in s."""


def read(path: Path) -> list[dict[str, Any]]:
    """Reads the operations of a file: a JSON list, or one JSON operation per line.

    Raises:
        ValueError: If the file cannot be read, has neither format, no operation or more than 1 MiB, or an operation is not a mapping.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise ValueError(f"{path} must be a file of operations ({error.strerror}); `plan edit --help` lists them") from error
    lines = [content] if content.lstrip().startswith(b"[") else [line for line in content.splitlines() if line.strip()]
    read = [parse_json(line, f"{path} (a list of operations, or one a line)") for line in lines]
    found = read[0] if content.lstrip().startswith(b"[") else read
    if not found:
        raise ValueError(f"{path} must have at least one operation, got none; `plan edit --help` lists them")
    if wrong := [operation for operation in found if not isinstance(operation, dict)]:
        raise ValueError(f'{path}: an operation must be a mapping such as {{"op": "shift", "seconds": 0.5}}, got {str(wrong[0])[:80]}')
    return found


def apply(
    tokens: Mapping[str, Tensor], clip: ClipSpec, operation: dict[str, Any], other: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Tokens of a plan after an operation.

    Args:
        tokens: Modality -> tokens: video [N, h, w, C_v], audio [K_a, C_a]. They are not changed.
        clip: Geometry.
        operation: See the module's docstring.
        other: Tokens of the second plan of ``mix``, of the same geometry.

    Returns:
        Modality -> new tokens, for the modalities that the operation changes.

    Raises:
        ValueError: If the operation is unknown, a field is missing, unknown or invalid, or the region leaves the plan.
    """
    name = operation.get("op")
    if not isinstance(name, str) or name not in FIELDS:
        raise ValueError(f"an edit's op must be one of {', '.join(FIELDS)}, got {quoted(name)}")
    if unknown := sorted(set(operation) - {"op", *FIELDS[name], *REGION}):
        raise ValueError(f"{name} knows {', '.join((*FIELDS[name], *REGION))}, got {quoted(unknown[0])}")
    modality = operation.get("modality", "video" if name in ("move", "swap") else "both")
    if modality not in ("video", "audio", "both"):
        raise ValueError(f"{name}: modality must be video, audio or both, got {quoted(modality)}")
    if name in WITH_OTHER and other is None:
        raise ValueError(f"{name}: needs another plan: name its file as other, e.g. plan.safetensors")
    act = {"shift": shift, "move": move, "swap": swap, "scale": scale, "mix": mix}[name]
    touched = ("video", "audio") if modality == "both" else (modality,)
    return {which: act(tokens[which].clone(), operation, which, clip, None if other is None else other[which]) for which in touched}


def number(operation: dict[str, Any], name: str, default: float | None = None) -> float:
    """Value of a field that must be a finite number.

    Raises:
        ValueError: If it is not.
    """
    value: Any = operation.get(name, default)
    if not is_number(value):
        raise ValueError(f"{operation['op']}: {name} must be a finite number, got {quoted(value)}")
    return float(value)


def span(operation: dict[str, Any], name: str, size: int) -> slice:
    """Value of a field that must be a half-open range [first, end) of rows or columns; all of them by default.

    Raises:
        ValueError: If it is not such a range within [0, ``size``).
    """
    value = operation.get(name, [0, size])
    fits = isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    if not fits or not 0 <= value[0] < value[1] <= size:
        raise ValueError(f"{operation['op']}: {name} must be [first, end) within [0, {size}), got {quoted(value)}")
    return slice(*value)


def steps(operation: dict[str, Any], modality: str, clip: ClipSpec, start: float | None = None, stop: float | None = None) -> slice:
    """Indices of the keyframes or audio tokens whose times lie in the region.

    Args:
        operation: The operation.
        modality: ``video`` or ``audio``.
        clip: Geometry.
        start: Start, in s; ``None`` = that of the operation.
        stop: End, in s, exclusive; ``None`` = that of the operation.

    Raises:
        ValueError: If the span is not within the clip, or contains no token.
    """
    rate = clip.keyframe_fps if modality == "video" else clip.audio_plan_rate
    count = clip.num_keyframes if modality == "video" else clip.num_audio_planned
    start = number(operation, "start", 0.0) if start is None else start
    stop = number(operation, "stop", clip.seconds) if stop is None else stop
    if not 0 <= start < stop <= clip.seconds + SLACK:
        raise ValueError(f"{operation['op']}: 0 <= start < stop <= {clip.seconds:g} s must hold, got start {start:g} and stop {stop:g}")
    inside = [step for step in range(count) if start - SLACK <= step / rate < stop - SLACK]
    if not inside:
        raise ValueError(f"{operation['op']}: no {modality} token lies in [{start:g}, {stop:g}) s; their spacing is {1 / rate:.3f} s")
    return slice(inside[0], inside[-1] + 1)


def cells(operation: dict[str, Any], modality: str, clip: ClipSpec) -> tuple[slice, ...]:
    """Rows and columns of the region; empty for audio.

    Raises:
        ValueError: If an operation on audio only has rows or columns.
    """
    if modality == "audio":
        if operation.get("modality") == "audio" and ("rows" in operation or "columns" in operation):
            raise ValueError(f"{operation['op']}: audio tokens have no rows or columns; remove rows and columns, or set modality to video")
        return ()
    _, rows, columns = clip.video_plan_grid
    return span(operation, "rows", rows), span(operation, "columns", columns)


def shift(tokens: Tensor, operation: dict[str, Any], modality: str, clip: ClipSpec, _: Tensor | None) -> Tensor:
    """Moves the region by ``seconds``. Its former place is filled with the token before it, or after it at the clip's start."""
    rate = clip.keyframe_fps if modality == "video" else clip.audio_plan_rate
    seconds = number(operation, "seconds")
    if abs(seconds) > clip.seconds:
        raise ValueError(f"shift: seconds must be within the clip's {clip.seconds:g} s, got {seconds:g}")
    exact = seconds * rate
    by = round(exact)
    if abs(exact - by) > 1e-3:
        near = ", ".join(f"{step / rate:.4g}" for step in sorted({int(exact // 1), int(exact // 1) + 1}))
        raise ValueError(f"shift: seconds must be whole {modality} steps of {1 / rate:.4g} s, got {exact / rate:g}; the nearest are {near}")
    if by == 0:
        return tokens
    where, cell = steps(operation, modality, clip), cells(operation, modality, clip)
    if not (where.start + by >= 0 and where.stop + by <= len(tokens)):
        raise ValueError(
            f"shift: the region must stay within the clip's {clip.seconds:g} s, got [{where.start / rate:g}, {where.stop / rate:g}) s "
            f"moved by {by / rate:g} s"
        )
    block = tokens[(where, *cell)].clone()
    beside = where.start - 1 if where.start else where.stop
    if beside >= len(tokens):
        raise ValueError("shift: the region is the whole clip; give start and stop")
    tokens[(where, *cell)] = tokens[(slice(beside, beside + 1), *cell)].clone()
    tokens[(slice(where.start + by, where.stop + by), *cell)] = block
    return tokens


def move(tokens: Tensor, operation: dict[str, Any], modality: str, clip: ClipSpec, _: Tensor | None) -> Tensor:
    """Moves the region's video tokens by rows and columns. They are exchanged with the tokens at the target, so none is lost."""
    if modality == "audio":
        raise ValueError("move: audio tokens have no position in the picture; set modality to video")
    when, (rows, columns) = steps(operation, modality, clip), cells(operation, modality, clip)
    down, right = (int(number(operation, name, 0.0)) for name in ("rows_by", "columns_by"))
    height, width = clip.plan_grid
    target = slice(rows.start + down, rows.stop + down), slice(columns.start + right, columns.stop + right)
    if target[0].start < 0 or target[1].start < 0 or target[0].stop > height or target[1].stop > width:
        raise ValueError(f"move: the region must stay within {height} rows and {width} columns, got it moved by {down:g} and {right:g}")
    if abs(down) < rows.stop - rows.start and abs(right) < columns.stop - columns.start and (down or right):
        raise ValueError("move: the region must not overlap the place it is moved to; move it further, or make it smaller")
    here, there = tokens[(when, rows, columns)].clone(), tokens[(when, *target)].clone()
    tokens[(when, rows, columns)], tokens[(when, *target)] = there, here
    return tokens


def swap(tokens: Tensor, operation: dict[str, Any], modality: str, clip: ClipSpec, _: Tensor | None) -> Tensor:
    """Exchanges two spans: of columns for video, of time for audio."""
    if modality == "audio":
        one, two = (steps(operation, modality, clip, *pair(operation, name)) for name in ("first", "second"))
        places: tuple[Any, Any] = (one,), (two,)
    else:
        when, (rows, _columns) = steps(operation, modality, clip), cells(operation, modality, clip)
        if missing := [name for name in ("first", "second") if name not in operation]:
            raise ValueError(f"swap: {missing[0]} must be two columns [first, end), got none")
        one, two = (span(operation, name, clip.plan_grid[1]) for name in ("first", "second"))
        places = (when, rows, one), (when, rows, two)
    if one.stop - one.start != two.stop - two.start or (one.start < two.stop and two.start < one.stop):
        raise ValueError(f"swap: first and second must be equally long and apart, got {operation['first']} and {operation['second']}")
    first, second = tokens[places[0]].clone(), tokens[places[1]].clone()
    tokens[places[0]], tokens[places[1]] = second, first
    return tokens


def pair(operation: dict[str, Any], name: str) -> tuple[float, float]:
    """Value of a field that must be a time span [start, stop], in s.

    Raises:
        ValueError: If it is not.
    """
    value = operation.get(name)
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(is_number, value)):
        raise ValueError(f"{operation['op']}: {name} must be [start, stop] in s, got {quoted(value)}")
    return float(value[0]), float(value[1])


def scale(tokens: Tensor, operation: dict[str, Any], modality: str, clip: ClipSpec, _: Tensor | None) -> Tensor:
    """Multiplies the region by ``factor``. 0 sets it to the mean of the training set, which is zero for standardised tokens."""
    where = (steps(operation, modality, clip), *cells(operation, modality, clip))
    tokens[where] = tokens[where] * number(operation, "factor")
    return tokens


def mix(tokens: Tensor, operation: dict[str, Any], modality: str, clip: ClipSpec, theirs: Tensor | None) -> Tensor:
    """Interpolates the region to the same region of another plan by ``share`` in [0, 1]; 1 replaces it."""
    share = number(operation, "share", 1.0)
    if not 0 <= share <= 1:
        raise ValueError(f"mix: share must lie in [0, 1], got {share:g}")
    assert theirs is not None
    where = (steps(operation, modality, clip), *cells(operation, modality, clip))
    tokens[where] = theirs[where] if share == 1.0 else torch.lerp(tokens[where], theirs[where], share)
    return tokens
