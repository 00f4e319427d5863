"""Guidance as algebra, and on the real transformer."""

import pytest
import torch

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.flow.guidance import Condition, Guidance, extrapolate
from baton_lightning.models.dit import DualBranchDiT

CLIP = ClipSpec(
    seconds=1.0, video_channels=5, audio_channels=3, text_tokens=6, text_width=10, plan_grid=(2, 2), video_plan_width=7, audio_plan_width=9
)


@pytest.fixture(scope="module")
def world():
    torch.manual_seed(0)
    dit = DualBranchDiT(CLIP, width=24, depth=2, num_heads=2, ffn_width=32, frequency_width=8).double()
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    video, audio = torch.randn(2, 5, *CLIP.latent_grid).double(), torch.randn(2, CLIP.num_audio_latents, 3).double()
    texts = torch.randn(4, 2, 6, 10).double()
    plan = Plan(
        torch.randn(2, CLIP.num_video_planned, 7).double(), torch.randn(2, CLIP.num_audio_planned, 9).double(), CLIP.video_plan_grid
    )
    return dit, (video, audio, torch.tensor([0.3, 0.8])), Condition(texts[0], texts[1], plan), Condition(texts[2], texts[3])


class Counting:
    """A transformer that notes how it was asked."""

    def __init__(self, dit):
        self.dit, self.calls = dit, []

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return self.dit(*args, **kwargs)


def test_scale_one_is_the_identity_and_costs_one_evaluation(world):
    dit, at, wanted, negative = world
    counting = Counting(dit)
    guided = Guidance(skip_block=1)(counting, wanted, negative)(*at)
    plain = dit(*at, wanted.video_context, wanted.audio_context, wanted.plan)
    assert all(torch.equal(a, b) for a, b in zip(guided, plain, strict=True))
    assert len(counting.calls) == 1


def test_each_modality_has_its_own_scale(world):
    dit, at, wanted, negative = world
    plus = dit(*at, wanted.video_context, wanted.audio_context, wanted.plan)
    minus = dit(*at, negative.video_context, negative.audio_context, wanted.plan)
    guided = Guidance(video_scale=4.0, audio_scale=3.0)(dit, wanted, negative)(*at)
    for ours, scale, p, m in zip(guided, (4, 3), plus, minus, strict=True):
        torch.testing.assert_close(ours, m + scale * (p - m))


def test_a_scale_of_one_in_one_modality_leaves_that_one_unguided(world):
    dit, at, wanted, negative = world
    plus = dit(*at, wanted.video_context, wanted.audio_context, wanted.plan)
    guided = Guidance(video_scale=4.0)(dit, wanted, negative)(*at)
    assert torch.equal(guided[1], plus[1]) and not torch.allclose(guided[0], plus[0])


def test_the_block_is_skipped_in_negative_evaluations_alone(world):
    dit, at, wanted, negative = world
    counting = Counting(dit)
    Guidance(video_scale=2.0, plan_scale=2.0, skip_block=1)(counting, wanted, negative)(*at)
    assert [kwargs["skip_blocks"] for _, kwargs in counting.calls] == [(), (1,), (1,)]
    minus = dit(*at, negative.video_context, negative.audio_context, wanted.plan, skip_blocks=(1,))
    plus = dit(*at, wanted.video_context, wanted.audio_context, wanted.plan)
    guided = Guidance(video_scale=2.0, skip_block=1)(dit, wanted, negative)(*at)
    torch.testing.assert_close(guided[0], extrapolate(minus[0], plus[0], 2.0))


def test_guidance_on_the_plan_leads_from_no_plan_to_the_plan_at_the_wanted_text(world):
    dit, at, wanted, negative = world
    plus = dit(*at, wanted.video_context, wanted.audio_context, wanted.plan)
    minus = dit(*at, negative.video_context, negative.audio_context, wanted.plan)
    untold = dit(*at, wanted.video_context, wanted.audio_context)
    guided = Guidance(video_scale=4.0, audio_scale=3.0, plan_scale=2.5)(dit, wanted, negative)(*at)
    for ours, scale, p, m, u in zip(guided, (4, 3), plus, minus, untold, strict=True):
        torch.testing.assert_close(ours, m + scale * (p - m) + 1.5 * (p - u))


def test_guidance_on_the_plan_alone_needs_no_negative_and_costs_two_evaluations(world):
    dit, at, wanted, _ = world
    counting = Counting(dit)
    guided = Guidance(plan_scale=3.0)(counting, wanted)(*at)
    assert len(counting.calls) == 2
    unplanned = Guidance(plan_scale=3.0)(counting, Condition(wanted.video_context, wanted.audio_context))(*at)
    assert len(counting.calls) == 3
    assert not torch.allclose(guided[0], unplanned[0])


def test_guidance_without_a_negative_is_refused(world):
    dit, _, wanted, _ = world
    with pytest.raises(ValueError, match="needs a negative condition"):
        Guidance(video_scale=2.0)(dit, wanted)
