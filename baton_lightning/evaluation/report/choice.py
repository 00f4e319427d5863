"""Which clips a page shows: the worst, the best and some at random, and one prompt for the comparison of plans."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from baton_lightning.evaluation.report.found import CONDITIONS, Found, ReportClip

TABS = ("worst", "best", "random")


def tabs(clips: Mapping[str, ReportClip], count: int) -> dict[str, list[str]]:
    """Tab -> keys of its clips, in order.

    Args:
        clips: Clips by key.
        count: Number of clips on the page, of all tabs together. If there are more clips, each tab has a third of it.
    """
    scored = sorted((c for c in clips.values() if c.scores is not None), key=lambda c: (*_quality(c), c.key))
    most = count if len(clips) <= count else -(-count // len(TABS))
    drawn = sorted(clips)
    random.Random(0).shuffle(drawn)
    return {
        "worst": [clip.key for clip in scored[:most]],
        "best": [clip.key for clip in scored[::-1][:most]],
        "random": drawn[:most],
    }


def interleaved(lists: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """Keys of all tabs, the first of each, then the second of each, without repetitions, at most ``count``."""
    longest = max(map(len, lists.values()), default=0)
    keys = [keys[place] for place in range(longest) for keys in lists.values() if place < len(keys)]
    return list(dict.fromkeys(keys))[:count]


def compared_key(found: Found) -> str | None:
    """The prompt of the comparison: of those with the most conditions, the one with the median P-Acc of the shown condition.

    Returns:
        ``None`` if no prompt has clips of two conditions.
    """
    if found.shown is None:
        return None
    clips = found.clips[found.shown]
    number = {key: sum(key in found.clips.get(name, {}) for name in CONDITIONS) for key in clips}
    most = max(number.values())
    if most < 2:
        return None
    keys = [key for key in clips if number[key] == most]
    several = [key for key in keys if _num_events(clips[key]) > 1] or keys
    ranked = sorted(several, key=lambda key: (*_quality(clips[key]), key))
    return ranked[len(ranked) // 2]


def _quality(clip: ReportClip) -> tuple[float, float]:
    scores = clip.scores or {}
    check = scores.get("p_check")
    return float(scores.get("p_acc", 0.0)), float(check) if isinstance(check, int | float) else 0.0


def _num_events(clip: ReportClip) -> int:
    events = (clip.scores or {}).get("facts", {}).get("events")
    return len(events) if isinstance(events, list) else 0
