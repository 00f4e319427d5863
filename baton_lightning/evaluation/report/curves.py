"""Curves of a run, read from the TensorBoard files in its folder."""

from __future__ import annotations

import math
from pathlib import Path

CURVES = ("train/loss", "val/")
"""Beginnings of the names of scalars that are read."""
MOST_POINTS = 160
MOST_CURVES = 6


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalar -> (step, value), of two points or more, thinned to :data:`MOST_POINTS`; of a repeated step, the last value.

    Args:
        folder: Folder of the run. Damaged records end a file; they are no error, since a run may be writing.
    """
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        return {}
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, dict[int, float]] = {}
    for file in files:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if (value.tag == CURVES[0] or value.tag.startswith(CURVES[1])) and value.HasField("tensor"):
                    array = make_ndarray(value.tensor)
                    if array.size == 1 and array.dtype.kind == "f" and math.isfinite(number := float(array.item())):
                        found.setdefault(value.tag, {})[int(event.step)] = number
    names = sorted((name for name, points in found.items() if len(points) > 1), key=lambda name: (name != CURVES[0], name))
    return {name: _thinned(sorted(found[name].items())) for name in names[:MOST_CURVES]}


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    every = -(-len(points) // MOST_POINTS)
    return points[::every] + ([points[-1]] if (len(points) - 1) % every else [])
