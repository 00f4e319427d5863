"""Windowed plan attention is masked attention over the whole plan, for clips of one size or several, with and without their plan."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.models import plan_attention
from baton_lightning.models.conditions import windows_of_grids
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.plan_attention import PlanOptions
from baton_lightning.models.plan_window import Slices, Window, attend_in_windows, plan_windows

CLIP = ClipSpec(
    seconds=2.0, video_channels=5, audio_channels=3, text_tokens=6, text_width=10, plan_grid=(2, 2), video_plan_width=7, audio_plan_width=9
)


def transformer(window, *, timestamps=True, **options):
    """A transformer in which every parameter counts; equal seeds give equal weights."""
    torch.manual_seed(0)
    made = PlanOptions(timestamps=timestamps, window=window, **options)
    model = DualBranchDiT(CLIP, width=48, depth=2, num_heads=2, ffn_width=32, frequency_width=8, plan_attention=made)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(*, ragged=False):
    torch.manual_seed(1)
    video, audio = torch.randn(2, CLIP.video_channels, *CLIP.latent_grid), torch.randn(2, CLIP.num_audio_latents, CLIP.audio_channels)
    if ragged:
        video, audio = [video[0], video[1, :, :5, :3]], [audio[0], audio[1, :29]]
    return video, audio, torch.tensor([0.2, 0.9]), torch.randn(2, 4, 10), torch.randn(2, 4, 10)


def timed_plan():
    torch.manual_seed(2)
    times = torch.tensor(CLIP.keyframe_times), torch.tensor(CLIP.audio_plan_times)
    return Plan(torch.randn(2, CLIP.num_video_planned, 7), torch.randn(2, CLIP.num_audio_planned, 9), CLIP.video_plan_grid, *times)


def masked(query, key, value, windows):
    """The same attention over the whole plan, with a mask."""
    read = torch.zeros(query.shape[0], query.shape[1], key.shape[1], dtype=torch.bool)
    for i, clip in enumerate(windows):
        first = 0
        for window in clip:
            read[i if len(windows) > 1 else slice(None), first : first + window.num_tokens, window.start : window.stop] = True
            first += window.num_tokens
    exists = read.any(-1)
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)), attn_mask=(read | ~exists[..., None])[:, None])
    return out.transpose(1, 2).flatten(2) * exists[..., None]


def test_a_latent_reads_the_keyframes_around_the_one_nearest_in_time():
    latents, keyframes = torch.arange(4).double(), torch.arange(6).double() / 2  # two keyframes a latent frame; latent 3 is after the last
    found = plan_windows(latents, keyframes, (10, 4), 6, 1)
    assert found == (Window(10, 0, 8), Window(10, 4, 16), Window(10, 12, 24), Window(10, 16, 24))


def test_latents_of_one_keyframe_are_one_group_and_a_tie_goes_to_the_earlier():
    found = plan_windows(torch.arange(5).double() / 2 + 1e-9, torch.arange(3).double(), (1, 1), 3, 0)
    assert found == (Window(2, 0, 1), Window(2, 1, 2), Window(1, 2, 3))


def test_sound_reads_the_planned_sound_of_its_keyframes():
    times = torch.arange(7).double() / 7 * 3  # seven planned audio tokens of three keyframes: 3, 2, 2
    assert plan_windows(torch.tensor([0.0, 2.9]), times, (1, 1), 3, 0) == (Window(1, 0, 3), Window(1, 5, 7))
    assert plan_windows(torch.tensor([0.0, 2.9]), times, (1, 1), 3, 1) == (Window(1, 0, 5), Window(1, 3, 7))


@pytest.mark.parametrize("ragged", [False, True])
def test_windows_equal_masked_attention_with_its_gradients(ragged):
    windows = (plan_windows(torch.arange(5).double(), torch.arange(6).double() * 0.8, (3, 4), 6, 1),)
    windows += (plan_windows(torch.arange(3).double(), torch.arange(6).double() * 0.8, (4, 4), 6, 1),) if ragged else ()
    tensors = [torch.randn(2, n, 2, 8, requires_grad=True) for n in (15, 24, 24)]
    ours, theirs = attend_in_windows(*tensors, windows), masked(*tensors, windows)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    weight = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, tensors, weight), torch.autograd.grad(theirs, tensors, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("placement", ["cascade", "parallel"])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_windowed_transformer_equals_a_masked_one(placement, ragged, monkeypatch):
    has_plan = torch.tensor([True, False])

    def velocities():
        model = transformer(1, placement=placement)
        out = [x for pair in (model(*inputs(ragged=ragged), timed_plan(), has_plan=seen) for seen in (None, has_plan)) for x in pair]
        out = [x for clips in out for x in clips]
        sum(x.square().mean() for x in out).backward()
        return out, [p.grad for p in model.parameters()]

    (ours, gradients), _ = velocities(), monkeypatch.setattr(plan_attention, "attend_in_windows", masked)
    theirs, their_gradients = velocities()
    for a, b in zip([*ours, *gradients], [*theirs, *their_gradients], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


def test_a_window_over_the_whole_plan_changes_nothing_and_a_smaller_one_does():
    whole, wide, narrow = (transformer(window)(*inputs(), timed_plan()) for window in (None, CLIP.num_keyframes, 1))
    for ours, theirs, other in zip(wide, whole, narrow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(other, theirs, rtol=1e-3, atol=1e-3)


def test_the_plan_beyond_the_window_is_not_read():
    plan, last = timed_plan(), CLIP.plan_grid[0] * CLIP.plan_grid[1]
    changed = dataclasses.replace(plan, video=torch.cat((plan.video[:, :-last], plan.video[:, -last:] + 1), 1))
    for window, kept in ((1, True), (None, False)):
        model = transformer(window)
        tokens = []
        hook = model.video_model.blocks[0].plan_attn.register_forward_hook(lambda _, args, out, seen=tokens: seen.append(out))
        for read in (plan, changed):
            model(*inputs(), read)
        hook.remove()
        early = CLIP.token_grid[1] * CLIP.token_grid[2] * 5
        assert torch.equal(tokens[0][:, :early], tokens[1][:, :early]) is kept
        assert not torch.equal(tokens[0][:, early:], tokens[1][:, early:])


def test_true_times_move_the_window():
    plan = timed_plan()
    late = dataclasses.replace(plan, video_times=plan.video_times + 1.0, audio_times=plan.audio_times + 1.0)
    for timestamps, kept in ((True, False), (False, True)):
        model = transformer(1, timestamps=timestamps, rs_rope="none")
        ours, theirs = model(*inputs(), plan), model(*inputs(), late)
        assert [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)] == [kept, kept]


def test_gradients_of_overlapping_slices_add_up():
    tensor = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Slices.apply(x, [(0, 3), (2, 5), (1, 2)]), tensor)


def test_times_without_values_are_as_none():
    model, grid = transformer(1), CLIP.token_grid
    times = torch.tensor(CLIP.keyframe_times)
    options, patches = model.plan_attention, model.video_model.patch_embedding
    of_times, of_none, of_meta = (
        windows_of_grids(CLIP.video_plan_grid, t, CLIP.num_keyframes, options, patches, [grid]) for t in (times, None, times.to("meta"))
    )
    assert of_meta == of_none != of_times


def test_recomputed_windows_have_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        model = transformer(1)
        model.recompute = recompute
        sum(x.square().mean() for x in model(*inputs(), timed_plan())).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_window_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        transformer(-1)
    with pytest.raises(ValueError, match="cascade or parallel"):
        transformer(1, placement="concat")
