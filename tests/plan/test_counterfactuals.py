"""Prompts that differ in one respect: what differs is known, and a clip that changes elsewhere, or not at all, is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.plan import counterfactuals as c
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


def clip_of(picture: Scene, sound: Scene | None = None) -> Reading:
    """The detections of a clip that shows one scene and sounds like another."""
    return Reading(detect_video(render(picture, CLIP), CLIP.fps), detect_audio(synthesise(sound or picture, CLIP), CLIP.sample_rate))


def others(edit: str, scene: Scene = SCENE) -> list[Scene]:
    made = {"colour": c.recoloured, "order": c.exchanged, "speaker": c.given_to_another, "word": c.reworded}[edit]
    return list(made(scene))


@pytest.mark.parametrize(
    ("edit", "count", "concerns"),
    [
        ("colour", 8, {"shape red", "column red", "shape green", "column green", "picture 0"}),
        ("order", 1, {"picture 0", "picture 1", "sound 0", "sound 1"}),
        ("speaker", 1, {"picture 1", "sound 1"}),
        ("word", 5, {"sound 1"}),
    ],
)
def test_the_true_clip_of_the_edited_prompt_is_a_hit_and_others_are_not(edit: str, count: int, concerns: set[str]) -> None:
    made = others(edit)
    assert len(made) == count and all(len(scene.events) == 2 for scene in made)
    pair, before = c.Pair(edit, SCENE, made[0]), clip_of(SCENE)
    assert pair.concerns == concerns
    obeyed = c.judge(pair, before, clip_of(pair.other))
    assert obeyed["measurable"] and obeyed["hit"] and obeyed["changed"] == [] and obeyed["held"] >= 5
    assert not c.judge(pair, before, before)["hit"]
    absent = c.judge(pair, clip_of(Scene("single", 2.0, (Object("cyan", "circle", 1),), ())), clip_of(pair.other))
    assert not absent["measurable"] and not absent["hit"]
    moved = replace(pair.other, objects=tuple(replace(o, shape="triangle") if o.colour == "blue" else o for o in pair.other.objects))
    elsewhere = c.judge(pair, before, clip_of(moved))
    assert elsewhere["changed"] == ["shape blue"] and elsewhere["hit"]


def test_a_plan_that_changes_in_the_place_of_the_edit_has_its_whole_change_inside() -> None:
    region = c.regions(c.Pair("word", SCENE, others("word")[0]), CLIP)
    assert region["video"].shape == (12, 3, 3) and region["audio"].shape == (80,) and not region["video"].any()
    heard = region["audio"].nonzero().flatten() / CLIP.audio_plan_rate
    assert heard.min() >= 0.84 - 0.05 and heard.max() <= 0.84 + 0.28 + 0.05
    region = c.regions(c.Pair("colour", SCENE, others("colour")[0]), CLIP)
    assert region["video"][..., 0].any() and not region["video"][..., 2].any() and not region["audio"].any()
    inside = {"video": torch.zeros(12, 3, 3, 4), "audio": torch.zeros(80, 4)}
    inside["video"][region["video"]] = 2.0
    share = int(region["video"].sum()) / (108 + 80)
    assert c.focus(inside, region) == {"inside": 1.0, "area": pytest.approx(share)}
    everywhere = {name: torch.ones_like(part) for name, part in inside.items()}
    assert c.focus(everywhere, region)["inside"] == pytest.approx(share)
    assert c.focus({name: torch.zeros_like(part) for name, part in inside.items()}, region)["inside"] == 0.0


def test_parts_cover_everything_and_widen_to_whole_numbers() -> None:
    assert c.edges(32, 3) == [(0, 11), (10, 22), (21, 32)] and c.edges(80, 80)[5] == (5, 6)


@pytest.mark.parametrize("edit", c.EDITS)
def test_pairs_are_held_out_and_of_the_same_schedule(edit: str) -> None:
    scenes = [sample_scene(0, k, tier, CLIP, "test") for k in range(30) for tier in ("multi", "talk")]
    found = [pair for scene in scenes for pair in c.pairs(scene, edit)]
    assert len(found) > 5 and {pair.other.split for pair in found} <= {"val", "test"}
    for pair in found:
        assert pair.other.content != pair.scene.content and pair.concerns
        last = [scene.events[-1] for scene in (pair.scene, pair.other)]
        assert last[1].start + last[1].seconds <= CLIP.seconds and len(pair.other.events) == len(pair.scene.events)


@pytest.mark.slow
def test_the_toy_weights_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "counterfactuals", "nano", "--edits", "colour,word", "--num", "2", "--json", f"{tmp_path}/pairs.json"]
    assert main(words) == 0
    table = capsys.readouterr().out
    assert "hit rate" in table and max(len(line) for line in table.splitlines() if "│" in line) <= 80
    found = json.loads((tmp_path / "pairs.json").read_text())
    assert [found["edits"][edit]["num"] for edit in ("colour", "word")] == [2, 2] and len(found["pairs"]) == 4
    assert all(0 < entry["plan_inside"]["mean"] <= 1 for entry in found["edits"].values())
    assert main(words) == 1 and "give another --json, or --force" in capsys.readouterr().err
    assert main(["plan", "counterfactuals", "nano", "--edits", "colours"]) == 1
    assert "--edits must be of colour, order, speaker, word, got 'colours'" in capsys.readouterr().err
