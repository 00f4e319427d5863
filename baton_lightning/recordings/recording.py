"""Decodes a recording: its video and audio on a common time line, and the values that the container declares.

Times count from the first frame, or from the first sample if there is only audio, as in players, because the clocks of many containers
start at another value. A part of a recording is decoded from the key frame before it, so that its position does not affect the cost.

Nothing is repaired here. Timestamps are kept, damage is listed, and :mod:`baton_lightning.shards.contract` decides what is accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton_lightning.recordings.container import BOTH, Kinds, choose_tracks, open_container, require_room
from baton_lightning.recordings.tracks import TINY, Picture, Sound, Track

LEADS = (0.3, 3.0, 15.0, 90.0)
"""Times before the start of a part at which decoding begins, in s. They are tried in turn until the part's first frame can be decoded."""
PATIENCE = 30.0
"""Time in s that one track may advance before another one without data is assumed to begin later or never."""


@dataclass(frozen=True)
class Recording:
    """Video and audio of a file, from the default track of each kind. All times count from the first frame, in s.

    Args:
        frames: Frames as displayed (upright), uint8 [T, Y, X, 3], RGB; ``None`` without a video stream, T = 0 if the stream has no frames.
        frame_times: Presentation time of each frame [T]; NaN if the file gives none. The first frame of a part may begin before the part.
        waveform: Audio samples, float32 [S, C], full scale 1; ``None`` without an audio stream, S = 0 if the stream has no samples.
        sample_rate: Sample rate in Hz; 0 without audio.
        audio_start: Presentation time of the first sample, after removal of the encoder's padding.
        num_bytes: Size of the file in bytes.
        video_end: End of the last frame by its timestamps: of the whole file, even if decoding stopped earlier, or of the part.
        audio_end: End of the last sample, in the same way.
        audio_skew: Largest difference between the timestamp of a block of samples and the time that follows from the samples before it.
        pixel_aspect: Width of a displayed pixel over its height.
        interlaced: Whether frames were deinterlaced.
        tone_mapped: Whether colours were converted from HDR or a wider gamut.
        begin: Start of the decoded part.
        file_offset: Start of the file's audio after its first frame, if the part does not begin with the file; otherwise ``None``.
        coded_fps: Frame rate in the coded video stream, in frames/s; 0 if it has none.
        declared_fps: Frame rate that the container declares, in frames/s; 0 if it declares none.
        declared_num_frames: Number of frames that the container declares; 0 if it declares none.
        declared_video_seconds: Duration of the video that the container declares; ``None`` if it declares none, or a part was decoded.
        declared_audio_seconds: Duration of the audio, in the same way.
        declared_layout: Name of the channel layout, e.g. ``stereo``; empty without audio.
        declared_channels: Number of channels that the container declares; 0 without audio.
        errors: Errors of decoding.
        stopped: Whether decoding stopped before the end of a stream.
    """

    frames: NDArray[np.uint8] | None
    frame_times: NDArray[np.float64]
    waveform: NDArray[np.float32] | None
    sample_rate: int
    audio_start: float
    num_bytes: int
    video_end: float = math.nan
    audio_end: float = math.nan
    audio_skew: float = 0.0
    pixel_aspect: float = 1.0
    interlaced: bool = False
    tone_mapped: bool = False
    begin: float = 0.0
    file_offset: float | None = None
    coded_fps: float = 0.0
    declared_fps: float = 0.0
    declared_num_frames: int = 0
    declared_video_seconds: float | None = None
    declared_audio_seconds: float | None = None
    declared_layout: str = ""
    declared_channels: int = 0
    errors: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def size_on_screen(self) -> tuple[int, int]:
        """Rows and columns of a frame after one side is enlarged to make its pixels square; 0 without video."""
        rows, columns = (0, 0) if self.frames is None else self.frames.shape[1:3]
        return round(rows / min(self.pixel_aspect, 1.0)), round(columns * max(self.pixel_aspect, 1.0))


def read_recording(
    file: Path, max_seconds: float = math.inf, *, start: float = 0.0, end: float | None = None, language: str = "", kinds: Kinds = BOTH
) -> Recording:
    """Decodes a file or a part of it, with its timestamps.

    Args:
        file: A file in one of the containers in :data:`~baton_lightning.recordings.container.CONTAINERS`.
        max_seconds: Longest duration to decode, in s. Without ``start`` and ``end``, the timestamps of the rest are read as well.
        start: Start of the part, in s from the first frame.
        end: End of the part, in s from the first frame; ``None`` = end of the recording.
        language: Language of the audio track as declared in the file; empty = the default track.
        kinds: Kinds of tracks to decode, of ``video`` and ``audio``.

    Raises:
        MediaError: ``empty`` if the file has no bytes, ``unreadable`` if it cannot be opened or has neither video nor audio, ``too_large``,
            ``colour`` or ``turned`` if its frames cannot be converted, ``no_video`` or ``no_audio`` if a requested kind or language is
            missing. Errors of decoding are not raised but listed in ``errors``.
    """
    stop = min(start + max_seconds, math.inf if end is None else end)
    if start <= 0:
        return _read(file, language, kinds, None, 0.0, stop, whole=end is None)
    firsts = _beginnings(file, language, kinds)
    for lead in (*(lead for lead in LEADS if lead < start), math.inf):
        try:
            return _read(file, language, kinds, firsts, start, stop, whole=False, lead=lead)
        except _TooLate:
            continue
    raise AssertionError("a file that is read from its beginning is not begun too late")


