"""Random recordings, held against a second decode that goes through ffmpeg's own filters and shares no code with the reader."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph
from av.stream import Disposition

from baton_lightning.media import MediaError
from baton_lightning.recordings.recording import Recording, read_recording
from tests.shards.defects import murmur, wander

KINDS = {
    "mp4": (("libx264", "libx265", "mpeg4"), "aac"), "mov": (("libx264", "mjpeg", "prores_ks"), "pcm_s16le"), "flv": (("libx264",), "aac"),
    "mkv": (("libx264", "ffv1", "libvpx-vp9"), "flac"), "webm": (("libvpx-vp9",), "libopus"), "ts": (("libx264", "mpeg2video"), "mp2"),
    "avi": (("mpeg4", "mjpeg"), "libmp3lame"), "mpg": (("mpeg2video",), "mp2"),
}  # fmt: skip
FORMATS = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}
SHAPED = ("libx264", "libx265", "mpeg4")
"""Codecs that say the shape of their pixels themselves; what else says it is not written by these tests."""
SECONDS, RATE = 4.0, 48000


def draw(seed: int) -> dict[str, Any]:
    """What a recording is made of."""
    rng = np.random.default_rng(seed)
    kind = list(KINDS)[seed % len(KINDS)]
    codec = str(rng.choice(KINDS[kind][0]))
    return {
        "kind": kind, "codec": codec, "sound": KINDS[kind][1],
        "fps": (Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(50))[rng.integers(4)],
        "aspect": (Fraction(1), Fraction(4, 3), Fraction(8, 9))[rng.integers(3)] if codec in SHAPED else Fraction(1),
        "rotation": int(rng.choice([0, 90, 180, -90])) if kind in ("mp4", "mov") else 0,
        "shift": float(rng.choice([0, 1.4, 7])) if kind in ("mkv", "ts") else 0.0,
        "flagged": int(rng.integers(2)) if kind in ("mkv", "mp4", "mov") else 0,
        "interlaced": bool(codec == "libx264" and rng.integers(2)),
        "start": float(rng.choice([0, 0.7, 1.5])),
    }  # fmt: skip


def make(file: Path, made: dict[str, Any], seed: int) -> Path:
    """A wandering square with a voice; where tracks have flags, the other track has another voice."""
    frames = wander(round(SECONDS * made["fps"]), 96, 128, seed)
    with av.open(str(file), "w") as container:
        video = container.add_stream(made["codec"], rate=made["fps"])
        video.height, video.width, video.pix_fmt = 96, 128, FORMATS.get(made["codec"], "yuv420p")
        video.options = {"libx264": {"preset": "veryfast", "g": "25"}, "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"}}.get(
            made["codec"], {"x265-params": "log-level=none"} if made["codec"] == "libx265" else {}
        )
        if made["interlaced"]:
            video.options |= {"x264-params": "interlaced=1:tff=1"}
        video.bit_rate = 2_000_000
        video.codec_context.sample_aspect_ratio = made["aspect"]
        if made["rotation"]:
            video.set_display_rotation(made["rotation"])
        tracks = [
            container.add_stream(made["sound"], rate=RATE, layout="mono") for _ in range(2 if made["kind"] in ("mkv", "mp4", "mov") else 1)
        ]
        for i, track in enumerate(tracks):
            track.disposition = Disposition.default if i == made["flagged"] else Disposition(0)
        packets = []
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, 1 / made["fps"]
            packets += video.encode(frame)
        packets += video.encode()
        for i, track in enumerate(tracks):
            voice, size = murmur(SECONDS, RATE, 1, seed=seed + i)[:, 0], track.codec_context.frame_size or 1024
            for start in range(0, len(voice), size):
                chunk = av.AudioFrame.from_ndarray(voice[None, start : start + size], format="fltp", layout="mono")
                chunk.sample_rate, chunk.pts, chunk.time_base = RATE, start, Fraction(1, RATE)
                for ready in av.AudioResampler(format=track.format, layout="mono", rate=RATE).resample(chunk):
                    ready.pts, ready.time_base = start, Fraction(1, RATE)
                    packets += track.encode(ready)
            packets += track.encode()
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            later = round(made["shift"] / packet.time_base)
            packet.pts, packet.dts = packet.pts + later, packet.dts + later
            container.mux(packet)
    return file


def through(stream: Any, steps: list[tuple[str, str]], sink: str, frames: list[Any]) -> list[Any]:
    """Frames through a chain of filters."""
    graph = Graph()
    chain = [graph.add_buffer(template=stream) if stream.type == "video" else graph.add_abuffer(template=stream)]
    chain += [graph.add(name, settings) for name, settings in steps] + [graph.add(sink)]
    graph.link_nodes(*chain).configure()
    ready = []
    for frame in [*frames, None]:
        graph.push(frame)
        while True:
            try:
                ready.append(graph.pull())
            except (av.BlockingIOError, av.EOFError):
                break
    return ready


def second_decode(file: Path, made: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Frames, their times from the first, the flagged track's sound, and when it begins, by filters alone."""
    turn = {90: [("transpose", "cclock")], -90: [("transpose", "clock")], 180: [("hflip", ""), ("vflip", "")], 0: []}[made["rotation"]]
    weave = [("bwdif", "mode=send_frame:deint=interlaced")] if made["interlaced"] else []
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        shown = through(stream, [*weave, ("format", "rgb24"), *turn], "buffersink", list(container.decode(stream)))
    with av.open(str(file)) as container:
        track = container.streams.audio[made["flagged"]]
        heard = through(track, [("aformat", "sample_fmts=flt:channel_layouts=mono")], "abuffersink", list(container.decode(track)))
    times = np.array([float(frame.pts * frame.time_base) for frame in shown])
    sound = np.concatenate([frame.to_ndarray().ravel() for frame in heard])
    return np.stack([frame.to_ndarray() for frame in shown]), times - times[0], sound, float(heard[0].pts * heard[0].time_base) - times[0]


