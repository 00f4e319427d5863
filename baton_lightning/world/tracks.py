"""Tracking of objects by colour: position, size, whiteness and shape over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, label

from baton_lightning.world import vocabulary as v
from baton_lightning.world.render import area, coverage

SMALLEST = 12.0
"""Smallest area of a visible object, in square units (a circle at rest has 79)."""
BLUR = 0.6
"""Standard deviation of the Gaussian prefilter, in units."""
SIZES, BLURS = (0.88, 0.94, 1.0), (0.3, 0.8, 1.5)


@dataclass(frozen=True)
class Track:
    """One colour over time; curves [T] in units, interpolated over frames without the colour.

    Args:
        area: Area.
        x: Centre of mass.
        y: Centre of mass.
        white: Whiteness in [0, 1].
        present: Whether the colour is visible.
        share: Coverage of each pixel [T, Y, X].
        shape: Best fitting shape; ``None`` = none.
    """

    area: NDArray
    x: NDArray
    y: NDArray
    white: NDArray
    present: NDArray
    share: NDArray
    shape: str | None

    @property
    def column(self) -> int:
        """Initial column."""
        return int(np.argmin(np.abs(np.array(v.COLUMN_X) - np.median(self.x[:3]))))

    def in_one_piece(self) -> NDArray:
        """Whether the object is one connected piece, for every frame."""
        unit = (self.share.shape[2] / v.CANVAS) ** 2
        pieces = np.zeros(len(self.area), int)
        for i, picture in enumerate(self.share):
            marked, count = label(picture > 0.3)
            pieces[i] = (np.bincount(marked.ravel(), minlength=count + 1)[1:] > 4.0 * unit).sum()
        return self.present & (pieces == 1)


def find_tracks(frames: NDArray[np.uint8]) -> tuple[dict[str, Track], tuple[str, ...]]:
    """Tracks of the colours that are visible in at least half the clip, and names of colours that are visible in a smaller part.

    Args:
        frames: uint8 [T, Y, X, 3].
    """
    share, white = unmix(frames)
    _, _, height, width = share.shape
    unit = width / v.CANVAS
    mass = share.sum((2, 3))
    centre_x = (share.sum(2) @ ((np.arange(width) + 0.5) / unit)) / np.maximum(mass, 1e-6)
    centre_y = (share.sum(3) @ ((np.arange(height) + 0.5) / unit)) / np.maximum(mass, 1e-6)
    whiteness = white.sum((2, 3)) / np.maximum(mass, 1e-6)
    areas = mass / unit**2
    tracks: dict[str, Track] = {}
    transient: list[str] = []
    for k, colour in enumerate(v.COLOURS):
        present = areas[k] > SMALLEST
        if present.mean() < 0.5:
            transient += [colour] * bool(present.mean() > 0.1)
            continue
        index = np.arange(len(present))
        x, y, w = (np.interp(index, index[present], curve[k][present]) for curve in (centre_x, centre_y, whiteness))
        tracks[colour] = Track(areas[k], x, y, w, present, share[k], _shape(areas[k], x, y, present, share[k]))
    return tracks, tuple(transient)


def unmix(frames: NDArray[np.uint8]) -> tuple[NDArray, NDArray]:
    """Decomposes each pixel into background, one colour and white, by least squares.

    Returns:
        Coverage and its white part, each [6, T, Y, X] in [0, 1]; a pixel belongs to one colour at most.
    """
    num_frames, height, width, _ = frames.shape
    picture = frames.astype(np.float32) - np.array(v.GROUND, np.float32)
    picture = _blurred(picture, BLUR)
    noise = 1.2 * np.median(np.abs(picture)) / 0.6745
    pixels = picture.reshape(-1, 3)
    strong = np.flatnonzero(np.linalg.norm(pixels, axis=1) > max(30.0, 4.5 * noise))
    pixels = pixels[strong]
    ground = np.array(v.GROUND, np.float32)
    error = np.empty((len(v.COLOURS), len(strong)), np.float32)
    colour_part, white_part = np.empty_like(error), np.empty_like(error)
    for k, rgb in enumerate(v.COLOURS.values()):
        mix = np.stack([np.array(rgb, np.float32) - ground, 255 - ground])  # 2 x 3
        a, w = np.clip(np.linalg.pinv(mix).T @ pixels.T, None, 1.2)
        alone = np.clip(pixels @ mix[0] / (mix[0] @ mix[0]), 0, 1.2)
        a, w = np.where(w < 0, alone, np.maximum(a, 0)), np.maximum(w, 0)
        rest = pixels - a[:, None] * mix[0] - w[:, None] * mix[1]
        error[k] = (rest * rest).sum(1) + 800 * w * w + 1e5 * (a < 0.08)  # prefers colour to white
        colour_part[k], white_part[k] = a, w
    share = np.zeros((len(v.COLOURS), num_frames * height * width), np.float32)
    white = np.zeros_like(share)
    best = error.argmin(0), np.arange(len(strong))
    share[best[0], strong] = np.clip(colour_part[best] + white_part[best], 0, 1)
    white[best[0], strong] = np.clip(white_part[best], 0, 1)
    size = (len(v.COLOURS), num_frames, height, width)
    return share.reshape(size), white.reshape(size)


def _shape(areas: NDArray, x: NDArray, y: NDArray, present: NDArray, share: NDArray) -> str | None:
    """The best fitting shape in frames where the object is at rest, over a few sizes and blurs.

    With chroma at half resolution (yuv420p) a square has round corners, but a blurred square still fits better than a circle.
    """
    usual = float(np.median(areas[present]))
    resting = np.flatnonzero(present & (np.abs(areas - usual) < 0.12 * usual))[:6]
    if not len(resting):
        return None
    height, width = share.shape[1:]
    seen = share[resting]
    error = {}
    for shape in v.SHAPES:
        for size in SIZES:
            radius = np.full(len(resting), size * math.sqrt(usual / area(shape, 1.0)))
            outline = coverage(shape, x[resting], middle_y(shape, y[resting], radius), radius, height, width)
            for blur in BLURS:
                soft = _blurred(outline, blur)
                error[shape, size, blur] = float(((soft - seen) ** 2).sum() / ((soft**2).sum() + (seen**2).sum()))
    return min(error, key=error.__getitem__)[0]


def _blurred(pictures: NDArray, blur: float) -> NDArray:
    """Gaussian blur, in units, over rows and columns of [T, Y, X, ...]."""
    for axis in (1, 2):
        pictures = gaussian_filter1d(pictures, blur * pictures.shape[2] / v.CANVAS, axis)
    return pictures


def middle_y(shape: str, centroid: NDArray, radius: NDArray) -> NDArray:
    """y of a shape's middle, from its centre of mass, which in a triangle is a third of the radius lower."""
    return centroid - radius / 3 if shape == "triangle" else centroid
