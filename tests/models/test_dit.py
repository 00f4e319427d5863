"""The dual-branch transformer on its own: shapes, gradients, absent modalities, ragged batches, storage."""

import pytest
import torch

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.patches import VideoPatches
from baton_lightning.models.plan_attention import PlanOptions

CLIP = ClipSpec(
    seconds=1.0, video_channels=5, audio_channels=3, text_tokens=6, text_width=10, plan_grid=(2, 2), video_plan_width=7, audio_plan_width=9
)


def tiny(clip=CLIP, seed=0, **options):
    torch.manual_seed(seed)
    return DualBranchDiT(clip, **({"width": 24, "depth": 2, "num_heads": 2, "ffn_width": 32, "frequency_width": 8} | options))


def clip_inputs(clip=CLIP, batch=2, seed=1, dtype=torch.float32):
    torch.manual_seed(seed)
    video = torch.randn(batch, clip.video_channels, *clip.latent_grid, dtype=dtype)
    audio = torch.randn(batch, clip.num_audio_latents, clip.audio_channels, dtype=dtype)
    context = torch.randn(2, batch, 4, clip.text_width, dtype=dtype)
    return video, audio, torch.rand(batch).double(), context[0], context[1]


def some_plan(clip=CLIP, batch=2, seed=2, dtype=torch.float32):
    torch.manual_seed(seed)
    video = torch.randn(batch, clip.num_video_planned, clip.video_plan_width, dtype=dtype)
    return Plan(video, torch.randn(batch, clip.num_audio_planned, clip.audio_plan_width, dtype=dtype), clip.video_plan_grid)


def wake(model):
    """Gives the silent outputs something to say."""
    torch.manual_seed(9)
    for name, parameter in model.named_parameters():
        if "plan_attn.o" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 1, 4)])
def test_velocities_have_the_shape_of_their_latents(patch):
    clip = ClipSpec(seconds=1.0, fps=12.0, text_tokens=6, text_width=10, video_patch=patch)
    video, audio, t, *context = clip_inputs(clip)
    outputs = tiny(clip)(video, audio, t, *context, some_plan(clip))
    assert [x.shape for x in outputs] == [video.shape, audio.shape]


def test_every_parameter_gets_a_finite_gradient_and_the_new_ones_at_the_second_step():
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    new = [n for n, _ in model.named_parameters() if "plan_attn" in n or "latent_mlp" in n]
    assert len(new) == 2 * 2 * 12 + 2 * 4
    for step in range(2):
        optimizer.zero_grad()
        sum(x.square().mean() for x in model(*clip_inputs(), some_plan())).backward()
        gradients = {n: p.grad for n, p in model.named_parameters()}
        assert all(g is not None and g.isfinite().all() for g in gradients.values())
        silent = {n for n, g in gradients.items() if not g.any()}
        assert silent == ({n for n in new if "plan_attn.o" not in n} if step == 0 else set())
        optimizer.step()


def test_weights_survive_storage(tmp_path):
    model, other = wake(tiny()), tiny(seed=5)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for ours, theirs in zip(model(*clip_inputs(), some_plan()), other(*clip_inputs(), some_plan()), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("has_known", [False, True])
def test_a_clip_gives_the_same_velocity_alone_batched_and_beside_a_longer_one(has_known):
    model, plan = wake(tiny().double()), some_plan(dtype=torch.float64)
    video, audio, t, *context = clip_inputs(dtype=torch.float64)
    videos, audios = [video[0], video[1, :, :2, :2]], [audio[0], audio[1, :11]]
    known = {"known_video": [torch.rand(x.shape[1:]) < 0.5 for x in videos], "known_audio": [torch.rand(len(x)) < 0.5 for x in audios]}
    together = model(videos, audios, t, *context, plan, **(known if has_known else {}))
    for i in range(2):
        own = Plan(plan.video[i : i + 1], plan.audio[i : i + 1], plan.video_grid)
        mine = {name: masks[i][None] for name, masks in known.items()} if has_known else {}
        alone = model(videos[i][None], audios[i][None], t[i : i + 1], *(c[i : i + 1] for c in context), own, **mine)
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[i], theirs[0], rtol=1e-12, atol=1e-12)


def test_a_list_of_equal_clips_is_the_batch():
    model = tiny().double()
    video, audio, t, *context = clip_inputs(dtype=torch.float64)
    for ours, theirs in zip(
        model(list(video), list(audio), t, list(context[0]), list(context[1])), model(video, audio, t, *context), strict=True
    ):
        torch.testing.assert_close(torch.stack(ours), theirs)


