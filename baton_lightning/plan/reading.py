"""What a plan says in words: objects, events, moments, speakers and words, read by probes and compared with the facts of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.probes import Curves, Probes
from baton_lightning.world import vocabulary as v
from baton_lightning.world.detect_audio import AudioDetections, audio_events
from baton_lightning.world.detect_video import VideoDetections, video_events
from baton_lightning.world.facts import checklist, describe, facts
from baton_lightning.world.matching import match
from baton_lightning.world.render import area
from baton_lightning.world.scene import Scene
from baton_lightning.world.tracks import Track

MOMENT_SECONDS = 0.1
"""Largest deviation of a moment from the prompt's schedule."""


@dataclass(frozen=True)
class Reading:
    """Content of a plan, in the form of the world's detections.

    Args:
        seen: Objects and events of the video tokens. The tracks are sampled at the keyframes and have no pixels.
        heard: Words and effects of the audio tokens.
    """

    seen: VideoDetections
    heard: AudioDetections

    def words(self) -> list[str]:
        """The content as texts: a line of objects, then each event of picture and sound at its moment."""
        tracks = sorted(self.seen.tracks.items(), key=lambda item: item[1].column)
        objects = [f"a {colour} {track.shape} {v.COLUMNS[track.column]}" for colour, track in tracks]
        seen = [(event.anchors[0], describe(event)) for event in self.seen.events]
        heard = [(word.time, describe(word)) for word in self.heard.words]
        heard += [(effect.time, describe(effect)) for effect in self.heard.effects]
        return [", ".join(objects) or "no object", *(f"{time:.2f} s  {text}" for time, text in sorted([*seen, *heard]))]

    def checks(self, scene: Scene) -> list[tuple[str, bool]]:
        """Every fact of a scene, and whether the plan holds it: the world's checklist, and each moment of picture and sound."""
        found = match(scene, self.seen, self.heard)
        checks = checklist(scene, self.seen, found)
        for event, m in zip(scene.events, found.matches, strict=True):
            checks.append(("moment seen", on_time(m.seen, event.anchors)))
            if event.kind != "slides":
                checks.append(("moment heard", on_time(m.heard, event.anchors)))
        return checks

    def facts(self, scene: Scene) -> dict[str, Any]:
        """Facts of a scene and what the plan says of them, see :func:`baton_lightning.world.facts.facts`."""
        return facts(scene, self.seen, match(scene, self.seen, self.heard))

    def compared(self, scene: Scene) -> list[tuple[str, str, str]]:
        """Rows of a table: a fact of the scene, what the plan says, and where the two differ (empty if they do not)."""
        found = self.facts(scene)
        rows = []
        for o in found["objects"]:
            rows.append((f"{o['colour']} {o['shape']}, {o['column']}", "" if o["faults"] else "is there", "; ".join(o["faults"])))
        for event in found["events"]:
            goal = f" {event['target'] or event['column'] or ''}".rstrip() if event["kind"] in ("hits", "slides") else ""
            said = f" '{' '.join(event['words'])}'" if event["words"] else ""
            times = {name: event[name] for name in ("seen", "heard") if event[name]}
            late = [
                f"{name} {abs(apart):.2f} s {'later' if apart > 0 else 'earlier'}"
                for name, at in times.items()
                if abs(apart := at[0] - event["expected"][0]) > MOMENT_SECONDS
            ]
            told = ", ".join(f"{name} {at[0]:.2f} s" for name, at in times.items())
            rows.append(
                (f"{event['actor']} {event['kind']}{goal}{said} {event['expected'][0]:.2f} s", told, "; ".join([*event["faults"], *late]))
            )
        rows += [("", f"{colour} object", "not in the prompt") for colour in found["surplus"]["objects"]]
        for name in ("seen", "heard"):
            rows += [("", f"{extra['what']}, {name} {extra['at']:.2f} s", "not in the prompt") for extra in found["surplus"][name]]
        return rows


def on_time(found: Sequence[float] | None, expected: Sequence[float]) -> bool:
    """Whether the anchors of an event were found, each within :data:`MOMENT_SECONDS` of its expected time."""
    return found is not None and bool(np.all(np.abs(np.subtract(found, expected)) <= MOMENT_SECONDS))


def read(plan: ClipPlan, probes: Probes) -> Reading:
    """Reads a plan.

    Raises:
        ValueError: If the plan has another geometry, or other feature statistics than the probes' clips.
    """
    curves, clip = probes.curves(plan), plan.clip
    tracks, transient = tracks_of(curves)
    events = video_events(tracks, clip.keyframe_fps)
    words, effects = audio_events(curves.loudness, np.array(clip.audio_plan_times))
    return Reading(VideoDetections(tracks, transient, events), AudioDetections(words, effects, None))


def tracks_of(curves: Curves) -> tuple[dict[str, Track], tuple[str, ...]]:
    """Tracks of the colours that are visible in at least half of the keyframes, and colours that are visible in fewer."""
    tracks: dict[str, Track] = {}
    transient: list[str] = []
    step = np.arange(len(curves.colour))
    for k, colour in enumerate(v.COLOURS):
        column = curves.colour[:, :, k].argmax(1)
        present = curves.colour[step, column, k] > 0.5
        if present.mean() < 0.5:
            transient += [colour] * bool(present.mean() > 0.1)
            continue
        shape = v.SHAPES[int(curves.shape[step, column][present].mean(0).argmax())]
        x, y, scale, white = (np.interp(step, step[present], curve[present]) for curve in curves.state[step, column].T)
        size = area(shape, v.RADIUS) * np.maximum(scale, 0.1) ** 2
        tracks[colour] = Track(size, x, y, white, present, np.zeros((len(step), 1, 1)), shape)
    return tracks, tuple(transient)
