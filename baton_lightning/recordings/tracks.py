"""Decodes one stream of a file to frames or samples with their times, and collects errors.

A track is decoded in a window of time. Data before the window are decoded if decoders need them, and then dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from baton_lightning.recordings.container import MAX_PIXELS, require_room
from baton_lightning.recordings.screen import Screen, display_matrix, is_turned

if TYPE_CHECKING:
    import av

STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
"""Options with which decoders report errors that they would otherwise conceal."""
ESTIMATES = ("mp3", "aac", "ac3", "mpeg", "mpegts")
"""Formats without a declared duration. ffmpeg estimates it from the size of the file."""
HOLE = bytes(8)
"""Zero bytes that cannot occur in H.264 and HEVC, which escape every third zero byte. Many decoders ignore such damage."""
MAX_FPS = 1000
"""Largest plausible number of frames per second."""
NEIGHBOURS = 0.2
"""Time in s before a window from which frames are passed to the deinterlacer."""
TINY = 1e-6


@dataclass
class Track:
    """State of decoding one stream.

    Args:
        stream: The stream to decode.
        name: Name of the file in error messages.
        low: Start of the window, in s of the stream's clock; ``-inf`` = start of the stream.
        high: End of the window, in s of the stream's clock; ``inf`` = end of the stream.
        whole: Whether the file is read to its end in any case, to check its declared values.
        sought: Whether decoding begins inside the stream, after seeking.
    """

    stream: Any
    name: str
    low: float = -math.inf
    high: float = math.inf
    whole: bool = True
    sought: bool = False
    errors: list[str] = field(default_factory=list)
    stopped: bool = False
    first: float = math.nan
    """Time of the first frame or block of samples that is kept."""
    reached: float = math.nan
    """Time of the first frame or block of samples that was decoded."""
    end: float = math.nan
    num_packets: int = 0
    num_hidden: int = 0
    emptied: bool = False
    """Whether the decoder is being flushed after the last packet."""

    def __post_init__(self) -> None:
        codec = self.stream.codec_context
        codec.thread_count = 1
        codec.options = STRICT | ({"max_pixels": str(MAX_PIXELS)} if self.stream.type == "video" else {})
        self.escapes = codec.name in ("h264", "hevc") and bytes(codec.extradata or b"")[:1] == b"\1"  # prefixed by lengths, no padding
        self.layout: Any = codec.layout if self.stream.type == "audio" else None  # as declared, before decoding changes it

    def take(self, packet: av.Packet) -> None:
        """Decodes a packet. After decoding has stopped, only its time is recorded."""
        import av

        kind, base = self.stream.type, self.stream.time_base
        stamp = packet.pts if packet.pts is not None else packet.dts
        wanted = stamp is None or self.low - TINY <= stamp * base < self.high
        if packet.size:
            self.num_packets += 1
            self.num_hidden += packet.is_discard
            if packet.is_corrupt and wanted:
                self.errors.append(f"{kind} packet {self.num_packets} is marked as damaged")
            if self.escapes and wanted and HOLE in bytes(packet):
                self.errors.append(f"{kind} packet {self.num_packets} has a gap")
            if packet.pts is not None and not packet.is_discard:
                end = float((packet.pts + (packet.duration or 0)) * base)
                self.end = end if math.isnan(self.end) else max(self.end, end)
        if self.stopped:
            return
        self.emptied = not packet.size
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError, ValueError) as error:
            if wanted:
                self.errors.append(f"{kind} packet {self.num_packets} cannot be decoded ({error})")
            return
        for frame in frames:
            self.decoded(frame)
        if not packet.size:
            self.finish()

    def decoded(self, frame: Any) -> None:
        """Handles a decoded frame or block of samples."""
        time = time_of(frame)
        self.reached = time if math.isnan(self.reached) else self.reached
        if frame.is_corrupt and not time < self.low:
            self.errors.append(f"{self.stream.type} at {time:.3f} s was decoded with errors")
        self.keep(frame, time)

    def keep(self, frame: Any, time: float) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Called at the end of the stream."""

    def declared_seconds(self) -> float | None:
        if not self.whole or self.stream.duration is None or self.stream.container.format.name in ESTIMATES:
            return None
        seconds = float(self.stream.duration * self.stream.time_base)
        return seconds - max(self.first, 0.0) if self.stream.container.format.name == "asf" else seconds  # ASF declares the end time


def time_of(frame: Any) -> float:
    """Presentation time in s; NaN if there is none."""
    return math.nan if frame.pts is None else float(frame.pts * frame.time_base)


