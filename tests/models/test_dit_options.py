"""Every way of reading the plan runs, learns, and changes what it says and nothing else."""

import dataclasses

import pytest
import torch

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.plan_attention import PlanOptions

CLIP = ClipSpec(
    seconds=1.0, video_channels=5, audio_channels=3, text_tokens=6, text_width=10, plan_grid=(2, 2), video_plan_width=7, audio_plan_width=9
)


def awake(options, *, dtype=torch.float64, **rest):
    """A model whose plan attention is no longer silent; equal seeds give equal weights where the parameters are the same."""
    torch.manual_seed(0)
    model = DualBranchDiT(CLIP, width=48, depth=2, num_heads=2, ffn_width=32, frequency_width=8, plan_attention=options, **rest)
    for name, parameter in sorted(model.named_parameters()):
        torch.manual_seed(sum(name.encode()))
        torch.nn.init.normal_(parameter, std=0.2)
    return model.to(dtype)


def inputs(seed=1):
    torch.manual_seed(seed)
    video = torch.randn(2, CLIP.video_channels, *CLIP.latent_grid).double()
    audio = torch.randn(2, CLIP.num_audio_latents, CLIP.audio_channels).double()
    return video, audio, torch.tensor([0.2, 0.9]), torch.randn(2, 4, 10).double(), torch.randn(2, 4, 10).double()


def some_plan(**times):
    torch.manual_seed(3)
    return Plan(
        torch.randn(2, CLIP.num_video_planned, 7).double(),
        torch.randn(2, CLIP.num_audio_planned, 9).double(),
        CLIP.video_plan_grid,
        **times,
    )


def permuted(plan):
    """The same planned tokens in other places."""
    video, audio = torch.randperm(plan.video.shape[1]), torch.randperm(plan.audio.shape[1])
    return dataclasses.replace(plan, video=plan.video[:, video], audio=plan.audio[:, audio])


