"""Opens an untrusted media file, and chooses the tracks to decode.

A file is opened only as one of the known containers, independent of its name. Play lists, scripts and network descriptions refer to other
files and are therefore not supported. Only the file itself is read. Its declared sizes are compared to limits before decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning.media import MediaError

if TYPE_CHECKING:
    import av

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf", "gif", "dv",
    "wav", "w64", "caf", "aiff", "flac", "mp3", "aac", "ac3", "eac3",
)  # fmt: skip
"""Supported containers. All of them contain their video and audio themselves."""
OPENING = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
Kinds = tuple[str, ...]
BOTH: Kinds = ("video", "audio")
MAX_PIXELS = 36_000_000
"""Largest number of pixels in a frame; 8K, 8192 x 4320, is below it."""
MAX_BYTES = 32_000_000_000
"""Largest size in bytes of a recording's decoded frames in memory: 170 s of 1080p at 30 frames/s, 43 s of 4K."""
MAX_SAMPLE_RATE, MAX_CHANNELS = 384_000, 64
WIDEST_PIXEL = 4
"""Largest aspect ratio of a pixel, as width over height or height over width."""


def open_container(file: Path) -> av.container.InputContainer:
    """Opens a media file.

    Raises:
        MediaError: ``empty`` if the file has no bytes, ``unreadable`` if it is not a file in one of the known containers.
    """
    import av

    if not file.is_file():
        raise MediaError("unreadable", f"{file} is not a file")
    if not file.stat().st_size:
        raise MediaError("empty", f"{file} has no bytes")
    try:
        return av.open(str(file), options=dict(OPENING), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError("unreadable", f"{file} cannot be opened as a known kind of media file ({error})") from error


def choose_tracks(
    container: av.container.InputContainer, file: Path, language: str = "", kinds: Kinds = BOTH
) -> tuple[Any | None, Any | None]:
    """The video and audio tracks that a player uses: of each kind the track flagged as default, otherwise the first.

    Cover images, thumbnails and still images do not count as video. Among tracks of equal rank, commentary and tracks for blind or deaf
    people come last.

    Args:
        container: The opened container.
        file: Path for error messages.
        language: Language of the audio track as declared in the file, e.g. ``eng``; empty = the default track.
        kinds: Kinds of tracks to choose, of ``video`` and ``audio``.

    Raises:
        MediaError: ``unreadable`` if there is neither video nor audio, or no decoder; ``no_video`` or ``no_audio`` if the only requested
            kind is missing; ``no_audio`` if no track has the language; ``too_large`` if a limit is exceeded.
    """
    from av.stream import Disposition

    stills = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    videos = [stream for stream in container.streams.video if "video" in kinds and not stream.disposition & stills]
    sounds: Sequence[Any] = container.streams.audio if "audio" in kinds else ()
    if language and sounds:
        named = [stream for stream in sounds if _same_language(stream.language, language)]
        if not named:
            has = ", ".join(stream.language or "unnamed" for stream in sounds)
            raise MediaError("no_audio", f"{file} has no sound in the language {language!r}; its tracks are {has}")
        sounds = named
    video, audio = (_preferred([stream for stream in streams if stream.codec_context is not None]) for streams in (videos, sounds))
    if (videos and video is None) or (sounds and audio is None):
        raise MediaError("unreadable", f"{file} has a track without a known decoder")
    if video is None and audio is None:
        if kinds == BOTH:
            raise MediaError("unreadable", f"{file} holds neither picture nor sound")
        raise MediaError(f"no_{kinds[0]}", f"{file} has no {kinds[0]} stream")
    if video is not None:
        require_size(video.codec_context.width, video.codec_context.height, str(file))
    if audio is not None:
        rate, channels = int(audio.rate or 0), audio.codec_context.layout.nb_channels
        if rate > MAX_SAMPLE_RATE or channels > MAX_CHANNELS:
            raise MediaError("too_large", f"{file} declares {channels} channels at {rate} Hz, at most {MAX_CHANNELS} at {MAX_SAMPLE_RATE}")
    return video, audio


def require_size(width: int, height: int, name: str) -> None:
    """Checks the size of frames in pixels.

    Raises:
        MediaError: ``too_large`` if a frame has more than :data:`MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        raise MediaError(
            "too_large", f"{name} declares pictures of {width} x {height}, at most {MAX_PIXELS / 1e6:g} million pixels are read"
        )


def require_room(num_frames: float, width: int, height: int, name: str) -> None:
    """Checks the memory that decoded frames would occupy.

    Raises:
        MediaError: ``too_large`` if it exceeds :data:`MAX_BYTES`.
    """
    if num_frames * width * height * 3 > MAX_BYTES:
        size = f"{num_frames:.0f} pictures of {width} x {height}"
        raise MediaError("too_large", f"{name} would need more than {MAX_BYTES / 1e9:g} GB of memory at a time ({size}); read less of it")


def _preferred(streams: Sequence[Any]) -> Any | None:
    from av.stream import Disposition

    special = Disposition.comment | Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.descriptions

    def rank(stream: Any) -> tuple[bool, bool]:
        return not stream.disposition & Disposition.default, bool(stream.disposition & special)

    return min(streams, key=rank, default=None)  # the first of equal rank


def _same_language(found: str | None, wanted: str) -> bool:
    return bool(found) and str(found).lower().partition("-")[0] == wanted.lower()
