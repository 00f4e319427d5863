"""The planner's regression loss (Baton, Eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from baton_lightning.batch import Plan


@dataclass(frozen=True)
class PlanLoss:
    """Regression loss of a batch of plans; ``total`` is what is minimised.

    Args:
        video: Mean squared error of the video tokens, scalar; predicting the mean gives 1.
        audio: Mean squared error of the audio tokens, scalar.
    """

    video: Tensor
    audio: Tensor

    @property
    def total(self) -> Tensor:
        """Both modalities, 1:1."""
        return self.video + self.audio


def token_error(
    predicted: Float[Tensor, "B K C"], target: Float[Tensor, "B K C"], present: Bool[Tensor, B] | None = None
) -> Float[Tensor, ""]:
    """Squared L2 distance per token and channel, mean over the tokens of the clips that have the modality.

    Args:
        predicted: Planned tokens.
        target: Standardised features.
        present: Which clips have the modality; ``None`` = all. If no clip has it, the result is 0 with a (zero) gradient for every
            parameter, so that ranks with sharded parameters run the same collectives.
    """
    error = (predicted.float() - target.float()).square().mean((1, 2))
    if present is None:
        return error.mean()
    weight = present.to(error.dtype)
    return (error * weight).sum() / weight.sum().clamp_min(1.0)


def plan_loss(
    predicted: Plan, target: Plan, has_video: Bool[Tensor, B] | None = None, has_audio: Bool[Tensor, B] | None = None
) -> PlanLoss:
    """L = mean_v ||v_sem - v||^2 / C_v + mean_a ||a_sem - a||^2 / C_a (Baton, Eq. 8).

    Args:
        predicted: The planner's plan.
        target: The plan of the clip's features, standardised in the same way.
        has_video: Which clips have a picture; ``None`` = all.
        has_audio: Which clips have sound; ``None`` = all.

    Note:
        The paper sums over keyframes and patches. Our choice is the mean over tokens and channels of each modality, weighted 1:1, on
        standardised features. Both modalities then have the same weight at any geometry, and 1 - loss is R^2.
    """
    return PlanLoss(token_error(predicted.video, target.video, has_video), token_error(predicted.audio, target.audio, has_audio))
