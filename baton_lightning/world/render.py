"""Rendering of scenes. Shapes are antialiased by the share of each pixel that they cover."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from baton_lightning.clip import ClipSpec
from baton_lightning.world import vocabulary as v
from baton_lightning.world.scene import Scene

Array = NDArray[np.float32]


def bump(x: NDArray) -> NDArray:
    """Raised cosine on [0, 1], 0 outside, 1 in the middle."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.clip(x, 0, 1))


def render(scene: Scene, clip: ClipSpec) -> NDArray[np.uint8]:
    """Frames of a scene, frame i at i / fps.

    Returns:
        uint8 [T, Y, X, 3], RGB.
    """
    times = np.arange(clip.num_frames) / clip.fps
    return paint(motion(scene, times), {o.colour: o.shape for o in scene.objects}, clip.height, clip.width)


def motion(scene: Scene, times: NDArray) -> dict[str, NDArray]:
    """State of every object over time.

    Args:
        scene: The scene.
        times: Times [T], in s.

    Returns:
        For each colour [4, T]: x and y of the centre in units, scale (1 at rest), whiteness in [0, 1].
    """
    times = np.asarray(times, np.float64)
    state = {o.colour: np.tile(np.array([[v.COLUMN_X[o.column]], [v.BASELINE_Y], [1.0], [0.0]]), times.size) for o in scene.objects}
    where = {o.colour: o.column for o in scene.objects}
    for event in scene.events:
        since, actor = times - event.start, state[event.actor]
        if event.kind == "says":
            for k in range(len(event.words)):
                actor[2] += v.PULSE_SCALE * bump((since - v.word_start(k)) / v.WORD_SECONDS)
        elif event.kind == "jumps":
            phase = np.clip(since / v.JUMP_SECONDS, 0, 1)
            actor[1] -= v.JUMP_HEIGHT * 4 * phase * (1 - phase)
        elif event.kind == "flashes":
            actor[3] += v.FLASH_WHITE * bump(since / v.FLASH_SECONDS)
        elif event.kind == "slides" and event.column is not None:
            done = 0.5 - 0.5 * np.cos(np.pi * np.clip(since / v.SLIDE_SECONDS, 0, 1))
            actor[0] += done * (v.COLUMN_X[event.column] - v.COLUMN_X[where[event.actor]])
            where[event.actor] = event.column
        elif event.kind == "hits" and event.target is not None:
            way = v.COLUMN_X[where[event.target]] - v.COLUMN_X[where[event.actor]]
            side = math.copysign(1.0, way)
            back = (since - v.DASH_SECONDS) / v.RETURN_SECONDS
            reach = np.minimum(np.clip(since / v.DASH_SECONDS, 0, 1), np.clip(1 - back, 0, 1))
            actor[0] += (way - side * 2 * v.RADIUS) * reach
            state[event.target][0] += side * v.PUSH * bump(back)
    return state


def paint(state: dict[str, NDArray], shapes: dict[str, str], height: int, width: int) -> NDArray[np.uint8]:
    """Pictures of objects in given states (see :func:`motion`); later objects are in front."""
    num_frames = next(iter(state.values())).shape[1]
    image = np.broadcast_to(np.array(v.GROUND, np.float32), (num_frames, height, width, 3)).copy()
    for colour, (x, y, scale, white) in state.items():
        share = coverage(shapes[colour], x, y, v.RADIUS * scale, height, width)[..., None]
        tint = np.array(v.COLOURS[colour], np.float32) * (1 - white[:, None]) + 255 * white[:, None]
        image += share * (tint.astype(np.float32)[:, None, None, :] - image)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def coverage(shape: str, x: NDArray, y: NDArray, radius: NDArray, height: int, width: int) -> Array:
    """Share of each pixel that a shape covers, one picture per centre.

    Args:
        shape: Circle, square (half side 0.92 radius) or triangle (apex up, half base 1.1 radius, height 2 radius).
        x: Centres [T], in units.
        y: Centres [T], in units.
        radius: Radii [T], in units.
        height: Rows.
        width: Columns.

    Returns:
        [T, height, width] in [0, 1]. Exact for squares, within a few percent of a pixel for the others.
    """
    unit = width / v.CANVAS
    x, y, r = (np.asarray(a, np.float32)[:, None, None] * np.float32(unit) for a in (x, y, radius))
    dx = np.arange(width, dtype=np.float32)[None, None, :] + 0.5 - x
    dy = np.arange(height, dtype=np.float32)[None, :, None] + 0.5 - y
    if shape == "circle":
        return _inside(np.sqrt(dx * dx + dy * dy) - r)
    if shape == "square":
        return _overlap(dx, 0.92 * r) * _overlap(dy, 0.92 * r)
    slope = math.hypot(1.0, 0.55)
    return _inside(dy - r) * _inside((dx - 0.55 * (dy + r)) / slope) * _inside((-dx - 0.55 * (dy + r)) / slope)


def area(shape: str, radius: float = v.RADIUS) -> float:
    """Area of a shape, in square units."""
    return {"circle": math.pi, "square": (2 * 0.92) ** 2, "triangle": 2.2}[shape] * radius**2


def _inside(distance: Array) -> Array:
    """Coverage of a pixel with its centre at a signed distance, in pixels, from a straight edge (negative is inside)."""
    return np.clip(0.5 - distance, 0, 1)


def _overlap(offset: Array, half: Array) -> Array:
    """Length of the intersection of [offset - 1/2, offset + 1/2] and [-half, half]."""
    return np.clip(np.minimum(offset + 0.5, half) - np.maximum(offset - 0.5, -half), 0, 1)