def test_either_branch_runs_alone_and_ignores_what_belongs_to_both():
    model = wake(tiny())
    video, audio, t, video_context, audio_context = clip_inputs()
    alone = model(video, None, t, video_context), model(None, audio, t, None, audio_context)
    assert (alone[0][1], alone[1][0]) == (None, None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "fusion" in name:
                parameter.add_(1)
    assert torch.equal(model(video, None, t, video_context)[0], alone[0][0])
    assert torch.equal(model(None, audio, t, None, audio_context)[1], alone[1][1])


def test_each_branch_hears_of_the_other():
    model = tiny()
    video, audio, t, *context = clip_inputs()
    before = model(video, audio, t, *context)
    assert not torch.allclose(model(video + 1, audio, t, *context)[1], before[1])
    assert not torch.allclose(model(video, audio + 1, t, *context)[0], before[0])


def test_pad_rows_of_the_text_are_read():
    model = tiny()
    video, audio, t, *context = clip_inputs()
    padded = [torch.nn.functional.pad(c, (0, 0, 0, 2)) for c in context]
    for ours, theirs in zip(model(video, audio, t, *padded), model(video, audio, t, *context), strict=True):
        assert torch.equal(ours, theirs)
    with_pads = model(video, audio, t, *context)
    model.video_model.text_tokens = model.audio_model.text_tokens = 4
    for ours, theirs in zip(model(video, audio, t, *context), with_pads, strict=True):
        assert not torch.allclose(ours, theirs)


def test_a_skipped_block_is_as_if_it_were_not_there():
    model, inputs = tiny(), clip_inputs()
    skipped, blocks = model(*inputs, skip_blocks=(1,)), []
    model(*inputs, skip_blocks=(1,), on_block=lambda n, *_: blocks.append(n))
    assert blocks == [0]
    for branch in (model.video_model, model.audio_model):
        del branch.blocks[1]
    for ours, theirs in zip(skipped, model(*inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_recomputing_blocks_changes_no_gradient():
    kept, recomputed = wake(tiny()), wake(tiny(recompute=True))
    for model in (kept, recomputed):
        sum(x.square().mean() for x in model(*clip_inputs(), some_plan())).backward()
    for (name, ours), theirs in zip(kept.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_known_latents_are_told_time_0_and_all_others_the_clip_s():
    model = tiny()
    video, audio, _, *context = clip_inputs()
    zero = torch.zeros(2).double()
    some = {"known_video": torch.rand(2, *video.shape[2:]) < 0.5, "known_audio": torch.rand(audio.shape[:2]) < 0.5}
    none, every = ({name: torch.full_like(mask, value) for name, mask in some.items()} for value in (False, True))
    for given in (some, none, every):  # at time 0 there is nothing to tell
        for ours, theirs in zip(model(video, audio, zero, *context, **given), model(video, audio, zero, *context), strict=True):
            torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(model(video, audio, zero + 0.7, *context, **none), model(video, audio, zero + 0.7, *context), strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(model(video, audio, zero + 0.7, *context, **every), model(video, audio, zero, *context), strict=True):
        torch.testing.assert_close(ours, theirs)
    for name, arguments in (
        ("known_video", (video, None, zero + 0.7, context[0])),
        ("known_audio", (None, audio, zero + 0.7, None, context[1])),
    ):
        told = [next(x for x in model(*arguments, **given) if x is not None) for given in ({name: some[name]}, {})]
        assert not torch.allclose(*told)


def test_a_patch_is_known_only_if_all_its_latents_are():
    patches = VideoPatches(4, 8, (1, 2, 2))
    known = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    known[0, 0, :2, :3] = True
    assert patches.known(known)[0].tolist() == [True] + [False] * 7


def test_the_model_is_built_without_memory_on_the_meta_device():
    with torch.device("meta"):
        model = tiny()
    assert all(p.is_meta for p in model.parameters())
    assert not list(model.buffers())


def test_mistakes_are_told():
    model = tiny()
    video, audio, t, *context = clip_inputs()
    with pytest.raises(ValueError, match="got neither"):
        model(None, None, t)
    with pytest.raises(ValueError, match="video_context"):
        model(video, audio, t)
    with pytest.raises(ValueError, match="one flow time per clip"):
        model(video, audio, t[:1], *context)
    with pytest.raises(ValueError, match="at most 6 rows of 10"):
        model(video, audio, t, torch.zeros(2, 7, 10), context[1])
    with pytest.raises(ValueError, match="one per cell of its grid"):
        model(video, audio, t, *context, Plan(some_plan().video[:, 1:], some_plan().audio, CLIP.video_plan_grid))
    with pytest.raises(ValueError, match="num_heads"):
        tiny(num_heads=5)
    with pytest.raises(ValueError, match="divide by the patch"):
        tiny(ClipSpec(seconds=1.0, video_patch=(1, 2, 2)))(torch.zeros(1, 96, 4, 3, 4), None, t[:1], torch.zeros(1, 1, 64))


def test_a_plan_is_not_looked_at_by_a_model_without_plan_attention():
    model = tiny(plan_attention=None)
    for ours, theirs in zip(model(*clip_inputs(), some_plan()), model(*clip_inputs()), strict=True):
        assert torch.equal(ours, theirs)


def test_options_default_to_batons_own():
    assert PlanOptions() == PlanOptions(placement="cascade", rs_rope="full", alignment="ends", timestamps=False, window=None)


def test_mixed_precision_trains():
    model = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(*clip_inputs(), some_plan())
    sum(x.float().square().mean() for x in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
