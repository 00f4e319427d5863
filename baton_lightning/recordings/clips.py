"""Reads recordings for scores and metrics: square pixels, a constant frame rate, and one audio channel aligned with the video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baton_lightning.media import Media, MediaError
from baton_lightning.recordings.container import require_size
from baton_lightning.recordings.recording import Recording, read_recording

MAX_SECONDS = 600.0
"""Longest clip that is measured, in s."""
VIDEO_SUFFIXES = frozenset(".mp4 .mov .mkv .webm .avi .m4v .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv .mxf .gif".split())
JITTER = 0.2
"""Largest deviation of a frame's time from a constant frame rate, in frames, at which the rate counts as constant."""
MOST = 4
"""Largest factor by which resampling to a constant frame rate may increase the number of frames."""


def read_clip(file: Path, *, has_video: bool = True, has_audio: bool = True) -> Media:
    """Reads a clip from any source; see :func:`~baton_lightning.recordings.recording.read_recording`.

    Frames with a variable rate are resampled to a constant one, from the median distance between frames; each is repeated for as long as
    it is displayed. Channels are averaged. Sound before the first frame is cut; a later start of the sound is filled with silence.

    Args:
        file: The media file.
        has_video: Whether the clip must have video. If not, the result has none.
        has_audio: Whether the clip must have audio. If not, the result has none.

    Raises:
        MediaError: If the file is damaged, lacks a required stream, or is longer than :data:`MAX_SECONDS`.
    """
    recording = read_recording(file, MAX_SECONDS, kinds=tuple(kind for kind, has in (("video", has_video), ("audio", has_audio)) if has))
    for kind, has, there in (("video", has_video, recording.frames), ("audio", has_audio, recording.waveform)):
        if has and there is None:
            raise MediaError(f"no_{kind}", f"{file} has no {kind} stream")
    if recording.errors:
        raise MediaError("corrupt", f"{file}: {'; '.join(recording.errors[:3])}")
    if recording.stopped:
        raise MediaError("too_long", f"{file} is longer than {MAX_SECONDS:g} s")
    frames, fps = even_frames(recording, str(file)) if has_video else (np.zeros((0, 0, 0, 3), np.uint8), 0.0)
    if not has_audio or recording.waveform is None:
        return Media(frames, fps, np.zeros(0, np.float32), 0)
    if not len(recording.waveform):
        raise MediaError("empty", f"{file} decodes to no sound")
    waveform, lead = recording.waveform.mean(1), 0
    if has_video and np.isfinite(recording.audio_start):
        lead = round(recording.audio_start * recording.sample_rate)
    placed = np.concatenate([np.zeros(max(lead, 0), np.float32), waveform[max(-lead, 0) :]])
    return Media(frames, fps, placed.astype(np.float32), recording.sample_rate)


def clip_files(folder: Path, verb: str) -> list[Path]:
    """The clips ``k.mp4`` of a folder, sorted by name. Hidden files are ignored.

    Args:
        folder: Folder of the clips.
        verb: Name of the command in error messages.

    Raises:
        ValueError: If there are none, or if the folder contains videos of other formats, which would be ignored.
    """
    files = sorted(file for file in folder.glob("*") if not file.name.startswith(".") and file.is_file())
    others = [file.name for file in files if file.suffix != ".mp4" and file.suffix.lower() in VIDEO_SUFFIXES]
    if others:
        few = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if others[4:] else "")
        raise ValueError(f"{verb}: the clips of {folder}/ must be k.mp4 files, got {few}; convert them to .mp4, or remove them")
    if not (found := [file for file in files if file.suffix == ".mp4"]):
        raise ValueError(f"{verb}: {folder}/ must hold k.mp4 files, got none; write some with `python -m baton_lightning generate`")
    return found


def even_frames(recording: Recording, name: str) -> tuple[NDArray[np.uint8], float]:
    """Frames with square pixels at a constant rate, and the rate in frames/s.

    Raises:
        MediaError: If there are no frames, or their times are missing or not increasing.
    """
    frames, times = recording.frames, recording.frame_times
    if frames is None or not len(frames):
        raise MediaError("empty", f"{name} decodes to no frame")
    if len(times) == 1:
        return square(frames, recording.pixel_aspect, name), recording.declared_fps
    steps = np.diff(times)
    if not (np.isfinite(steps).all() and steps.min() > 0):
        raise MediaError("variable_frame_rate", f"{name} has frames without times, or not in order of time")
    mean = (times[-1] - times[0]) / len(steps)
    if np.abs(times - times[0] - mean * np.arange(len(times))).max() <= JITTER * mean:
        fps = 1 / mean
        fps = recording.declared_fps if abs(recording.declared_fps / fps - 1) < 0.01 else fps
    else:
        fps = min(1 / float(np.median(steps)), MOST / mean)
        seconds = recording.video_end - times[0]
        middles = times[0] + (np.arange(max(round(seconds * fps), 1)) + 0.5) / fps
        frames = frames[np.clip(np.searchsorted(times, middles, side="right") - 1, 0, len(times) - 1)]
    return square(frames, recording.pixel_aspect, name), fps


def square(frames: NDArray[np.uint8], aspect: float, name: str) -> NDArray[np.uint8]:
    """Resizes frames to square pixels by enlarging one side. ``aspect`` is the width of a pixel over its height."""
    from PIL import Image

    if aspect == 1:
        return frames
    height, width = frames.shape[1:3]
    size = round(width * max(aspect, 1.0)), round(height / min(aspect, 1.0))
    require_size(*size, name)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames])
