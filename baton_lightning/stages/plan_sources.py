"""Where stage 3 takes its plan from: the clip's own features (adaptation) or the frozen planner (joint training).

A planner that runs in every step is :class:`PlannedTokens`; one that ran once is ``cached_plan.CachedPlan``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from baton_lightning.batch import Batch, Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.construction.handover import hand_over
from baton_lightning.flow.draws import draw_uniform
from baton_lightning.frozen.freeze import own_precision
from baton_lightning.models.feature_norm import FeatureNorm
from baton_lightning.models.planner import VAPlanner, timed_plan
from baton_lightning.ranks import gathered
from baton_lightning.stages.features import OnlineFeatures, features_of


class PlanSource(Protocol):
    """Turns a batch into the plan its clips are denoised with, and knows the true plan beside it."""

    def __call__(self, batch: Batch, *, seed: int) -> Plan: ...

    def truth(self, batch: Batch) -> Plan: ...


class GroundTruthPlan(nn.Module):
    """Standardised features of the clip itself: the oracle plan of DiT adaptation (Baton, training stage 2).

    Args:
        clip: Geometry of the clip.
        features: Factory of what makes features of each batch's media; ``None`` reads cached ones.
    """

    parent_role: str | None = None

    def __init__(self, clip: ClipSpec, features: Callable[[ClipSpec], OnlineFeatures] | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.online = None if features is None else features(clip)
        self.video_norm = FeatureNorm(clip.video_plan_width)
        self.audio_norm = FeatureNorm(clip.audio_plan_width)

    def truth(self, batch: Batch) -> Plan:
        """The plan made of the clip's own features.

        Raises:
            ValueError: If the batch carries no features.
        """
        video, audio = features_of(batch, self.online)
        return present_of(batch, timed_plan(self.clip, self.video_norm(video), self.audio_norm(audio)))

    def forward(self, batch: Batch, *, seed: int) -> Plan:
        return self.truth(batch)


class PlannedTokens(nn.Module):
    """Planned tokens of the frozen VA-Planner (Baton, training stage 3), computed in every step.

    Args:
        clip: Geometry of the clip.
        planner: Factory of the planner; its weights come from the parent run with the role ``planner``.
        truth_share: Share of training clips, in [0, 1], that get their own features instead of the planner's tokens. The paper
            uses planned tokens alone (0); mixing is a choice of ours that keeps the DiT sharp on plans that are right.

    Note:
        The planner is frozen and not part of this run's weights: it stays in its own run.
    """

    parent_role: str | None = "planner"

    def __init__(self, clip: ClipSpec, planner: Callable[[ClipSpec], VAPlanner], truth_share: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= truth_share <= 1.0:
            raise ValueError(f"truth_share must lie in [0, 1], got {truth_share}")
        self.clip, self.truth_share = clip, truth_share
        self.hold(planner)

    def hold(self, planner: Callable[[ClipSpec], VAPlanner]) -> None:
        """Keeps what the plans come from."""
        self.planner = planner(self.clip).requires_grad_(False).eval()

    def take_over(self, run: str | Path, digest: str | None = None) -> None:
        """Takes what it needs of the planner's run.

        Args:
            run: The run.
            digest: Digest that its weights must have, for a run that goes on; ``None`` takes any.
        """
        hand_over(self.planner, run, source="planner", clip=self.clip, digest=digest)

    def train(self, mode: bool = True) -> PlannedTokens:
        """Frozen: dropout and the like stay off in training too."""
        return super().train(False)

    def truth(self, batch: Batch) -> Plan:
        """The plan made of the clip's own features.

        Raises:
            ValueError: If the batch carries no features.
        """
        return present_of(batch, self.standardise(*features_of(batch)))

    def standardise(self, video_features: Tensor, audio_features: Tensor) -> Plan:
        """Features in the planner's space."""
        return self.planner.standardise(video_features, audio_features)

    def planned(self, batch: Batch) -> Plan:
        """The planner's tokens for the batch's prompts."""
        return plan_each(self.planner, batch)

    def forward(self, batch: Batch, *, seed: int) -> Plan:
        plan = self.planned(batch)
        if self.truth_share == 0.0:
            return plan
        truth = self.truth(batch)
        draw = draw_uniform((), seed=seed, epoch=batch.epoch, index=batch.index, purpose="plan.truth").to(plan.video.device)
        use = (draw < self.truth_share)[:, None, None]
        return replace(plan, video=torch.where(use, truth.video, plan.video), audio=torch.where(use, truth.audio, plan.audio))


@torch.no_grad()
@own_precision()
def plan_each(planner: VAPlanner, batch: Batch) -> Plan:
    """Plans of a batch, each prompt by itself and in the planner's own types: the same bits in any batch, on any rank, in a cache.

    Args:
        planner: The planner, frozen.
        batch: Its prompts.
    """
    count = rounds = len(batch)
    if any(hasattr(parameter, "ds_id") for parameter in planner.parameters()):
        rounds = max(gathered(count))  # shards are collected in every forward, so all ranks need equally many
    plans = [planner(batch.video_prompts[i : i + 1], batch.audio_prompts[i : i + 1]) for i in (min(n, count - 1) for n in range(rounds))]
    return replace(plans[0], video=torch.cat([p.video for p in plans[:count]]), audio=torch.cat([p.audio for p in plans[:count]]))


def present_of(batch: Batch, plan: Plan) -> Plan:
    """A plan of features, with the mean of the training set (0) for what a clip lacks."""
    return replace(plan, video=where_present(plan.video, batch.has_video), audio=where_present(plan.audio, batch.has_audio))


def where_present(tensor: Tensor, present: Tensor | None) -> Tensor:
    """Applies a presence mask: rows of a batch that are present, zeros for the others.

    Args:
        tensor: [B, ...].
        present: Which rows are present [B], bool; ``None`` = all.
    """
    if present is None:
        return tensor
    return torch.where(present.view(-1, *[1] * (tensor.ndim - 1)), tensor, torch.zeros_like(tensor))
