"""Obedience of clips to edits of their plans: which edits a scene allows, what each must change, and what must stay.

    shift    an event, in picture and sound, is moved by half a second
    swap     two columns of the picture are exchanged
    splice   from a moment on, the sound is that of another plan

Each edited clip is compared with the clip of the unedited plan and the same noise, through the world's detectors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from baton_lightning.clip import ClipSpec
from baton_lightning.plan.intervals import bootstrap, wilson
from baton_lightning.plan.reading import Reading
from baton_lightning.world import vocabulary as v
from baton_lightning.world.align import align
from baton_lightning.world.events import Event
from baton_lightning.world.facts import surplus_objects
from baton_lightning.world.matching import match
from baton_lightning.world.scene import Scene
from baton_lightning.world.sound import tones

EDITS = ("shift", "swap", "splice")
SHIFT_SECONDS, NEAR_SECONDS = 0.5, 0.1
"""Nominal shift, and largest deviation of a moment that counts as obeyed, or as unchanged."""
SLACK = 1e-6


@dataclass(frozen=True)
class Trial:
    """One edit of the plan of one scene.

    Args:
        edit: ``shift``, ``swap`` or ``splice``.
        operation: The operation, see :mod:`baton_lightning.plan.edits`.
        concerns: Names of the facts that the edit changes.
        event: Index of the event that is shifted.
        seconds: Time by which it is shifted.
        columns: Colour -> new column, of a swap.
        sounds: Sounds after the cut of a splice, each with its time in s.
        other: Index of the clip whose sound is spliced in.
    """

    edit: str
    operation: dict[str, Any]
    concerns: frozenset[str]
    event: int = -1
    seconds: float = 0.0
    columns: dict[str, int] = field(default_factory=dict)
    sounds: tuple[tuple[float, str], ...] = ()
    other: int = -1


# ---- edits
def span(event: Event) -> tuple[float, float]:
    """Start and end of an event in picture and sound, in s."""
    played = [(start, start + seconds) for _, start, seconds in tones(Scene("single", 0.0, (), (event,)))]
    return min([event.start, *(a for a, _ in played)]), max([event.start + event.seconds, *(b for _, b in played)])


def block(event: Event, clip: ClipSpec) -> tuple[float, float]:
    """The span of an event, widened to whole keyframes."""
    start, stop = span(event)
    fps = clip.keyframe_fps
    return math.floor(start * fps + SLACK) / fps, math.ceil(stop * fps - SLACK) / fps


def shift(scene: Scene, clip: ClipSpec) -> Trial | None:
    """A shift of the last event that can be moved without touching another one; ``None`` if there is none."""
    by = max(1, round(SHIFT_SECONDS * clip.keyframe_fps)) / clip.keyframe_fps
    for k in reversed(range(len(scene.events))):
        start, stop = block(scene.events[k], clip)
        others = [span(event) for j, event in enumerate(scene.events) if j != k]
        for seconds in (by, -by):
            first, last = start + seconds, stop + seconds
            inside = start > 0 and first >= -SLACK and last <= clip.seconds + SLACK
            free = all(max(stop, last) <= a + SLACK or min(start, first) >= b - SLACK for a, b in others)
            returns = seconds < 0 and scene.events[k].kind == "slides"  # its former place would show the old column again
            if inside and free and not returns:
                operation = {"op": "shift", "seconds": seconds, "start": round(start, 6), "stop": round(stop, 6)}
                return Trial("shift", operation, frozenset({f"picture {k}", f"sound {k}"}), k, seconds)
    return None


def swap(scene: Scene, clip: ClipSpec) -> Trial | None:
    """An exchange of the first object's column with that of the next object, or with an empty one; ``None`` if objects leave theirs."""
    if clip.plan_grid[1] % len(v.COLUMNS) or any(event.kind in ("hits", "slides") for event in scene.events):
        return None
    where = {o.column: o.colour for o in scene.objects}
    one = scene.objects[0].column
    two = scene.objects[1].column if len(scene.objects) > 1 else next(k for k in range(len(v.COLUMNS)) if k != one)
    wide = clip.plan_grid[1] // len(v.COLUMNS)
    first, second = ([k * wide, (k + 1) * wide] for k in (one, two))
    columns = {where[old]: new for old, new in ((one, two), (two, one)) if old in where}
    return Trial("swap", {"op": "swap", "first": first, "second": second}, frozenset(f"column {c}" for c in columns), columns=columns)


def splice(scenes: Sequence[Scene], index: int, clip: ClipSpec) -> Trial | None:
    """The sound of the next scene that fits, from the last event on; ``None`` if none fits."""
    own = scenes[index]
    cut, _ = block(own.events[-1], clip)
    if cut <= 0 or any(start < cut < stop for start, stop in map(sounding, own.events)):
        return None
    for other in [*range(index + 1, len(scenes)), *range(index)]:
        found = sounds_of(scenes[other], cut)
        straddles = any(start < cut < stop for start, stop in map(sounding, scenes[other].events))
        if found and not straddles and [name for _, name in found] != [name for _, name in sounds_of(own, cut)]:
            later = {f"sound {k}" for k, event in enumerate(own.events) if sounding(event)[1] > cut}
            operation = {"op": "mix", "share": 1.0, "modality": "audio", "start": round(cut, 6)}
            return Trial("splice", operation, frozenset({*later, "no other sound"}), sounds=tuple(found), other=other)
    return None


def sounding(event: Event) -> tuple[float, float]:
    """Start and end of an event's sound, in s; both its start for a silent event."""
    played = [(start, start + seconds) for _, start, seconds in tones(Scene("single", 0.0, (), (event,)))]
    return (min(a for a, _ in played), max(b for _, b in played)) if played else (event.start, event.start)


