"""The claims of a prompt and whether they hold: the basis of P-Acc and the checklist, and of the reports."""

from __future__ import annotations

import itertools
from typing import Any

from baton_lightning.world import vocabulary as v
from baton_lightning.world.detect_audio import Effect, Word
from baton_lightning.world.detect_video import VideoDetections, VideoEvent
from baton_lightning.world.events import Event
from baton_lightning.world.matching import Match, Matching
from baton_lightning.world.scene import Scene

LATE_SECONDS = 0.2
"""Offset of sound and picture above which the report has a note; it does not affect scores."""


def objects_right(scene: Scene, seen: VideoDetections) -> dict[str, bool]:
    """Which objects are visible with the right shape in the right column."""
    looks = {colour: (track.shape, track.column) for colour, track in seen.tracks.items()}
    return {o.colour: looks.get(o.colour) == (o.shape, o.column) for o in scene.objects}


def surplus_objects(scene: Scene, seen: VideoDetections) -> list[str]:
    """Colours that are visible, in all or a part of the clip, but not in the scene."""
    return sorted({*seen.tracks, *seen.transient} - {o.colour for o in scene.objects})


def longest_chain(scene: Scene, seen: VideoDetections, found: Matching) -> tuple[int, ...]:
    """Indices of the longest chain of correct events (picture, sound, actor and target), in order of picture time and sound time."""
    right = objects_right(scene, seen)
    best: dict[int, tuple[int, ...]] = {}
    times: dict[int, tuple[float, float]] = {}
    for k, (event, m) in enumerate(zip(scene.events, found.matches, strict=True)):
        if m.seen and m.sound_correct and right[event.actor] and (event.target is None or right[event.target]):
            times[k] = m.seen[0], m.heard[0] if m.heard else m.seen[0]
            before = [best[j] for j in best if times[j][0] < times[k][0] and times[j][1] < times[k][1]]
            best[k] = (*max(before, key=len, default=()), k)
    return max(best.values(), key=len, default=())


def p_acc(scene: Scene, seen: VideoDetections, found: Matching) -> float:
    """Length of the chain divided by the number of expected events, surplus events and surplus objects."""
    spurious = max(len(found.extra_seen), len(found.extra_heard)) + len(surplus_objects(scene, seen))
    return len(longest_chain(scene, seen, found)) / (len(scene.events) + spurious)


def checklist(scene: Scene, seen: VideoDetections, found: Matching) -> list[tuple[str, bool]]:
    """Every claim of the prompt, and whether it holds."""
    checks = []
    for o in scene.objects:
        track = seen.tracks.get(o.colour)
        checks += [("present", track is not None), ("shape", bool(track and track.shape == o.shape))]
        checks.append(("column", bool(track and track.column == o.column)))
    checks.append(("nothing else", not surplus_objects(scene, seen)))
    checks += [("seen", m.seen is not None) for m in found.matches] + [("nothing else seen", not found.extra_seen)]
    sounding = [m for e, m in zip(scene.events, found.matches, strict=True) if e.kind != "slides"]
    checks += [("heard", m.sound_correct) for m in sounding] + [("nothing else heard", not found.extra_heard)]
    for times in ([m.seen for m in found.matches], [m.heard for m in sounding]):
        checks += [("order", bool(a and b and a[0] < b[0])) for a, b in itertools.pairwise(times)]
    return checks


def facts(scene: Scene, seen: VideoDetections, found: Matching) -> dict[str, Any]:
    """Explanation of a clip's scores, as plain JSON values.

    Returns:
        ``objects``: for each object its colour, shape, column and faults; ``events``: for each event of the prompt its anchors, the times
        at which it was seen and heard, and its faults as texts (empty if it is correct and in order); ``surplus``: detected objects and
        events that the prompt does not describe.
    """
    linked = set(longest_chain(scene, seen, found))
    right = objects_right(scene, seen)
    objects = []
    for o in scene.objects:
        track = seen.tracks.get(o.colour)
        looks = f"{track.shape or 'shapeless'} {v.COLUMNS[track.column]}" if track else None
        fault = [] if right[o.colour] else [f"is seen as {looks}" if looks else "is not there"]
        objects.append({"colour": o.colour, "shape": o.shape, "column": v.COLUMNS[o.column], "faults": fault})
    events = []
    for k, (event, m) in enumerate(zip(scene.events, found.matches, strict=True)):
        faults = [*_seen_faults(event, m, found), *_heard_faults(event, m, found)]
        faults += [f"the {c} object is not as described" for c in (event.actor, event.target) if c and not right[c]]
        if not faults and k not in linked:
            faults.append("out of order")
        entry: dict[str, Any] = {
            "kind": event.kind,
            "actor": event.actor,
            "target": event.target,
            "column": event.column,
            "words": list(event.words),
        }
        late = m.heard[0] - m.seen[0] if m.seen and m.heard else 0.0
        note = f"sound {abs(late):.2f} s {'after' if late > 0 else 'before'} picture" if abs(late) > LATE_SECONDS else None
        events.append(
            entry | {"expected": _times(event.anchors), "seen": _times(m.seen), "heard": _times(m.heard), "faults": faults, "note": note}
        )
    surplus: dict[str, Any] = {"objects": surplus_objects(scene, seen)}
    surplus["seen"] = [{"what": describe(e), "at": round(e.anchors[0], 3)} for e in found.extra_seen]
    surplus["heard"] = [{"what": describe(e), "at": round(e.time, 3)} for e in found.extra_heard]
    return {"objects": objects, "events": events, "surplus": surplus}


def describe(found: VideoEvent | Word | Effect) -> str:
    """Short text of a detected event."""
    if isinstance(found, Word):
        return f"[{found.voice}] '{found.word}'"
    if isinstance(found, Effect):
        return f"a {found.sound}"
    goal = found.target or (v.COLUMNS[found.column] if found.column is not None else None)
    if found.kind == "says":
        return f"{found.actor} talks ({len(found.anchors)} pulses)"
    return f"{found.actor} {found.kind}" + (f" {goal}" if goal else "")


def _seen_faults(event: Event, m: Match, found: Matching) -> list[str]:
    if m.seen:
        return []
    same = [e for e in found.extra_seen if e.kind == event.kind]
    near = [e for e in same if e.actor == event.actor] or same
    return [f"not seen; instead: {describe(near[0])}" if near else "not seen"]


def _heard_faults(event: Event, m: Match, found: Matching) -> list[str]:
    if m.sound_correct:
        return []
    if event.kind != "says":
        return [f"no {v.EFFECTS[event.kind]} heard"]
    others = [w for w in found.extra_heard if isinstance(w, Word) and w.voice != event.actor]
    for k in range(len(others) - len(event.words) + 1):
        run = others[k : k + len(event.words)]
        if tuple(w.word for w in run) == event.words and len({w.voice for w in run}) == 1:
            return [f"spoken by the voice of {run[0].voice}"]
    if any(m.words_heard):
        return [f"heard '{' '.join(word or '-' for word in m.words_heard)}' instead of '{' '.join(event.words)}'"]
    return ["not heard"]


def _times(anchors: tuple[float, ...] | None) -> list[float] | None:
    return None if anchors is None else [round(t, 3) for t in anchors]
