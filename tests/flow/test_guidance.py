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


class CallRecorder:
    """A transformer that records its calls."""

    def __init__(self, dit):
        self.dit, self.calls = dit, []

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return self.dit(*args, **kwargs)


def test_scale_one_is_the_identity_and_costs_one_evaluation(world):
    dit, inputs, positive, negative = world
    recorder = CallRecorder(dit)
    guided = Guidance(skip_block=1)(recorder, positive, negative)(*inputs)
    plain = dit(*inputs, positive.video_context, positive.audio_context, positive.plan)
    assert all(torch.equal(a, b) for a, b in zip(guided, plain, strict=True))
    assert len(recorder.calls) == 1


def test_each_modality_has_its_own_scale(world):
    dit, inputs, positive, negative = world
    conditional = dit(*inputs, positive.video_context, positive.audio_context, positive.plan)
    unconditional = dit(*inputs, negative.video_context, negative.audio_context, positive.plan)
    guided = Guidance(video_scale=4.0, audio_scale=3.0)(dit, positive, negative)(*inputs)
    for ours, scale, p, m in zip(guided, (4, 3), conditional, unconditional, strict=True):
        torch.testing.assert_close(ours, m + scale * (p - m))


def test_a_scale_of_one_in_one_modality_leaves_that_one_unguided(world):
    dit, inputs, positive, negative = world
    conditional = dit(*inputs, positive.video_context, positive.audio_context, positive.plan)
    guided = Guidance(video_scale=4.0)(dit, positive, negative)(*inputs)
    assert torch.equal(guided[1], conditional[1]) and not torch.allclose(guided[0], conditional[0])


def test_the_block_is_skipped_in_negative_evaluations_alone(world):
    dit, inputs, positive, negative = world
    recorder = CallRecorder(dit)
    Guidance(video_scale=2.0, plan_scale=2.0, skip_block=1)(recorder, positive, negative)(*inputs)
    assert [kwargs["skip_blocks"] for _, kwargs in recorder.calls] == [(), (1,), (1,)]
    unconditional = dit(*inputs, negative.video_context, negative.audio_context, positive.plan, skip_blocks=(1,))
    conditional = dit(*inputs, positive.video_context, positive.audio_context, positive.plan)
    guided = Guidance(video_scale=2.0, skip_block=1)(dit, positive, negative)(*inputs)
    torch.testing.assert_close(guided[0], extrapolate(unconditional[0], conditional[0], 2.0))


def test_guidance_on_the_plan_extrapolates_from_no_plan_to_the_plan_with_the_positive_text(world):
    dit, inputs, positive, negative = world
    conditional = dit(*inputs, positive.video_context, positive.audio_context, positive.plan)
    unconditional = dit(*inputs, negative.video_context, negative.audio_context, positive.plan)
    without_plan = dit(*inputs, positive.video_context, positive.audio_context)
    guided = Guidance(video_scale=4.0, audio_scale=3.0, plan_scale=2.5)(dit, positive, negative)(*inputs)
    for ours, scale, p, m, u in zip(guided, (4, 3), conditional, unconditional, without_plan, strict=True):
        torch.testing.assert_close(ours, m + scale * (p - m) + 1.5 * (p - u))


def test_guidance_on_the_plan_alone_needs_no_negative_and_costs_two_evaluations(world):
    dit, inputs, positive, _ = world
    recorder = CallRecorder(dit)
    guided = Guidance(plan_scale=3.0)(recorder, positive)(*inputs)
    assert len(recorder.calls) == 2
    without_plan = Guidance(plan_scale=3.0)(recorder, Condition(positive.video_context, positive.audio_context))(*inputs)
    assert len(recorder.calls) == 3
    assert not torch.allclose(guided[0], without_plan[0])


def test_guidance_without_a_negative_is_refused(world):
    dit, _, positive, _ = world
    with pytest.raises(ValueError, match="needs a negative condition"):
        Guidance(video_scale=2.0)(dit, positive)
