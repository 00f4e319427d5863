"""What is wrong with a clip is said in words, event by event."""

from dataclasses import replace

from baton_lightning.clip import ClipSpec
from baton_lightning.world.events import Event
from baton_lightning.world.render import render
from baton_lightning.world.scene import Object, Scene
from baton_lightning.world.scores import judge
from baton_lightning.world.sound import synthesise

CLIP = ClipSpec(seconds=3)
OBJECTS = (Object("red", "circle", 0), Object("blue", "square", 1))
SCENE = Scene("multi", 3.0, OBJECTS, (Event("says", "red", 0.3, words=("ba", "ku")), Event("jumps", "blue", 1.4)))


def facts(shown: Scene, heard: Scene | None = None):
    return judge(SCENE, render(shown, CLIP), synthesise(heard or shown, CLIP), CLIP.fps).facts


def faults(shown: Scene, heard: Scene | None = None) -> list[list[str]]:
    return [event["faults"] for event in facts(shown, heard)["events"]]


def test_the_truth_has_no_faults():
    result = facts(SCENE)
    assert [e["faults"] for e in result["events"]] == [[], []] and all(not o["faults"] for o in result["objects"])
    assert result["surplus"] == {"objects": [], "seen": [], "heard": []}
    assert all(e["note"] is None for e in result["events"])


def test_a_missing_event_is_named():
    assert faults(replace(SCENE, events=SCENE.events[:1])) == [[], ["not seen", "no thump heard"]]


def test_a_wrong_speaker_is_named():
    heard = replace(SCENE, events=(replace(SCENE.events[0], actor="blue"), SCENE.events[1]))
    assert faults(SCENE, heard) == [["spoken by the voice of blue"], []]


def test_wrong_words_are_quoted():
    heard = replace(SCENE, events=(replace(SCENE.events[0], words=("ba", "di")), SCENE.events[1]))
    assert faults(SCENE, heard) == [["heard 'ba di' instead of 'ba ku'"], []]


def test_swapped_events_are_out_of_order():
    swapped = replace(SCENE, events=(replace(SCENE.events[1], start=0.3), replace(SCENE.events[0], start=1.4)))
    assert sorted(faults(swapped)) == [[], ["out of order"]]


def test_another_actor_and_what_nobody_asked_for_are_told():
    result = facts(replace(SCENE, events=(SCENE.events[0], replace(SCENE.events[1], actor="red"))))
    assert result["events"][1]["faults"] == ["not seen; instead: red jumps"]
    assert result["surplus"]["seen"][0]["what"] == "red jumps"


def test_a_wrong_object_spoils_its_events():
    result = facts(replace(SCENE, objects=(Object("red", "triangle", 0), OBJECTS[1], Object("green", "circle", 2))))
    assert result["objects"][0]["faults"] == ["is seen as triangle left"] and result["surplus"]["objects"] == ["green"]
    assert [e["faults"] for e in result["events"]] == [["the red object is not as described"], []]


def test_late_sound_is_noted_without_being_a_fault():
    late = replace(SCENE, events=(SCENE.events[0], replace(SCENE.events[1], start=1.8)))
    result = facts(SCENE, late)
    assert result["events"][1]["faults"] == [] and result["events"][1]["note"] == "sound 0.40 s after picture"
