"""Trials of obedience: what an edit of a plan must change is known, and a clip that does something else is no hit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from baton_lightning.clip import ClipSpec
from baton_lightning.plan import obedience
from baton_lightning.plan.intervals import bootstrap, wilson
from baton_lightning.plan.reading import Reading
from baton_lightning.world.detect_audio import detect_audio
from baton_lightning.world.detect_video import detect_video
from baton_lightning.world.events import Event
from baton_lightning.world.render import render
from baton_lightning.world.scene import Object, Scene, sample_scene
from baton_lightning.world.sound import synthesise

CLIP = ClipSpec()
RED, BLUE = Object("red", "circle", 0), Object("blue", "square", 2)
SCENE = Scene("multi", 2.0, (RED, BLUE), (Event("flashes", "red", 0.3), Event("says", "blue", 0.84, words=("ba",))))
OTHER = Scene("multi", 2.0, (RED, BLUE), (Event("flashes", "blue", 0.3), Event("jumps", "red", 0.84)))


def clip_of(picture: Scene, sound: Scene | None = None) -> Reading:
    """The detections of a clip that shows one scene and sounds like another."""
    return Reading(detect_video(render(picture, CLIP), CLIP.fps), detect_audio(synthesise(sound or picture, CLIP)))


def later(scene: Scene, event: int, seconds: float) -> Scene:
    return replace(scene, events=tuple(replace(e, start=e.start + seconds * (k == event)) for k, e in enumerate(scene.events)))


def test_a_clip_whose_event_moves_with_the_plan_obeys_and_another_does_not() -> None:
    trial = obedience.shift(SCENE, CLIP)
    assert trial is not None and (trial.event, trial.seconds) == (1, 0.5)
    before = clip_of(SCENE)
    obeyed = obedience.judge(SCENE, trial, before, clip_of(later(SCENE, 1, 0.5)))
    assert obeyed["hit"] and obeyed["kept"] == obeyed["held"] > 5
    assert obeyed["picture_shift"] == pytest.approx(0.5, abs=0.03) and obeyed["sound_shift"] == pytest.approx(0.5, abs=0.01)
    for after in (before, clip_of(later(SCENE, 1, 0.5), SCENE), clip_of(later(SCENE, 1, 0.3))):
        assert not obedience.judge(SCENE, trial, before, after)["hit"]
    both = obedience.judge(SCENE, trial, before, clip_of(later(later(SCENE, 1, 0.5), 0, -0.2)))
    assert both["hit"] and set(both["changed"]) == {"picture 0", "sound 0"}  # the first event should have stayed
    absent = obedience.judge(SCENE, trial, clip_of(replace(SCENE, events=SCENE.events[:1])), before)
    assert not absent["measurable"] and not absent["hit"]


def test_objects_in_exchanged_columns_obey_a_swap() -> None:
    trial = obedience.swap(SCENE, CLIP)
    assert trial is not None and trial.operation == {"op": "swap", "first": [0, 1], "second": [2, 3]}
    swapped = replace(SCENE, objects=(replace(RED, column=2), replace(BLUE, column=0)))
    obeyed = obedience.judge(SCENE, trial, clip_of(SCENE), clip_of(swapped))
    assert obeyed["hit"] and obeyed["changed"] == []
    half = replace(SCENE, objects=(RED, replace(BLUE, column=1)))
    assert not obedience.judge(SCENE, trial, clip_of(SCENE), clip_of(half))["hit"]
    assert obedience.swap(replace(SCENE, events=(Event("slides", "red", 0.3, column=1),)), CLIP) is None


def test_a_spliced_sound_must_be_heard_and_nothing_else_may_change() -> None:
    trial = obedience.splice([SCENE, OTHER], 0, CLIP)
    assert trial is not None and trial.other == 1 and [name for _, name in trial.sounds] == ["thump"]
    mixed = replace(SCENE, events=(SCENE.events[0], OTHER.events[1]))
    before = clip_of(SCENE)
    obeyed = obedience.judge(SCENE, trial, before, clip_of(SCENE, mixed))
    assert obeyed["hit"] and obeyed["changed"] == []
    assert not obedience.judge(SCENE, trial, before, before)["hit"]
    assert "picture 1" in obedience.judge(SCENE, trial, before, clip_of(mixed))["changed"]
    silent = replace(OTHER, events=(OTHER.events[0], Event("slides", "red", 0.84, column=1)))
    assert obedience.splice([SCENE, silent], 0, CLIP) is None  # it has no sound to give


def test_a_shift_touches_no_other_event_and_stays_in_the_clip() -> None:
    scenes = [sample_scene(0, k, "multi", CLIP, "test") for k in range(60)]
    found = [(scene, trial) for scene in scenes if (trial := obedience.shift(scene, CLIP))]
    assert len(found) > 15
    for scene, trial in found:
        start, stop = trial.operation["start"], trial.operation["stop"]
        assert min(start, start + trial.seconds) >= 0 and max(stop, stop + trial.seconds) <= CLIP.seconds + 1e-6
        for k, event in enumerate(scene.events):
            first, last = obedience.span(event)
            if k == trial.event:
                assert start <= first and last <= stop + 1e-6
            else:
                assert last <= min(start, start + trial.seconds) + 1e-6 or first >= max(stop, stop + trial.seconds) - 1e-6


def test_rates_have_their_intervals() -> None:
    assert wilson(8, 10)["low"] == pytest.approx(0.4902, abs=1e-4) and wilson(8, 10)["high"] == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 10)["low"] == 0.0 and wilson(0, 0)["mean"] is None
    spread = bootstrap(torch.arange(100).tolist())
    assert spread["low"] < spread["mean"] == 49.5 < spread["high"] and spread["high"] - spread["low"] == pytest.approx(11.3, abs=1.5)
    assert bootstrap([1, 2], [2, 4])["mean"] == 0.5 and bootstrap([], [])["mean"] is None
    base = {"edit": "shift", "measurable": True, "picture_shift": -0.5, "sound_shift": None, "seconds": -0.5, "held": 4, "kept": 3}
    told = obedience.summary([base | {"hit": True, "changed": ["picture 0"]}, base | {"hit": False, "changed": ["no other event"]}])
    assert told["hit"]["mean"] == 0.5 and told["picture_shift_ms"]["mean"] == 500 and told["sound_shift_ms"]["n"] == 0
    assert told["kept"]["mean"] == 0.75 and told["changed"] == {"picture": 1, "no other event": 1}
