"""The bench's controls are wrong in the way they say, its confusions count what they say, and its page says what was measured."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baton_lightning.__main__ import main
from baton_lightning.bench.world_page import markdown, which_scores_see
from baton_lightning.clip import ClipSpec
from baton_lightning.world.clips import make_clip
from baton_lightning.world.confusion import audio_confusion, video_confusion
from baton_lightning.world.controls import (
    SHIFTS,
    controls,
    delayed_sound,
    exchanged_actors,
    first_event_only,
    reversed_events,
    shift_name,
    wrong_speakers,
)
from baton_lightning.world.events import Event
from baton_lightning.world.render import render
from baton_lightning.world.scene import Object, Scene
from baton_lightning.world.score_table import SCORES
from baton_lightning.world.sound import synthesise

DOCS = Path(__file__).parents[2] / "docs"
CLIP = ClipSpec()
OBJECTS = (Object("red", "circle", 0), Object("blue", "square", 1))
SCENE = Scene("multi", 2.0, OBJECTS, (Event("says", "red", 0.3, words=("ba",)), Event("jumps", "blue", 0.92)))
SINGLE = replace(SCENE, tier="single", events=SCENE.events[1:])


def test_controls_change_one_thing():
    assert first_event_only(SCENE).events == SCENE.events[:1]
    assert [(e.kind, e.start) for e in reversed_events(SCENE).events] == [("jumps", 0.3), ("says", 1.0)]
    assert [e.actor for e in wrong_speakers(SCENE).events] == ["blue", "blue"]
    assert [(e.kind, e.actor) for e in exchanged_actors(SCENE).events] == [("says", "blue"), ("jumps", "red")]
    late = delayed_sound(np.array([1.0, 2.0, 3.0], np.float32), 0.5, 2)
    early = delayed_sound(np.array([1.0, 2.0, 3.0], np.float32), -0.5, 2)
    assert late.tolist() == [0, 1, 2, 3] and early.tolist() == [2, 3]


def test_controls_that_would_be_the_truth_are_left_out():
    assert first_event_only(SINGLE) is reversed_events(SINGLE) is wrong_speakers(SINGLE) is None
    made = make_clip(0, 0, "single", CLIP, "test")
    names = [name for name, _ in controls(made, made, CLIP, 0)]
    assert "reversed" not in names and {"truth", "static", "noise"} <= set(names)


def test_clean_clips_are_not_confused():
    for i in range(4):
        made = make_clip(3, i, "multi", CLIP)
        seen = video_confusion(made.scene, made.frames, CLIP.fps)
        heard = audio_confusion(made.scene, made.waveform, CLIP.sample_rate)
        assert all(true == found for true, found in [*seen, *heard])
        assert seen.total() == sum(len(e.anchors) for e in made.scene.events)


def test_what_is_missing_surplus_or_other_is_counted_as_such():
    other = replace(SCENE, events=(replace(SCENE.events[0], words=("di",)), Event("flashes", "blue", 1.25)))
    assert video_confusion(SCENE, render(other, CLIP), CLIP.fps) == {("says", "says"): 1, ("jumps", "flashes"): 1}
    heard = audio_confusion(SCENE, synthesise(other, CLIP), CLIP.sample_rate)
    assert heard == {("word", "another word"): 1, ("thump", "ding"): 1}
    empty = replace(SCENE, events=())
    assert video_confusion(empty, render(SCENE, CLIP), CLIP.fps) == {("nothing", "says"): 1, ("nothing", "jumps"): 1}
    assert video_confusion(SCENE, render(empty, CLIP), CLIP.fps) == {("says", "nothing"): 1, ("jumps", "nothing"): 1}


def test_the_page_says_which_errors_a_score_sees() -> None:
    def rows(**wrong: tuple[float, float]) -> dict:
        return {name: {score: {"mean": low, "low": low, "high": high, "n": 3} for score in SCORES} for name, (low, high) in wrong.items()}

    tiers = {
        "single": rows(truth=(0.9, 1.0), seen=(0.1, 0.8), at_times=(0.5, 0.6), unseen=(0.85, 0.95)),
        "multi": rows(truth=(0.9, 1.0), seen=(1.1, 1.2), at_times=(0.5, 0.92), unseen=(0.9, 1.0)),
    }
    found = {row.split(" | ")[0]: set(row.strip(" |").split(" | ")[1:]) for row in which_scores_see(tiers).splitlines()[2:]}
    assert found == {"| seen": {"yes"}, "| at_times": {"some"}, "| unseen": {"no"}}


@pytest.mark.parametrize("geometry", ["nano", "toy"])
def test_only_scores_of_time_see_a_delayed_sound_and_they_tell_the_delay(geometry: str) -> None:
    for tier, rows in json.loads((DOCS / "world.json").read_text())["scores"][geometry].items():
        for seconds in (shift for shift in SHIFTS if shift > -0.3):
            late = rows[shift_name(seconds)]
            assert late["p_acc"]["mean"] > 0.95 and late["m_ter"]["mean"] < 0.05, (tier, seconds)
            assert late["desync"]["mean"] == pytest.approx(abs(seconds), abs=0.02), (tier, seconds)


def test_the_page_is_made_of_the_figures_beside_it():
    result = json.loads((DOCS / "world.json").read_text())
    assert (DOCS / "world.md").read_text() == markdown(result)


@pytest.mark.parametrize("geometry", ["nano", "toy"])
def test_the_recorded_figures_are_those_the_scores_promise(geometry):
    result = json.loads((DOCS / "world.json").read_text())
    for tier, rows in result["scores"][geometry].items():
        mean = {control: {name: entry["mean"] for name, entry in row.items() if isinstance(entry, dict)} for control, row in rows.items()}
        truth, wrong = mean["truth"], mean["wrong speaker"]
        assert truth["p_acc"] == truth["id"] == 1 and truth["m_ter"] == 0 and truth["desync"] < 0.25 / 12
        assert mean["codec ceiling"]["p_acc"] >= 0.95
        assert mean["static"]["p_acc"] == mean["noise"]["p_acc"] == 0 and mean["another prompt's clip"]["p_acc"] < 0.1
        assert wrong["m_ter"] > 1 and wrong["m_ter_cp"] == 0
        if tier != "single":
            assert mean["reversed"]["order"] < 0.5 and mean["first event only"]["p_acc"] <= 0.5
        for seconds in (0.1, -0.3, 0.7):
            assert mean[f"sound {1000 * seconds:+.0f} ms"]["desync_signed"] == pytest.approx(seconds, abs=0.01)
    for sense, damages in result["confusion"][geometry].items():
        assert all(set(found) == {true} for true, found in damages["none"].items()), sense


@pytest.mark.slow
def test_the_bench_measures_a_small_set(tmp_path, capsys):
    argv = ["bench", "world", "--clips", "2", "--geometry", "nano", "--workers", "0", "--json", str(tmp_path / "w.json")]
    assert main(argv) == 0
    result = json.loads((tmp_path / "w.json").read_text())
    assert {tier: rows["truth"]["p_acc"]["mean"] for tier, rows in result["scores"]["nano"].items()} == {"single": 1, "multi": 1, "talk": 1}
    assert "| truth | 2 | 1.00 |" in capsys.readouterr().out
    assert main(["bench", "world", "--clips", "1"]) == 1
