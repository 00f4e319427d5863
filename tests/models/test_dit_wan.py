"""The video branch alone is a Wan 2.2 transformer: diffusers' own gives the same velocities for the same weights."""

import torch

from baton_lightning.clip import ClipSpec
from baton_lightning.models.dit import DualBranchDiT

NAMES = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
    "modulation.modulation": "scale_shift_table",
    "self_attn.": "attn1.",
    "cross_attn.": "attn2.",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
PROJECTIONS = {".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.", ".o.": ".to_out.0."}


def as_diffusers(state):
    renamed = {}
    for key, value in state.items():
        if "fusion" in key:
            continue
        for ours, theirs in (NAMES | PROJECTIONS).items():
            if ours in key and (ours not in PROJECTIONS or "attn" in key):
                key = key.replace(ours, theirs)
        renamed[key] = value
    return renamed


def test_video_branch_equals_the_wan_transformer_of_diffusers():
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    clip = ClipSpec(seconds=1.0, video_channels=4, video_patch=(1, 2, 2), text_tokens=8, text_width=16)
    ours = DualBranchDiT(clip, width=48, depth=2, num_heads=2, ffn_width=64, frequency_width=16, plan_attention=None).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16, freq_dim=16,
        ffn_dim=64, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=32,
    ).eval()  # fmt: skip
    theirs.load_state_dict(as_diffusers(ours.video_model.state_dict()))
    video, context, t = torch.randn(2, 4, *clip.latent_grid), torch.randn(2, 8, 16), torch.tensor([0.25, 0.75])
    frame = clip.num_video_tokens // clip.token_grid[0]
    known = torch.zeros(2, *clip.latent_grid, dtype=torch.bool)
    known[:, 0] = True
    for first_frame_clean in (False, True):
        timestep = (1000 * t)[:, None].repeat(1, clip.num_video_tokens)
        timestep[:, : frame * first_frame_clean] = 0
        with torch.no_grad():
            expected = theirs(video, timestep, context).sample
            computed, _ = ours(video, None, t, context, known_video=known if first_frame_clean else None)
        assert (computed - expected).abs().max() < 1e-5 * expected.abs().max()
