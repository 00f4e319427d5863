"""Clips as still pictures: strips of frames, spectrograms with axes, a moving GIF."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLD_TO_HOT = np.array([[8, 8, 24], [60, 20, 110], [170, 40, 110], [245, 120, 50], [255, 240, 160]], np.float32)


GAP, MARGIN = 4, 72
"""Pixels between two frames, and left of a row for its name."""


def frame_strips(clips: Mapping[str, NDArray[np.uint8]], num: int = 8, height: int = 96) -> NDArray[np.uint8]:
    """Evenly spaced frames of clips of one size: a row for each clip, with its name and gaps between frames.

    Args:
        clips: Name -> frames [T, Y, X, 3].
        num: Frames of a row.
        height: Height of a frame, in pixels.

    Returns:
        Picture [rows * height + gaps, margin + num * width + gaps, 3] on white.
    """
    first = next(iter(clips.values()))
    width = round(height * first.shape[2] / first.shape[1])
    sheet = Image.new("RGB", (MARGIN + num * (width + GAP) - GAP, len(clips) * (height + GAP) - GAP), "white")
    for row, (name, frames) in enumerate(clips.items()):
        top = row * (height + GAP)
        ImageDraw.Draw(sheet).text((2, top + height // 2), name, "black", anchor="lm")
        for column, k in enumerate(np.linspace(0, len(frames) - 1, num).round().astype(int)):
            frame = Image.fromarray(frames[k]).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(frame, (MARGIN + column * (width + GAP), top))
    return np.asarray(sheet)


def spectrograms(waveforms: Mapping[str, NDArray[np.float32]], sample_rate: int) -> NDArray[np.uint8]:
    """Spectrograms one below another, with their names, over seconds and kHz.

    Args:
        waveforms: Name -> waveform [S].
        sample_rate: Samples per second.

    Returns:
        Picture [Y, X, 3].
    """
    from matplotlib.figure import Figure

    figure = Figure((8, 0.6 + 2.2 * len(waveforms)), dpi=80, layout="constrained")
    all_axes = figure.subplots(len(waveforms), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, waveform) in zip(all_axes, waveforms.items(), strict=True):
        extent = (0.0, len(waveform) / sample_rate, 0.0, sample_rate / 2000)
        axes.imshow(spectrogram(waveform, sample_rate), extent=extent, aspect="auto")
        axes.set(title=name, ylabel="kHz")
    all_axes[-1].set_xlabel("s")
    file = io.BytesIO()
    figure.savefig(file)
    return np.asarray(Image.open(file).convert("RGB"))


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
