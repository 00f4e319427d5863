"""The geometries of a run: what they share, what is derived, and what is refused."""

from __future__ import annotations

import pickle

import pytest

from baton_lightning.clip import ClipSpec, Geometry
from baton_lightning.shards.stored_clip import clip_of

RUN = ClipSpec(audio_latents=70, geometries=(Geometry(32, 48, 2.0), Geometry(32, 32, 1.0), Geometry(32, 32, 4.0, 140)))


def test_geometries_have_their_own_counts_and_the_rates_of_all() -> None:
    assert list(RUN.each) == ["32x32x2s", "48x32x2s", "32x32x1s", "32x32x4s"]
    assert [clip.token_grid for clip in RUN.each.values()] == [(7, 4, 4), (7, 4, 6), (4, 4, 4), (13, 4, 4)]
    assert [clip.num_audio_latents for clip in RUN.each.values()] == [70, 70, 32, 140]
    assert {clip.fps for clip in RUN.each.values()} == {12.0} and not any(clip.geometries for clip in RUN.each.values())
    assert RUN.longest is RUN.at("32x32x4s") and RUN.at() is RUN.each["32x32x2s"]


def test_a_clip_of_one_geometry_is_its_own_and_is_stored_as_before() -> None:
    assert ClipSpec().at() == ClipSpec().longest == ClipSpec().each["32x32x2s"] == ClipSpec()
    assert "geometries" not in ClipSpec().to_dict()


def test_another_geometry_comes_first_and_all_keep_their_counts() -> None:
    other = RUN.starting_with("32x32x4s")
    assert other.name == "32x32x4s" and other.each == {name: RUN.each[name] for name in other.each} and len(other.each) == 4


def test_geometries_pass_through_files_and_processes() -> None:
    assert clip_of(RUN.to_dict()) == RUN == pickle.loads(pickle.dumps(RUN))


@pytest.mark.parametrize(
    ("geometries", "message"),
    [
        ((Geometry(32, 32, 2.0),), "must name other geometries than 32x32x2s, each one once, got 32x32x2s"),
        ((Geometry(48, 32, 2.0), Geometry(48, 32, 2.0)), "each one once"),
        ((Geometry(33, 32, 2.0),), "clip.geometries: 32x33x2s: clip.height must be a multiple of 8"),
        ((Geometry(32, 32, 1.1),), "32x32x1.1s: clip: seconds . keyframe_fps must be a whole number"),
    ],
)
def test_geometries_that_cannot_be_are_refused_by_name(geometries: tuple[Geometry, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipSpec(geometries=geometries)


def test_a_geometry_that_a_run_lacks_is_answered_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="the run has clips of 32x32x2s, 48x32x2s, .* got the geometry '9x9x9s'"):
        RUN.at("9x9x9s")


@pytest.mark.parametrize("bad", [[{"height": 32}], [{"height": 32, "width": 32, "seconds": -1}], "32x32x1s", [[32, 32, 1]]])
def test_stored_geometries_of_another_form_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="clip.geometries must list mappings of height, width .* and seconds"):
        clip_of(ClipSpec().to_dict() | {"geometries": bad})