def same(ours, theirs):
    return [torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("placement", ["cascade", "parallel", "concat"])
@pytest.mark.parametrize("rs_rope", ["full", "temporal", "none"])
def test_every_choice_runs_and_gives_every_parameter_a_gradient(placement, rs_rope):
    model = awake(PlanOptions(placement, rs_rope))
    sum(x.square().mean() for x in model(*inputs(), some_plan())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.any() for n, p in model.named_parameters() if "plan_attn" in n or "latent_mlp" in n)


@pytest.mark.parametrize(
    "options", [PlanOptions("parallel"), PlanOptions("concat"), PlanOptions(rs_rope="temporal"), PlanOptions(alignment="centres")]
)
def test_every_choice_changes_the_velocities(options):
    assert same(awake(options)(*inputs(), some_plan()), awake(PlanOptions())(*inputs(), some_plan()))[0] is False


@pytest.mark.parametrize("placement", ["cascade", "parallel", "concat"])
def test_only_a_plan_without_positions_may_be_shuffled(placement):
    for rs_rope, kept in (("full", False), ("temporal", False), ("none", True)):
        model = awake(PlanOptions(placement, rs_rope))
        assert same(model(*inputs(), some_plan()), model(*inputs(), permuted(some_plan()))) == [kept, kept]


def test_temporal_rs_rope_forgets_where_in_the_picture_a_token_is_and_full_does_not():
    plan = some_plan()
    places = plan.video.unflatten(1, (CLIP.num_keyframes, -1)).flip(2).flatten(1, 2)
    for rs_rope, kept in (("temporal", True), ("full", False)):
        model = awake(PlanOptions(rs_rope=rs_rope))
        assert same(model(*inputs(), plan), model(*inputs(), dataclasses.replace(plan, video=places)))[0] is kept


def test_for_sound_temporal_and_full_are_the_same():
    options = [PlanOptions(rs_rope=rs_rope) for rs_rope in ("temporal", "full")]
    _, audio, t, _, context = inputs()
    ours, theirs = (awake(o)(None, audio, t, None, context, some_plan()) for o in options)
    assert torch.allclose(ours[1], theirs[1])


@pytest.mark.parametrize("placement", ["cascade", "parallel", "concat"])
def test_a_clip_that_does_not_see_its_plan_is_as_without_one(placement):
    model = awake(PlanOptions(placement))
    mixed = model(*inputs(), some_plan(), has_plan=torch.tensor([True, False]))
    without, with_plan = model(*inputs()), model(*inputs(), some_plan())
    for x, none, full in zip(mixed, without, with_plan, strict=True):
        torch.testing.assert_close(x[0], full[0])
        torch.testing.assert_close(x[1], none[1])


def test_dropping_every_plan_still_gives_every_parameter_a_gradient():
    model = awake(PlanOptions())
    sum(x.square().mean() for x in model(*inputs(), some_plan(), has_plan=torch.zeros(2, dtype=torch.bool))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_true_times_count_only_if_asked_for():
    times = {"video_times": torch.tensor(CLIP.keyframe_times) * 0.5, "audio_times": torch.tensor(CLIP.audio_plan_times) * 0.5}
    for timestamps in (False, True):
        model = awake(PlanOptions(timestamps=timestamps))
        kept = same(model(*inputs(), some_plan(**times)), model(*inputs(), some_plan()))
        assert kept == [not timestamps] * 2


def test_times_that_spread_the_plan_end_to_end_change_nothing():
    t, length = CLIP.latent_grid[0], CLIP.num_audio_latents
    times = {
        "video_times": torch.linspace(0, (t - 1) / CLIP.video_latent_rate, CLIP.num_keyframes).double(),
        "audio_times": torch.linspace(0, (length - 1) / CLIP.audio_latent_rate, CLIP.num_audio_planned).double(),
    }
    model = awake(PlanOptions(timestamps=True))
    for ours, theirs in zip(model(*inputs(), some_plan(**times)), model(*inputs(), some_plan()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_without_text_the_words_do_not_matter_and_the_plan_does():
    model = awake(PlanOptions(), text=False)
    video, audio, t, *context = inputs()
    assert all(same(model(video, audio, t, *context, some_plan()), model(video, audio, t, *(c + 1 for c in context), some_plan())))
    assert not any(same(model(video, audio, t, *context, some_plan()), model(video, audio, t, *context)))
    assert model.state_dict().keys() == awake(PlanOptions()).state_dict().keys()


def test_concat_adds_no_layers_to_the_blocks():
    new = {n for n, _ in awake(PlanOptions("concat")).named_parameters()} - {n for n, _ in awake(None).named_parameters()}
    assert new and all(name.startswith("latent_mlp.") for name in new)


def test_joint_softmax_of_still_and_rotated_keys_is_that_of_their_logits():
    from baton_lightning.models.attention import attend_jointly

    torch.manual_seed(0)
    query, rotated_query, key, value, rotated_key, rotated_value = (torch.randn(2, n, 3, 8).double() for n in (4, 4, 5, 5, 6, 6))
    mask = torch.rand(2, 6) < 0.7
    logits = (
        torch.cat((torch.einsum("bqhd,bkhd->bhqk", query, key), torch.einsum("bqhd,bkhd->bhqk", rotated_query, rotated_key)), -1) / 8**0.5
    )
    logits[..., 5:].masked_fill_(~mask[:, None, None], -torch.inf)
    expected = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), torch.cat((value, rotated_value), 1)).flatten(2)
    torch.testing.assert_close(attend_jointly(query, rotated_query, (key, value), (rotated_key, rotated_value), mask), expected)


@pytest.mark.parametrize("placement", ["cascade", "concat"])
def test_a_plan_finds_its_place_in_clips_of_different_sizes(placement):
    model, plan = awake(PlanOptions(placement)), some_plan()
    video, audio, t, *context = inputs()
    videos, audios = [video[0], video[1, :, :2, :3]], [audio[0], audio[1, :9]]
    together = model(videos, audios, t, *context, plan)
    own = dataclasses.replace(plan, video=plan.video[1:], audio=plan.audio[1:])
    alone = model(videos[1][None], audios[1][None], t[1:], *(c[1:] for c in context), own)
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours[1], theirs[0])
