"""Detection of events in frames: pulses, jumps, flashes, slides and hits, from the tracks of the colours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from baton_lightning.world import vocabulary as v
from baton_lightning.world.peaks import centre, peaks, runs
from baton_lightning.world.tracks import Track, find_tracks

REACH = v.COLUMN_X[1] - v.COLUMN_X[0] - 2 * v.RADIUS
"""Distance that an object moves to touch its neighbour, in units."""


@dataclass(frozen=True)
class VideoEvent:
    """A detected event, with the fields of :class:`~baton_lightning.world.scene.Event`; anchors in s, for speech one per word."""

    kind: str
    actor: str
    anchors: tuple[float, ...]
    target: str | None = None
    column: int | None = None


@dataclass(frozen=True)
class VideoDetections:
    """Objects and events in a clip.

    Args:
        tracks: The objects, by colour.
        transient: Colours that are visible in a part of the clip only.
        events: Events in order of time.
    """

    tracks: dict[str, Track]
    transient: tuple[str, ...]
    events: tuple[VideoEvent, ...]


def detect_video(frames: NDArray[np.uint8], fps: float) -> VideoDetections:
    """Objects and events in a clip; the expected ones are not used.

    Args:
        frames: uint8 [T, Y, X, 3].
        fps: Frames per second.
    """
    tracks, transient = find_tracks(frames)
    return VideoDetections(tracks, transient, video_events(tracks, fps))


def video_events(tracks: dict[str, Track], fps: float) -> tuple[VideoEvent, ...]:
    """Events of tracks, in order of time.

    Args:
        tracks: The objects, by colour; their curves are read, their pixels are not.
        fps: Samples of the curves per second.
    """
    events: list[VideoEvent] = []
    for colour, track in tracks.items():
        jumps, in_air = _jumps(colour, track, fps)
        events += jumps + _utterances(colour, track, fps, in_air) + _flashes(colour, track, fps) + _moves(colour, tracks, fps)
    return tuple(sorted(events, key=lambda e: e.anchors[0]))


def _jumps(colour: str, track: Track, fps: float) -> tuple[list[VideoEvent], NDArray]:
    """Jumps, anchored at the landing of the fitted parabola, and a mask of the frames in the air."""
    up = np.median(track.y) - track.y
    in_air = np.zeros(len(up), bool)
    found = []
    for first, last in runs(up > 0.12 * v.JUMP_HEIGHT):
        if up[first : last + 1].max() < 0.5 * v.JUMP_HEIGHT or last == first:
            continue
        in_air[max(first - 1, 0) : last + 2] = True
        landing = (last + 1) / fps
        if last - first >= 2:
            curve = np.polyfit(np.arange(first, last + 1) / fps, up[first : last + 1], 2)
            if curve[0] < 0:
                landing = float(np.roots(curve).real.max())
        found.append(VideoEvent("jumps", colour, (landing,)))
    return found, in_air


def _utterances(colour: str, track: Track, fps: float, in_air: NDArray) -> list[VideoEvent]:
    """Utterances: pulses of the object's size; pulses in close succession are one utterance."""
    growth = np.sqrt(np.maximum(track.area, 1e-6) / np.median(track.area)) - 1
    growth[in_air] = 0
    reach = max(2, round(v.WORD_SECONDS / 2 * fps))
    found: list[list[float]] = []
    for peak in peaks(growth, 0.14, 0.35):
        time = centre(growth, peak, 0.02, reach) / fps
        if found and time - found[-1][-1] < v.word_start(1) + v.BETWEEN_EVENTS / 2:
            found[-1].append(time)
        else:
            found.append([time])
    return [VideoEvent("says", colour, tuple(times)) for times in found]


def _flashes(colour: str, track: Track, fps: float) -> list[VideoEvent]:
    reach = max(2, round(v.FLASH_SECONDS / 2 * fps))
    return [VideoEvent("flashes", colour, (centre(track.white, peak, 0.03, reach) / fps,)) for peak in peaks(track.white, 0.3, 0.35)]


def _moves(colour: str, tracks: dict[str, Track], fps: float) -> list[VideoEvent]:
    """Slides (from one column to another) and hits (away from a column and back)."""
    x = tracks[colour].x
    places = np.array(v.COLUMN_X)
    column = np.abs(x[:, None] - places).argmin(1)
    resting = np.flatnonzero(np.abs(x - places[column]) < 2.6)
    found = []
    for i, j in itertools.pairwise(resting):
        if column[i] != column[j]:
            crossing = _crossing(x, int(i), int(j), places[[column[i], column[j]]].mean()) / fps
            found.append(VideoEvent("slides", colour, (crossing,), column=int(column[j])))
            continue
        way = x[i : j + 1] - places[column[i]]
        far = int(np.abs(way).argmax())
        if j - i < 2 or abs(way[far]) < 3.0:
            continue
        side = np.sign(way[far])
        contact = (i + _contact(way * side, far, fps)) / fps
        frame = int(np.clip(round(contact * fps), 0, len(x) - 1))
        gaps = {other: side * (track.x[frame] - x[frame]) for other, track in tracks.items() if other != colour}
        near = {other: gap for other, gap in gaps.items() if 0 < gap < 3 * v.RADIUS}
        if near:
            found.append(VideoEvent("hits", colour, (contact,), target=min(near, key=near.__getitem__)))
    return found


def _crossing(x: NDArray, first: int, last: int, middle: float) -> float:
    """Time, in frames, at which x crosses ``middle`` between two frames."""
    for i in range(first, last):
        if (x[i] - middle) * (x[i + 1] - middle) <= 0 and x[i] != x[i + 1]:
            return i + (middle - x[i]) / (x[i + 1] - x[i])
    return (first + last) / 2


def _contact(way: NDArray, far: int, fps: float) -> float:
    """Time of contact, in samples: the way there and the way back have known speeds, so each sample on them gives an estimate."""
    index = np.arange(len(way))
    legs = (
        ((way > 0.4) & (index <= far), index + (REACH - way) * v.DASH_SECONDS * fps / REACH),
        ((way > 0.3) & (index >= far), index - (REACH - way) * v.RETURN_SECONDS * fps / REACH),
    )
    moments = []
    for on_leg, moment in legs:
        on_leg &= way < REACH + 0.2
        others = on_leg & (index != far)  # the farthest sample may be on either leg
        on_leg = others if others.any() else on_leg
        if on_leg.any():
            moments.append(float(moment[on_leg].mean()))
    return float(np.mean(moments)) if moments else float(far)
