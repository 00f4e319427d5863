"""Cutting of clips from recordings: resampling of picture and sound to the clip's rates and size, on one time line.

Clip frame i is on screen from i / fps to (i + 1) / fps. It is the source frame that is on screen in the middle of this interval. So an
event of the picture is shifted by at most half a frame of the clip, for any source rate and any time stamps.
Sound is resampled from the same origin by a polyphase filter without delay. It is shifted by less than a sample of the source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from baton_lightning.clip import ClipSpec

SLACK = 0.1
"""Silence that may be added where sound begins later or ends earlier than the picture, in s. AAC's frames are 0.02 s long."""


@dataclass(frozen=True)
class Extent:
    """Time spans of picture and sound, in s on the recording's time line."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return max(self.end - self.begin, 0.0)


def extent_of(
    frame_times: NDArray[np.float64] | None, num_samples: int, sample_rate: int, audio_start: float, start: float, end: float | None
) -> Extent:
    """The part of a recording from which clips can be cut.

    Args:
        frame_times: Time of each frame [T], in s; ``None`` without picture.
        num_samples: Number of audio samples; 0 without sound.
        sample_rate: Sample rate of the sound, in Hz.
        audio_start: Time of the first audio sample, in s.
        start: Start of the selected part, in s.
        end: End of the selected part, in s; ``None`` = the end of the recording.
    """
    begins, ends = [start], [] if end is None else [end]
    if frame_times is not None and len(frame_times):
        interval = float(np.median(np.diff(frame_times))) if len(frame_times) > 1 else 0.0
        begins.append(float(frame_times[0]))
        ends.append(float(frame_times[-1]) + interval)
        slack = SLACK
    else:
        slack = 0.0
    if num_samples:
        begins.append(audio_start - slack)
        ends.append(audio_start + num_samples / sample_rate + slack)
    return Extent(max(begins), min(ends, default=start))


def clip_starts(extent: Extent, clip: ClipSpec, cut: str = "all") -> list[float]:
    """Start times of consecutive clips; a remainder shorter than a clip is dropped.

    Args:
        extent: Part of the recording.
        clip: Geometry. Up to half a frame may be missing at the end, because rates like 23.976 do not fill whole seconds.
        cut: ``all`` clips of the recording, or only the ``first`` one.
    """
    count = math.floor((extent.seconds + 0.5 / clip.fps) / clip.seconds)
    return [extent.begin + i * clip.seconds for i in range(min(count, 1) if cut == "first" else count)]


def frames_shown(frame_times: NDArray[np.float64], start: float, clip: ClipSpec) -> NDArray[np.int64]:
    """Index of the source frame of each clip frame [T_f]; outside the recording, the index of the first or the last frame."""
    middles = start + (np.arange(clip.num_frames) + 0.5) / clip.fps
    return np.clip(np.searchsorted(frame_times, middles, side="right") - 1, 0, len(frame_times) - 1)


def cut_picture(
    frames: NDArray[np.uint8], frame_times: NDArray[np.float64], start: float, clip: ClipSpec, pixel_aspect: float = 1.0
) -> NDArray[np.uint8]:
    """Pictures of a clip [T_f, Y, X, 3]: the largest centre crop with the clip's aspect ratio, resized by an antialiased Lanczos filter.

    Args:
        frames: Frames of the recording, uint8 [T, Y, X, 3].
        frame_times: Time of each frame [T], in s, ascending.
        start: Where the clip begins, in s.
        clip: Geometry.
        pixel_aspect: Aspect ratio of a stored pixel on screen (width / height); pixels of the clip are square.
    """
    from PIL import Image

    shown = frames_shown(frame_times, start, clip)
    height, width = frames.shape[1:3]
    box = centre_box(height, width, clip, pixel_aspect)
    made = np.empty((clip.num_frames, clip.height, clip.width, 3), np.uint8)
    for i, source in enumerate(shown):
        if i and source == shown[i - 1]:
            made[i] = made[i - 1]
        elif (height, width) == (clip.height, clip.width) and pixel_aspect == 1:
            made[i] = frames[source]
        else:
            picture = Image.fromarray(np.ascontiguousarray(frames[source]))
            made[i] = np.asarray(picture.resize((clip.width, clip.height), Image.Resampling.LANCZOS, box=box))
    return made


def centre_box(height: int, width: int, clip: ClipSpec, pixel_aspect: float = 1.0) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge of the centre crop with the clip's aspect ratio on screen, in source pixels."""
    scale = min(height / clip.height, width * pixel_aspect / clip.width)
    rows, columns = scale * clip.height, scale * clip.width / pixel_aspect
    left, upper = (width - columns) / 2, (height - rows) / 2
    return left, upper, min(left + columns, width), min(upper + rows, height)


def cut_sound(waveform: NDArray[np.float32], sample_rate: int, audio_start: float, start: float, clip: ClipSpec) -> NDArray[np.float32]:
    """Sound of a clip [S], the mean over channels, zero-padded outside the recording.

    Args:
        waveform: Sound of the recording [S, C], in [-1, 1].
        sample_rate: Sample rate of the recording, in Hz.
        audio_start: Time of its first sample, in s.
        start: Where the clip begins, in s.
        clip: Geometry.
    """
    from scipy.signal import resample_poly

    common = math.gcd(sample_rate, clip.sample_rate)
    up, down = clip.sample_rate // common, sample_rate // common
    lead = -(-sample_rate // (10 * down)) * down  # padding for the filter: 0.1 s on both sides, rounded up to whole steps
    first = round((start - audio_start) * sample_rate) - lead
    length = -(-clip.num_samples * down // up) + 2 * lead
    segment = np.zeros(length, np.float32)
    low, high = max(first, 0), min(first + length, len(waveform))
    if low < high:
        segment[low - first : high - first] = waveform[low:high].mean(1)
    skipped = lead * up // down
    if up == down:
        return segment[skipped : skipped + clip.num_samples]
    return resample_poly(segment, up, down).astype(np.float32)[skipped : skipped + clip.num_samples]


def suits_best(clips: Sequence[ClipSpec], extent: Extent, size: tuple[int, int] | None) -> int | None:
    """Index of the geometry to which a recording is cut; ``None`` if the recording is too short for all of them.

    Only geometries that are not longer than the recording are considered. They are ranked by the distance of their aspect ratio, then by
    duration, the longest first. Then comes the largest picture that needs no upsampling, or else the smallest picture. The first of equal
    geometries is used. A recording with only sound is cut to the longest geometry.

    Args:
        clips: Geometries.
        extent: Part of the recording to cut.
        size: Rows and columns of its picture; ``None`` without picture.
    """
    fitting = [i for i, clip in enumerate(clips) if clip_starts(extent, clip, "first")]

    def badness(i: int) -> tuple[float, ...]:
        clip = clips[i]
        if size is None:
            return (-clip.seconds, i)
        aspect = abs(math.log(clip.width / clip.height * size[0] / size[1]))
        enlarged = clip.height > size[0] or clip.width > size[1]
        area = clip.height * clip.width
        return (round(aspect, 6), -clip.seconds, float(enlarged), area if enlarged else -area, i)

    return min(fitting, key=badness, default=None)
