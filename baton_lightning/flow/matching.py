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
        clips: Modality -> error of each clip [B], the mean over its generated latents.
        counted: Modality -> which clips have generated latents [B], bool; ``None`` = all.
        num: Modality -> number of clips with generated latents.
    """

    clips: dict[str, Float[Tensor, "B"]]
    counted: dict[str, Bool[Tensor, "B"] | None]
    num: dict[str, int]

    @property
    def total(self) -> Float[Tensor, ""]:
        """The loss: the sum of the means of both modalities."""
        return self.mean("video") + self.mean("audio")

    def mean(self, name: str) -> Float[Tensor, ""]:
        """Mean error of a modality over the clips with generated latents; 0 if there are none."""
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
        given: Latents that are held fixed. They do not contribute to the errors.
        has_plan: Which clips use the plan; ``None`` = all.

    Note:
        Everything except the network itself is computed in float32, with any precision setting. Both branches are always evaluated, even
        if a modality does not contribute to the errors, so that the collectives of all ranks match.
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
