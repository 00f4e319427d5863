"""Guidance: away from a negative condition, towards the wanted one (classifier-free guidance), per modality.

    v = v(+, plan) + (scale - 1) (v(+, plan) - v(-, plan)) + (plan_scale - 1) (v(+, plan) - v(+, no plan))
                   | guidance on the text                  | guidance on the plan

where + is the wanted text, - the negative one. A term whose scale is 1 is not evaluated. Each direction changes one thing only, so that
with guidance on the plan alone the transformer is asked only what training showed it (``plan_dropout`` drops plans, nothing drops texts).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from baton_lightning.flow.sampler import Velocity


@dataclass(frozen=True)
class Condition:
    """What a transformer is told.

    Args:
        video_context: Text for the video branch [B, N, C].
        audio_context: Text for the audio branch [B, N, C].
        plan: Planned tokens in the form that the transformer takes, or ``None``.
    """

    video_context: Tensor
    audio_context: Tensor
    plan: object | None = None


def extrapolate(negative: Float[Tensor, "*B"], positive: Float[Tensor, "*B"], scale: float) -> Float[Tensor, "*B"]:
    """``negative + scale (positive - negative)``; scale 1 is ``positive`` itself."""
    return positive if scale == 1 else negative + scale * (positive - negative)


class Guidance:
    """Scales of guidance. The defaults guide nothing; Ovi takes video 4, audio 3 and skips block 11.

    Args:
        video_scale: Scale of the text's guidance on video.
        audio_scale: Scale of the text's guidance on audio.
        plan_scale: Scale of the plan's guidance on both.
        skip_block: Fused block left out of the negative evaluations (skip-layer guidance); ``None`` leaves out none.

    Note:
        Guidance on the plan is ours; the paper does not say how the plan takes part.
    """

    def __init__(self, video_scale: float = 1.0, audio_scale: float = 1.0, plan_scale: float = 1.0, skip_block: int | None = None) -> None:
        self.video_scale, self.audio_scale, self.plan_scale, self.skip_block = video_scale, audio_scale, plan_scale, skip_block

    @property
    def guides_text(self) -> bool:
        """Whether texts are led away from, so that a negative condition is needed."""
        return (self.video_scale, self.audio_scale) != (1, 1)

    def __call__(self, dit: Callable[..., Any], wanted: Condition, negative: Condition | None = None, **options: Any) -> Velocity:
        """A guided velocity.

        Args:
            dit: The transformer.
            wanted: Text and plan.
            negative: Texts to lead away from, one for each branch; its plan is not read. Needed where a text is guided.
            options: Passed on to the transformer.

        Raises:
            ValueError: If guidance needs a negative condition and got none.
        """
        guides_plan = self.plan_scale != 1 and wanted.plan is not None
        if self.guides_text and negative is None:
            raise ValueError(
                f"guidance on the text with scales video {self.video_scale}, audio {self.audio_scale} needs a negative condition; "
                "give one, or set both scales to 1"
            )
        skipped = () if self.skip_block is None else (self.skip_block,)

        def velocity(video: Tensor, audio: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            def at(condition: Condition, skip: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
                told = (condition.video_context, condition.audio_context, condition.plan)
                return dit(video, audio, t, *told, skip_blocks=skip, **options)

            guided = positive = at(wanted)
            if self.guides_text:
                assert negative is not None
                unwanted = at(replace(negative, plan=wanted.plan), skipped)
                guided = (extrapolate(unwanted[0], positive[0], self.video_scale), extrapolate(unwanted[1], positive[1], self.audio_scale))
            if guides_plan:
                unplanned = at(replace(wanted, plan=None), skipped)
                guided = tuple(g + (self.plan_scale - 1) * (p - u) for g, p, u in zip(guided, positive, unplanned, strict=True))
            return guided

        return velocity