class _TooLate(Exception):
    """Decoding began after the start of the requested part."""


Firsts = tuple[float, float]
"""Times of the first frame and of the first sample of a file, in s of its clock; NaN if missing."""


def _beginnings(file: Path, language: str, kinds: Kinds) -> Firsts:
    with open_container(file) as container:
        video, audio = choose_tracks(container, file, language, kinds)
        tracks: list[Track] = []
        if video is not None:
            tracks.append(Picture(video, str(file), low=math.inf))
        if audio is not None:
            tracks.append(Sound(audio, str(file), low=math.inf))

        def done() -> bool:
            return all(not math.isnan(track.reached) for track in tracks) or any(track.end - track.reached > PATIENCE for track in tracks)

        _demux(container, tracks, done)
        found = {track.stream.type: track.reached for track in tracks}
    return found.get("video", math.nan), found.get("audio", math.nan)


def _read(
    file: Path, language: str, kinds: Kinds, firsts: Firsts | None, start: float, stop: float, *, whole: bool, lead: float = math.inf
) -> Recording:
    """Decodes from ``start`` to ``stop``, in s from the first frame. Decoding begins ``lead`` seconds earlier (``inf`` = file start)."""
    with open_container(file) as container:
        video, audio = choose_tracks(container, file, language, kinds)
        origin = math.nan if firsts is None else firsts[0] if video is not None else firsts[1]
        window: dict[str, Any] = {"low": origin + start, "high": origin + stop} if firsts is not None else {}
        picture = Picture(video, str(file), whole=whole, **window) if video is not None else None
        sound = Sound(audio, str(file), whole=whole, **window) if audio is not None else None
        tracks: list[Track] = [track for track in (picture, sound) if track is not None]
        if video is not None:
            seconds = min(stop, float((video.duration or 0) * video.time_base)) - start  # no duration: memory is checked while decoding
            codec = video.codec_context
            require_room(max(seconds, 0.0) * float(video.average_rate or 0), codec.width, codec.height, str(file))
        if lead < math.inf and video is not None:  # audio alone is decoded from its beginning: seeking in it is inexact
            _seek(container, video, origin + start - lead)
            for track in tracks:
                track.sought = True
        else:
            lead = math.inf

        def done() -> bool:
            if firsts is None and math.isinf(tracks[0].high) and not math.isnan(tracks[0].reached):
                for track in tracks:
                    track.high = tracks[0].reached + stop
            if lead < math.inf and firsts is not None:
                for track in tracks:
                    if track.reached > max(origin + start, firsts[track is sound]) + TINY:
                        raise _TooLate
            return not whole and all(track.stopped for track in tracks)

        errors = _demux(container, tracks, done)
        begun = [] if firsts is None else [track for track in tracks if not math.isnan(firsts[track is sound])]
        if lead < math.inf and any(math.isnan(track.reached) for track in begun):
            raise _TooLate
        if math.isnan(origin):
            origin = tracks[0].reached
        known: dict[str, Any] = {"num_bytes": file.stat().st_size, "stopped": any(track.stopped for track in tracks), "begin": start}
        known |= picture.known() if picture else {"frames": None, "frame_times": np.zeros(0)}
        known |= sound.known() if sound else {"waveform": None, "sample_rate": 0, "audio_start": math.nan}
        for name in ("frame_times", "video_end", "audio_start", "audio_end"):
            if name in known:
                known[name] = known[name] - (0.0 if math.isnan(origin) else origin)
        if firsts is not None and picture is not None and sound is not None:
            known["file_offset"] = firsts[1] - firsts[0]
        errors += [error for track in tracks for error in track.errors]
    return Recording(**known, errors=tuple(errors))


def _seek(container: Any, stream: Any, time: float) -> None:
    """Seeks to a key frame before a time.

    Raises:
        _TooLate: If the container cannot seek.
    """
    import av

    try:
        container.seek(math.floor(time / float(stream.time_base)), stream=stream)
    except (av.FFmpegError, OSError) as error:
        raise _TooLate from error


def _demux(container: Any, tracks: list[Track], done: Callable[[], bool]) -> list[str]:
    """Passes each packet to its track until ``done`` or the end of the file. Returns the errors of reading."""
    import av

    by_stream = {track.stream.index: track for track in tracks}
    try:
        for packet in container.demux([track.stream for track in tracks]):
            by_stream[packet.stream.index].take(packet)  # a packet that flushes a decoder has no index of its own
            if done():
                break
    except (av.FFmpegError, OSError) as error:
        return [f"reading broke off ({error})"]
    return []
