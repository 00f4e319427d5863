"""Makes real files with H.264 and AAC, clean ones of many kinds and ones with a known defect."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from baton_lightning.clip import ClipSpec
from baton_lightning.world.clips import make_clip

TICKS = Fraction(1, 90_000)
Clock = Callable[[float], float]


def wander(count: int, height: int = 96, width: int = 128, seed: int = 0) -> NDArray[np.uint8]:
    """A bright square that wanders over a fixed, smoothly textured ground."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 150, (height // 8 + 2, width // 8 + 2, 3))
    ground = np.repeat(np.repeat(coarse, 8, 0), 8, 1)[:height, :width].astype(np.uint8)
    frames = np.repeat(ground[None], count, 0)
    side = min(height, width) // 4
    for i in range(count):
        x = (seed * 7 + 2 * i) % (width - side)
        frames[i, side : 2 * side, x : x + side] = (230, 200, 60)
    return frames


def murmur(seconds: float, rate: int, channels: int = 1, peak: float = 0.5, seed: int = 0) -> NDArray[np.float32]:
    """Voice-like sound: harmonics under a slow envelope with a pause, the channels alike but not equal [S, C]."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    envelope = np.clip(np.sin(2 * np.pi * 1.3 * t + rng.uniform(0, 6)), 0, 1)
    voice = sum(np.sin(2 * np.pi * 140 * k * t + rng.uniform(0, 6)) / k for k in range(1, 9)) * envelope
    sides = np.stack([voice + 0.2 * rng.standard_normal(len(t)) * (0.1 + envelope) for _ in range(channels)], 1)
    return (peak * sides / np.abs(sides).max()).astype(np.float32)


def encode(
    file: Path,
    frames: NDArray[np.uint8] | None,
    fps: float | Fraction,
    sound: NDArray[np.float32] | None,
    rate: int,
    *,
    layout: str | None = None,
    video_clock: Clock | None = None,
    audio_clock: Clock | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
) -> Path:
    """Writes a file, its container by its suffix.

    Args:
        file: Where to.
        frames: Pictures [T, Y, X, 3], or none.
        fps: Their rate.
        sound: Sound [S, C], or none.
        rate: Its sample rate.
        layout: Channel layout, by default the usual one.
        video_clock: What time stamps, in s, are turned into after coding; increasing.
        audio_clock: The same for sound.
        options: For libx264, e.g. ``crf`` and ``g``.
        rotation: How far players are to turn the picture, in degrees, counter-clockwise.
    """
    with av.open(str(file), "w", options={"movie_timescale": str(rate)} if file.suffix == ".mp4" else {}) as container:
        if frames is not None:
            exact = Fraction(fps).limit_denominator(1001)
            video = container.add_stream("libx264", rate=exact)
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt, video.options = "yuv420p", {"preset": "veryfast", "crf": "20", **(options or {})}
            video.codec_context.thread_count = 1
            if rotation:
                video.set_display_rotation(rotation)
        if sound is not None:
            codec = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".ogg": "libopus"}.get(file.suffix, "aac")
            layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[sound.shape[1]]
            audio = container.add_stream(codec, rate=rate, layout=layout)
            if codec == "aac":
                audio.bit_rate = 96_000 * sound.shape[1]
            audio.codec_context.thread_count = 1
        packets = []
        if frames is not None:
            for i, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = i, 1 / exact
                packets += [(video, packet) for packet in video.encode(frame)]
            packets += [(video, packet) for packet in video.encode()]
        if sound is not None:
            size = audio.codec_context.frame_size or 1024
            for start in range(0, len(sound), size):
                piece = np.ascontiguousarray(sound[start : start + size].T, np.float32)
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                for ready in av.AudioResampler(format=audio.format, layout=layout, rate=rate).resample(frame):
                    ready.pts, ready.time_base = start, Fraction(1, rate)
                    packets += [(audio, packet) for packet in audio.encode(ready)]
            packets += [(audio, packet) for packet in audio.encode()]
        for stream, packet in packets:
            clock = video_clock if stream.type == "video" else audio_clock
            if clock is not None:
                pts, dts, lasts = (float(ticks * packet.time_base) for ticks in (packet.pts, packet.dts, packet.duration or 0))
                packet.duration = round((clock(pts + lasts) - clock(pts)) / TICKS)
                packet.pts, packet.dts, packet.time_base = round(clock(pts) / TICKS), round(clock(dts) / TICKS), TICKS
        for packet in sorted((packet for _, packet in packets), key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    return file


RATES = (12, Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30)
SIDES = ((96, 128), (128, 96), (32, 32), (48, 48), (144, 256), (240, 320))
TIERS = ("single", "multi", "talk")


def clean(file: Path, index: int) -> Path:
    """One of many kinds of recordings in which nothing is wrong."""
    rng = np.random.default_rng(index)
    fps, rate, channels = RATES[index % 6], (16000, 44100, 48000)[index // 6 % 3], 1 + index // 18 % 2
    options = {"crf": str(rng.integers(16, 30)), "g": str(rng.choice([12, 48, 250])), "bf": str(rng.choice([0, 2, 3]))}
    kind = ("world", "wander", "dark", "film", "small motion", "quiet", "loud", "tone", "pause", "cut to black")[index % 10]
    if kind == "world":
        found, seed = None, index
        while found is None or not np.abs(found.waveform).max():  # a slide makes no sound
            spec = ClipSpec(sample_rate=rate) if seed % 2 else ClipSpec(seconds=5, height=48, width=48, sample_rate=rate)
            found, seed = make_clip(3, seed, TIERS[seed % 3], spec), seed + 1
        sound = np.repeat(found.waveform[:, None], channels, 1)
        return encode(file, found.frames, spec.fps, sound, rate, options=options)
    seconds = float(rng.uniform(1.5, 3))
    count = round(seconds * fps)
    frames = wander(count, *SIDES[index % 6], seed=index)
    sound = murmur(float(count / fps) + float(rng.uniform(-0.04, 0.04)), rate, channels, 0.5, index)
    t = np.arange(len(sound)) / rate
    if kind == "dark":
        frames = (frames * 0.12).astype(np.uint8)
    elif kind == "film":  # dark, grain, one small light that moves
        grain, light = rng.normal(6, 2, frames.shape), max(3, frames.shape[1] // 24)
        for i, picture in enumerate(grain):
            x = i // 2 % (frames.shape[2] - light)
            picture[8 : 8 + light, x : x + light] += 40
        frames = grain.clip(0, 255).astype(np.uint8)
    elif kind == "small motion":
        frames = np.repeat(frames[:1], count, 0)
        for i in range(count // 2, count):
            frames[i, 4:8, 4 + i % 12 : 8 + i % 12] = 255
    elif kind == "quiet":
        sound = sound * np.float32(10 ** (-40 / 20))
    elif kind == "loud":
        sound = sound * np.float32(0.97 / np.abs(sound).max())
    elif kind == "tone":
        sound = np.repeat(0.98 * np.sin(2 * np.pi * rng.uniform(60, 3000) * t)[:, None], channels, 1)
    elif kind == "pause":
        sound[len(sound) // 4 :] = 0
    elif kind == "cut to black":
        frames[: count // 2] = 0
    return encode(file, frames, fps, sound, rate, options=options)


def packets_of(file: Path, kind: str) -> list[tuple[int, int]]:
    """Offset and size of each packet of a stream."""
    with av.open(str(file)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(packet.pos, packet.size) for packet in container.demux(stream) if packet.size]


def damage(file: Path, kind: str, number: int, how: str, seed: int = 0) -> Path:
    """Overwrites the middle of a packet with noise or zeros, or cuts the file there."""
    content = bytearray(file.read_bytes())
    offset, size = packets_of(file, kind)[number]
    first, last = offset + size // 4, offset + size * 3 // 4
    if how == "cut":
        del content[first:]
    else:
        noise = np.random.default_rng(seed).integers(0, 256, last - first, np.uint8).tobytes()
        content[first:last] = noise if how == "noise" else bytes(last - first)
    file.write_bytes(content)
    return file


def remux(file: Path, target: Path, skip: Callable[[str, int], bool] = lambda kind, number: False) -> Path:
    """The same packets in another file; some may be left out."""
    with av.open(str(file)) as source, av.open(str(target), "w") as container:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in source.streams}
        counts = dict.fromkeys(streams, 0)
        for packet in source.demux():
            if packet.dts is None:
                continue
            index, kind = packet.stream_index, packet.stream.type
            counts[index] += 1
            if not skip(kind, counts[index] - 1):
                packet.stream = streams[index]
                container.mux(packet)
    return target
