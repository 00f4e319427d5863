"""Recordings that are drawn at random: a seed decides the container, codecs, clocks, shape, colours and tracks of a short, tiny film."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

SECONDS = 1.9
TICKS = Fraction(1, 48000)
"""Clock of uneven frames; one that every codec takes."""
PICTURE = {
    "mp4": ("libx264", "libx265", "mpeg4", "libvpx-vp9"), "mov": ("libx264", "libx265", "mjpeg", "prores_ks"),
    "mkv": ("libx264", "ffv1", "libvpx-vp9", "mjpeg", "libvpx"), "webm": ("libvpx-vp9", "libvpx"),
    "ts": ("libx264", "mpeg2video", "libx265"), "avi": ("mpeg4", "mjpeg"), "mpg": ("mpeg2video",), "flv": ("libx264", "flv"),
    "wmv": ("wmv2", "msmpeg4v3"),
}  # fmt: skip
SOUND = {
    "mp4": ("aac", "ac3", "alac", "libmp3lame"), "mov": ("pcm_s16le", "aac", "alac"),
    "mkv": ("flac", "aac", "libopus", "pcm_s16le", "libmp3lame"), "webm": ("libopus",), "ts": ("mp2", "aac", "ac3"),
    "avi": ("libmp3lame", "pcm_s16le", "ac3"), "mpg": ("mp2",), "flv": ("aac",), "wmv": ("wmav2",),
}  # fmt: skip
FORMATS = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}
OPTIONS = {
    "libx264": {"preset": "ultrafast", "g": "12"}, "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"}, "libvpx": {"cpu-used": "8", "deadline": "realtime"},
}  # fmt: skip
SHAPED = ("libx264", "libx265", "mpeg4")
"""Codecs that say the shape of their pixels themselves; what only a container says is not written by these tests."""
COLOURED = ("libx264", "libx265", "libvpx-vp9", "ffv1")
"""Codecs that, with their container, say matrix and range."""
ODD = ("ffv1", "mjpeg", "libvpx-vp9", "libx264")
"""Codecs for pictures of odd sides."""
RATES = tuple(Fraction(*rate) for rate in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1)))
SLOW = (Fraction(8), Fraction(12), Fraction(15))
SAMPLE_RATES = {
    "libopus": (48000,), "ac3": (32000, 44100, 48000), "mp2": (22050, 32000, 44100, 48000), "libmp3lame": (16000, 22050, 44100, 48000),
    "wmav2": (22050, 44100, 48000),
}  # fmt: skip
LAYOUTS = dict.fromkeys(("flv", "mp2", "libmp3lame", "wmav2", "alac"), ("mono", "stereo"))
"""Of containers and codecs that are not written with more channels here."""
SEVERAL = ("mkv", "mp4", "mov", "ts")
"""Containers of several tracks."""
FLAGS = ("mkv", "mp4", "mov")
"""Containers that say which track is the default."""
PQ, HLG = 16, 18
HDR_OF = {PQ: "PQ", HLG: "HLG"}


@dataclass(frozen=True)
class Made:
    """What a recording is made of; all of it follows from the seed."""

    seed: int
    kind: str
    codec: str
    pix_fmt: str
    sound: str
    fps: Fraction
    height: int
    width: int
    aspect: Fraction
    rotation: int
    mirrored: bool
    matrix: int
    full_range: bool
    transfer: int
    shift: float
    late: float
    short: float
    num_tracks: int
    flagged: int
    cover: bool
    interlaced: bool
    uneven: str
    sample_rate: int
    layout: str
    # what is built of it
    start: float
    end: bool
    trust_times: bool
    clip_fps: int
    clip_size: tuple[int, int]
    clip_rate: int

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())

    @property
    def channels(self) -> int:
        return {"mono": 1, "stereo": 2, "5.1": 6}[self.layout]

    @property
    def frame_times(self) -> NDArray[np.float64]:
        """When each frame is shown, in s from the first."""
        times = np.arange(round(SECONDS * self.fps)) / float(self.fps)
        if self.uneven == "dropped":  # every third frame of the first half is left out, as telephones do in the dark
            half = len(times) // 2
            times = np.array([time for i, time in enumerate(times) if i >= half or i % 3 != 1])
        elif self.uneven == "jitter":
            times = times + np.random.default_rng(self.seed).uniform(0, 0.4, len(times)) / float(self.fps)
        return times - times[0]


def draw(seed: int) -> Made:
    """The recording of a seed."""
    rng = np.random.default_rng(seed)
    some = lambda share: bool(rng.random() < share)  # noqa: E731
    one = lambda values: values[rng.integers(len(values))]  # noqa: E731
    kind = list(PICTURE)[seed % len(PICTURE)]
    codec, sound = one(PICTURE[kind]), one(SOUND[kind])
    transfer = 0
    if seed % 25 == 11:  # a table of colours takes seconds, so that all of a kind come one after the other
        transfer, kind, codec = (PQ, HLG)[seed // 100 % 2], "mkv", "ffv1"
        sound = one(SOUND[kind])
    height, width = one(((64, 64), (64, 96), (96, 64), (80, 112), (72, 128)))
    if codec in ODD and some(0.25) and not transfer:
        height, width = one(((65, 91), (77, 67), (64, 97)))
    odd = bool(height % 2 or width % 2)
    pix_fmt = FORMATS.get(codec, "yuv444p" if odd and codec == "libx264" else "yuv420p")
    coloured = codec in COLOURED and some(0.7) and not transfer
    slow = SLOW if codec != "mpeg2video" else ()
    interlaced = codec in ("libx264", "mpeg2video") and not odd and some(0.3)
    movable = kind in ("mp4", "mov", "mkv", "webm") and not interlaced
    several = kind in SEVERAL and some(0.5)
    return Made(
        seed=seed,
        kind=kind,
        codec=codec,
        pix_fmt="yuv444p10le" if transfer else pix_fmt,
        sound=sound,
        fps=one(RATES if some(0.85) or not slow else slow),
        height=height,
        width=width,
        aspect=one((Fraction(4, 3), Fraction(8, 9), Fraction(2), Fraction(16, 15))) if codec in SHAPED and some(0.4) else Fraction(1),
        rotation=one((90, 180, -90)) if kind in ("mp4", "mov") and not transfer and some(0.4) else 0,
        mirrored=kind in ("mp4", "mov") and not transfer and some(0.15),
        matrix=one((1, 6)) if coloured else 9 if transfer else 2,
        full_range=bool(coloured and codec != "libvpx-vp9" and some(0.4)) or codec == "mjpeg",
        transfer=transfer,
        shift=one((0.7, 1.4, 7.0)) if kind in ("mkv", "ts") and some(0.5) else 0.0,
        late=one((0.02, 0.3)) if kind in ("mp4", "mov", "mkv", "ts") and some(0.15) else 0.0,
        short=0.6 if some(0.05) else 0.0,
        num_tracks=int(rng.integers(2, 4)) if several else 1,
        flagged=int(rng.integers(2)) if several and kind in FLAGS else 0,
        cover=kind in ("mp4", "mov") and some(0.15),
        interlaced=interlaced,
        uneven=one(("dropped", "jitter")) if movable and some(0.15) else "",
        sample_rate=one(SAMPLE_RATES.get(sound, (16000, 32000, 44100, 48000)) if kind != "flv" else (44100, 22050)),
        layout=one(LAYOUTS.get(kind, LAYOUTS.get(sound, ("mono", "stereo", "stereo", "5.1") if some(0.3) else ("mono", "stereo")))),
        start=one((0.0, 0.0, 0.3, 0.55)),
        end=some(0.5),
        trust_times=some(0.5),
        clip_fps=one((12, 24, 25)),
        clip_size=one(((64, 64), (48, 64), (64, 48), (96, 96))),
        clip_rate=one((16000, 44100)),
    )  # fmt: skip


def scene(times: NDArray[np.float64], height: int, width: int, seed: int) -> NDArray[np.float64]:
    """A smooth pattern without symmetry that drifts and flickers, [T, Y, X, 3] from 0 to 1: two kinds of resizing agree on it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(float)
    pictures = np.full((len(times), height, width, 3), 0.45)
    for channel in range(3):
        for _ in range(3):
            across, down, phase, speed = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0, 6), rng.uniform(4, 9)
            wave = 2 * np.pi / 56 * (across * x + down * y) + phase
            pictures[..., channel] += 0.1 * np.sin(wave[None] + speed * times[:, None, None])
    pictures += 0.08 * np.sin(37 * times)[:, None, None, None] + 0.12 * (x / width)[None, :, :, None] - 0.06
    return pictures.clip(0, 1)


