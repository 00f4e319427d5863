"""Requirements for recordings: picture and sound must be present, complete and synchronous.

Every check compares a measured number with a field of :class:`Limits`. A recording that cannot be measured is rejected.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from baton_lightning.media import AAC_FRAME, MediaError
from baton_lightning.recordings.recording import Recording
from baton_lightning.shards.limits import REASONS, Limits

Violation = tuple[str, str]
"""Reason and detail."""

EDGE, REACH, FLAT = 0.85, 1.1, 1.05
"""Thresholds of :func:`clipped_share`: amplitude above which a stretch counts as loud, smallest peak of its arc, and smallest ratio of that
peak to the highest sample."""
INSIDE = 4096
"""Number of samples at each end of a sound that may depend on the container."""
DARKEST = 16
"""Level of black in limited range when it is read as full range, of 255."""
LAYOUTS = ("mono", "stereo", "1 channels", "2 channels")
"""Accepted layouts of one or two channels."""


class Rejection(MediaError):
    """A rejected recording: a ``ValueError`` with ``reason`` (a key of :data:`REASONS`) and ``detail``. It can be pickled."""


def inspect(
    recording: Recording, limits: Limits, *, needs_video: bool = True, needs_audio: bool = True, min_seconds: float = 0.0
) -> list[Violation]:
    """All violations of a recording.

    Args:
        recording: The decoded recording.
        limits: Limits of the checks.
        needs_video: Whether it must have a picture. If not, a picture is not checked.
        needs_audio: Whether it must have sound. If not, sound is not checked.
        min_seconds: Smallest duration of picture and sound, in s, with a tolerance of 1 ms.

    Returns:
        Reason and detail of each violation, the most important one first; empty if there is none.
    """
    found = list(_violations(recording, limits, needs_video, needs_audio, min_seconds))
    return sorted(found, key=lambda violation: list(REASONS).index(violation[0]))


def require(recording: Recording, limits: Limits, *, needs_video: bool = True, needs_audio: bool = True, min_seconds: float = 0.0) -> None:
    """Rejects a recording with its most important violation. Arguments as for :func:`inspect`.

    Raises:
        Rejection: If there is a violation.
    """
    found = inspect(recording, limits, needs_video=needs_video, needs_audio=needs_audio, min_seconds=min_seconds)
    if found:
        raise Rejection(*found[0])


def content_digest(recording: Recording) -> str:
    """Digest of the decoded picture and sound. It does not depend on container, names and tags.

    Containers differ in the padding of the sound, and some round its start to a millisecond. So for clips with a picture, the digest covers
    all pixels and only the samples around the loudest one. For clips without a picture, it covers all samples.
    """
    digest = hashlib.sha256()
    waveform = recording.waveform
    if recording.frames is not None:
        digest.update(repr(recording.frames.shape).encode())
        digest.update(np.ascontiguousarray(recording.frames).data)
        if waveform is not None and len(waveform) > 4 * INSIDE:
            loudest = INSIDE + int(np.abs(waveform[INSIDE:-INSIDE]).max(1).argmax())
            waveform = waveform[loudest - INSIDE // 4 : loudest + INSIDE // 4]
    if waveform is not None:
        digest.update(repr((waveform.shape, recording.sample_rate)).encode())
        digest.update(np.ascontiguousarray(waveform).data)
    return digest.hexdigest()


def _violations(recording: Recording, limits: Limits, needs_video: bool, needs_audio: bool, min_seconds: float) -> Iterator[Violation]:
    frames = recording.frames if needs_video else None
    waveform = recording.waveform if needs_audio else None
    if needs_video and frames is None:
        yield "no_video", "there is no video stream"
    if needs_audio and waveform is None:
        yield "no_audio", "there is no audio stream"
    if frames is not None and not len(frames):
        yield "empty", "no frame could be decoded"
    if waveform is not None and not waveform.size:
        yield "empty", "no sound could be decoded"
    if recording.errors:
        yield "corrupt", "; ".join(recording.errors[:3]) + (f"; and {len(recording.errors) - 3} more" if len(recording.errors) > 3 else "")
    spans: dict[str, tuple[float, float]] = {}
    if frames is not None and len(frames):
        spans["picture"] = (max(float(recording.frame_times[0]), recording.begin), recording.video_end)
        yield from _frame_clock(recording, limits)
        rows, columns = recording.size_on_screen
        if rows < limits.min_height or columns < limits.min_width:
            yield "too_small", f"the picture has {rows} rows and {columns} columns, needs {limits.min_height} and {limits.min_width}"
        yield from _picture(frames, limits, frame_rate(recording.frame_times))
    if waveform is not None and waveform.size:
        spans["sound"] = (recording.audio_start, recording.audio_end)
        if recording.sample_rate < limits.min_sample_rate:
            yield "too_small", f"the sound has {recording.sample_rate} samples per second, needs {limits.min_sample_rate}"
        if not recording.audio_skew <= limits.max_drift:
            yield "drift", f"sound lies up to {recording.audio_skew:.3f} s from the position that its sample count gives"
        yield from _loudness(waveform, recording.sample_rate, limits)
        yield from _channels(recording, waveform, limits)
    yield from _common_clock(recording, spans, limits, min_seconds)


def frame_rate(times: NDArray[np.float64]) -> float:
    """Frames per second, from the median interval; 0 if it cannot be measured (one frame, or time stamps missing or not in order)."""
    steps = np.diff(times)
    return 1 / float(np.median(steps)) if len(steps) and np.isfinite(steps).all() and steps.min() > 0 else 0.0


def _frame_clock(recording: Recording, limits: Limits) -> Iterator[Violation]:
    times = recording.frame_times
    if not frame_rate(times):
        yield "variable_frame_rate", f"{len(times)} frames, not two or not in order of time: their rate cannot be measured"
        return
    steps = np.diff(times)
    mean_step = float((times[-1] - times[0]) / (len(times) - 1))
    if 1 / mean_step < limits.min_fps * 0.995:
        yield "low_frame_rate", f"{1 / mean_step:.3f} frames/s, needs {limits.min_fps:g}"
    if limits.trust_times:
        return
    step = float(np.median(steps))
    jitter = float(np.abs(steps - step).max() / step)
    if jitter > limits.max_frame_jitter:
        yield "variable_frame_rate", f"a frame lasts {jitter:.2f} frames more or less than the others ({1 / step:.3f} frames/s)"
    bend = float(np.abs(times - times[0] - mean_step * np.arange(len(times))).max())
    if bend > limits.max_drift:
        yield "drift", f"frames lie up to {bend:.3f} s from evenly spaced positions"
    ratio = recording.coded_fps * mean_step
    if 0.51 < ratio < 1.96 and abs(ratio - 1) > limits.max_rate_error:
        yield "drift", f"pictures were coded for {recording.coded_fps:.3f} frames/s and are shown at {1 / mean_step:.3f}"


def _common_clock(recording: Recording, spans: dict[str, tuple[float, float]], limits: Limits, min_seconds: float) -> Iterator[Violation]:
    lengths = {kind: end - start for kind, (start, end) in spans.items()}
    if len(spans) == 2:
        offset = spans["sound"][0] - spans["picture"][0]
        if recording.file_offset is not None and abs(recording.file_offset) > abs(offset):
            offset = recording.file_offset
        if not -max(limits.max_start_offset, AAC_FRAME / recording.sample_rate + 1e-3) <= offset <= limits.max_start_offset:
            yield "start_offset", f"sound starts {offset:+.3f} s after the picture"
        surplus = lengths["picture"] - lengths["sound"]
        if not abs(surplus) <= limits.max_duration_mismatch:
            yield "duration_mismatch", f"picture lasts {lengths['picture']:.3f} s, sound {lengths['sound']:.3f} s"
    declared_lengths = {"picture": recording.declared_video_seconds, "sound": recording.declared_audio_seconds}
    for kind, seconds in lengths.items():
        declared = declared_lengths[kind]
        if declared is not None and not abs(declared - seconds) <= limits.max_duration_mismatch:
            yield "duration_mismatch", f"{kind} is declared to last {declared:.3f} s but lasts {seconds:.3f} s"
        if not seconds >= min_seconds - 1e-3:
            yield "too_short", f"{kind} lasts {seconds:.3f} s, needs {min_seconds:.3f} s"


def _picture(frames: NDArray[np.uint8], limits: Limits, fps: float) -> Iterator[Violation]:
    stride = max(1, min(frames.shape[1:3]) // 256)
    small = frames[:, ::stride, ::stride]
    black = np.mean([brightness(picture) < limits.min_brightness for picture in small])
    if not black <= limits.max_black_share:
        yield "black_video", f"{black:.1%} of the frames are black"
    moving = np.mean(motion(small, max(1, round(fps / 4))) >= limits.min_motion) if len(small) > 1 else math.nan
    if not moving >= limits.min_moving_share:
        yield "frozen_video", f"there is motion in {moving:.1%} of the time"


def brightness(picture: NDArray[np.uint8]) -> float:
    """Level of the brightest 1/4000 of a picture above black, of 255. Black is the level of the darkest 1/4000, at most 16."""
    values = np.sort(picture.max(-1), axis=None)
    edge = len(values) // 4000
    return float(values[-1 - edge]) - min(float(values[edge]), DARKEST)


def motion(frames: NDArray[np.uint8], lag: int) -> NDArray[np.float64]:
    """Largest change between each frame and the frame ``lag`` later (at most T - 1), as a share of the contrast.

    The change is measured on the means of blocks of 4 x 4 pixels. The contrast is the range of these means in both frames, at least 40 of
    255. The change is divided by it because coding artefacts of a still picture grow with the contrast.
    """
    height, width = (side // 4 * 4 for side in frames.shape[1:3])
    means = [picture[:height, :width].mean(-1, dtype=np.float32).reshape(height // 4, 4, width // 4, 4).mean((1, 3)) for picture in frames]
    lag = min(lag, len(means) - 1)
    pairs = [np.stack(pair) for pair in zip(means, means[lag:], strict=False)]
    return np.array([np.abs(pair[1] - pair[0]).max(initial=0) / max(np.ptp(pair) if pair.size else 0, 40) for pair in pairs])


def _loudness(waveform: NDArray[np.float32], sample_rate: int, limits: Limits) -> Iterator[Violation]:
    if not np.isfinite(waveform).all():
        yield "corrupt", "the sound holds values that are not finite"
        return
    loudest = max(loudness(channel, sample_rate) for channel in waveform.T)
    if not loudest >= limits.min_loudness:
        yield "silent_audio", f"the loudest 50 ms have {loudest:.1f} dB, needs {limits.min_loudness:g}"
    clipped = max(clipped_share(channel) for channel in waveform.T)
    if not clipped <= limits.max_clipped_share:
        yield "clipping", f"{clipped:.2%} of the samples are cut off at full scale"


def loudness(channel: NDArray[np.float32], sample_rate: int) -> float:
    """RMS of the loudest 50 ms in dB of full scale, after the mean of the whole sound has been subtracted."""
    size = min(len(channel), max(1, round(0.05 * sample_rate)))
    power = np.square(channel.astype(np.float64) - channel.mean(dtype=np.float64))
    blocks = power[: len(power) // size * size].reshape(-1, size).mean(1)
    return decibel(float(blocks.max()))


def clipped_share(channel: NDArray[np.float32]) -> float:
    """Share of samples that are clipped.

    Each stretch above 0.85 of full scale is compared with an arc: the parabola through both ends of the stretch with the slopes there. Its
    peak lies a quarter of slope times length above the ends. The stretch counts as clipped if this peak exceeds 1.1 and is more than 1.05
    times the highest sample. So neither a loud sine nor the overshoot of an encoder counts as clipping. Clipping is also found after lossy
    coding, which turns the flat top into ripples.
    """
    cut = 0.0
    for wave in (channel.astype(np.float64), -channel.astype(np.float64)):
        above = wave >= EDGE
        up, down = np.flatnonzero(~above[:-1] & above[1:]), np.flatnonzero(above[:-1] & ~above[1:])
        down = down[down > up[0]] if len(up) else down[:0]
        up = up[: len(down)]
        if len(up):
            rise, fall = wave[up + 1] - wave[up], wave[down] - wave[down + 1]
            length = (down + (wave[down] - EDGE) / fall) - (up + (EDGE - wave[up]) / rise)
            arc = EDGE + (rise + fall) / 2 * length / 4
            peak = np.maximum.reduceat(wave, np.stack([up + 1, down + 1], 1).ravel())[::2]
            cut += float(length[arc > np.maximum(REACH, FLAT * peak)].sum())
    return cut / len(channel)


def _channels(recording: Recording, waveform: NDArray[np.float32], limits: Limits) -> Iterator[Violation]:
    count = waveform.shape[1]
    if count > limits.max_channels:
        yield "channel_layout", f"{count} channels, at most {limits.max_channels} are allowed"
    if count != recording.declared_channels:
        yield "channel_layout", f"{recording.declared_channels} channels are declared, but {count} exist"
    if count <= 2 and recording.declared_layout not in LAYOUTS:
        yield "channel_layout", f"the layout is {recording.declared_layout}, not mono or stereo"
    power = np.square(waveform.astype(np.float64)).mean(0)
    if count < 2 or not power.max():
        return
    imbalance = decibel(float(power.max())) - decibel(float(power.min()))
    if not imbalance <= limits.max_imbalance:
        yield "channel_layout", f"a channel is {imbalance:.0f} dB fainter than another"
    lost = decibel(float(power.mean())) - decibel(float(np.square(waveform.astype(np.float64).mean(1)).mean()))
    if not lost <= limits.max_cancellation:
        yield "channel_layout", f"channels cancel each other by {lost:.0f} dB when averaged"


def decibel(power: float) -> float:
    """Level of a power, in dB of full scale, at least -200."""
    return 10 * math.log10(max(power, 1e-20))
