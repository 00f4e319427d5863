"""Writing and reading of clips: H.264 and AAC in mp4, with PyAV.

Written files are deterministic: one thread, no creation time. A file is read with exactly its written
length: all frames, and the sound without AAC's padding at both ends.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from baton_lightning import atomic

if TYPE_CHECKING:
    import av

SMALL = 128
"""Below this side, in pixels, colours are stored at full resolution: halved ones cost a 32-pixel clip 14 dB."""

AAC_FRAME = 1024

OPENING = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2"}
"""A file is read as what is written here, or not at all: lists and scripts that name other files are none."""
COLOURS = (6, 1, 1, 1)
"""What files say of their colours (ITU-T H.273): matrix of BT.601, primaries and transfer of BT.709, limited range. Else players guess."""


class MediaError(ValueError):
    """A damaged or unsuitable file.

    Args:
        reason: Short name of the defect: ``unreadable``, ``too_large``, ``no_video``, ``no_audio``, ``corrupt``, ``empty`` or
            ``truncated``.
        detail: What was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True)
class Media:
    """A decoded clip.

    Args:
        frames: uint8 [T, Y, X, 3], RGB; T = 0 without picture.
        fps: Frames per second; 0 without picture.
        waveform: float32 [S] in [-1, 1], mono; S = 0 without sound.
        sample_rate: Samples per second; 0 without sound.
    """

    frames: NDArray[np.uint8]
    fps: float
    waveform: NDArray[np.float32]
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Duration, in s: of the sound, or of the picture if there is no sound. With sound, the picture may end a frame later."""
        return len(self.waveform) / self.sample_rate if self.sample_rate else len(self.frames) / self.fps


def write_mp4(
    file: str | Path,
    frames: NDArray[np.uint8] | None,
    fps: float,
    waveform: NDArray[np.float32] | None,
    sample_rate: int,
    *,
    pix_fmt: str | None = None,
    qp: int = 18,
) -> None:
    """Writes a clip atomically, with its index at the front for streaming.

    Args:
        file: Output file; an existing file is replaced.
        frames: Pictures, uint8 [T, Y, X, 3], even sides; ``None`` = no picture.
        fps: Frames per second.
        waveform: Mono sound [S] in [-1, 1]; larger values are clipped; ``None`` = no sound.
        sample_rate: Samples per second, one that AAC supports (8000 to 96000).
        pix_fmt: Pixel format, ``yuv420p`` or ``yuv444p``; ``None`` halves colours from 128 pixels on. Some players and browsers
            show only ``yuv420p``.
        qp: Constant quantiser of H.264, 0 (lossless) to 51.

    Raises:
        ValueError: If shapes or types differ from these.
    """
    file = Path(file)
    with atomic.aside(file) as part:
        _encode(str(part), frames, fps, waveform, sample_rate, pix_fmt, qp)


def mp4_bytes(
    frames: NDArray[np.uint8] | None,
    fps: float,
    waveform: NDArray[np.float32] | None,
    sample_rate: int,
    *,
    pix_fmt: str | None = None,
    qp: int = 18,
) -> bytes:
    """A clip as the bytes of an mp4, with its index at the end. Arguments as for :func:`write_mp4`."""
    memory = io.BytesIO()
    _encode(memory, frames, fps, waveform, sample_rate, pix_fmt, qp)
    return memory.getvalue()


def _encode(
    target: str | io.BytesIO,
    frames: NDArray[np.uint8] | None,
    fps: float,
    waveform: NDArray[np.float32] | None,
    sample_rate: int,
    pix_fmt: str | None,
    qp: int,
) -> None:
    import av

    if frames is None and waveform is None:
        raise ValueError("a clip must have picture or sound, got neither")
    if frames is not None:
        _require_pictures(frames)
    if waveform is not None and (waveform.ndim != 1 or not len(waveform) or not np.isfinite(waveform).all()):
        raise ValueError(f"waveform must be mono [S], finite, S >= 1, got shape {list(waveform.shape)}; average the channels")
    options = {"fflags": "+bitexact"}
    options |= {} if waveform is None else {"movie_timescale": str(sample_rate)}  # the default, 1 ms, would round the length of the sound
    options |= {"movflags": "+faststart"} if isinstance(target, str) else {}
    with av.open(target, "w", format="mp4", options=options) as container:
        # every stream is declared before the first packet
        video = None if frames is None else _video_stream(container, frames, fps, pix_fmt, qp)
        audio = None if waveform is None else _audio_stream(container, sample_rate)
        if frames is not None and video is not None:
            for i, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = i, 1 / _rate(fps)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if waveform is not None and audio is not None:
            sound = np.clip(waveform, -1, 1).astype(np.float32)[None]
            for start in range(0, sound.shape[1], AAC_FRAME):
                chunk = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start : start + AAC_FRAME]), format="fltp", layout="mono")
                chunk.sample_rate, chunk.pts, chunk.time_base = sample_rate, start, Fraction(1, sample_rate)
                container.mux(audio.encode(chunk))
            container.mux(audio.encode())


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def _require_pictures(frames: NDArray[np.uint8]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames must be uint8 [T, Y, X, 3] with T >= 1, got {frames.dtype} {list(frames.shape)}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs even sides, got {height} x {width}; crop or resize by one pixel")


def _video_stream(
    container: av.container.OutputContainer, frames: NDArray[np.uint8], fps: float, pix_fmt: str | None, qp: int
) -> av.VideoStream:
    height, width = frames.shape[1:3]
    video = container.add_stream("libx264", rate=_rate(fps))
    video.width, video.height = width, height
    video.pix_fmt = pix_fmt or ("yuv444p" if min(height, width) < SMALL else "yuv420p")
    video.options = {"qp": str(qp), "preset": "veryfast"}  # a constant one: rate control is not repeatable under load
    codec = video.codec_context
    codec.thread_count = 1
    codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range = COLOURS
    return video


def _audio_stream(container: av.container.OutputContainer, sample_rate: int) -> av.AudioStream:
    audio = container.add_stream("aac", rate=sample_rate, layout="mono", format="fltp")
    audio.bit_rate = 96_000
    audio.codec_context.thread_count = 1
    return audio


def read_mp4(file: str | Path | bytes, *, has_video: bool = True, has_audio: bool = True, most_bytes: float = math.inf) -> Media:
    """Decodes a clip written by :func:`write_mp4`. Other recordings are read by :mod:`baton_lightning.recordings.clips`.

    Sound is averaged over channels, positioned by its time stamps and cut to the length stated in the file.

    Args:
        file: A path, or the content.
        has_video: Whether the clip has a picture. If not, a picture is not decoded.
        has_audio: Whether the clip has sound. If not, sound is not decoded.
        most_bytes: Largest size of the decoded picture and sound together, in bytes.

    Raises:
        MediaError: If the file is damaged, lacks a required picture or sound, or is larger than ``most_bytes`` when decoded. That is
            compared with the declared size before decoding, and again with every frame.
    """
    import av
    from av.video.reformatter import VideoReformatter

    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    name = f"{len(file)} bytes" if isinstance(file, bytes) else str(file)
    try:
        container = av.open(
            source, mode="r", options=OPENING if isinstance(source, io.BytesIO) else OPENING | {"protocol_whitelist": "file"}
        )
    except (av.FFmpegError, OSError) as error:
        raise MediaError("unreadable", f"{name} cannot be opened ({error})") from error
    with container:
        wanted = [kind for kind, has in (("video", has_video), ("audio", has_audio)) if has]
        for kind in wanted:
            if not getattr(container.streams, kind):
                raise MediaError(f"no_{kind}", f"{name} has no {kind} stream")
        streams = [getattr(container.streams, kind)[0] for kind in wanted]
        for stream in streams:
            stream.codec_context.thread_count = 1
        if has_video:
            _require_room(max(streams[0].frames, 1) * _num_bytes(streams[0]), most_bytes, name)
        num_bytes = 0
        convert = VideoReformatter()  # one for all frames: setting up a conversion costs more than converting
        pictures: list[NDArray[Any]] = []
        chunks: list[tuple[int, NDArray[np.float32]]] = []
        try:
            for frame in _decode(container, streams):
                num_bytes += _num_bytes(frame)
                _require_room(num_bytes, most_bytes, name)
                if isinstance(frame, av.VideoFrame):
                    pictures.append(convert.reformat(frame, format="rgb24").to_ndarray())
                else:
                    after = chunks[-1][0] + len(chunks[-1][1]) if chunks else 0
                    start = (
                        after if frame.pts is None or frame.time_base is None else round(frame.pts * frame.time_base * frame.sample_rate)
                    )
                    chunks.append((start, _mono(frame)))
        except (av.FFmpegError, OSError) as error:
            raise MediaError("corrupt", f"{name} cannot be decoded after {len(pictures)} frames ({error})") from error
        if (has_video and not pictures) or (has_audio and not chunks):
            raise MediaError("empty", f"{name} decodes to {len(pictures)} frames and {len(chunks)} pieces of sound")
        video = container.streams.video[0] if has_video else None
        audio = container.streams.audio[0] if has_audio else None
        if video is not None and len(pictures) < video.frames:
            raise MediaError("truncated", f"{name} declares {video.frames} frames but holds {len(pictures)}")
        frames = np.stack(pictures) if pictures else np.zeros((0, 0, 0, 3), np.uint8)
        fps = 0.0 if video is None else float(video.average_rate or video.guessed_rate or 0)
        if audio is None:
            return Media(frames, fps, np.zeros(0, np.float32), 0)
        length = chunks[-1][0] + len(chunks[-1][1])
        if audio.duration is not None and audio.time_base is not None:
            stated = round(audio.duration * audio.time_base * audio.rate)
            if length < stated - AAC_FRAME:
                raise MediaError("truncated", f"{name} declares {stated} samples of sound but holds {length}")
            length = stated
        return Media(frames, fps, _place(chunks, length), int(audio.rate))


def _num_bytes(decoded: Any) -> int:
    """Size of a frame, of one frame of a stream, or of a piece of sound, as pictures in RGB and mono sound."""
    return decoded.width * decoded.height * 3 if hasattr(decoded, "width") else decoded.samples * 4


def _require_room(num_bytes: int, most_bytes: float, name: str) -> None:
    if num_bytes > most_bytes:
        raise MediaError("too_large", f"{name} holds more picture and sound than the {most_bytes / 1e6:.1f} MB that are decoded")


def _decode(container: av.container.InputContainer, streams: Sequence[av.stream.Stream]) -> Iterator[av.VideoFrame | av.AudioFrame]:
    for packet in container.demux(*streams):
        yield from packet.decode()  # type: ignore[misc]


def _mono(frame: av.AudioFrame) -> NDArray[np.float32]:
    """Mean over channels, for any sample format."""
    import av

    if frame.format.name != "fltp":
        frame = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate).resample(frame)[0]
    return frame.to_ndarray().mean(0).astype(np.float32)


def _place(chunks: list[tuple[int, NDArray[np.float32]]], length: int) -> NDArray[np.float32]:
    """Chunks on a time line of ``length`` samples; gaps are silent, and samples outside are cut."""
    waveform = np.zeros(length, np.float32)
    for start, chunk in chunks:
        first, last = max(start, 0), min(start + len(chunk), length)
        if first < last:
            waveform[first:last] = chunk[first - start : last - start]
    return waveform
