"""Work that sampling saves: results that are kept between its steps, and evaluations that are left out or joined.

What each saving is:

    keep_projections   exact: keys and values of text and plan do not depend on the noisy latents or on t
    one_batch          exact but for rounding: the evaluations of a guided step are rows of one batch
    plan_every         approximate: attention broadcast (arXiv 2408.12588), here of the plan's attention alone
    guided             approximate: guidance in an interval of flow time (arXiv 2404.07724)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baton_lightning.batch import Plan
from baton_lightning.flow.condition import Condition
from baton_lightning.flow.given import Given, Held, evaluate


@dataclass(frozen=True)
class Savings:
    """Work that sampling saves. By default it saves nothing, and every step is computed in full.

    Args:
        keep_projections: Whether keys and values of text and plan are computed once a clip, not once a step. Velocities are the same to the
            bit. It takes memory: 2 x blocks x width numbers for each token of text and plan.
        plan_every: Steps for which an output of plan attention is used; 1 computes it in every step.
        guided: Interval of flow time with guidance, within [0, 1]; outside, only the prompt with its plan is evaluated.
        one_batch: Whether the evaluations of a guided step are computed in one batch, which needs as much more memory. Not together with
            ``skip_block``, which skips a block in some of them.
    """

    keep_projections: bool = False
    plan_every: int = 1
    guided: tuple[float, float] = (0.0, 1.0)
    one_batch: bool = False

    def require_valid(self) -> None:
        """Refuses values out of range.

        Raises:
            ValueError: If there is one. The message names it.
        """
        if self.plan_every < 1:
            raise ValueError(f"savings.plan_every counts steps, so it must be at least 1, got {self.plan_every}")
        if not 0.0 <= self.guided[0] <= self.guided[1] <= 1.0:
            raise ValueError(f"savings.guided must be an interval of flow time [low, high] within [0, 1], got {list(self.guided)}")

    def guides(self, t: Float[Tensor, "B"]) -> bool:
        """Whether a step at flow time t is guided; all clips of a step have the same time."""
        return tuple(self.guided) == (0.0, 1.0) or self.guided[0] <= round(t.max().item(), 6) <= self.guided[1]


@dataclass
class Evaluation:
    """An evaluation of the transformer that is repeated in every step, with what it keeps between steps.

    Args:
        network: The transformer.
        condition: Text and plan.
        given: Latents that are held fixed.
        plan_every: Steps for which an output of plan attention is used.
        sources: Texts and plans with their keys and values, shared by the evaluations of a clip; ``None`` keeps none.
        skip_blocks: Fused blocks to skip.
        has_plan: Which clips use the plan; ``None`` = all.
    """

    network: Callable[..., Any]
    condition: Condition
    given: Given
    plan_every: int = 1
    sources: dict[Any, Any] | None = None
    skip_blocks: tuple[int, ...] = ()
    has_plan: Bool[Tensor, "B"] | None = None
    plan_updates: dict[Any, Tensor] = field(default_factory=dict)
    updated: int | None = None
    """Step of the plan updates."""

    def __call__(self, video: Tensor, audio: Tensor, t: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Velocities of both modalities in a step, counted from 0."""
        kept: dict[str, Any] = {} if self.sources is None else {"sources": self.sources}
        if self.plan_every > 1 and self.condition.plan is not None:
            if self.updated is None or step - self.updated >= self.plan_every:
                self.plan_updates.clear()
                self.updated = step
            kept["plan_updates"] = self.plan_updates
        clip = (self.condition, self.given)
        return evaluate(self.network, video, audio, t, *clip, has_plan=self.has_plan, skip_blocks=self.skip_blocks, **kept)


def joined(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of the same clips as one evaluation of a batch with a part for each.

    Raises:
        ValueError: If they skip different blocks.
    """
    first = evaluations[0]
    if len({e.skip_blocks for e in evaluations}) > 1:
        raise ValueError(
            "savings.one_batch computes all evaluations of a step alike, so it needs guidance.skip_block null; got a block to skip"
        )
    conditions = [e.condition for e in evaluations]
    num_clips = len(first.condition.video_context)
    plan: Any = next((c.plan for c in conditions if c.plan is not None), None)
    has_plan = None
    if plan is not None:
        plan = repeated_plan(plan, len(conditions))
        rows = torch.tensor([c.plan is not None for c in conditions], device=plan.video.device).repeat_interleave(num_clips)
        has_plan = None if all(c.plan is not None for c in conditions) else rows
    video, audio = (torch.cat([getattr(c, f"{name}_context") for c in conditions]) for name in ("video", "audio"))
    given = Given(*(None if held is None else repeated(held, len(conditions)) for held in first.given.both))
    return replace(first, condition=Condition(video, audio, plan), given=given, has_plan=has_plan, plan_updates={}, updated=None)


def repeated_plan(plan: Plan, times: int) -> Plan:
    """The plans of a batch, repeated."""
    return replace(plan, video=plan.video.repeat(times, 1, 1), audio=plan.audio.repeat(times, 1, 1))


def repeated(held: Held, times: int) -> Held:
    """The held latents of a batch, repeated."""
    values, known, fixed = (tensor.repeat(times, *[1] * (tensor.ndim - 1)) for tensor in (held.values, held.known, held.fixed))
    return Held(values, known, fixed, held.num_free * times)
