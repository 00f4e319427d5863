"""Pictures, films and sounds of a clip as data URIs: a film that browsers play, its poster, a strip of frames, a spectrogram."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from baton_lightning.media import Media, mp4_bytes

SIDE = 288
"""Smallest width of films, in pixels. Browsers only support chroma at half resolution, which blurs small pictures."""
WIDEST = 480
"""Largest width of films, in pixels."""
LADDER = ((WIDEST, 24), (320, 32), (192, 38))
"""Largest width and quantiser of the attempts to make a film small enough."""
TILES, TILE_HEIGHT = 12, 72
BINS, COLUMNS = 96, 480
LOWEST, HIGHEST = 80.0, 8000.0
"""Frequency axis of spectrograms, in Hz."""
RANGE_DB = 60.0
TICKS = {200: "200 Hz", 1000: "1 kHz", 5000: "5 kHz"}


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with its size in pixels."""

    uri: str
    width: int
    height: int


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(pixels: NDArray[np.uint8], quality: int = 78) -> Picture:
    """An RGB or RGBA picture [Y, X, C] as WebP; lossless with ``quality`` 0."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "WEBP", quality=quality or 90, lossless=not quality, method=4)
    return Picture(data_uri(written.getvalue(), "image/webp"), pixels.shape[1], pixels.shape[0])


def resized(frames: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Frames [T, Y, X, 3] at most ``width`` wide and with even sides; small ones are enlarged by whole factors to :data:`SIDE`."""
    from PIL import Image

    height, old = frames.shape[1:3]
    if old < SIDE:
        times = 2 * -(-SIDE // (2 * old))
        return np.ascontiguousarray(frames.repeat(times, 1).repeat(times, 2))
    new = min(width, old) // 2 * 2
    size = new, max(2, round(height * new / old) // 2 * 2)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in frames])


def film(media: Media, most_bytes: int) -> tuple[str, Picture] | None:
    """A film and its poster, the middle frame.

    Args:
        media: The clip.
        most_bytes: Largest length of the film's data URI.

    Returns:
        ``None`` if the film is longer than that at every size.
    """
    silent = not len(media.waveform)
    for width, qp in LADDER:
        frames = resized(media.frames, width)
        sound = (None, 0) if silent else (media.waveform, media.sample_rate)
        uri = data_uri(mp4_bytes(frames, media.fps, *sound, pix_fmt="yuv420p", qp=qp), "video/mp4")
        if len(uri) <= most_bytes:
            return uri, picture(frames[len(frames) // 2])
    return None


def sound(waveform: NDArray[np.floating], sample_rate: int) -> str:
    """A waveform [S] in [-1, 1] as the data URI of a WAV of 16 bits."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(waveform, -1, 1) * 32767).round().astype("<i2").tobytes())
    return data_uri(written.getvalue(), "audio/wav")


def frame_strip(media: Media) -> Picture:
    """Frames at the middles of equal parts of the clip, side by side."""
    from PIL import Image

    count = min(TILES, len(media.frames))
    chosen = media.frames[((np.arange(count) + 0.5) / count * len(media.frames)).astype(int)]
    height, width = chosen.shape[1:3]
    size = max(1, round(width * TILE_HEIGHT / height)), TILE_HEIGHT
    how = Image.Resampling.NEAREST if height < TILE_HEIGHT else Image.Resampling.BOX
    return picture(np.concatenate([np.asarray(Image.fromarray(frame).resize(size, how)) for frame in chosen], 1))


def spectrogram(media: Media) -> Picture:
    """Levels within :data:`RANGE_DB` of the loudest, dark = quiet; time to the right, the logarithm of frequency upwards."""
    from matplotlib import colormaps
    from scipy.signal import stft

    rate = media.sample_rate or 16000
    waveform = media.waveform if len(media.waveform) else np.zeros(round(media.seconds * rate), np.float32)
    length = max(256, 2 ** round(np.log2(rate * 0.05)))
    hop = max(1, len(waveform) // COLUMNS)
    step = max(1, min(hop, length // 2))
    hertz, _, found = stft(waveform, rate, nperseg=length, noverlap=length - step, boundary="zeros")
    levels = np.abs(found[:, :: -(-found.shape[1] // COLUMNS)])
    rows = np.stack([_band(levels, hertz, low, high) for low, high in pairwise(np.geomspace(LOWEST, HIGHEST, BINS + 1))])
    loudest = max(rows.max(), 1e-3)
    shade = np.clip(1 + 20 * np.log10(np.maximum(rows, 1e-9) / loudest) / RANGE_DB, 0, 1)
    return picture((colormaps["magma"](shade[::-1])[..., :3] * 255).astype(np.uint8))


def _band(levels: NDArray[np.floating], hertz: NDArray[np.floating], low: float, high: float) -> NDArray[np.floating]:
    """The largest level of a band of frequencies at each time; the nearest line of the spectrum if the band holds none."""
    first, last = np.searchsorted(hertz, (low, high))
    if first == len(hertz):
        return np.zeros(levels.shape[1])
    return levels[first : max(last, first + 1)].max(0)


def height_of(hertz: float) -> float:
    """Height of a frequency in a spectrogram, as a fraction from the bottom."""
    return float(np.log(hertz / LOWEST) / np.log(HIGHEST / LOWEST))
