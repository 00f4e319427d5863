"""Agreement falls where a plan is wrong and nowhere else, and a clip's own plan is nearest to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.plan.agreement import agreement, agreements, nearest
from baton_lightning.plan.clip_plan import ClipPlan

CLIP = ClipSpec(video_plan_width=8, audio_plan_width=8)
STATISTICS = {name: torch.stack([torch.zeros(8), torch.ones(8)]) for name in ("video", "audio")}


def plan_of(seed: int) -> ClipPlan:
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randn(*CLIP.video_plan_grid, 8, generator=draw), torch.randn(CLIP.num_audio_planned, 8, generator=draw)
    return ClipPlan(*tokens, CLIP, STATISTICS)


def test_agreement_falls_in_the_keyframe_and_second_that_are_wrong() -> None:
    truth = plan_of(0)
    same = agreements(truth, truth)
    assert len(same["keyframe"].r2) == 12 and len(same["video"].r2) == len(same["audio"].r2) == 2
    assert all(value == pytest.approx(1) for found in same.values() for value in (*found.r2, *found.cosine))
    wrong = agreements(truth.scale(0.0, modality="video", start=1.5, stop=1.6), truth)  # keyframe 9
    assert [k for k, r2 in enumerate(wrong["keyframe"].r2) if r2 < 0.99] == [9] and wrong["keyframe"].r2[9] == pytest.approx(0)
    assert wrong["video"].r2[0] == pytest.approx(1) and 0.7 < wrong["video"].r2[1] < 0.9 and wrong["audio"] == same["audio"]
    turned = agreements(truth.scale(-1.0, modality="audio"), truth)["audio"]
    assert turned.r2 == pytest.approx((-3, -3)) and turned.cosine == pytest.approx((-1, -1))


def test_a_second_without_tokens_has_no_agreement() -> None:
    found = agreement(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0, 2]))
    assert found.r2 == pytest.approx((1, float("nan"), 1), nan_ok=True) and found.cosine == pytest.approx((1, float("nan"), 1), nan_ok=True)


def test_a_truth_of_another_plan_space_is_refused() -> None:
    other = replace(plan_of(0), statistics={name: rows + 1 for name, rows in STATISTICS.items()})
    with pytest.raises(ValueError, match="standardised with other statistics"):
        agreements(plan_of(0), other)


def test_the_clip_of_the_plan_is_nearest_and_the_distance_is_stated() -> None:
    plans = [plan_of(seed) for seed in range(6)]
    batches = []
    for part in (range(3), range(3, 6)):
        video, audio = (torch.stack([plans[k].tokens[name] for k in part]) for name in ("video", "audio"))
        batch = Plan(video.flatten(1, 3), audio, CLIP.video_plan_grid)
        batches.append(([{"key": f"k{k}", "video_prompt": "seen"} for k in part], batch))
    found = nearest(plans[4], batches, count=2)
    assert found[0].key == "k4" and len(found) == 2 and found[0].video == found[0].audio == 0
    assert found[1].video == pytest.approx(float((plans[int(found[1].key[1])].video - plans[4].video).square().mean()))
    assert (found[0].video_prompt, found[0].audio_prompt) == ("seen", "")
