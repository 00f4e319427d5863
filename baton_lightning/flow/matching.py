"""The flow-matching loss of both modalities: || v(x_t, t) - (noise - x_0) ||^2, over the latents that are generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baton_lightning.flow import path
from baton_lightning.flow.condition import Condition
from baton_lightning.flow.given import MODALITIES, NOTHING, Given, evaluate


@dataclass(frozen=True)
class Errors:
    """Errors of a batch.

    Args:
        clips: Modality -> error of each clip [B], a mean over its generated latents.
        counted: Modality -> which clips have such latents [B], bool; ``None`` = all.
        num: Modality -> how many do.
    """

    clips: dict[str, Float[Tensor, "B"]]
    counted: dict[str, Bool[Tensor, "B"] | None]
    num: dict[str, int]

    @property
    def total(self) -> Float[Tensor, ""]:
        """The loss: the means of both modalities, added."""
        return self.mean("video") + self.mean("audio")

    def mean(self, name: str) -> Float[Tensor, ""]:
        """Mean of a modality over the clips that count; 0 if none does."""
        error, counted = self.clips[name], self.counted[name]
        weight = torch.ones_like(error) if counted is None else counted.to(error)
        return (error * weight).sum() / weight.sum().clamp(min=1.0)


def flow_errors(
    network: Callable[..., Any],
    clean: Mapping[str, Tensor],
    noise: Mapping[str, Tensor],
    t: Float[Tensor, "B"],
    condition: Condition,
    given: Given = NOTHING,
    *,
    has_plan: Bool[Tensor, "B"] | None = None,
) -> Errors:
    """Errors of the network's velocities.

    Args:
        network: The transformer.
        clean: Modality -> latents, float32.
        noise: Modality -> noise of the same shape.
        t: Flow time, 0 = clean, 1 = noise.
        condition: Text and plan.
        given: What is held instead of generated; it weighs nothing.
        has_plan: Which clips see the plan.

    Note:
        Everything but the network itself is computed in float32, under any precision. Both branches run even where a modality weighs
        nothing, so that ranks stay in step.
    """
    noisy = {name: path.interpolate(clean[name], noise[name], t) for name in MODALITIES}
    predicted = evaluate(network, noisy["video"], noisy["audio"], t, condition, given, has_plan=has_plan)
    clips: dict[str, Tensor] = {}
    counted: dict[str, Tensor | None] = {}
    num: dict[str, int] = {}
    for name, velocity, held in zip(MODALITIES, predicted, given.both, strict=True):
        error = (velocity - path.velocity(clean[name], noise[name])).square()
        num[name] = len(t) if held is None else held.num_free
        if held is None:
            clips[name], counted[name] = error.flatten(1).mean(1), None
        else:
            clips[name], counted[name] = held.mean_over_free(error)
    return Errors(clips, counted, num)
