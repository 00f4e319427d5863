"""How well a plan agrees with a ground-truth plan, by keyframe and by second, and which clips' plans are nearest to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from baton_lightning.batch import Plan
from baton_lightning.plan.clip_plan import ClipPlan


@dataclass(frozen=True)
class Agreement:
    """Agreement of groups of tokens.

    Args:
        r2: 1 - squared error / squared true tokens, for each group: the explained share of the features' variance. 1 = equal, 0 = no better
            than the mean of the training set.
        cosine: Cosine of planned and true token, mean over the tokens of a group.
    """

    r2: tuple[float, ...]
    cosine: tuple[float, ...]


def agreement(tokens: Float[Tensor, "K C"], truth: Float[Tensor, "K C"], group: Int[Tensor, " K"]) -> Agreement:
    """Agreement of planned and true tokens.

    Args:
        tokens: Planned tokens, standardised.
        truth: True tokens.
        group: Group of each token, 0 to G - 1. A group without tokens has NaN.
    """

    def total(values: Tensor) -> Tensor:
        return torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add(0, group, values)

    plan, target = tokens.double(), truth.double()
    count = total(torch.ones(len(group), dtype=torch.float64))
    r2 = 1 - total((plan - target).square().sum(1)) / total(target.square().sum(1)).clamp(min=1e-12)
    cosine = total(torch.cosine_similarity(plan, target, dim=1)) / count
    return Agreement(tuple(r2.where(count > 0, torch.nan).tolist()), tuple(cosine.tolist()))


def agreements(plan: ClipPlan, truth: ClipPlan) -> dict[str, Agreement]:
    """Agreement of two plans: ``keyframe`` (video tokens of each keyframe), ``video`` and ``audio`` (tokens of each second).

    Raises:
        ValueError: If the plans are of different geometries or plan spaces.
    """
    truth.require_fits(plan.clip, plan.statistics)
    keyframe = torch.arange(plan.clip.num_keyframes).repeat_interleave(plan.video[0, ..., 0].numel())
    groups = {
        "keyframe": ("video", keyframe),
        "video": ("video", (keyframe.double() / plan.clip.keyframe_fps).long()),
        "audio": ("audio", (torch.arange(len(plan.audio)).double() / plan.clip.audio_plan_rate).long()),
    }
    flat = {name: (tokens.flatten(0, -2), truth.tokens[name].flatten(0, -2)) for name, tokens in plan.tokens.items()}
    return {name: agreement(*flat[modality], group) for name, (modality, group) in groups.items()}


@dataclass(frozen=True)
class Neighbour:
    """A clip of a data set, and the distance of its ground-truth plan.

    Args:
        key: Key of the clip.
        video_prompt: Description of its picture.
        audio_prompt: Description of its sound.
        video: Mean squared distance of its video tokens, in variances of the training set.
        audio: Mean squared distance of its audio tokens.
    """

    key: str
    video_prompt: str
    audio_prompt: str
    video: float
    audio: float


def nearest(plan: ClipPlan, clips: Iterable[tuple[Sequence[Mapping[str, Any]], Plan]], count: int = 5) -> list[Neighbour]:
    """The clips whose plans are nearest, by the sum of both distances.

    Args:
        plan: The plan.
        clips: Batches of clips: their metadata and ground-truth plans.
        count: Number of clips.
    """
    found: list[Neighbour] = []
    for described, batch in clips:
        apart = [
            (others.float() - tokens.flatten(0, -2)).square().mean((1, 2)).tolist()
            for others, tokens in ((batch.video, plan.video), (batch.audio, plan.audio))
        ]
        found += [
            Neighbour(str(meta["key"]), str(meta.get("video_prompt", "")), str(meta.get("audio_prompt", "")), video, audio)
            for meta, video, audio in zip(described, *apart, strict=True)
        ]
        found = sorted(found, key=lambda clip: clip.video + clip.audio)[:count]
    return found
