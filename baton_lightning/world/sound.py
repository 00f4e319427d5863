"""Synthesis of a scene's sound: one tone for each syllable and effect, at known carrier frequencies."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from baton_lightning.clip import ClipSpec
from baton_lightning.world import vocabulary as v
from baton_lightning.world.render import bump
from baton_lightning.world.scene import Scene

FAINTEST = 0.03
"""Smallest amplitude that :func:`play` plays, a tenth of a tone's. What is read from a plan is never exactly zero."""


def synthesise(scene: Scene, clip: ClipSpec) -> NDArray[np.float32]:
    """Waveform of a scene, mono.

    Returns:
        float32 [S] in [-1, 1], at the clip's sample rate.
    """
    waveform = np.zeros(clip.num_samples, np.float64)
    for carrier, start, seconds in tones(scene):
        first = max(0, math.ceil(start * clip.sample_rate))
        last = min(clip.num_samples, math.floor((start + seconds) * clip.sample_rate) + 1)
        t = np.arange(first, last) / clip.sample_rate
        waveform[first:last] += v.TONE_AMPLITUDE * bump((t - start) / seconds) * np.sin(2 * np.pi * v.CARRIERS[carrier] * t)
    return waveform.astype(np.float32)


def tones(scene: Scene) -> list[tuple[int, float, float]]:
    """(carrier, start in s, duration in s) of every tone; effects are centred on their anchor."""
    played: list[tuple[int, float, float]] = []
    for event in scene.events:
        if event.kind == "says":
            voice = 3 * list(v.COLOURS).index(event.actor)
            for k, word in enumerate(event.words):
                start = event.start + v.word_start(k)
                played += [(voice + tone, start + half * v.TONE_SECONDS, v.TONE_SECONDS) for half, tone in enumerate(v.WORDS[word])]
        else:
            carriers = {"jumps": (v.THUMP,), "flashes": (v.DING,), "hits": (v.THUMP, v.DING), "slides": ()}[event.kind]
            played += [(carrier, event.anchors[0] - v.EFFECT_SECONDS / 2, v.EFFECT_SECONDS) for carrier in carriers]
    return played


def play(loudness: NDArray, times: NDArray, clip: ClipSpec) -> NDArray[np.float32]:
    """Waveform of the carriers with given amplitudes, which are interpolated linearly in time.

    Args:
        loudness: Amplitude of each carrier [20, N]. Those below :data:`FAINTEST` are silent.
        times: Increasing times [N], in s.
        clip: Geometry.

    Returns:
        float32 [S] in [-1, 1], at the clip's sample rate.
    """
    t = np.arange(clip.num_samples) / clip.sample_rate
    waveform = np.zeros(clip.num_samples)
    for frequency, amplitude in zip(v.CARRIERS, loudness, strict=True):
        waveform += np.interp(t, times, np.where(amplitude < FAINTEST, 0.0, amplitude)) * np.sin(2 * np.pi * frequency * t)
    return np.clip(waveform, -1, 1).astype(np.float32)
