"""A recording as it was found: decoded picture and sound, each with its own clock, and what the container promised about them.

Nothing is mended here. Time stamps are kept as they are, damage is listed, and :mod:`baton_lightning.shards.contract` judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from baton_lightning.media import MediaError

if TYPE_CHECKING:
    import av

STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
"""Decoders report what they would otherwise conceal."""
ESTIMATES = ("mp3", "aac", "ac3", "mpeg", "mpegts")
"""Formats that state no duration: what is given for it is guessed from the size."""
HOLE = bytes(8)
"""Zero bytes that H.264 and HEVC cannot hold, since they escape every third one. Many decoders read over them."""


@dataclass(frozen=True)
class Recording:
    """Picture and sound of a file, first stream of each kind.

    Args:
        frames: Pictures as shown (turned upright), uint8 [T, Y, X, 3], RGB; ``None`` without a video stream, T = 0 if it holds none.
        frame_times: Presentation time of each frame [T], in s; NaN where the file gives none.
        waveform: Sound as recorded, float32 [S, C], full scale 1; ``None`` without an audio stream, S = 0 if it holds none.
        sample_rate: Samples per second; 0 without sound.
        audio_start: Presentation time of the first sample, in s, after what the encoder put in front was taken off.
        num_bytes: Size of the file.
        video_end: When the last frame of the file ends, by its time stamps, in s; also if reading stopped earlier.
        audio_end: When the last sample of the file ends, by its time stamps, in s; also if reading stopped earlier.
        audio_skew: Furthest that a piece of sound lies from where the samples before it put it, in s: 0 if samples and clock agree.
        coded_fps: Frame rate inside the coded pictures, in frames/s; 0 if they hold none.
        declared_fps: Frame rate that the container promises, in frames/s; 0 if it promises none.
        declared_num_frames: Number of frames that the container promises; 0 if it promises none.
        declared_video_seconds: Duration of the picture that the container promises, in s; ``None`` if it promises none.
        declared_audio_seconds: Duration of the sound, likewise.
        declared_layout: Name of the channel layout, e.g. ``stereo``; empty without sound.
        declared_channels: Number of channels that the container promises; 0 without sound.
        errors: What went wrong while decoding, empty if nothing did.
        stopped: Whether reading stopped at ``max_seconds`` before the end of a stream.
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
    coded_fps: float = 0.0
    declared_fps: float = 0.0
    declared_num_frames: int = 0
    declared_video_seconds: float | None = None
    declared_audio_seconds: float | None = None
    declared_layout: str = ""
    declared_channels: int = 0
    errors: tuple[str, ...] = ()
    stopped: bool = False


def read_recording(file: Path, max_seconds: float = math.inf) -> Recording:
    """Decodes a file with its clocks. Anything that PyAV opens: mp4, mov, mkv, webm; wav, flac, m4a, mp3 and ogg give sound alone.

    Args:
        file: What to read.
        max_seconds: Stops decoding each stream after so much of it, in s; the rest is walked through for its time stamps only.

    Raises:
        MediaError: ``empty`` if the file has no bytes, ``unreadable`` if it cannot be opened or holds neither picture nor sound.
            Damage further inside does not raise: it is listed in ``errors``.
    """
    import av

    if not file.is_file():
        raise MediaError("unreadable", f"{file} is no file")
    num_bytes = file.stat().st_size
    if not num_bytes:
        raise MediaError("empty", f"{file} has no bytes")
    try:
        container = av.open(str(file))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError("unreadable", f"{file} cannot be opened ({error})") from error
    with container:
        covers = av.stream.Disposition.attached_pic
        videos = [stream for stream in container.streams.video if not stream.disposition & covers]
        video = _Picture(videos[0], max_seconds) if videos else None
        audio = _Sound(container.streams.audio[0], max_seconds) if container.streams.audio else None
        tracks: dict[int, _Track] = {track.stream.index: track for track in (video, audio) if track is not None}
        if not tracks:
            raise MediaError("unreadable", f"{file} holds neither picture nor sound")
        errors: list[str] = []
        try:
            for packet in container.demux([track.stream for track in tracks.values()]):
                tracks[packet.stream_index].take(packet)
        except (av.FFmpegError, OSError) as error:
            errors.append(f"reading broke off ({error})")
        known: dict[str, Any] = {"num_bytes": num_bytes, "stopped": any(track.stopped for track in tracks.values())}
        known |= video.known() if video else {"frames": None, "frame_times": np.zeros(0)}
        known |= audio.known() if audio else {"waveform": None, "sample_rate": 0, "audio_start": math.nan}
        errors += [error for track in tracks.values() for error in track.errors]
    return Recording(**known, errors=tuple(errors))


