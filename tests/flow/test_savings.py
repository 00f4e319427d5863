"""What sampling saves, and what of its velocities stays: to the bit, but for rounding, or in every k-th step."""

import pytest
import torch
from torch import nn

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.flow.given import Given, Held
from baton_lightning.flow.guidance import Condition, Guidance
from baton_lightning.flow.sampler import EulerSampler
from baton_lightning.flow.savings import Savings
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.plan_attention import PlanAttention, PlanOptions

CLIP = ClipSpec(
    seconds=1.0, video_channels=5, audio_channels=3, text_tokens=6, text_width=10, plan_grid=(2, 2), video_plan_width=7, audio_plan_width=9
)
GUIDANCE = Guidance(video_scale=4.0, audio_scale=3.0, plan_scale=2.0)


def transformer(options=PlanOptions(), dtype=torch.float32):  # noqa: B008
    torch.manual_seed(0)
    dit = DualBranchDiT(CLIP, width=24, depth=1, num_heads=2, ffn_width=32, frequency_width=8, plan_attention=options).to(dtype)
    for parameter in dit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return dit


def conditions(dtype=torch.float32):
    torch.manual_seed(1)
    texts = torch.randn(4, 2, 6, 10, dtype=dtype)
    planned = [torch.randn(2, n, c, dtype=dtype) for n, c in ((CLIP.num_video_planned, 7), (CLIP.num_audio_planned, 9))]
    plan = Plan(*planned, CLIP.video_plan_grid)
    return Condition(texts[0], texts[1], plan), Condition(texts[2], texts[3])


def noise(dtype=torch.float32):
    torch.manual_seed(2)
    return torch.randn(2, 5, *CLIP.latent_grid, dtype=dtype), torch.randn(2, CLIP.num_audio_latents, 3, dtype=dtype)


def held(values):
    known = torch.zeros(2, *CLIP.latent_grid, dtype=torch.bool)
    known[:, 0] = True
    return Given(Held(torch.full_like(values, 0.5), known, known, 2))


def sampled(dit, savings, *, guidance=GUIDANCE, given=None, dtype=torch.float32, steps=2):
    """Latents, and the velocities of every step."""
    start = noise(dtype)
    velocity = guidance(dit, *conditions(dtype), held(start[0]) if given else Given(), savings)
    steps_taken = []

    def watched(*args):
        steps_taken.append(velocity(*args))
        return steps_taken[-1]

    return EulerSampler(steps, 1.0)(watched, *start), steps_taken


@torch.no_grad()
def calls(dit, kind, savings, **options):
    """How often each layer of a kind computes in a sampling."""
    counts = []
    hooks = [m.register_forward_hook(lambda *_: counts.append(1)) for m in dit.modules() if kind(m)]
    sampled(dit, savings, **options)
    for hook in hooks:
        hook.remove()
    return len(counts) // len(hooks)


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("options", "given"), [(PlanOptions(), True), (PlanOptions("concat"), False), (PlanOptions("parallel", window=1), False)]
)
def test_kept_keys_and_values_leave_every_velocity_as_it_is_to_the_bit(options, given):
    dit = transformer(options)
    (ours, kept), (theirs, computed) = (sampled(dit, Savings(keep_projections=keep), given=given) for keep in (True, False))
    assert equal(ours, theirs) and len(kept) == len(computed) == 2
    assert all(equal(a, b) for a, b in zip(kept, computed, strict=True))


def test_keys_of_the_plan_are_computed_once_a_clip_and_shared_by_evaluations_with_the_same_plan():
    dit = transformer()
    keys = {layer.k for layer in dit.modules() if isinstance(layer, PlanAttention)}
    assert calls(dit, lambda m: m in keys, Savings()) == 2 * 2  # the prompt and the negative prompt see the plan
    assert calls(dit, lambda m: m in keys, Savings(keep_projections=True)) == 1
    texts = {block.cross_attn.v for branch in (dit.video_model, dit.audio_model) for block in branch.blocks}
    assert calls(dit, lambda m: m in texts, Savings(keep_projections=True)) == 2  # two texts


def test_plan_attention_is_computed_in_every_kth_step():
    dit = transformer()
    for every, computed in ((1, 5), (2, 3), (9, 1)):
        found = calls(dit, lambda m: isinstance(m, PlanAttention), Savings(plan_every=every), guidance=Guidance(), steps=5)
        assert found == computed


def test_a_kept_update_is_the_plan_s_at_the_step_that_computed_it():
    dit = transformer()
    exact, once = (sampled(dit, Savings(plan_every=every))[1] for every in (1, 2))
    assert equal(exact[0], once[0]) and not equal(exact[1], once[1])
    for layer in dit.modules():
        if isinstance(layer, PlanAttention):
            nn.init.zeros_(layer.q.weight)  # the queries are the same in every step
    exact, once = (sampled(dit, Savings(plan_every=every))[1] for every in (1, 2))
    assert all(equal(a, b) for a, b in zip(exact, once, strict=True))


def test_outside_its_interval_guidance_costs_nothing_and_does_nothing():
    dit = transformer()
    (_, inside), (_, always), (_, plain) = (
        sampled(dit, savings, guidance=guidance, steps=3)
        for savings, guidance in ((Savings(guided=(0.6, 1.0)), GUIDANCE), (Savings(), GUIDANCE), (Savings(), Guidance()))
    )
    assert equal(inside[0], always[0]) and equal(inside[1], always[1])  # t = 1, 2/3
    never = sampled(dit, Savings(guided=(0.0, 0.0)), steps=3)[1]
    assert all(equal(a, b) for a, b in zip(never, plain, strict=True))
    assert calls(dit, lambda m: m is dit, Savings(guided=(0.5, 0.5))) == 3 + 1  # the bounds belong to it


@pytest.mark.parametrize(("options", "given"), [(PlanOptions(), True), (PlanOptions("concat"), False)])
def test_one_batch_gives_the_same_velocities_but_for_rounding(options, given):
    dit = transformer(options, torch.float64)
    (_, ours), (_, theirs) = (sampled(dit, Savings(one_batch=batch), given=given, dtype=torch.float64) for batch in (True, False))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert calls(dit, lambda m: m is dit, Savings(one_batch=True), dtype=torch.float64) == 2


def test_plan_updates_do_not_outlive_the_interval_of_guidance():
    """Steps at 1, 5/6, ... 1/6: two alone, three guided in one batch, one alone, whose update is computed anew."""
    savings = Savings(guided=(0.3, 0.7), one_batch=True, plan_every=2)
    assert calls(transformer(), lambda m: isinstance(m, PlanAttention), savings, steps=6) == 1 + 2 + 1


def test_what_cannot_be_saved_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        EulerSampler(savings=Savings(plan_every=0))
    with pytest.raises(ValueError, match="within"):
        EulerSampler(savings=Savings(guided=(0.8, 0.2)))
    with pytest.raises(ValueError, match="skip_block null"):
        Guidance(plan_scale=2.0, skip_block=1)(transformer(), conditions()[0], savings=Savings(one_batch=True))
    with pytest.raises(ValueError, match="plan_every to 1"):
        sampled(transformer(PlanOptions("concat")), Savings(plan_every=2))
