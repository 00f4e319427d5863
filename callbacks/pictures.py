"""Clips as still pictures: a strip of frames, a spectrogram, a moving GIF."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

COLD_TO_HOT = np.array([[8, 8, 24], [60, 20, 110], [170, 40, 110], [245, 120, 50], [255, 240, 160]], np.float32)


def frame_strip(frames: NDArray[np.uint8], num: int = 8, height: int = 96) -> NDArray[np.uint8]:
    """``num`` evenly spaced frames of the clip, side by side [height, num * width, 3]."""
    chosen = frames[np.linspace(0, len(frames) - 1, num).round().astype(int)]
    width = round(height * frames.shape[2] / frames.shape[1])
    return np.concatenate([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.NEAREST)) for f in chosen], 1)


def spectrogram(waveform: NDArray[np.float32], sample_rate: int, height: int = 192, decibels: float = 70.0) -> NDArray[np.uint8]:
    """Log-magnitude spectrogram up to half the sample rate [height, T, 3], low frequencies at the bottom."""
    window = sample_rate // 25
    spectrum = torch.stft(torch.from_numpy(waveform), 2 * window, window // 4, window, torch.hann_window(window), return_complex=True).abs()
    level = 20 * torch.log10(spectrum.clamp(min=1e-7) / spectrum.max().clamp(min=1e-3))
    shade = (1 + level / decibels).clamp(0, 1).flip(0).numpy()
    steps = np.linspace(0, 1, len(COLD_TO_HOT))
    image = np.stack([np.interp(shade, steps, COLD_TO_HOT[:, c]) for c in range(3)], -1).astype(np.uint8)
    return np.asarray(Image.fromarray(image).resize((max(image.shape[1], 4 * height), height), Image.Resampling.BILINEAR))


def gif(frames: NDArray[np.uint8], fps: float, height: int = 128) -> bytes:
    """The frames as a looping GIF."""
    width = round(height * frames.shape[2] / frames.shape[1])
    images = [Image.fromarray(f).resize((width, height), Image.Resampling.NEAREST) for f in frames]
    out = io.BytesIO()
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    return out.getvalue()
