"""Matching of expected events with events detected in picture and sound."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from baton_lightning.world import vocabulary as v
from baton_lightning.world.align import align
from baton_lightning.world.detect_audio import AudioDetections, Effect, Word
from baton_lightning.world.detect_video import VideoDetections, VideoEvent
from baton_lightning.world.events import Event
from baton_lightning.world.scene import Scene


@dataclass(frozen=True)
class Match:
    """Detections of one expected event.

    Args:
        seen: Anchors in the picture, in s, or ``None``.
        heard: Anchors in the sound, in s, or ``None``; an utterance is heard if each word has a partner, even a wrong one.
        sound_correct: Whether the sound is correct and by the right voice; true for events without sound.
        words_heard: For each word of an utterance, the word heard in the voice of the actor; ``None`` if there was none.
    """

    seen: tuple[float, ...] | None
    heard: tuple[float, ...] | None
    sound_correct: bool
    words_heard: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Matching:
    """Matches of all expected events, and surplus detections.

    Args:
        matches: One match for each event of the scene.
        extra_seen: Detected events without an expected event.
        extra_heard: Detected words and effects without an expected event, in order of time.
        word_errors: Word errors, summed over voices.
    """

    matches: tuple[Match, ...]
    extra_seen: tuple[VideoEvent, ...]
    extra_heard: tuple[Word | Effect, ...]
    word_errors: int


def match(scene: Scene, seen: VideoDetections, heard: AudioDetections) -> Matching:
    """Matches a scene with detections. Each kind of event is aligned separately; the order of events is not checked here."""
    sightings, extra_seen = _pair(scene.events, seen.events, lambda e: (e.kind, e.actor, e.target, e.column, len(_pulses(e))), _start)
    sounds = [e for e in scene.events if e.kind in v.EFFECTS]
    effects, extra_effects = _pair(sounds, heard.effects, lambda e: v.EFFECTS[e.kind] if isinstance(e, Event) else e.sound, _start)
    heard_of = dict(zip(map(id, sounds), effects, strict=True))
    words, extra_words, errors = _words(scene, heard)
    matches = []
    for k, (event, sighting) in enumerate(zip(scene.events, sightings, strict=True)):
        times, right, words_heard = None, event.kind == "slides", ()
        if event.kind == "says":
            times, right, words_heard = words[k]
        elif event.kind in v.EFFECTS and heard_of[id(event)] is not None:
            times, right = (heard_of[id(event)].time,), True
        matches.append(Match(sighting.anchors if sighting else None, times, right, words_heard))
    return Matching(tuple(matches), tuple(extra_seen), tuple(sorted(extra_effects + extra_words, key=_start)), errors)


def _start(event: Event | VideoEvent | Word | Effect) -> float:
    return event.anchors[0] if hasattr(event, "anchors") else event.time


def _pulses(event: Event | VideoEvent) -> tuple[float, ...]:
    return event.anchors if event.kind == "says" else ()


def _pair(expected: Sequence, found: Sequence, key: Callable[..., Hashable], time: Callable[..., float]) -> tuple[list, list]:
    """Partner of each expected item among the found items with the same key, and the found items without a partner."""
    pools: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, items in enumerate((expected, found)):
        for k, item in enumerate(items):
            pools[key(item)][side].append(k)
    partner: list = [None] * len(expected)
    left: list = []
    for ours, theirs in pools.values():
        same = align([""] * len(ours), [""] * len(theirs), [time(expected[k]) for k in ours], [time(found[k]) for k in theirs])
        left += [found[theirs[j]] for j in same.extra]
        for k, j in zip(ours, same.partner, strict=True):
            partner[k] = None if j is None else found[theirs[j]]
    return partner, left


def _words(scene: Scene, heard: AudioDetections) -> tuple[dict[int, tuple], list[Word | Effect], int]:
    """For each utterance its times, whether it is correct, and the words heard; then the surplus words and the number of word errors."""
    result: dict[int, tuple] = {}
    surplus: list[Word | Effect] = []
    errors = 0
    for colour in v.COLOURS:
        utterances = [(k, e) for k, e in enumerate(scene.events) if e.kind == "says" and e.actor == colour]
        spoken = [(word, time) for _, e in utterances for word, time in zip(e.words, e.anchors, strict=True)]
        found = [w for w in heard.words if w.voice == colour]
        same = align([w for w, _ in spoken], [w.word for w in found], [t for _, t in spoken], [w.time for w in found])
        surplus, errors = surplus + [found[j] for j in same.extra], errors + same.errors
        partners = iter(same.partner)
        for k, event in utterances:
            pairs = [(word, next(partners)) for word in event.words]
            heard_at = tuple(found[j].time for _, j in pairs if j is not None)
            times = heard_at if len(heard_at) == len(pairs) else None
            words_heard = tuple(None if j is None else found[j].word for _, j in pairs)
            result[k] = times, words_heard == event.words, words_heard
    return result, surplus, errors
