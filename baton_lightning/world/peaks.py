"""Maxima of sampled curves, with sub-sample positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def peaks(curve: NDArray, threshold: float, valley: float) -> list[int]:
    """Indices of maxima above a threshold that are separated by valleys.

    Args:
        curve: Values [T].
        threshold: Lower bound of a maximum.
        valley: Depth of the valley between two maxima, as a share in (0, 1) of the lower one. If the valley is not as deep, only the higher
            maximum counts.
    """
    left, right = np.r_[curve[:1], curve[:-1]], np.r_[curve[1:], curve[-1:]]
    kept: list[int] = []
    for i in np.flatnonzero((curve > threshold) & (curve >= left) & (curve >= right)).tolist():
        if kept and curve[kept[-1] : i + 1].min() > (1 - valley) * min(curve[i], curve[kept[-1]]):
            if curve[i] > curve[kept[-1]]:
                kept[-1] = i
        else:
            kept.append(i)
    return kept


def centre(curve: NDArray, peak: int, floor: float, reach: int) -> float:
    """Centre of mass, in samples, of the curve around a maximum: down to ``floor``, at most ``reach`` samples to each side."""
    first = last = peak
    while first > 0 and peak - first < reach and floor < curve[first - 1] <= curve[first] + 1e-6:
        first -= 1
    while last + 1 < len(curve) and last - peak < reach and floor < curve[last + 1] <= curve[last] + 1e-6:
        last += 1
    span = np.arange(max(first - 1, 0), min(last + 2, len(curve)))
    weight = np.maximum(curve[span], 0)
    return float(weight @ span / max(weight.sum(), 1e-9))


def runs(mask: NDArray, gap: int = 1) -> list[tuple[int, int]]:
    """First and last index of every run of true values; gaps of up to ``gap`` samples are ignored."""
    true = np.flatnonzero(mask)
    if not len(true):
        return []
    cuts = np.flatnonzero(np.diff(true) > gap + 1)
    return list(zip(true[np.r_[0, cuts + 1]].tolist(), true[np.r_[cuts, len(true) - 1]].tolist(), strict=True))
