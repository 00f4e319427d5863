"""Counterfactual pairs: two prompts that differ in one respect, and whether plan and clip change there and nowhere else.

    colour   an object gets another colour, and with it another voice
    order    two consecutive events are exchanged
    speaker  an utterance is given to another object
    word     one word is replaced

Both clips are generated from the same noise. The world's detectors read them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from baton_lightning.clip import ClipSpec
from baton_lightning.plan.intervals import bootstrap, wilson
from baton_lightning.plan.obedience import NEAR_SECONDS, SLACK, facts_of
from baton_lightning.plan.reading import Reading
from baton_lightning.world import vocabulary as v
from baton_lightning.world.events import Event
from baton_lightning.world.render import render
from baton_lightning.world.scene import Scene
from baton_lightning.world.sound import synthesise

EDITS = ("colour", "order", "speaker", "word")
STAYING = ("says", "jumps", "flashes")
"""Kinds of events after which every object is in its column."""


@dataclass(frozen=True)
class Pair:
    """Two scenes that differ in one respect.

    Args:
        edit: One of :data:`EDITS`.
        scene: The scene.
        other: The edited scene.
    """

    edit: str
    scene: Scene
    other: Scene

    @property
    def concerns(self) -> frozenset[str]:
        """Names of the facts that differ, as in :func:`baton_lightning.plan.obedience.facts_of`."""
        one, two = claims(self.scene), claims(self.other)
        return frozenset(name for name in {*one, *two} if one.get(name) != two.get(name))


def claims(scene: Scene) -> dict[str, Any]:
    """Facts of a scene: name -> what must hold."""
    told: dict[str, Any] = {f"shape {o.colour}": o.shape for o in scene.objects}
    told |= {f"column {o.colour}": o.column for o in scene.objects}
    for k, event in enumerate(scene.events):
        told[f"picture {k}"] = (event.kind, event.actor, event.target, event.column, event.anchors)
        if event.kind != "slides":
            told[f"sound {k}"] = (v.EFFECTS.get(event.kind) or (event.actor, event.words), event.anchors)
    return told


# ---- pairs
def pairs(scene: Scene, edit: str) -> Iterator[Pair]:
    """Every pair of a scene under an edit whose second scene is not in the training split either.

    Args:
        scene: A held-out scene.
        edit: One of :data:`EDITS`.
    """
    make = {"colour": recoloured, "order": exchanged, "speaker": given_to_another, "word": reworded}[edit]
    return (Pair(edit, scene, other) for other in make(scene) if other.split not in ("train", "ood"))


def recoloured(scene: Scene) -> Iterator[Scene]:
    """The scene with one object in a colour that it does not have."""
    for o, colour in itertools.product(scene.objects, v.COLOURS):
        if colour not in {other.colour for other in scene.objects}:
            names = {o.colour: colour}
            objects = tuple(replace(p, colour=names.get(p.colour, p.colour)) for p in scene.objects)
            events = tuple(replace(e, actor=names.get(e.actor, e.actor), target=names.get(e.target or "", e.target)) for e in scene.events)
            yield replace(scene, objects=objects, events=events)


def exchanged(scene: Scene) -> Iterator[Scene]:
    """The scene with two consecutive events of objects that stay in their columns exchanged, scheduled anew."""
    for k, (one, two) in enumerate(itertools.pairwise(scene.events)):
        if one.kind in STAYING and two.kind in STAYING and replace(one, start=0.0) != replace(two, start=0.0):
            first = replace(two, start=one.start)
            second = replace(one, start=first.following)
            yield replace(scene, events=(*scene.events[:k], first, second, *scene.events[k + 2 :]))


def given_to_another(scene: Scene) -> Iterator[Scene]:
    """The scene with one utterance given to another of its objects."""
    for k, o in itertools.product(range(len(scene.events)), scene.objects):
        if scene.events[k].kind == "says" and scene.events[k].actor != o.colour:
            yield with_event(scene, k, replace(scene.events[k], actor=o.colour))


def reworded(scene: Scene) -> Iterator[Scene]:
    """The scene with one word of an utterance replaced."""
    for k, event in enumerate(scene.events):
        for place, word in itertools.product(range(len(event.words)), v.WORDS):
            if word != event.words[place]:
                yield with_event(scene, k, replace(event, words=(*event.words[:place], word, *event.words[place + 1 :])))


def with_event(scene: Scene, index: int, event: Event) -> Scene:
    """The scene with another event in this place."""
    return replace(scene, events=(*scene.events[:index], event, *scene.events[index + 1 :]))


# ---- judgement
def regions(pair: Pair, clip: ClipSpec) -> dict[str, Bool[Tensor, ...]]:
    """Tokens of a plan in whose place and time the two true clips differ.

    Args:
        pair: The two scenes.
        clip: Geometry of the clips.

    Returns:
        ``video`` [N, h, w] and ``audio`` [K_a].
    """
    frames = [render(scene, clip).astype(np.int16) for scene in (pair.scene, pair.other)]
    differs = (frames[0] != frames[1]).any(-1)  # [T_f, H, W]
    moments = [min(round(time * clip.fps), clip.num_frames - 1) for time in clip.keyframe_times]
    rows, columns = (edges(size, count) for size, count in zip((clip.height, clip.width), clip.plan_grid, strict=True))
    video = [[[differs[m, a:b, c:d].any() for c, d in columns] for a, b in rows] for m in moments]
    one, two = (synthesise(scene, clip) for scene in (pair.scene, pair.other))
    count = round(clip.seconds * clip.audio_plan_rate)
    audio = [(one[a:b] != two[a:b]).any() for a, b in edges(clip.num_samples, count)]
    return {"video": torch.tensor(np.array(video)), "audio": torch.tensor(np.array(audio))}


def edges(size: int, count: int) -> list[tuple[int, int]]:
    """Start and end of ``count`` equal parts of ``size``, widened to whole numbers."""
    return [(math.floor(k * size / count + SLACK), math.ceil((k + 1) * size / count - SLACK)) for k in range(count)]


def judge(pair: Pair, before: Reading, after: Reading) -> dict[str, Any]:
    """Whether the clip changed where the prompt did, and nowhere else.

    Args:
        pair: The two scenes.
        before: Content of the clip of the first.
        after: Content of the clip of the second, with the same noise.

    Returns:
        ``measurable``: whether the first clip shows what the edit changes; ``hit``: whether the second shows what it became; ``kept`` and
        ``held``: number of the other facts that still hold, and that held before; ``changed``: names of those that do not.
    """
    was, now = facts_of(pair.scene, before), facts_of(pair.other, after)
    concerns, one, two = pair.concerns, claims(pair.scene), claims(pair.other)
    others = [name for name in was if name not in concerns]
    changed = [name for name in others if name not in now or abs(now[name] - was[name]) > NEAR_SECONDS]
    measurable = in_order(was, [name for name in one if name in concerns])
    hit = measurable and in_order(now, [name for name in two if name in concerns])
    told = {"edit": pair.edit, "measurable": measurable, "hit": hit, "held": len(others), "kept": len(others) - len(changed)}
    return told | {"changed": changed}


def in_order(held: dict[str, float], names: Sequence[str]) -> bool:
    """Whether all these facts hold, and those of the picture and those of the sound one after another."""
    times = [[held[name] for name in names if name in held and name.startswith(sense)] for sense in ("picture", "sound")]
    return all(name in held for name in names) and all(a < b for found in times for a, b in itertools.pairwise(found))


def focus(change: dict[str, Tensor], region: dict[str, Tensor]) -> dict[str, float]:
    """Where a plan changed.

    Args:
        change: Modality -> difference of the tokens of two plans: ``video`` [N, h, w, C] and ``audio`` [K_a, C].
        region: Modality -> tokens in whose place and time the true clips differ, see :func:`regions`.

    Returns:
        ``inside``: share of the squared change in the region; ``area``: share of the channels of the plan in the region, which a change of
        the whole plan alike would have.
    """
    total = sum(float(part.square().sum()) for part in change.values())
    inside = sum(float(part[region[name]].square().sum()) for name, part in change.items())
    size = sum(part.numel() for part in change.values())
    area = sum(part[region[name]].numel() for name, part in change.items())
    return {"inside": inside / total if total else 0.0, "area": area / size}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates and means of the pairs of one edit, with 95 % intervals: Wilson's for the hit rate, bootstrap over pairs for the others.

    Args:
        rows: Results of :func:`judge` and :func:`focus`.
    """
    measured = [row for row in rows if row["measurable"]]
    told: dict[str, Any] = {"num": len(rows), "not_in_first_clip": len(rows) - len(measured)}
    told["hit"] = wilson(sum(row["hit"] for row in measured), len(measured))
    told["kept"] = bootstrap([row["kept"] for row in rows], [row["held"] for row in rows])
    return told | {f"plan_{name}": bootstrap([row[name] for row in rows]) for name in ("inside", "area")}
