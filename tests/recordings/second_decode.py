"""Judges what is built of a drawn recording by a second decode, through ffmpeg's own filters, which shares no code with the reader.

    python -m tests.recordings.second_decode 2000            all of the seeds 0 to 1999; --first 500 begins there

prints how many were accepted, how many refused and why, and every seed that was accepted with other pictures or another sound, or refused
for a reason that is not true of it. Exits 1 if there is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray
from scipy.signal import correlate

from baton_lightning.clip import ClipSpec
from baton_lightning.shards import parts
from baton_lightning.shards.limits import Limits
from baton_lightning.shards.parts import Settings, clips_of
from baton_lightning.shards.sources import Source
from tests.recordings.generated import Made, draw, make, scene

MATRICES = {1: "bt709", 2: "bt601", 6: "bt601"}
LEAST_PSNR = 45.0
"""Of a clip's pictures against the second decode, in dB."""
TONE_MAPPED = 25.0
"""Furthest that the mean of a channel may be from the scene before it was put in PQ or HLG, of 255."""
FURTHEST = 0.005
"""Furthest that a sound may lie from that of the second decode, in s."""


LATEST = (0.04, 0.06)
"""How much later than the picture a sound may start, in s; in WMV, whose encoder puts a block of 2048 samples in front, a little more."""


@dataclass(frozen=True)
class Shown:
    """A recording as filters give it. Times are from the first picture, in s."""

    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    sound: NDArray[np.float32]
    """Mean of the channels [S], at the clip's rate."""
    begins: float
    channels: int


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


def second_decode(file: Path, made: Made) -> Shown:
    """The flagged track and the picture as they were asked for and not as the file says."""
    weave = [("bwdif", "mode=send_frame:deint=interlaced")] if made.interlaced else []
    colours = [] if made.transfer else [("scale", f"in_color_matrix={MATRICES[made.matrix]}:in_range={'pc' if made.full_range else 'tv'}")]
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        steps = [*weave, *colours, ("format", "rgb24"), *_turned(made)]
        shown = through(stream, steps, "buffersink", list(container.decode(stream)))
    with av.open(str(file)) as container:
        track = container.streams.audio[made.flagged]
        decoded: list[Any] = list(container.decode(track))
        mean = "+".join(f"{1 / made.channels}*c{i}" for i in range(made.channels))
        heard = through(track, [("aformat", "sample_fmts=flt"), ("pan", f"mono|c0={mean}")], "abuffersink", decoded)
    times = np.array([float(frame.pts * frame.time_base) for frame in shown])
    sound = np.concatenate([frame.to_ndarray().ravel() for frame in heard])
    begins = float(decoded[0].pts * decoded[0].time_base) - times[0]
    frames = np.stack([frame.to_ndarray() for frame in shown])
    return Shown(frames, times - times[0], sound, begins, decoded[0].layout.nb_channels)


def _turned(made: Made) -> list[tuple[str, str]]:
    turned = {90: [("transpose", "cclock")], -90: [("transpose", "clock")], 180: [("hflip", ""), ("vflip", "")], 0: []}[made.rotation]
    return [*turned, ("hflip", "")] if made.mirrored else turned


def resized(picture: NDArray[Any], made: Made) -> NDArray[np.float64]:
    """The largest part in the middle that has the clip's shape on screen, in the clip's size, by Lanczos' windowed sinc."""
    rows, columns = picture.shape[:2]
    aspect = float(1 / made.aspect if made.rotation % 180 else made.aspect)
    height, width = made.clip_size
    scale = min(rows / height, columns * aspect / width)
    down, across = _weights(rows, height, scale), _weights(columns, width, scale / aspect)
    return np.einsum("ay,bx,yxc->abc", down, across, picture.astype(float), optimize=True).clip(0, 255)


