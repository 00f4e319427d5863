"""95 % intervals of shares and means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Z = 1.959964
"""97.5th percentile of the normal distribution."""
RESAMPLES = 2000


def wilson(hits: int, count: int) -> dict[str, Any]:
    """A share with Wilson's interval.

    Returns:
        ``mean``, ``low``, ``high`` and ``n``; the first three are ``None`` if ``count`` is 0.
    """
    if count == 0:
        return {"mean": None, "low": None, "high": None, "n": 0}
    share, unit = hits / count, Z**2 / count
    middle, half = share + unit / 2, Z * math.sqrt(share * (1 - share) / count + unit / count / 4)
    return {"mean": share, "low": max(0.0, (middle - half) / (1 + unit)), "high": min(1.0, (middle + half) / (1 + unit)), "n": count}


def bootstrap(over: Sequence[float], under: Sequence[float] | None = None) -> dict[str, Any]:
    """A mean, or a ratio of sums, with its bootstrap interval over clips.

    Args:
        over: Value of each clip, or its numerator.
        under: Denominator of each clip; ``None`` = 1.

    Returns:
        As of :func:`wilson`; ``n`` is the sum of the denominators.
    """
    top = np.asarray(over, np.float64)
    bottom = np.ones(len(top)) if under is None else np.asarray(under, np.float64)
    if bottom.sum() == 0:
        return {"mean": None, "low": None, "high": None, "n": 0}
    draws = np.random.Generator(np.random.Philox(0)).integers(0, len(top), (RESAMPLES, len(top)))
    tops, bottoms = top[draws].sum(1), bottom[draws].sum(1)
    low, high = np.percentile(tops[bottoms > 0] / bottoms[bottoms > 0], [2.5, 97.5])
    return {"mean": float(top.sum() / bottom.sum()), "low": float(low), "high": float(high), "n": int(bottom.sum())}
