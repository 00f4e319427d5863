"""Eq. 8, its weights and its absent modalities."""

from __future__ import annotations

import pytest
import torch

from baton_lightning.batch import Plan
from baton_lightning.losses import plan_loss, token_error


def plans(seed: int = 0, clips: int = 3) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    video, audio = torch.randn(clips, 8, 6, generator=generator), torch.randn(clips, 5, 4, generator=generator)
    return Plan(video, audio, (2, 2, 2))


def test_predicting_the_mean_of_standardised_features_costs_one_a_modality() -> None:
    target = torch.randn(64, 50, 8, generator=torch.Generator().manual_seed(0))
    assert token_error(torch.zeros_like(target), target) == pytest.approx(1.0, abs=0.02)


def test_the_loss_is_the_token_mean_of_the_squared_distance_over_the_width() -> None:
    predicted, target = plans(0), plans(1)
    loss = plan_loss(predicted, target)
    by_hand = [((p - t) ** 2).sum(-1).mean() / p.shape[-1] for p, t in ((predicted.video, target.video), (predicted.audio, target.audio))]
    torch.testing.assert_close(loss.video, by_hand[0])
    torch.testing.assert_close(loss.audio, by_hand[1])
    torch.testing.assert_close(loss.total, by_hand[0] + by_hand[1])


def test_clips_without_a_modality_do_not_count() -> None:
    predicted, target = plans(0), plans(1)
    present = torch.tensor([True, False, True])
    kept = plan_loss(Plan(predicted.video[present], predicted.audio, (2, 2, 2)), Plan(target.video[present], target.audio, (2, 2, 2)))
    torch.testing.assert_close(plan_loss(predicted, target, has_video=present).video, kept.video)


def test_a_modality_that_is_absent_everywhere_costs_nothing_and_still_reaches_its_parameters() -> None:
    predicted, target = plans(0), plans(1)
    predicted.audio.requires_grad_()
    loss = plan_loss(predicted, target, has_audio=torch.zeros(3, dtype=torch.bool))
    assert loss.audio == 0
    loss.total.backward()
    assert predicted.audio.grad is not None
    assert not predicted.audio.grad.any()


def test_half_precision_plans_are_compared_in_full_precision() -> None:
    predicted, target = plans(0), plans(1)
    half = Plan(predicted.video.bfloat16(), predicted.audio.bfloat16(), (2, 2, 2))
    assert plan_loss(half, target).total.dtype == torch.float32


def test_plans_of_different_lengths_are_no_pair() -> None:
    with pytest.raises(Exception, match="K|size"):
        token_error(torch.zeros(1, 3, 2), torch.zeros(1, 4, 2))
