"""Plan sources of stage 3: the clip's own features (adaptation) or the frozen planner (joint training).

:class:`PlannedTokens` runs the planner in every step; ``cached_plan.CachedPlan`` reads its cached tokens.
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
    """Interface of plan sources: the plan of a batch, and the ground-truth plan."""

    def __call__(self, batch: Batch, *, seed: int) -> Plan: ...

    def truth(self, batch: Batch) -> Plan: ...


class GroundTruthPlan(nn.Module):
    """Standardised features of the clip itself: the ground-truth plan of DiT adaptation (Baton, training stage 2).

    Args:
        clip: Geometry of the clip.
        features: Factory of online features, computed from each batch's media; ``None`` = cached features.
    """

    parent_role: str | None = None

    def __init__(self, clip: ClipSpec, features: Callable[[ClipSpec], OnlineFeatures] | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.online = None if features is None else features(clip)
        self.video_norm = FeatureNorm(clip.video_plan_width)
        self.audio_norm = FeatureNorm(clip.audio_plan_width)

    def truth(self, batch: Batch) -> Plan:
        """The plan of the clip's own features.

        Raises:
            ValueError: If the batch has no features.
        """
        video, audio = features_of(batch, self.online)
        return mask_absent(batch, timed_plan(self.clip.at(batch.geometry), self.video_norm(video), self.audio_norm(audio)))

    def forward(self, batch: Batch, *, seed: int) -> Plan:
        return self.truth(batch)


class NoPlan(nn.Module):
    """No plan: training of plain Ovi. The data set needs no features.

    Args:
        clip: Geometry of the clip.
    """

    parent_role: str | None = None

    def __init__(self, clip: ClipSpec) -> None:
        super().__init__()

    def truth(self, batch: Batch) -> None:
        """No plan."""

    def forward(self, batch: Batch, *, seed: int) -> None:
        """No plan."""


class PlannedTokens(nn.Module):
    """Planned tokens of the frozen VA-Planner (Baton, training stage 3), computed in every step.

    Args:
        clip: Geometry of the clip.
        planner: Factory of the planner; its weights are loaded from the parent run with the role ``planner``.
        truth_share: Share of training clips, in [0, 1], with their own features instead of the planner's tokens. The paper uses planned
            tokens only (0). Mixing is our choice; it keeps the DiT accurate on correct plans.

    Note:
        The planner is frozen and not part of this run's weights.
    """

    parent_role: str | None = "planner"

    def __init__(self, clip: ClipSpec, planner: Callable[[ClipSpec], VAPlanner], truth_share: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= truth_share <= 1.0:
            raise ValueError(f"truth_share must be in [0, 1], got {truth_share}")
        self.clip, self.truth_share = clip, truth_share
        self.set_planner(planner)

    def set_planner(self, planner: Callable[[ClipSpec], VAPlanner]) -> None:
        """Builds the planner, frozen."""
        self.planner = planner(self.clip).requires_grad_(False).eval()

    def load_from_run(self, run: str | Path, digest: str | None = None) -> None:
        """Loads the planner's weights.

        Args:
            run: Run of the planner.
            digest: Required digest of its weights, for a resumed run; ``None`` = any.
        """
        hand_over(self.planner, run, source="planner", clip=self.clip, digest=digest)

    def train(self, mode: bool = True) -> PlannedTokens:
        """Stays in evaluation mode, because the planner is frozen."""
        return super().train(False)

    def truth(self, batch: Batch) -> Plan:
        """The plan of the clip's own features.

        Raises:
            ValueError: If the batch has no features.
        """
        return mask_absent(batch, self.standardise(*features_of(batch), self.clip.at(batch.geometry)))

    def standardise(self, video_features: Tensor, audio_features: Tensor, clip: ClipSpec) -> Plan:
        """The plan of features of clips, standardised with the planner's statistics."""
        return self.planner.standardise(video_features, audio_features, clip)

    def planned(self, batch: Batch) -> Plan:
        """The planner's tokens for the batch's prompts."""
        return plan_one_by_one(self.planner, batch)

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
def plan_one_by_one(planner: VAPlanner, batch: Batch) -> Plan:
    """Plans of a batch, computed prompt by prompt in the planner's own types, so that they are bit-identical in any batch, on any rank and
    in a cache.

    Args:
        planner: The frozen planner.
        batch: Batch with prompts.
    """
    count = rounds = len(batch)
    if any(hasattr(parameter, "ds_id") for parameter in planner.parameters()):
        rounds = max(gathered(count))  # every forward gathers partitioned parameters, so all ranks must run equally many
    clip, rows = planner.clip.at(batch.geometry), (min(n, count - 1) for n in range(rounds))
    plans = [planner(batch.video_prompts[i : i + 1], batch.audio_prompts[i : i + 1], clip) for i in rows]
    return replace(plans[0], video=torch.cat([p.video for p in plans[:count]]), audio=torch.cat([p.audio for p in plans[:count]]))


def mask_absent(batch: Batch, plan: Plan) -> Plan:
    """A plan of features with zeros (the training mean) for absent modalities."""
    return replace(plan, video=apply_presence_mask(plan.video, batch.has_video), audio=apply_presence_mask(plan.audio, batch.has_audio))


def apply_presence_mask(tensor: Tensor, present: Tensor | None) -> Tensor:
    """Applies a presence mask: rows of a batch that are present, zeros for the others.

    Args:
        tensor: [B, ...].
        present: Which rows are present [B], bool; ``None`` = all.
    """
    if present is None:
        return tensor
    return torch.where(present.view(-1, *[1] * (tensor.ndim - 1)), tensor, torch.zeros_like(tensor))
