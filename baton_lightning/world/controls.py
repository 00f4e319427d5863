"""Controls: clips with one known error each, which show what a score detects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from baton_lightning.clip import ClipSpec
from baton_lightning.world import vocabulary as v
from baton_lightning.world.clips import WorldClip
from baton_lightning.world.events import Event
from baton_lightning.world.render import render
from baton_lightning.world.scene import Scene
from baton_lightning.world.sound import synthesise

Clip = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""Frames and waveform."""
SHIFTS = (-0.8, -0.5, -0.3, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""Delays of the sound, in s."""


def shift_name(seconds: float) -> str:
    """Name of the control whose sound is delayed by ``seconds``."""
    return f"sound {1000 * seconds:+.0f} ms"


def first_event_only(scene: Scene) -> Scene | None:
    """The scene with its first event only; ``None`` if it has one event."""
    return replace(scene, events=scene.events[:1]) if len(scene.events) > 1 else None


def reversed_events(scene: Scene) -> Scene | None:
    """The scene with its events in reverse order, scheduled anew; ``None`` for a single event.

    An object may then slide to the column where it is, or move past a column to hit another object.
    """
    if len(scene.events) < 2:
        return None
    events: list[Event] = []
    for event in reversed(scene.events):
        events.append(replace(event, start=events[-1].following if events else scene.events[0].start))
    return replace(scene, events=tuple(events))


def wrong_speakers(scene: Scene) -> Scene | None:
    """Every utterance in another voice: of the scene's next object, or of a colour that is not in the scene. ``None`` without speech."""
    colours = [o.colour for o in scene.objects]
    if len(colours) == 1:
        colours.append(next(c for c in v.COLOURS if c not in colours))
    if not any(e.kind == "says" for e in scene.events):
        return None
    other = dict(zip(colours, colours[1:] + colours[:1], strict=True))
    return replace(scene, events=tuple(replace(e, actor=other[e.actor]) if e.kind == "says" else e for e in scene.events))


def exchanged_actors(scene: Scene) -> Scene | None:
    """Every event of the first object by the second one, and the other way round; ``None`` for one object.

    An object may then slide to the column where it is, or move past a column to hit another object.
    """
    if len(scene.objects) < 2:
        return None
    first, second = (o.colour for o in scene.objects[:2])
    other = {first: second, second: first}
    events = (replace(e, actor=other.get(e.actor, e.actor), target=other.get(e.target or "", e.target)) for e in scene.events)
    return replace(scene, events=tuple(events))


def delayed_sound(waveform: NDArray[np.float32], seconds: float, sample_rate: int) -> NDArray[np.float32]:
    """The waveform delayed by ``seconds``; it is cut at the start if ``seconds`` is negative."""
    samples = round(seconds * sample_rate)
    return np.pad(waveform[max(0, -samples) :], (max(0, samples), 0))


def controls(made: WorldClip, other: WorldClip, clip: ClipSpec, seed: int) -> Iterator[tuple[str, Clip]]:
    """Every control that applies to a clip.

    Args:
        made: The correct clip.
        other: The clip of another prompt of the same tier.
        clip: Geometry of the clips.
        seed: Seed of the noise.
    """
    scene, frames, waveform = made.scene, made.frames, made.waveform
    rng = np.random.default_rng(seed)
    yield "truth", (frames, waveform)
    yield "another prompt's clip", (other.frames, other.waveform)
    yield "another prompt's sound", (frames, other.waveform)
    changed: dict[str, Callable[[Scene], Scene | None]] = {"first event only": first_event_only, "reversed": reversed_events}
    changed["exchanged actors"] = exchanged_actors
    for name, change in changed.items():
        if (changed_scene := change(scene)) is not None:
            yield name, (render(changed_scene, clip), synthesise(changed_scene, clip))
    if (changed_scene := wrong_speakers(scene)) is not None:
        yield "wrong speaker", (frames, synthesise(changed_scene, clip))
    yield "first sound missing", (frames, synthesise(replace(scene, events=scene.events[1:]), clip))
    yield "mirrored picture", (np.ascontiguousarray(frames[:, :, ::-1]), waveform)
    for seconds in SHIFTS:
        yield shift_name(seconds), (frames, delayed_sound(waveform, seconds, clip.sample_rate))
    yield "static", (np.repeat(frames[:1], len(frames), 0), np.zeros_like(waveform))
    noise = rng.integers(0, 256, frames.shape, dtype=np.uint8)
    yield "noise", (noise, rng.normal(0, 0.1, waveform.shape).astype(np.float32))