@dataclass
class _Track:
    """What one stream has given so far."""

    stream: Any
    max_seconds: float
    errors: list[str] = field(default_factory=list)
    stopped: bool = False
    first: float = math.nan
    end: float = math.nan
    num_packets: int = 0
    num_hidden: int = 0

    def __post_init__(self) -> None:
        self.stream.codec_context.thread_count = 1
        self.stream.codec_context.options = STRICT
        codec = self.stream.codec_context
        self.escapes = codec.name in ("h264", "hevc") and bytes(codec.extradata or b"")[:1] == b"\1"  # lengths before units, no padding
        self.layout = self.stream.codec_context.layout if self.stream.type == "audio" else None  # as promised, before decoding

    def take(self, packet: av.Packet) -> None:
        """Decodes a packet, or only notes its time once enough was decoded."""
        import av

        kind, base = self.stream.type, self.stream.time_base
        if packet.size:
            self.num_packets += 1
            self.num_hidden += packet.is_discard
            if packet.is_corrupt:
                self.errors.append(f"{kind} packet {self.num_packets} is marked as damaged")
            if self.escapes and HOLE in bytes(packet):
                self.errors.append(f"{kind} packet {self.num_packets} has a hole")
            if packet.pts is not None and not packet.is_discard:
                end = float((packet.pts + (packet.duration or 0)) * base)
                self.end = end if math.isnan(self.end) else max(self.end, end)
        if self.stopped:
            return
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError, ValueError) as error:
            self.errors.append(f"{kind} packet {self.num_packets} cannot be decoded ({error})")
            return
        for frame in frames:
            time = math.nan if frame.pts is None else float(frame.pts * frame.time_base)
            self.first = time if math.isnan(self.first) else self.first
            if time >= self.first + self.max_seconds - 1e-9:
                self.stopped = True
                return
            if frame.is_corrupt:
                self.errors.append(f"{kind} at {time:.3f} s was decoded with errors")
            self.keep(frame, time, packet)

    def keep(self, frame: Any, time: float, packet: av.Packet) -> None:
        raise NotImplementedError

    def declared_seconds(self) -> float | None:
        if self.stream.duration is None or self.stream.container.format.name in ESTIMATES:
            return None
        return float(self.stream.duration * self.stream.time_base)


class _Picture(_Track):
    def __post_init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        super().__post_init__()
        self.convert: Callable[..., Any] = VideoReformatter().reformat
        self.frames: list[NDArray[np.uint8]] = []
        self.times: list[float] = []

    def keep(self, frame: av.VideoFrame, time: float, packet: av.Packet) -> None:
        quarter_turns = round(frame.rotation / 90)
        picture = np.rot90(self.convert(frame, format="rgb24").to_ndarray(), quarter_turns)
        if self.frames and picture.shape != self.frames[0].shape:
            self.errors.append(f"the picture changes its size at {time:.3f} s")
            return
        self.frames.append(picture)
        self.times.append(time)

    def known(self) -> dict[str, Any]:
        """Fields of a recording."""
        found, promised = len(self.frames) + self.num_hidden, int(self.stream.frames)
        if not self.stopped and found < max(self.num_packets, promised):
            self.errors.append(f"{max(self.num_packets, promised)} frames are promised and {found} could be decoded")
        times = np.array(self.times, np.float64)
        if len(times) > 1 and not self.stopped:  # the duration of the last frame is often not written
            self.end = float(times[-1] + np.median(np.diff(times)))
        return {
            "frames": np.stack(self.frames) if self.frames else np.zeros((0, 0, 0, 3), np.uint8),
            "frame_times": times,
            "video_end": self.end,
            "coded_fps": float(self.stream.codec_context.framerate or 0),
            "declared_fps": float(self.stream.average_rate or 0),
            "declared_num_frames": promised,
            "declared_video_seconds": self.declared_seconds(),
        }


class _Sound(_Track):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.chunks: list[NDArray[np.float32]] = []
        self.rate, self.num_samples, self.skew, self.heard = 0, 0, 0.0, math.nan

    def keep(self, frame: av.AudioFrame, time: float, packet: av.Packet) -> None:
        import av

        if frame.format.name != "fltp":
            frame = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate).resample(frame)[0]
        chunk = frame.to_ndarray().T.astype(np.float32)
        if self.chunks and (frame.sample_rate, chunk.shape[1]) != (self.rate, self.chunks[0].shape[1]):
            self.errors.append(f"the sound changes its sample rate or channels at {time:.3f} s")
            return
        self.rate = int(frame.sample_rate)
        if math.isnan(time):
            self.errors.append(f"a piece of sound after {self.num_samples} samples has no time")
        else:
            self.skew = max(self.skew, abs(time - self.first - self.num_samples / self.rate))
            self.heard = time + len(chunk) / self.rate
        self.chunks.append(chunk)
        self.num_samples += len(chunk)

    def known(self) -> dict[str, Any]:
        """Fields of a recording."""
        waveform = np.concatenate(self.chunks) if self.chunks else np.zeros((0, self.layout.nb_channels), np.float32)
        if self.chunks and not self.stopped:  # what the decoder takes off at the end is in the packets
            self.end = min(self.end, self.heard)
        if self.chunks and not self.stopped and not math.isnan(self.end):
            surplus = len(waveform) - round((self.end - self.first) * self.rate)
            if 0 < surplus < len(self.chunks[-1]):  # what fills the last block of the encoder
                waveform = waveform[:-surplus]
        return {
            "waveform": waveform,
            "sample_rate": self.rate or int(self.stream.rate or 0),
            "audio_start": self.first,
            "audio_end": self.end,
            "audio_skew": self.skew,
            "declared_audio_seconds": self.declared_seconds(),
            "declared_layout": self.layout.name,
            "declared_channels": self.layout.nb_channels,
        }