def make(file: Path, made: Made) -> Path:
    """Writes a recording. Its further tracks have voices of their own."""
    times = made.frame_times
    pictures = scene(times, made.height, made.width, made.seed)
    options = {"movie_timescale": "48000"} if made.kind in ("mp4", "mov") else {}
    with av.open(str(file), "w", options=options) as container:
        video = _video(container, made)
        tracks = [container.add_stream(made.sound, rate=made.sample_rate, layout=made.layout) for _ in range(made.num_tracks)]
        for i, track in enumerate(tracks):
            track.codec_context.thread_count = 1
            if made.sound in ("aac", "wmav2"):
                track.bit_rate = 96_000 * made.channels
            if made.kind in FLAGS:
                track.disposition = Disposition.default if i == made.flagged else Disposition(0)
        packets = _cover(container, made.seed) if made.cover else []
        base = TICKS if made.uneven else 1 / made.fps
        for i, (time, picture) in enumerate(zip(times, pictures, strict=True)):
            frame = _coded(picture, made)
            frame.pts, frame.time_base = (round(time / base) if made.uneven else i), base
            packets += video.encode(frame)
        packets += video.encode()
        for i, track in enumerate(tracks):
            packets += _spoken(track, made, i)
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            later = made.shift + (made.late if packet.stream.type == "audio" else 0.0)
            ticks = round(later / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            container.mux(packet)
    return file


def _video(container: Any, made: Made) -> Any:
    video = container.add_stream(made.codec, rate=made.fps)
    video.height, video.width, video.pix_fmt = made.height, made.width, made.pix_fmt
    options = dict(OPTIONS.get(made.codec, {}))
    if made.interlaced:
        options |= {"x264-params": "interlaced=1:tff=1"} if made.codec == "libx264" else {"flags": "+ilme+ildct"}
    video.options = options
    context = video.codec_context
    context.thread_count = 1
    if made.uneven:
        context.time_base = TICKS
    video.bit_rate = 1_500_000
    if made.aspect != 1:
        context.sample_aspect_ratio = made.aspect
    if made.matrix != 2:
        context.colorspace, context.color_range = made.matrix, 2 if made.full_range else 1
        context.color_primaries, context.color_trc = (9, made.transfer) if made.transfer else (1, 1)
    if made.rotation or made.mirrored:
        video.set_display_rotation(made.rotation, hflip=made.mirrored)
    return video


def _coded(picture: NDArray[np.float64], made: Made) -> av.VideoFrame:
    if made.transfer:
        return _high_dynamic_range(picture, made.transfer)
    frame = av.VideoFrame.from_ndarray(np.round(picture * 255).astype(np.uint8), format="rgb24").reformat(format=made.pix_fmt)
    if made.matrix != 2:
        frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = made.matrix, 2 if made.full_range else 1, 1, 1
    return frame


def _high_dynamic_range(picture: NDArray[np.float64], transfer: int) -> av.VideoFrame:
    """A picture of an ordinary screen in PQ or HLG, of BT.2020 primaries, white at 203 cd/m2."""
    wide = picture**2.4 @ np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]).T
    if transfer == PQ:
        m = (wide * 203 / 10000) ** 0.1593017578125
        coded = ((0.8359375 + 18.8515625 * m) / (1 + 18.6875 * m)) ** 78.84375
    else:  # inverse system gamma of 1000 cd/m2, then the curve
        light = wide * 203 / 1000
        light = light * ((light @ np.array([0.2627, 0.6780, 0.0593]))[..., None] + 1e-9) ** (1 / 1.2 - 1)
        coded = np.where(light <= 1 / 12, np.sqrt(3 * light), 0.17883277 * np.log(np.maximum(12 * light - 0.28466892, 1e-9)) + 0.55991073)
    y = coded @ np.array([0.2627, 0.6780, 0.0593])
    planes = [64 + 876 * y, 512 + 896 * (coded[..., 2] - y) / 1.8814, 512 + 896 * (coded[..., 0] - y) / 1.4746]
    frame = av.VideoFrame(picture.shape[1], picture.shape[0], "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((frame.height, plane.line_size // 2), "<u2")
        rows[:, : frame.width] = np.round(values)
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = 9, 9, transfer, 1
    return frame


def _cover(container: Any, seed: int) -> list[Any]:
    stream = container.add_stream("mjpeg", rate=1)
    stream.height, stream.width, stream.pix_fmt = 64, 64, "yuvj420p"
    stream.disposition = Disposition.attached_pic
    frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), seed % 255, np.uint8), format="rgb24").reformat(format="yuvj420p")
    frame.pts, frame.time_base = 0, Fraction(1)
    return [*stream.encode(frame), *stream.encode()]


