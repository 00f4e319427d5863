"""A recording as it was found: decoded picture and sound on one time line, and what the container promised about them.

Time is counted from the first picture, or, in a recording of sound alone, from its first sample, as players count it: many containers
begin their clocks elsewhere. A part of a recording is read from the key frame before it, so it costs the same wherever it lies.

Nothing is mended here. Time stamps are kept as they are, damage is listed, and :mod:`baton_lightning.shards.contract` judges.
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
"""How long before a part decoding begins, in s, one after the other until that is early enough to know the part's first picture."""
PATIENCE = 30.0
"""How long one track may play before another that has given nothing is taken to begin later, or never, in s."""


@dataclass(frozen=True)
class Recording:
    """Picture and sound of a file, its default track of each kind. All times are from the first picture, in s.

    Args:
        frames: Pictures as shown (turned upright), uint8 [T, Y, X, 3], RGB; ``None`` without a video stream, T = 0 if it holds none.
        frame_times: Presentation time of each frame [T]; NaN where the file gives none. In a part, the first one may lie before it.
        waveform: Sound as recorded, float32 [S, C], full scale 1; ``None`` without an audio stream, S = 0 if it holds none.
        sample_rate: Samples per second; 0 without sound.
        audio_start: Presentation time of the first sample, after what the encoder put in front was taken off.
        num_bytes: Size of the file.
        video_end: When the last frame ends, by its time stamps: of the file, also if reading stopped earlier, or of the part.
        audio_end: When the last sample ends, likewise.
        audio_skew: Furthest that a piece of sound lies from where the samples before it put it: 0 if samples and clock agree.
        pixel_aspect: Width of a pixel over its height, on screen.
        interlaced: Whether pictures were joined from fields.
        tone_mapped: Whether colours were converted from those of another kind of screen (HDR, or a wider gamut).
        begin: Where the part begins that was read.
        file_offset: In a part that does not begin with the file: how long after the first picture the file's sound starts; else ``None``.
        coded_fps: Frame rate inside the coded pictures, in frames/s; 0 if they hold none.
        declared_fps: Frame rate that the container promises, in frames/s; 0 if it promises none.
        declared_num_frames: Number of frames that the container promises; 0 if it promises none.
        declared_video_seconds: Duration of the picture that the container promises; ``None`` if it promises none, or a part was read.
        declared_audio_seconds: Duration of the sound, likewise.
        declared_layout: Name of the channel layout, e.g. ``stereo``; empty without sound.
        declared_channels: Number of channels that the container promises; 0 without sound.
        errors: What went wrong while decoding, empty if nothing did.
        stopped: Whether reading stopped before the end of a stream.
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
        """Rows and columns of the picture, its pixels made square without losing any; 0 without picture."""
        rows, columns = (0, 0) if self.frames is None else self.frames.shape[1:3]
        return round(rows / min(self.pixel_aspect, 1.0)), round(columns * max(self.pixel_aspect, 1.0))


def read_recording(
    file: Path, max_seconds: float = math.inf, *, start: float = 0.0, end: float | None = None, language: str = "", kinds: Kinds = BOTH
) -> Recording:
    """Decodes a file with its clocks, or a part of it.

    Args:
        file: What to read, of one of the containers in :data:`~baton_lightning.recordings.container.CONTAINERS`.
        max_seconds: Stops decoding after so much, in s. Without ``start`` and ``end`` the rest is walked through for its time stamps.
        start: Where the wanted part begins, in s from the first picture.
        end: Where it ends; ``None`` = with the recording.
        language: Language of the sound, as the file names it; empty = the default track.
        kinds: What is decoded, of ``video`` and ``audio``.

    Raises:
        MediaError: ``empty`` if the file has no bytes, ``unreadable`` if it cannot be opened or holds neither picture nor sound,
            ``too_large``, ``colour`` or ``turned`` if its pictures are such that they are not read; ``no_audio`` if no track has the
            language. Damage further inside does not raise: it is listed in ``errors``.
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
    """Decoding began after the wanted part did."""


Firsts = tuple[float, float]
"""When the first picture and the first sample of a file appear, in s of its clock; NaN without."""


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
    """Reads from ``start`` to ``stop``, in s from the first picture; decoding begins ``lead`` seconds earlier, ``inf`` = with the file."""
    with open_container(file) as container:
        video, audio = choose_tracks(container, file, language, kinds)
        origin = math.nan if firsts is None else firsts[0] if video is not None else firsts[1]
        window: dict[str, Any] = {"low": origin + start, "high": origin + stop} if firsts is not None else {}
        picture = Picture(video, str(file), whole=whole, **window) if video is not None else None
        sound = Sound(audio, str(file), whole=whole, **window) if audio is not None else None
        tracks: list[Track] = [track for track in (picture, sound) if track is not None]
        if video is not None:
            seconds = min(stop, float((video.duration or 0) * video.time_base)) - start  # where nobody says, memory is watched as it fills
            codec = video.codec_context
            require_room(max(seconds, 0.0) * float(video.average_rate or 0), codec.width, codec.height, str(file))
        if lead < math.inf and video is not None:  # sound alone is decoded from its beginning: what seeks in it guesses
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
    """Goes to a key frame before a time; where that cannot be done, the container stays at its beginning."""
    import av

    try:
        container.seek(math.floor(time / float(stream.time_base)), stream=stream)
    except (av.FFmpegError, OSError) as error:
        raise _TooLate from error


def _demux(container: Any, tracks: list[Track], done: Callable[[], bool]) -> list[str]:
    """Hands each packet to its track, until ``done`` or the end of the file."""
    import av

    by_stream = {track.stream.index: track for track in tracks}
    try:
        for packet in container.demux([track.stream for track in tracks]):
            by_stream[packet.stream.index].take(packet)  # one that empties a decoder has no index of its own
            if done():
                break
    except (av.FFmpegError, OSError) as error:
        return [f"reading broke off ({error})"]
    return []
