"""The parity check sees every detail: breaking any one of them lifts some error far above the bar."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baton_lightning.bench import parity, recording
from baton_lightning.models import attention, branch, conditions, fused_branches, layers, patches, rope
from baton_lightning.models.attention import KeyValueSource, attend

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ovi-micro"
CAUGHT = 10 * parity.BARS["float32"]

sinusoid, rotary_phases, apply_rotary, modulate, token_positions, patchify = (
    branch.sinusoid,
    fused_branches.rotary_phases,
    attention.apply_rotary,
    branch.modulate,
    fused_branches.token_positions,
    fused_branches.patchify,
)


def sines_before_cosines(patch):
    patch.setattr(branch, "sinusoid", lambda t, width: torch.cat(sinusoid(t, width).chunk(2, -1)[::-1], -1))


def time_not_scaled_to_a_thousand(patch):
    patch.setattr(branch, "sinusoid", lambda t, width: sinusoid(t / 1000, width))


def channel_first_within_a_patch(patch):
    def unpatchify(self, values, grid):
        (t, y, x), (p, q, r) = grid, self.kernel_size
        return patches.rearrange(values, "b (t y x) (c p q r) -> b c (t p) (y q) (x r)", t=t, y=y, x=x, p=p, q=q, r=r)

    patch.setattr(patches.VideoPatches, "unpatchify", unpatchify)


def pad_rows_of_the_text_not_read(patch):
    patch.setattr(branch.Branch, "embed_text", lambda self, context: self.text_embedding(context))


def audio_positions_not_scaled(patch):
    patch.setattr(fused_branches, "token_positions", lambda p, grid, device: rope.grid_positions(grid, device))


def audio_rotated_in_every_dim(patch):
    def three_axes(p, grid, device):
        positions = token_positions(p, grid, device)
        return positions if positions.shape[-1] == 3 else positions.expand(-1, 3)

    patch.setattr(fused_branches, "token_positions", three_axes)


def halves_rotated_instead_of_adjacent_pairs(patch):
    def rotate_halves(features, phase):
        paired = torch.stack(features.chunk(2, -1), -1).flatten(-2)
        return torch.cat(apply_rotary(paired, phase).unflatten(-1, (-1, 2)).unbind(-1), -1)

    patch.setattr(attention, "apply_rotary", rotate_halves)


def axes_share_the_frequencies_of_the_whole_head(patch):
    def shared(positions, head_dim, *, dtype):
        angles = [
            positions[..., a : a + 1].double() * 1e4 ** -(torch.arange(0, dim, 2).double() / head_dim)
            for a, dim in enumerate(rope.axis_dims(head_dim)[: positions.shape[-1]])
        ]
        angle = torch.cat(angles, -1)
        return torch.polar(torch.ones(()).double(), F.pad(angle, (0, head_dim // 2 - angle.shape[-1]))).to(torch.complex128)

    patch.setattr(fused_branches, "rotary_phases", shared)


def gates_dropped(patch):
    forward = layers.Modulation.forward

    def ungated(self, time):
        shift1, scale1, gate1, shift2, scale2, gate2 = forward(self, time)
        return shift1, scale1, torch.ones_like(gate1), shift2, scale2, torch.ones_like(gate2)

    patch.setattr(layers.Modulation, "forward", ungated)


def shift_and_scale_swapped(patch):
    patch.setattr(branch, "modulate", lambda tokens, shift, scale, eps: modulate(tokens, scale, shift, eps))


def queries_normalised_head_by_head(patch):
    def per_head(self, tokens, phase, mask=None):
        def norm(x, by):
            x = x.unflatten(-1, self.heads)
            return F.rms_norm(x, x.shape[-1:], eps=by.eps) * by.weight.view(self.heads)

        query, key = apply_rotary(norm(self.q(tokens), self.norm_q), phase), apply_rotary(norm(self.k(tokens), self.norm_k), phase)
        return self.o(attend(query, key, self.v(tokens).unflatten(-1, self.heads), mask))

    patch.setattr(attention.SelfAttention, "forward", per_head)


def fuse_with(patch, order):
    def fused_block(video_block, audio_block, video, audio, video_conditions, audio_conditions):
        if video is None or audio is None:
            return original(video_block, audio_block, video, audio, video_conditions, audio_conditions)
        return order(video_block, audio_block, video, audio, video_conditions, audio_conditions)

    original = fused_branches.fused_block
    patch.setattr(fused_branches, "fused_block", fused_block)


def after_self_attention(block, tokens, conditions, other):
    return block.feed_forward(block.cross_attention(tokens, conditions, other), conditions)


def video_reads_audio_after_its_own_block(patch):
    def order(video_block, audio_block, video, audio, vc, ac):
        video, audio = video_block.self_attention(video, vc), audio_block.self_attention(audio, ac)
        audio = after_self_attention(audio_block, audio, ac, KeyValueSource(video, vc.phase, vc.mask))
        return after_self_attention(video_block, video, vc, KeyValueSource(audio, ac.phase, ac.mask)), audio

    fuse_with(patch, order)


def branches_read_each_other_before_self_attention(patch):
    def order(video_block, audio_block, video, audio, vc, ac):
        video_source, audio_source = KeyValueSource(video, vc.phase, vc.mask), KeyValueSource(audio, ac.phase, ac.mask)
        video, audio = video_block.self_attention(video, vc), audio_block.self_attention(audio, ac)
        return after_self_attention(video_block, video, vc, audio_source), after_self_attention(audio_block, audio, ac, video_source)

    fuse_with(patch, order)


def the_other_branch_without_positions(patch):
    def order(video_block, audio_block, video, audio, vc, ac):
        video, audio = video_block.self_attention(video, vc), audio_block.self_attention(audio, ac)
        video_source, audio_source = KeyValueSource(video, None, vc.mask), KeyValueSource(audio, None, ac.mask)
        return after_self_attention(video_block, video, vc, audio_source), after_self_attention(audio_block, audio, ac, video_source)

    fuse_with(patch, order)


def fusion(patch, query_of):
    def forward(self, tokens, phase, context, other=None, plan=None, plan_phase=None):
        query = self.norm_q(self.q(tokens)).unflatten(-1, self.heads)
        out = attend(query, *self.keys_and_values(context))
        if other is not None:
            query, out = query_of(self, tokens, query, out)
            seen = self.pre_attn_norm_fusion(other.tokens)
            key = apply_rotary(self.norm_k_fusion(self.k_fusion(seen)).unflatten(-1, self.heads), other.phase)
            out = out + attend(apply_rotary(query, phase), key, self.v_fusion(seen).unflatten(-1, self.heads), other.mask)
        return self.o(out)

    patch.setattr(attention.FusionAttention, "forward", forward)


def fusion_with_queries_of_its_own(patch):
    fusion(patch, lambda self, tokens, query, out: (self.norm_q(self.k(tokens)).unflatten(-1, self.heads), out))


def fusion_projected_twice(patch):
    fusion(patch, lambda self, tokens, query, out: (query, self.o(out)))


def fusion_keys_taken_from_raw_tokens(patch):
    class Identity(nn.LayerNorm):
        def forward(self, x):
            return x

    patch.setattr(attention.nn, "LayerNorm", Identity)


def head_reads_the_projected_time(patch):
    def embed_time(self, t):
        _, rows = original(self, t)
        return rows[..., 0, :], rows

    original = branch.Branch.embed_time
    patch.setattr(branch.Branch, "embed_time", embed_time)


def exact_gelu(patch):
    patch.setattr(nn.GELU, "forward", lambda self, x: F.gelu(x))


def convolutional_gate_on_the_wrong_arm(patch):
    patch.setattr(layers.ConvMLP, "forward", lambda self, x: self.w2(F.silu(self.w3(x)) * self.w1(x)))


def first_frame_as_noisy_as_the_rest(patch):
    patch.setattr(fused_branches, "known_tokens", lambda p, known: torch.zeros_like(conditions.known_tokens(p, known)))


def one_token_too_many_in_the_first_frame(patch):
    def off_by_one(p, known):
        tokens = conditions.known_tokens(p, known)
        return tokens | tokens.roll(1, 1)

    patch.setattr(fused_branches, "known_tokens", off_by_one)


def padding_read_by_attention(patch):
    patch.setattr(fused_branches, "patchify", lambda p, latents: (*patchify(p, latents)[:2], None))


def clips_padded_before_embedding(patch):
    def early(p, latents):
        tokens, grids, mask = patchify(p, latents)
        if mask is None or not isinstance(p, patches.AudioPatches):
            return tokens, grids, mask
        return p(torch.nn.utils.rnn.pad_sequence(list(latents), batch_first=True)), grids, mask

    patch.setattr(fused_branches, "patchify", early)


def skipped_block_runs_after_all(patch):
    patch.setattr(parity, "skipped_blocks", lambda flags: ())


def every_clip_at_the_first_clips_time(patch):
    def embed_time(self, t):
        return original(self, t[:1].expand_as(t))

    original = branch.Branch.embed_time
    patch.setattr(branch.Branch, "embed_time", embed_time)


def text_read_after_the_other_branch(patch):
    def two_steps(self, tokens, conditions, other):
        tokens = tokens + self.cross_attn(self.norm3(tokens), conditions.phase, conditions.context, None)
        if other is not None:
            tokens = tokens + self.cross_attn(
                self.norm3(tokens), conditions.phase, KeyValueSource(torch.zeros_like(conditions.context.tokens)), other
            )
        return tokens

    patch.setattr(branch.Block, "cross_attention", two_steps)


MUTATIONS = [
    sines_before_cosines,
    time_not_scaled_to_a_thousand,
    channel_first_within_a_patch,
    pad_rows_of_the_text_not_read,
    audio_positions_not_scaled,
    audio_rotated_in_every_dim,
    halves_rotated_instead_of_adjacent_pairs,
    axes_share_the_frequencies_of_the_whole_head,
    gates_dropped,
    shift_and_scale_swapped,
    queries_normalised_head_by_head,
    video_reads_audio_after_its_own_block,
    branches_read_each_other_before_self_attention,
    the_other_branch_without_positions,
    fusion_with_queries_of_its_own,
    fusion_projected_twice,
    fusion_keys_taken_from_raw_tokens,
    head_reads_the_projected_time,
    exact_gelu,
    convolutional_gate_on_the_wrong_arm,
    first_frame_as_noisy_as_the_rest,
    one_token_too_many_in_the_first_frame,
    padding_read_by_attention,
    clips_padded_before_embedding,
    skipped_block_runs_after_all,
    every_clip_at_the_first_clips_time,
    text_read_after_the_other_branch,
]


def worst_output():
    config = recording.read_config(FIXTURE)
    model = recording.load_model(FIXTURE, config).double()
    errors = []
    for case, flags in config["cases"].items():
        recorded = recording.read_tensors(FIXTURE / f"{case}.safetensors")
        with torch.no_grad():
            computed = parity.replay(model, case, flags, recorded)
        errors += [parity.relative_error(computed[k], recorded[k]) for k in recorded if k.startswith("out.")]
    return max(errors)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.__name__)
def test_parity_catches(mutation, monkeypatch):
    mutation(monkeypatch)
    assert worst_output() > CAUGHT


def test_parity_has_nothing_to_catch_without_a_mutation():
    assert worst_output() < parity.BARS["float64"]
