"""Confusion tables of the detectors on damaged pictures and sounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from baton_lightning.world import vocabulary as v
from baton_lightning.world.detect_audio import detect_audio
from baton_lightning.world.detect_video import detect_video
from baton_lightning.world.scene import Scene

NEAR_SECONDS = 0.25
NOTHING = "nothing"
Confusion = Counter[tuple[str, str]]
"""Counts of (true kind, detected kind)."""


def _pixel_noise(deviation: float) -> Callable:
    def damage(frames: NDArray, rng: np.random.Generator) -> NDArray:
        return np.clip(frames + rng.normal(0, deviation, frames.shape), 0, 255).astype(np.uint8)

    return damage


def _blur(pixels: float) -> Callable:
    return lambda frames, rng: gaussian_filter(frames.astype(np.float32), (0, pixels, pixels, 0)).astype(np.uint8)


def _hiss(decibels: float) -> Callable:
    def damage(waveform: NDArray, rng: np.random.Generator) -> NDArray:
        loud = np.abs(waveform) > 1e-3
        level = float(np.sqrt(np.mean(waveform[loud] ** 2))) if loud.any() else 0.1
        return waveform + rng.normal(0, level * 10 ** (-decibels / 20), waveform.shape).astype(np.float32)

    return damage


PICTURE: dict[str, Callable] = {
    "none": lambda frames, rng: frames,
    **{f"pixel noise {d}": _pixel_noise(d) for d in (20, 40, 60)},
    **{f"blur {b:g} px": _blur(b) for b in (1.0, 1.5, 2.0)},
}
SOUND: dict[str, Callable] = {"none": lambda waveform, rng: waveform, **{f"noise at {d:+d} dB": _hiss(d) for d in (6, 0, -6, -12)}}
"""Signal-to-noise ratios, where there are tones."""


def video_confusion(scene: Scene, frames: NDArray[np.uint8], fps: float) -> Confusion:
    """Confusion of kinds of events: each true event is paired with the nearest detected event of the same object."""
    truth = [(e.kind, e.actor, t) for e in scene.events for t in e.anchors]
    found = [(e.kind, e.actor, t) for e in detect_video(frames, fps).events for t in e.anchors]
    return _confusion(truth, found)


def audio_confusion(scene: Scene, waveform: NDArray, sample_rate: int) -> Confusion:
    """Confusion of words and effects. A different word, or a word in another voice, is `another word`."""
    truth: list[tuple] = [
        ("word", "", t, (e.actor, w)) for e in scene.events if e.kind == "says" for w, t in zip(e.words, e.anchors, strict=True)
    ]
    truth += [(v.EFFECTS[e.kind], "", e.anchors[0], None) for e in scene.events if e.kind in v.EFFECTS]
    heard = detect_audio(waveform, sample_rate)
    found: list[tuple] = [("word", "", w.time, (w.voice, w.word)) for w in heard.words]
    found += [(e.sound, "", e.time, None) for e in heard.effects]
    return _confusion(truth, found)


def _confusion(truth: Iterable[tuple], found: Iterable[tuple]) -> Confusion:
    """Pairs true with detected events of the same actor, nearest first; events without a partner are paired with `nothing`."""
    truth, found = list(truth), list(found)
    counts: Confusion = Counter()
    pairs = sorted((abs(a[2] - b[2]), a[0] != b[0], i, j) for i, a in enumerate(truth) for j, b in enumerate(found) if a[1] == b[1])
    matched_truth: set[int] = set()
    matched_found: set[int] = set()
    for apart, _, i, j in pairs:
        if apart < NEAR_SECONDS and i not in matched_truth and j not in matched_found:
            matched_truth.add(i)
            matched_found.add(j)
            same = truth[i][3:] == found[j][3:]
            counts[truth[i][0], found[j][0] if same or truth[i][0] != found[j][0] else f"another {found[j][0]}"] += 1
    counts.update((thing[0], NOTHING) for i, thing in enumerate(truth) if i not in matched_truth)
    counts.update((NOTHING, thing[0]) for j, thing in enumerate(found) if j not in matched_found)
    return counts
