"""The transformer computes what Ovi computes, and at Ovi's size has exactly Ovi's parameters."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from baton_lightning.bench import parity, recording
from baton_lightning.clip import ClipSpec
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.ovi import ovi_model
from baton_lightning.models.plan_attention import PlanOptions

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ovi-micro"


@pytest.fixture(scope="module")
def config():
    return json.loads((FIXTURE / "config.json").read_text())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_recorded_output_block_and_gradient_is_reproduced(dtype, config):
    errors = parity.compare(FIXTURE, dtype)
    assert {e.case for e in errors} == set(config["cases"]) | ({"gradients"} if dtype == "float64" else set())
    assert not [e for e in errors if not e.passed]


def test_bfloat16_is_as_near_as_ovi_itself(config):
    model = recording.load_model(FIXTURE, config).bfloat16()
    recorded = load_file(FIXTURE / "t2av.safetensors")
    computed = parity.replay(model, "t2av", {}, recorded)
    assert computed["out.vid.0"].dtype == torch.float32
    assert max(parity.relative_error(computed[k], recorded[k]) for k in computed) < 0.03


@pytest.mark.parametrize("placement", ["cascade", "parallel"])
def test_a_fresh_plan_attention_leaves_ovi_as_it_is(placement, config):
    from baton_lightning.batch import Plan

    weights, recorded = load_file(FIXTURE / "weights.safetensors"), load_file(FIXTURE / "t2av.safetensors")
    model = ovi_model(config, PlanOptions(placement), plan_widths=(5, 7))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("plan_attn" in key or key.startswith("latent_mlp") for key in missing)
    video, audio = (recorded[f"in.{name}.0"][None].float() for name in ("vid", "audio"))
    arguments = [recorded["in.t"] / 1000, *(recorded[f"in.{name}_context.0"][None].float() for name in ("vid", "audio"))]
    plan = Plan(torch.randn(1, 3 * 4, 5), torch.randn(1, 6, 7), (3, 2, 2))
    for ours, theirs in zip(model(video, audio, *arguments, plan), model(video, audio, *arguments), strict=True):
        assert torch.equal(ours, theirs)


def test_parameter_names_are_ovis(config):
    assert ovi_model(config).state_dict().keys() == load_file(FIXTURE / "weights.safetensors").keys()


def test_at_ovis_size_every_count_is_ovis():
    clip = ClipSpec(
        seconds=5.0, fps=24.0, height=704, width=1280, video_stride=(4, 16), video_channels=48, video_patch=(1, 2, 2), audio_latents=157,
        text_tokens=512, text_width=4096, audio_position_scale=0.19676, keyframe_fps=6.0,
    )  # fmt: skip
    with torch.device("meta"):
        model = DualBranchDiT(clip, plan_attention=None)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert len(sizes) == 2073
    assert sum(sizes.values()) == 11_660_753_108
    assert sum(n for name, n in sizes.items() if "fusion" in name) == 1_133_383_680
    assert sum(p.numel() for p in model.video_model.parameters()) == 5_566_479_552
    assert sum(p.numel() for p in model.audio_model.parameters()) == 6_094_273_556


def test_a_missing_field_of_the_configuration_is_named(config):
    with pytest.raises(ValueError, match="audio branch must have the field 'dim'"):
        ovi_model(config | {"audio": {k: v for k, v in config["audio"].items() if k != "dim"}})


def test_branches_that_do_not_fit_are_refused(config):
    with pytest.raises(ValueError, match="same depth"):
        ovi_model(config | {"audio": config["audio"] | {"num_layers": 3}})
