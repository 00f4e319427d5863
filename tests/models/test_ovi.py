"""Ovi's configuration: followed to the letter where this architecture can, refused where it cannot."""

import json
from pathlib import Path

import pytest
import torch

from baton_lightning.clip import ClipSpec
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.ovi import ovi_config, ovi_model

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ovi-micro"


@pytest.fixture
def config():
    return json.loads((FIXTURE / "config.json").read_text())


def test_the_epsilon_of_a_branch_reaches_every_norm_but_those_that_read_the_other_branch(config):
    config["video"]["eps"] = config["audio"]["eps"] = 1e-3
    model = ovi_model(config)
    attention = model.audio_model.blocks[1].cross_attn
    assert attention.norm_k_fusion.eps == attention.pre_attn_norm_fusion.eps == 1e-6
    assert attention.norm_k.eps == model.video_model.blocks[0].self_attn.norm_q.eps == model.video_model.head.eps == 1e-3
    assert model.beyond_shapes == {"num_heads": 2, "video_eps": 1e-3, "audio_eps": 1e-3}


@pytest.mark.parametrize(
    ("branch", "field", "value"),
    [
        ("video", "dim", 48.0), ("video", "dim", True), ("video", "num_layers", -1), ("video", "text_len", None), ("video", "out_dim", 5),
        ("video", "patch_size", [2, 2]), ("video", "patch_size", 2), ("audio", "patch_size", [2]), ("audio", "model_type", "tt2a"),
        ("audio", "model_type", "ti2v"), ("video", "cross_attn_norm", False), ("video", "eps", 0), ("audio", "eps", "1e-6"),
        ("audio", "temporal_rope_scaling_factor", -1), ("video", "additional_emb_dim", 1280),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_followed_is_refused_by_name(config, branch, field, value):
    config[branch][field] = value
    with pytest.raises(ValueError, match=rf"the {branch} branch must have the field '{field}'"):
        ovi_model(config)


@pytest.mark.parametrize("section", [None, [], "dim"])
def test_a_branch_without_a_section_is_named(config, section):
    with pytest.raises(ValueError, match="section 'audio'"):
        ovi_model(config | {"audio": section})


def test_the_configuration_of_a_trained_transformer_describes_it_again():
    clip = ClipSpec(video_channels=4, video_patch=(1, 2, 2), audio_channels=3, text_tokens=8, text_width=16, audio_position_scale=0.19676)
    ours = DualBranchDiT(clip, width=48, depth=2, num_heads=2, ffn_width=64, frequency_width=16, plan_attention=None).eval()
    config = json.loads(json.dumps(ovi_config(ours.state_dict(), clip, 2)))
    again = ovi_model(config).eval()
    again.load_state_dict(ours.state_dict())
    assert again.beyond_shapes == ours.beyond_shapes
    given = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 9, 3), torch.rand(1), torch.randn(1, 5, 16), torch.randn(1, 8, 16)
    assert all(torch.equal(a, b) for a, b in zip(ours(*given), again(*given), strict=True))
    for name in ("video", "audio"):
        recorded = json.loads((FIXTURE / "config.json").read_text())[name]
        assert {k: v for k, v in config[name].items() if recorded.get(k, v) != v} == {}