class Picture(Track):
    """Decodes the frames of a video stream."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.screen = Screen(self.stream, self.name)
        self.frames: NDArray[np.uint8] = np.zeros((0, 0, 0, 3), np.uint8)
        self.times: list[float] = []
        self.before: Any = None
        """The last frame before the window. It is displayed when the window begins."""
        self.turned = False

    def decoded(self, frame: Any) -> None:
        if math.isnan(self.reached) and self.sought and not frame.key_frame:
            return  # decoders give invalid frames before the first key frame
        super().decoded(frame)

    def keep(self, frame: av.VideoFrame, time: float) -> None:
        if time < self.low - NEIGHBOURS:
            self.before = frame
            return
        for shown in self.screen.push(frame):
            self.place(shown, time_of(shown))

    def finish(self) -> None:
        for shown in self.screen.flush():
            self.place(shown, time_of(shown))

    def place(self, frame: av.VideoFrame, time: float) -> None:
        """Keeps a frame of the window, and the last one before it."""
        if self.stopped:
            return
        if time < self.low - TINY:
            self.before = frame
            return
        if not self.times and self.before is not None and time > self.low + TINY:
            self.add(self.before, time_of(self.before))
        self.first = time if math.isnan(self.first) else self.first
        if time >= self.high - TINY:
            self.stopped = True
            return
        self.add(frame, time)

    def add(self, frame: av.VideoFrame, time: float) -> None:
        picture = self.screen.picture(frame)
        count = len(self.times)
        if not count:
            self.turned = is_turned(display_matrix(frame))
            self.frames = np.empty((16, *picture.shape), np.uint8)
        elif picture.shape != self.frames.shape[1:]:
            self.errors.append(f"the picture changes its size at {time:.3f} s")
            return
        if count and count > MAX_FPS * (2 + abs(time - self.times[0])):
            self.errors.append(f"there are more than {MAX_FPS} pictures a second")
            self.stopped = True
            return
        if count == len(self.frames):
            require_room(count * 1.5, picture.shape[1], picture.shape[0], self.name)
            self.frames.resize((count * 3 // 2, *picture.shape), refcheck=False)  # in place: frames are never in memory twice
        self.frames[count] = picture
        self.times.append(time)

    def known(self) -> dict[str, Any]:
        """Fields of a recording, with times in s of the stream's clock."""
        count = len(self.times)
        found, promised = count + self.num_hidden, int(self.stream.frames)
        times = np.array(self.times, np.float64)
        if self.stream.container.format.name == "avi" and np.isfinite(times).all() and count:  # AVI counts empty frames as well
            promised -= max(round((times[-1] - times[0]) * float(self.stream.average_rate or 0)) + 1 - count, 0)
        if self.whole and not self.stopped and found < max(self.num_packets, promised):
            self.errors.append(f"{max(self.num_packets, promised)} frames are declared, but {found} could be decoded")
        if len(times) > 1 and not (self.whole and self.stopped):  # the duration of the last frame is often missing
            self.end = min(float(times[-1] + np.median(np.diff(times))), self.high)
        self.frames.resize((count, *self.frames.shape[1:]), refcheck=False)
        return {
            "frames": self.frames,
            "frame_times": times,
            "video_end": self.end,
            "pixel_aspect": 1 / self.screen.aspect if self.turned else self.screen.aspect,
            "interlaced": self.screen.interlaced,
            "tone_mapped": self.screen.converted,
            "coded_fps": float(self.stream.codec_context.framerate or 0),
            "declared_fps": float(self.stream.average_rate or 0),
            "declared_num_frames": promised,
            "declared_video_seconds": self.declared_seconds(),
        }


class Sound(Track):
    """Decodes the samples of an audio stream."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.chunks: list[NDArray[np.float32]] = []
        self.rate, self.num_samples, self.skew, self.heard = 0, 0, 0.0, math.nan

    def keep(self, frame: av.AudioFrame, time: float) -> None:
        import av

        if math.isnan(time) and self.emptied:
            time = self.heard  # some decoders, e.g. of WMA, give no time to samples that they flush
        if time >= self.high - TINY:
            self.stopped = True
            return
        if time + frame.samples / frame.sample_rate <= self.low:
            return
        skipped = max(round((self.low - time) * frame.sample_rate), 0) if time < self.low else 0
        if frame.format.name != "fltp":
            frame = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate).resample(frame)[0]
        chunk = frame.to_ndarray().T.astype(np.float32)[skipped:]
        time += skipped / frame.sample_rate
        if self.chunks and (frame.sample_rate, chunk.shape[1]) != (self.rate, self.chunks[0].shape[1]):
            self.errors.append(f"the sound changes its sample rate or channels at {time:.3f} s")
            return
        self.rate = int(frame.sample_rate)
        self.first = time if math.isnan(self.first) else self.first
        if math.isnan(time):
            self.errors.append(f"a piece of sound after {self.num_samples} samples has no time")
        else:
            self.skew = max(self.skew, abs(time - self.first - self.num_samples / self.rate))
            self.heard = time + len(chunk) / self.rate
        self.chunks.append(chunk)
        self.num_samples += len(chunk)
        if self.num_samples > self.rate * (60 + 2 * abs(self.heard - self.first)):
            self.errors.append("the sound holds many more samples than its times leave room for")
            self.stopped = True

    def known(self) -> dict[str, Any]:
        """Fields of a recording, with times in s of the stream's clock."""
        waveform = np.concatenate(self.chunks) if self.chunks else np.zeros((0, self.layout.nb_channels), np.float32)
        if not self.whole:
            self.end = min(self.heard, self.high)
        elif self.chunks and not self.stopped:  # packets include samples that the decoder drops at the end
            self.end = min(self.end, self.heard)
        if self.chunks and not self.stopped and not math.isnan(self.end):
            surplus = len(waveform) - round((self.end - self.first) * self.rate)
            if 0 < surplus < len(self.chunks[-1]):  # padding of the encoder's last block
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
