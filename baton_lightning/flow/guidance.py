"""Classifier-free guidance with a scale per modality, and guidance on the plan.

    v = v(+, plan) + (scale - 1) (v(+, plan) - v(-, plan)) + (plan_scale - 1) (v(+, plan) - v(+, no plan))
                   | guidance on the text                  | guidance on the plan

where + is the prompt and - is the negative prompt. A term with scale 1 is not evaluated. Each term varies either the text or the plan, so
guidance on the plan alone evaluates only combinations that occur in training: ``plan_dropout`` drops plans, and texts are never dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from baton_lightning.flow.condition import Condition
from baton_lightning.flow.given import NOTHING, Given
from baton_lightning.flow.sampler import Velocity
from baton_lightning.flow.savings import Evaluation, Savings, joined


def extrapolate(negative: Float[Tensor, "*B"], conditional: Float[Tensor, "*B"], scale: float) -> Float[Tensor, "*B"]:
    """``negative + scale * (conditional - negative)``; scale 1 returns ``conditional`` itself."""
    return conditional if scale == 1 else negative + scale * (conditional - negative)


class Guidance:
    """Scales of guidance. By default there is no guidance; Ovi uses video 4, audio 3 and skips block 11.

    Args:
        video_scale: Scale of guidance on the text for video; 1 = none.
        audio_scale: Scale of guidance on the text for audio; 1 = none.
        plan_scale: Scale of guidance on the plan for both modalities; 1 = none.
        skip_block: Fused block that is skipped in negative evaluations (skip-layer guidance); ``None`` skips none.

    Note:
        Guidance on the plan is our choice; the paper does not describe how guidance treats the plan.
    """

    def __init__(self, video_scale: float = 1.0, audio_scale: float = 1.0, plan_scale: float = 1.0, skip_block: int | None = None) -> None:
        self.video_scale, self.audio_scale, self.plan_scale, self.skip_block = video_scale, audio_scale, plan_scale, skip_block

    @property
    def guides_text(self) -> bool:
        """Whether there is guidance on the text, so that a negative condition is needed."""
        return (self.video_scale, self.audio_scale) != (1, 1)

    def __call__(
        self,
        dit: Callable[..., Any],
        positive: Condition,
        negative: Condition | None = None,
        given: Given = NOTHING,
        savings: Savings = Savings(),  # noqa: B008
    ) -> Velocity:
        """A guided velocity.

        Args:
            dit: The transformer.
            positive: Text and plan of the clip.
            negative: Negative prompts of both branches; its plan is ignored. Required if there is guidance on the text.
            given: Latents that are held fixed.
            savings: What is kept between calls, one call a step, and when there is guidance.

        Raises:
            ValueError: If there is guidance on the text but no negative condition, or evaluations that differ cannot be one batch.
        """
        guides_plan = self.plan_scale != 1 and positive.plan is not None
        if self.guides_text and negative is None:
            raise ValueError(
                f"guidance on the text with scales video {self.video_scale}, audio {self.audio_scale} needs a negative condition; "
                "give one, or set both scales to 1"
            )
        skipped = () if self.skip_block is None else (self.skip_block,)
        make = partial(Evaluation, dit, given=given, plan_every=savings.plan_every, sources={} if savings.keep_projections else None)
        conditional = make(positive)
        evaluations = [conditional]
        if self.guides_text:
            assert negative is not None
            evaluations.append(make(replace(negative, plan=positive.plan), skip_blocks=skipped))
        if guides_plan:
            evaluations.append(make(replace(positive, plan=None), skip_blocks=skipped))
        together = joined(evaluations) if savings.one_batch and len(evaluations) > 1 else None
        steps = itertools.count()

        def velocity(video: Tensor, audio: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            step = next(steps)
            if not savings.guides(t):
                return conditional(video, audio, t, step)
            if together is None:
                found = [evaluation(video, audio, t, step) for evaluation in evaluations]
            else:
                videos, audios, times = (torch.cat([x] * len(evaluations)) for x in (video, audio, t))
                velocities = together(videos, audios, times, step)
                found = list(zip(*(v.split(len(video)) for v in velocities), strict=True))
            return self.combine(found, guides_plan=guides_plan)

        return velocity

    def combine(self, found: Sequence[tuple[Tensor, Tensor]], *, guides_plan: bool) -> tuple[Tensor, Tensor]:
        """The guided velocity of both modalities.

        Args:
            found: Velocities of the prompt, then of the negative prompt if there is guidance on the text, then without the plan if there is
                guidance on the plan.
            guides_plan: Whether there is guidance on the plan.
        """
        guided = conditional = found[0]
        if self.guides_text:
            scales = (self.video_scale, self.audio_scale)
            guided = tuple(extrapolate(u, c, scale) for u, c, scale in zip(found[1], conditional, scales, strict=True))
        if guides_plan:
            guided = tuple(g + (self.plan_scale - 1) * (c - w) for g, c, w in zip(guided, conditional, found[-1], strict=True))
        return guided