def voice(made: Made, track: int) -> NDArray[np.float32]:
    """What is heard on a track [S, C]: a tone whose pitch wanders, so that no two moments are alike, under a little noise."""
    rng = np.random.default_rng((made.seed, track))
    t = np.arange(round((SECONDS - made.short) * made.sample_rate)) / made.sample_rate
    knots = np.linspace(0, SECONDS, 40)
    pitch, level = np.interp(t, knots, rng.uniform(200, 1200, 40)), np.interp(t, knots, rng.uniform(0.15, 0.5, 40))
    tone = level * np.sin(2 * np.pi * np.cumsum(pitch) / made.sample_rate)
    return (tone[:, None] + 0.01 * rng.standard_normal((len(t), made.channels))).astype(np.float32)


def _spoken(track: Any, made: Made, number: int) -> list[Any]:
    output, size, packets = voice(made, number), track.codec_context.frame_size or 1024, []
    resampler = av.AudioResampler(format=track.format, layout=made.layout, rate=made.sample_rate)
    for start in range(0, len(output), size):
        chunk = av.AudioFrame.from_ndarray(np.ascontiguousarray(output[start : start + size].T), format="fltp", layout=made.layout)
        chunk.sample_rate, chunk.pts, chunk.time_base = made.sample_rate, start, Fraction(1, made.sample_rate)
        for ready in resampler.resample(chunk):
            ready.pts, ready.time_base = start, Fraction(1, made.sample_rate)
            packets += track.encode(ready)
    return packets + track.encode()
