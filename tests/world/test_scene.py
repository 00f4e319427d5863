import json
from dataclasses import replace
from hashlib import blake2b
from itertools import product

import pytest

from baton_lightning.clip import ClipSpec
from baton_lightning.world import vocabulary as v
from baton_lightning.world.events import Event
from baton_lightning.world.scene import SPLITS, TIERS, Scene, sample_scene

NANO = ClipSpec()
TOY = ClipSpec(seconds=5, height=48, width=48)


def test_a_scene_is_a_pure_function_of_its_indices():
    for tier in TIERS:
        assert sample_scene(3, 7, tier, NANO) == sample_scene(3, 7, tier, NANO)
        assert len({sample_scene(3, i, tier, NANO).content for i in range(20)}) > 15
        assert sample_scene(3, 7, tier, NANO) != sample_scene(4, 7, tier, NANO)


def test_scenes_are_the_same_on_every_machine():
    sets = product((NANO, TOY), TIERS, SPLITS, range(3))
    drawn = [sample_scene(0, i, tier, clip, split).to_dict() for clip, tier, split, i in sets]
    digest = blake2b(json.dumps(drawn, sort_keys=True).encode(), digest_size=8).hexdigest()
    assert digest == "2aa273d1e5c692f7", "published numbers rest on these scenes; a new digest means a new benchmark"


def test_a_scene_survives_json():
    for tier in TIERS:
        scene = sample_scene(0, 1, tier, TOY)
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_a_damaged_scene_is_refused():
    values = sample_scene(0, 0, "multi", NANO).to_dict()
    with pytest.raises(ValueError, match="events"):
        Scene.from_dict({k: value for k, value in values.items() if k != "events"})


RED, JUMP = {"colour": "red", "shape": "circle", "column": 0}, {"kind": "jumps", "actor": "red"}


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"objects": objects}
            for objects in ([], [RED, RED], [RED | {"colour": "pink"}], [RED | {"colour": ["red"]}], [RED | {"column": 3}])
        ),
        *({"objects": [RED | {"column": column}]} for column in (-1, 1.0, None)),
        *(
            {"events": events}
            for events in ([], ["jumps"], [JUMP | {"kind": "flies"}], [JUMP | {"actor": "blue"}], [JUMP | {"start": "soon"}])
        ),
        *({"events": [JUMP | {"kind": kind}]} for kind in ("says", "hits", "slides")),
        *({"events": [JUMP | {"kind": "says", "words": words}]} for words in (["hello"], "ba", [["ba"]])),
        {"events": [JUMP | {"kind": "hits", "target": "red"}]},
        {"events": [JUMP | {"target": "red"}]},
    ],
    ids=str,
)
def test_a_scene_that_is_not_of_the_world_is_refused(change):
    values = {"tier": "single", "seconds": 2.0, "objects": [RED], "events": [JUMP]}
    assert Scene.from_dict(values).events == (Event("jumps", "red"),)
    with pytest.raises(ValueError, match="scene: "):
        Scene.from_dict(values | change)


@pytest.mark.parametrize("clip", [NANO, TOY], ids=["nano", "toy"])
def test_tiers_have_their_content_and_fit_the_clip(clip):
    lengths = {"single": {1}, "multi": {3, 4, 5}, "talk": {3, 4}} if clip is TOY else {"single": {1}, "multi": {2}, "talk": {2}}
    for tier in TIERS:
        scenes = [sample_scene(1, i, tier, clip) for i in range(60)]
        assert {len(s.events) for s in scenes} == lengths[tier]
        assert {len(s.objects) for s in scenes} == ({1, 2} if tier == "single" else {2, 3})
        for s in scenes:
            assert s.events[0].start == v.FIRST_EVENT
            assert s.events[-1].start + s.events[-1].seconds <= clip.seconds - 0.099
            assert len({o.colour for o in s.objects}) == len({o.column for o in s.objects}) == len(s.objects)
    assert all(len({e.actor for e in sample_scene(1, i, "talk", clip).events}) >= 2 for i in range(60))


def test_every_kind_of_event_is_drawn():
    assert {e.kind for i in range(60) for e in sample_scene(0, i, "multi", NANO).events} == set(v.KINDS)


def test_splits_share_no_scene():
    contents = {split: {sample_scene(9, i, "single", NANO, split).content for i in range(120)} for split in SPLITS}
    for a in SPLITS:
        for b in SPLITS:
            assert a == b or not contents[a] & contents[b]


def test_the_split_follows_from_content_not_from_times():
    scene = sample_scene(0, 0, "multi", NANO, "test")
    late = replace(scene, events=tuple(replace(e, start=e.start + 0.1) for e in scene.events))
    assert late.split == scene.split == "test"


def test_jitter_moves_events_apart_from_the_prompt():
    starts = {sample_scene(0, i, "single", NANO, jitter=0.2).events[0].start for i in range(5)}
    assert len(starts) == 5 and all(0.3 <= s <= 0.5 for s in starts)


def test_impossible_requests_say_what_is_possible():
    with pytest.raises(ValueError, match="single, multi, talk"):
        sample_scene(0, 0, "triple", NANO)
    with pytest.raises(ValueError, match="train, val, test, ood"):
        sample_scene(0, 0, "single", NANO, "holdout")
    with pytest.raises(ValueError, match="fits"):
        sample_scene(0, 0, "talk", ClipSpec(seconds=1.0))
