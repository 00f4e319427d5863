"""Detection of words and effects in a waveform: peaks of the energy at each carrier, and pairs of peaks as words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from baton_lightning.world import vocabulary as v
from baton_lightning.world.peaks import centre, peaks

HOP_SECONDS, WINDOW_SECONDS = 0.008, 0.064
DETUNING, EFFECT_DETUNING = 0.05, 0.10
"""Largest relative deviation of a tone from a carrier's frequency."""
FAINTEST, NOMINAL, THRESHOLD = 0.03, 0.3, 0.3
UNKNOWN = "?"
_WORD_OF = {tones: word for word, tones in v.WORDS.items()}


@dataclass(frozen=True)
class Word:
    """A detected word: its centre in s, the colour of its voice, and the word, or ``?`` for an unknown one."""

    time: float
    voice: str
    word: str


@dataclass(frozen=True)
class Effect:
    """A detected thump, ding or clack, and its centre in s."""

    time: float
    sound: str


@dataclass(frozen=True)
class AudioDetections:
    """Words and effects in a waveform, in order of time.

    Args:
        words: Words, with their voices.
        effects: Sound effects.
        in_bank: Share of the waveform's energy in the bands of the carriers; ``None`` for silence.
    """

    words: tuple[Word, ...]
    effects: tuple[Effect, ...]
    in_bank: float | None


def detect_audio(waveform: NDArray, sample_rate: int = 16000) -> AudioDetections:
    """Words and effects in a waveform [S] in [-1, 1]; the expected ones are not used."""
    waveform = np.nan_to_num(np.asarray(waveform, np.float32)).reshape(-1)
    loudness, times, in_bank = carrier_loudness(waveform, sample_rate)
    words, effects = audio_events(loudness, times)
    return AudioDetections(words, effects, in_bank)


def audio_events(loudness: NDArray, times: NDArray) -> tuple[tuple[Word, ...], tuple[Effect, ...]]:
    """Words and effects of the carriers' amplitudes, each in order of time.

    Args:
        loudness: Amplitude of each carrier [20, N].
        times: Evenly spaced times [N], in s.
    """
    tones = _tones(loudness, times)
    thumps = [t for t, carrier in tones if carrier == v.THUMP]
    dings = [t for t, carrier in tones if carrier == v.DING]
    effects = []
    for thump in thumps:
        ding = min(dings, key=lambda t: abs(t - thump), default=None)
        if ding is not None and abs(ding - thump) < v.EFFECT_SECONDS / 2:
            dings.remove(ding)
            effects.append(Effect((thump + ding) / 2, "clack"))
        else:
            effects.append(Effect(thump, "thump"))
    effects += [Effect(ding, "ding") for ding in dings]
    words = [word for k, colour in enumerate(v.COLOURS) for word in _words(colour, [(t, c - 3 * k) for t, c in tones if c // 3 == k])]
    return tuple(sorted(words, key=lambda w: w.time)), tuple(sorted(effects, key=lambda e: e.time))


def carrier_loudness(waveform: NDArray, sample_rate: int) -> tuple[NDArray, NDArray, float | None]:
    """Amplitude of each carrier over time.

    Returns:
        Amplitudes [20, N], from half a window before the clip to half a window after it, so that tones at its ends have complete peaks;
        their times [N] in s; the share of energy in the carriers' bands.
    """
    hop, window = round(HOP_SECONDS * sample_rate), 2 * round(WINDOW_SECONDS * sample_rate / 2)
    hann = np.hanning(window).astype(np.float32)
    padded = np.pad(waveform, (window, window + hop))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * (hann * 2 / hann.sum())
    times = (np.arange(len(pieces)) * hop - window / 2) / sample_rate
    power = np.abs(np.fft.rfft(pieces, 2 * window, axis=1)) ** 2
    step = sample_rate / (2 * window)
    bands = np.zeros((len(v.CARRIERS), power.shape[1]), np.float32)
    for k, carrier in enumerate(v.CARRIERS):
        off = EFFECT_DETUNING if k in (v.THUMP, v.DING) else DETUNING
        bands[k, int(carrier * (1 - off) / step) : int(np.ceil(carrier * (1 + off) / step)) + 1] = 1
    total = power.sum()
    in_bank = float(power[:, bands.any(0)].sum() / total) if total > 1e-8 else None
    amplitude = np.sqrt(bands @ power.T / 3)  # a Hann main lobe fills about three bins at this padding
    smooth = np.hanning(9)[1:-1] / np.hanning(9).sum()
    return np.apply_along_axis(np.convolve, 1, amplitude, smooth, "same"), times, in_bank


def _tones(loudness: NDArray, times: NDArray) -> list[tuple[float, int]]:
    """(time, carrier) of every tone, in order of time."""
    threshold = THRESHOLD * min(max(float(loudness.max()), FAINTEST), NOMINAL)
    usual = np.median(loudness, 1)
    step = float(times[1] - times[0])
    found = []
    for k, curve in enumerate(loudness):
        near = [j for j in (k - 1, k + 1) if 0 <= j < v.THUMP and k < v.THUMP]
        for peak in peaks(curve, threshold, 0.5):
            leaked = any(curve[peak] < 0.7 * loudness[j, peak] for j in near)
            if leaked or curve[peak] < 5 * usual[k]:  # unlike noise, a tone exceeds the median of its carrier
                continue
            place = centre(curve, peak, 0.15 * curve[peak], round(0.08 / step))
            found.append((float(times[0] + place * step), k))
    return sorted(found)


def _words(colour: str, tones: list[tuple[float, int]]) -> list[Word]:
    """Words of a voice: two tones in close succession are a word; a single tone is an unknown word."""
    words, k = [], 0
    while k < len(tones):
        time, tone = tones[k]
        if k + 1 < len(tones) and 0.08 < tones[k + 1][0] - time < 1.5 * v.TONE_SECONDS:
            words.append(Word((time + tones[k + 1][0]) / 2, colour, _WORD_OF.get((tone, tones[k + 1][1]), UNKNOWN)))
            k += 2
        else:
            words.append(Word(time, colour, UNKNOWN))
            k += 1
    return words
