"""Quality of a clip apart from its events: synchronisation without the prompt, constancy of objects, PSNR."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from baton_lightning.world.detect_audio import AudioDetections
from baton_lightning.world.detect_video import VideoDetections
from baton_lightning.world.render import area, paint
from baton_lightning.world.scene import Scene
from baton_lightning.world.tracks import middle_y
from baton_lightning.world.vocabulary import RADIUS


def free_sync(seen: VideoDetections, heard: AudioDetections) -> tuple[float | None, float]:
    """DeSync21 (s) and Sync-C: agreement of sound anchors and picture anchors at 21 shifts from -2 to 2 s, without the prompt."""
    pictures = [t for e in seen.events if e.kind != "slides" for t in e.anchors]
    sounds = [w.time for w in heard.words] + [e.time for e in heard.effects]
    if not pictures or not sounds:
        return None, 0.0
    shifts = np.linspace(-2, 2, 21)
    apart = np.subtract.outer(np.array(sounds), np.array(pictures)).ravel()
    agreement = np.exp(-0.5 * ((shifts[:, None] - apart) / 0.1) ** 2).sum(1) / max(len(pictures), len(sounds))
    return float(abs(shifts[agreement.argmax()])), float(agreement.max() - np.median(agreement))


def identity(scene: Scene, seen: VideoDetections, num_frames: int) -> float:
    """ID: share of frames in which every object is visible, with the right shape, in one piece, and no other colour is."""
    good = np.ones(num_frames, bool)
    for o in scene.objects:
        track = seen.tracks.get(o.colour)
        good &= track.in_one_piece() if track and track.shape == o.shape else False
    for colour in set(seen.tracks) - {o.colour for o in scene.objects}:
        good &= ~seen.tracks[colour].present
    return float(good.mean())


def psnr(seen: VideoDetections, frames: NDArray[np.uint8]) -> float | None:
    """Peak signal-to-noise ratio, in dB, to a picture rendered from the tracks; ``None`` without objects."""
    shapes = {colour: t.shape for colour, t in seen.tracks.items() if t.shape}
    if not shapes:
        return None
    state = {}
    for colour, shape in shapes.items():
        t = seen.tracks[colour]
        radius = np.sqrt(t.area / area(shape, 1.0))
        state[colour] = np.stack([t.x, middle_y(shape, t.y, radius), radius / RADIUS, np.clip(t.white, 0, 1)])
    again = paint(state, shapes, *frames.shape[1:3])
    error = np.mean((again.astype(np.float32) - frames) ** 2)
    return float(10 * np.log10(255**2 / max(error, 0.1)))
