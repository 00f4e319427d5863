"""Shares of plan attention are those that the layer used, and they are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import baton_lightning as baton
from baton_lightning.__main__ import main
from baton_lightning.generation.plan_shares import shares
from baton_lightning.models.attention import KeyValueSource
from baton_lightning.models.plan_attention import PlanAttention
from baton_lightning.models.plan_window import Window

WINDOWS = ((Window(3, 0, 4), Window(2, 2, 7)),)


@pytest.mark.parametrize("windows", [None, WINDOWS], ids=["whole", "window"])
def test_the_output_of_a_layer_is_its_values_weighted_by_the_shares(windows) -> None:
    torch.manual_seed(0)
    layer = PlanAttention(24, 2)
    torch.nn.init.normal_(layer.o.weight)
    phases = [torch.polar(torch.ones(length, 6), torch.randn(length, 6)) for length in (5, 7)]
    tokens, plan = torch.randn(1, 5, 24), KeyValueSource(torch.randn(1, 7, 24), phases[1], windows=windows)
    found = shares(layer, tokens, phases[0], plan)
    assert torch.allclose(found.sum(-1), torch.ones(1, 2, 5))
    read = torch.einsum("bhlk,bkhd->blhd", found, layer.keys_and_values(plan)[1]).flatten(2)
    assert torch.allclose(layer.o(read), layer(tokens, phases[0], plan), atol=1e-5)
    if windows is not None:
        assert found[0, :, :3, 4:].eq(0).all() and found[0, :, 3:, :2].eq(0).all()


@pytest.fixture(scope="module")
def pipe() -> baton.Pipeline:
    return baton.pretrained("nano")


@pytest.fixture(scope="module")
def plan(pipe: baton.Pipeline) -> baton.ClipPlan:
    return pipe.plan("a red circle on the left. first the red circle jumps.", "first a thump.")


def test_a_clip_reads_its_plan_near_its_own_time(pipe: baton.Pipeline, plan: baton.ClipPlan) -> None:
    """Random weights would read every keyframe alike; a trained transformer reads the keyframes of its own time more than others."""
    found = pipe.attention(plan, seed=1)
    spec = plan.clip
    assert found.video.shape == (3, spec.num_video_tokens, spec.num_video_planned)
    assert found.audio.shape == (3, spec.num_audio_latents, spec.num_audio_planned)
    assert torch.allclose(found.video.sum(-1), torch.ones(3, spec.num_video_tokens), atol=1e-5)
    in_time = found.video_in_time
    own = torch.linspace(0, in_time.shape[2] - 1, in_time.shape[1]).round().long()
    near = in_time.gather(2, own[None, :, None].expand(3, -1, 1)).mean()
    assert near > 1.5 / in_time.shape[2]
    patch = found.of_patch(2, 1, 1)
    assert patch.shape == spec.video_plan_grid and patch.sum() == pytest.approx(1, abs=1e-4)


def test_wrong_times_and_places_are_refused(pipe: baton.Pipeline, plan: baton.ClipPlan) -> None:
    with pytest.raises(ValueError, match="flow time above 0"):
        pipe.attention(plan, t=0.0)
    with pytest.raises(ValueError, match=r"counted from 0; got \(99, 0, 0\)"):
        pipe.attention(plan, seed=1).of_patch(99, 0, 0)


@pytest.mark.slow
def test_the_verb_draws_a_plan_s_attention(plan: baton.ClipPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.save(tmp_path / "a.safetensors")
    words = ["plan", "attention", str(tmp_path / "a.safetensors"), "--run", "nano", "--seed", "1"]
    assert main([*words, "--out", str(tmp_path / "a.png"), "--patch", "2", "1", "1"]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and str(tmp_path / "a.png") in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "a.png")]) == 1
    assert "--force" in capsys.readouterr().err