def lag(recording: Recording, sound: np.ndarray, begins: float, start: float) -> float:
    """How much later than in the second decode a sound is heard, in s, by the best of all shifts up to 20 ms."""
    assert recording.waveform is not None
    count, reach = round(1.5 * RATE), round(0.02 * RATE)
    mine = recording.waveform[round((start + 0.2 - recording.audio_start) * RATE) :][:count, 0]
    at = round((start + 0.2 - begins) * RATE)
    return max(range(-reach, reach + 1), key=lambda shift: float(np.dot(mine, sound[at - shift :][:count]))) / RATE


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_a_random_recording_is_read_as_filters_show_it(seed: int, tmp_path: Path) -> None:
    made = draw(seed)
    file = make(tmp_path / f"a.{made['kind']}", made, seed)
    try:
        recording = read_recording(file, start=made["start"], end=made["start"] + 2)
    except MediaError as error:
        pytest.fail(f"{made}: {error}")
    frames, times, sound, begins = second_decode(file, made)
    assert recording.frames is not None and not recording.errors, (made, recording.errors)
    turned = made["rotation"] % 180 != 0
    assert recording.pixel_aspect == pytest.approx(float(1 / made["aspect"] if turned else made["aspect"]), rel=0.01), made
    wanted = [i for i, time in enumerate(times) if made["start"] - 1e-3 <= time < made["start"] + 2 - 1e-3]
    found = [i for i, time in enumerate(recording.frame_times) if time >= made["start"] - 1e-3]
    assert len(found) == len(wanted), (made, recording.frame_times, times)
    assert np.abs(recording.frame_times[found] - times[wanted]).max() < 1e-3, made
    error = np.square(recording.frames[found].astype(float) - frames[wanted]).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 45, made
    assert abs(lag(recording, sound, begins, made["start"])) <= 0.005, made
