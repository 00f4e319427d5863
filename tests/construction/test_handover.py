"""Hand-over is strict, and refuses parents that are not what they claim."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from baton_lightning.clip import ClipSpec, Geometry
from baton_lightning.construction.handover import hand_over
from baton_lightning.runs import manifest

CLIP = ClipSpec()


@pytest.fixture
def parent(tmp_path):
    run = tmp_path / "stage1"
    run.mkdir()
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    save_file({f"planner.{k}": v for k, v in body.state_dict().items()}, run / manifest.WEIGHTS)
    described = {"clip": CLIP.to_dict(), "weights_sha256": manifest.file_digest(run / manifest.WEIGHTS)}
    (run / manifest.NAME).write_text(json.dumps(described))
    return run, body


def test_weights_arrive_unchanged(parent):
    run, body = parent
    target = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    report = hand_over(target, run, source="planner", clip=CLIP)
    assert len(report.loaded) == 4 and not report.fresh and not report.dropped
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), body.parameters(), strict=True))


def test_another_geometry_is_refused_by_name(parent):
    with pytest.raises(ValueError, match=r"keyframe_fps: 3.0 != 6.0"):
        hand_over(nn.Linear(3, 4), parent[0], source="planner", clip=ClipSpec(keyframe_fps=3.0))


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"plan_grid": (3, 2)}, r"plan_grid: .*3, 2.* != .*3, 3"),
        ({"audio_plan_rate": 20}, "audio_plan_rate: 20 != 40"),
    ],
)
def test_another_number_of_planned_tokens_a_keyframe_or_second_is_refused_by_name(parent, geometry, message):
    with pytest.raises(ValueError, match=message):
        hand_over(nn.Linear(3, 4), parent[0], source="planner", clip=ClipSpec(**geometry))


def test_a_parent_of_several_geometries_fits_runs_with_some_of_them_in_any_order():
    wide, short = Geometry(32, 48, 2.0), Geometry(32, 32, 1.0)
    known = ClipSpec(geometries=(wide, short)).to_dict()
    for fits in (ClipSpec(geometries=(wide, short)), ClipSpec(seconds=1.0, geometries=(wide,)), ClipSpec(width=48)):
        assert manifest.geometry_differences(fits, known) == []
    (line,) = manifest.geometry_differences(ClipSpec(geometries=(Geometry(64, 64, 2.0),)), known)
    assert line == "clip.geometries: 64x64x2s is none of 32x32x2s, 48x32x2s, 32x32x1s"
    assert manifest.geometry_differences(ClipSpec(fps=24.0, geometries=(wide,)), known) == ["fps: 24.0 != 12.0"]


def test_a_parent_of_one_geometry_fits_runs_that_start_with_it():
    more = (Geometry(32, 48, 2.0),)
    assert manifest.geometry_differences(ClipSpec(geometries=more), ClipSpec().to_dict()) == []
    assert manifest.geometry_differences(ClipSpec(geometries=more), ClipSpec(width=48).to_dict()) == ["width: 32 != 48"]


def test_changed_weights_are_refused(parent):
    run, body = parent
    save_file({f"planner.{k}": v + 1 for k, v in body.state_dict().items()}, run / manifest.WEIGHTS)
    with pytest.raises(ValueError, match="changed after the run"):
        hand_over(body, run, source="planner", clip=CLIP)


def test_an_unfinished_parent_is_refused(parent):
    (parent[0] / manifest.NAME).unlink()
    with pytest.raises(ValueError, match="not finished"):
        hand_over(parent[1], parent[0], source="planner")


def test_a_tampered_manifest_is_no_json_traceback(parent):
    (parent[0] / manifest.NAME).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        hand_over(parent[1], parent[0], source="planner")


def test_keys_must_match_but_where_it_is_said(parent):
    run, body = parent
    target = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 6))
    with pytest.raises(ValueError, match=r"missing in the parent \(2\): 2.bias"):
        hand_over(target, run, source="planner")
    before = target[1].weight.clone()
    report = hand_over(target, run, source="planner", fresh=("1.", "2."), dropped=("1.",))
    assert torch.equal(target[0].weight, body[0].weight) and torch.equal(target[1].weight, before)
    assert set(report.dropped) == {"1.weight", "1.bias"}


def test_shapes_are_compared(parent):
    with pytest.raises(ValueError, match=r"shapes differ .*0.weight"):
        hand_over(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), parent[0], source="planner")


def test_a_parent_of_the_wrong_kind_is_refused(parent):
    with pytest.raises(ValueError, match="below `dit.`"):
        hand_over(parent[1], parent[0], source="dit")
