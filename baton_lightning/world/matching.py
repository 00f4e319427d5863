"""Which expected event was seen where, and heard where."""

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
    """What became of one expected event.

    Args:
        seen: Anchors in the picture, in s, or ``None``.
        heard: Anchors in the sound, in s, or ``None``; an utterance is heard if each word has a partner, right or wrong.
        said_right: Whether the sound is the right one, by the right voice. True for events without sound.
        said: Of an utterance, what was heard for each word in the actor's voice; ``None`` where nothing was.
    """

    seen: tuple[float, ...] | None
    heard: tuple[float, ...] | None
    sound_correct: bool
    words_heard: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Matching:
    """All expected events, and what there was beyond them.

    Args:
        matches: One for each event of the scene.
        extra_seen: Events seen that nothing expected.
        extra_heard: Words and effects heard that nothing expected, in order of time.
        word_errors: Edits of the words, each voice by itself.
    """

    matches: tuple[Match, ...]
    extra_seen: tuple[VideoEvent, ...]
    extra_heard: tuple[Word | Effect, ...]
    word_errors: int


def match(scene: Scene, seen: VideoDetections, heard: AudioDetections) -> Matching:
    """Aligns a scene with what the detectors found. Each kind of event is aligned by itself; order is judged elsewhere."""
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
    """Partner of each expected item among the found ones of equal key, and the found items left over."""
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
    """For each utterance its moments, whether it is right, and what was heard; the surplus words; the edits. Voice by voice."""
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
            whole = all(j is not None for _, j in pairs)
            times = tuple(found[j].time for _, j in pairs) if whole else None
            words_heard = tuple(None if j is None else found[j].word for _, j in pairs)
            result[k] = times, words_heard == event.words, words_heard
    return result, surplus, errors