def _weights(size: int, count: int, scale: float) -> NDArray[np.float64]:
    """How much each of ``size`` pixels counts in each of ``count`` that are ``scale`` wide, in the middle [count, size]."""
    centres = size / 2 + (np.arange(count) + 0.5 - count / 2) * scale
    far = (np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = np.where(np.abs(far) < 3, np.sinc(far) * np.sinc(far / 3), 0.0)
    return weights / weights.sum(1, keepdims=True)


def build(file: Path, made: Made) -> tuple[str, float, NDArray[np.uint8] | None, NDArray[np.float32] | None]:
    """What the library makes of it: why it is refused, or empty; where the clip begins; its pictures and sound before they are coded."""
    clip = ClipSpec(1.0, made.clip_fps, *made.clip_size, sample_rate=made.clip_rate)
    settings = Settings(
        {"": clip}, ("av",), Limits(trust_times=made.trust_times, max_start_offset=LATEST[made.kind == "wmv"]), "first", 60.0, 16, ""
    )
    source = Source("a", file, "a pattern", "a voice", (), "", "train", made.start, made.start + 1 if made.end else None)
    cut: list[Any] = []
    with patch.object(parts, "mp4_bytes", lambda frames, fps, sound, rate: cut.append((frames, sound)) or b""):
        note, content = next(clips_of(source, file.name, settings))
    if content is None:
        return f"{note['reason']}: {note['detail']}", 0.0, None, None
    return "", note["start"], *cut[0]


def true_reasons(made: Made, shown: Shown) -> set[str]:
    """Why this recording may be refused, as the second decode sees it, with a little room for where times are rounded."""
    steps = np.diff(shown.times)
    step, mean = float(np.median(steps)), float(steps.mean())
    found = set()
    if np.abs(steps / step - 1).max() > 0.19:
        found |= {"variable_frame_rate"} if not made.trust_times or steps.min() <= 0 else set()
    if np.abs(shown.times - mean * np.arange(len(shown.times))).max() > 0.019 or (made.uneven and abs(mean * made.fps - 1) > 0.0019):
        found |= {"drift"} if not made.trust_times else set()
    found |= {"low_frame_rate"} if 1 / mean < 10 else set()
    early = max(0.04, 1024 / made.sample_rate)
    found |= {"start_offset"} if not -early < shown.begins < LATEST[made.kind == "wmv"] - 1e-3 else set()
    ends = shown.times[-1] + step, shown.begins + len(shown.sound) / made.sample_rate
    if made.end:
        ends = tuple(min(end, made.start + 1) for end in ends)  # type: ignore[assignment]
    lengths = ends[0] - made.start, ends[1] - max(shown.begins, made.start)
    found |= {"duration_mismatch"} if abs(lengths[0] - lengths[1]) > 0.14 else set()
    found |= {"too_short"} if min(lengths[0], lengths[1] + 0.1) < 1.001 else set()
    found |= {"channel_layout"} if shown.channels > 2 else set()
    return found


def judge(made: Made, folder: Path) -> tuple[str, str]:
    """What became of a recording: ``accepted`` or why it was refused, and what is wrong with that; empty if nothing is."""
    file = make(folder / f"{made.seed}.{made.kind}", made)
    outcome, begins, pictures, sound = build(file, made)
    shown = second_decode(file, made)
    file.unlink()
    if outcome:
        true, reason = true_reasons(made, shown), outcome.partition(":")[0]
        return reason, "" if reason in true else f"refused, {outcome}; true are {sorted(true)}"
    assert pictures is not None and sound is not None
    if not -1e-3 <= begins - made.start <= 0.1:
        return "accepted", f"the clip begins at {begins:.3f} s, meant is {made.start} s"
    wrong = _wrong_picture(made, shown, begins, pictures) or _wrong_sound(made, shown, begins, sound)
    return "accepted", wrong


def _wrong_picture(made: Made, shown: Shown, begins: float, pictures: NDArray[np.uint8]) -> str:
    there = np.flatnonzero(shown.times < (made.start + 1 - 1e-3 if made.end else np.inf))
    for i, picture in enumerate(pictures):
        middle = begins + (i + 0.5) / made.clip_fps
        nearest = {int(np.searchsorted(shown.times[there], middle + ms / 1000, side="right")) - 1 for ms in (-1.5, 0, 1.5)}
        numbers = [min(max(number, 0), len(there) - 1) for number in nearest]
        if made.transfer:
            wanted = [255 * resized(scene(made.frame_times[n : n + 1], made.height, made.width, made.seed)[0], made) for n in numbers]
            apart = min(float(np.abs(picture.mean((0, 1)) - want.mean((0, 1))).max()) for want in wanted)
            if apart > TONE_MAPPED:
                return f"picture {i}: a channel is {apart:.1f} of 255 from the scene"
            continue
        error = min(float(np.square(picture - resized(shown.frames[number], made)).mean()) for number in numbers)
        if (psnr := 10 * np.log10(255**2 / max(error, 1e-9))) < LEAST_PSNR:
            return f"picture {i}: {psnr:.1f} dB"
    return ""


def _wrong_sound(made: Made, shown: Shown, begins: float, sound: NDArray[np.float32]) -> str:
    """Both at one rate of 48 kHz; the best of all shifts up to 40 ms."""
    rate, reach = 48000, 1920
    at = np.arange(0.1, 0.85, 1 / rate)
    mine = np.interp(at, np.arange(len(sound)) / made.clip_rate, sound)
    wide = at[0] + np.arange(-reach, len(at) + reach) / rate
    theirs = np.interp(wide, np.arange(len(shown.sound)) / made.sample_rate + shown.begins - begins, shown.sound, left=0, right=0)
    energy = correlate(np.square(theirs), np.ones(len(at)), "valid")
    alike = correlate(theirs, mine, "valid") / np.sqrt(np.maximum(energy * np.square(mine).sum(), 1e-12))
    best = int(alike.argmax())
    if alike[best] < 0.97:
        return f"another sound: it is like the flagged track's to {alike[best]:.2f}"
    off = (best - reach) / rate
    return "" if abs(off) <= FURTHEST else f"the sound lies {1000 * off:+.1f} ms off"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, help="how many recordings")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    wrong, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first, options.first + options.count):
            made = draw(seed)
            try:
                outcome, fault = judge(made, Path(folder))
            except Exception as error:
                outcome, fault = "failed", f"{type(error).__name__}: {error}"
            outcomes[outcome] += 1
            if fault:
                wrong += 1
                print(f"WRONG seed {seed}: {fault}\n    {made}", flush=True)
            if (done := seed - options.first + 1) % 100 == 0:
                print(f"{done} of {options.count}: wrong {wrong}; {dict(outcomes.most_common())}", flush=True)
    print(f"{options.count} recordings in {time.monotonic() - began:.0f} s: wrong {wrong}; {dict(outcomes.most_common())}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