def sounds_of(scene: Scene, since: float) -> list[tuple[float, str]]:
    """Words, with their voices, and effects of a scene from a time on, in s."""
    found = []
    for event in scene.events:
        names = [f"{event.actor} {word}" for word in event.words] + [v.EFFECTS[kind] for kind in (event.kind,) if kind in v.EFFECTS]
        found += [(time, name) for time, name in zip(event.anchors, names, strict=False) if time >= since]  # a slide is silent
    return found


# ---- judgement
def facts_of(scene: Scene, found: Reading) -> dict[str, float]:
    """Facts of a scene that hold in a clip: name -> time in s of a picture or sound, or 0 for a fact without a time."""
    held: dict[str, float] = {}
    for o in scene.objects:
        if (track := found.seen.tracks.get(o.colour)) is not None:
            held |= {f"shape {o.colour}": 0.0} if track.shape == o.shape else {}
            held |= {f"column {o.colour}": 0.0} if track.column == o.column else {}
    matching = match(scene, found.seen, found.heard)
    for k, (event, m) in enumerate(zip(scene.events, matching.matches, strict=True)):
        held |= {f"picture {k}": m.seen[0]} if m.seen else {}
        held |= {f"sound {k}": m.heard[0]} if m.heard and m.sound_correct and event.kind != "slides" else {}
    held |= {} if surplus_objects(scene, found.seen) else {"no other object": 0.0}
    held |= {} if matching.extra_seen else {"no other event": 0.0}
    held |= {} if matching.extra_heard else {"no other sound": 0.0}
    return held


def moved(scene: Scene, trial: Trial) -> Scene:
    """The scene after a shift; the same scene after other edits."""
    events = [replace(event, start=event.start + trial.seconds * (k == trial.event)) for k, event in enumerate(scene.events)]
    return replace(scene, events=tuple(events))


def judge(scene: Scene, trial: Trial, before: Reading, after: Reading) -> dict[str, Any]:
    """Whether a clip obeyed.

    Args:
        scene: Scene of the unedited plan.
        trial: The edit.
        before: Content of the clip of the unedited plan.
        after: Content of the clip of the edited plan, with the same noise.

    Returns:
        ``measurable``: whether the clip of the unedited plan shows what the edit moves; ``hit``; ``picture_shift`` and ``sound_shift`` in
        s, or ``None``; ``kept`` and ``held``: number of the other facts that still hold, and that held before; ``changed``: their names.
    """
    was, now = facts_of(scene, before), facts_of(moved(scene, trial), after)
    others = [name for name in was if name not in trial.concerns]
    changed = [name for name in others if name not in now or abs(now[name] - was[name]) > NEAR_SECONDS]
    told: dict[str, Any] = {"edit": trial.edit, "held": len(others), "kept": len(others) - len(changed), "changed": changed}
    shifts: dict[str, float | None] = {}
    for name in ("picture", "sound"):
        key = f"{name} {trial.event}"
        shifts[name] = now[key] - was[key] if key in was and key in now else None
    told |= {f"{name}_shift": by for name, by in shifts.items()} | {"seconds": trial.seconds}
    if trial.edit == "shift":
        needed = ["picture"] + ["sound"] * (scene.events[trial.event].kind != "slides")
        measurable = all(f"{name} {trial.event}" in was for name in needed)
        hit = all(by is not None and abs(by - trial.seconds) <= NEAR_SECONDS for by in (shifts[name] for name in needed))
    elif trial.edit == "swap":
        measurable = all(f"column {colour}" in was for colour in trial.columns)
        columns = {colour: track.column for colour, track in after.seen.tracks.items()}
        hit = all(columns.get(colour) == column for colour, column in trial.columns.items())
    else:
        measurable, hit = True, sounds_right(trial, after)
    return told | {"measurable": measurable, "hit": measurable and hit}


def sounds_right(trial: Trial, after: Reading) -> bool:
    """Whether exactly the spliced sounds are heard after the cut, each at its time."""
    found = [(word.time, f"{word.voice} {word.word}") for word in after.heard.words]
    found = sorted([*found, *((effect.time, effect.sound) for effect in after.heard.effects)])
    found = [(time, name) for time, name in found if time >= trial.operation["start"]]
    same = align([n for _, n in trial.sounds], [n for _, n in found], [t for t, _ in trial.sounds], [t for t, _ in found])
    near = [abs(found[j][0] - time) <= NEAR_SECONDS for (time, _), j in zip(trial.sounds, same.partner, strict=True) if j is not None]
    return same.errors == 0 and all(near)


def kind_of(fact: str) -> str:
    """Name of a fact without its object or event."""
    return fact if fact.startswith("no ") else fact.partition(" ")[0]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates and means of the trials of one edit, with 95 % intervals: Wilson's for the hit rate, bootstrap over clips for the others.

    Args:
        rows: Results of :func:`judge`.
    """
    measured = [row for row in rows if row["measurable"]]
    told: dict[str, Any] = {"num": len(rows), "not_in_unedited_clip": len(rows) - len(measured)}
    told["hit"] = wilson(sum(row["hit"] for row in measured), len(measured))
    for name in ("picture", "sound"):
        shifts = [row[f"{name}_shift"] * math.copysign(1000, row["seconds"]) for row in measured if row[f"{name}_shift"] is not None]
        told[f"{name}_shift_ms"] = bootstrap(shifts) if rows and rows[0]["edit"] == "shift" else None
    told["kept"] = bootstrap([row["kept"] for row in rows], [row["held"] for row in rows])
    told["changed"] = dict(Counter(kind_of(name) for row in rows for name in row["changed"]).most_common())
    return told
