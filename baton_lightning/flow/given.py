"""Latents that are given and not generated, and the evaluation of the network that training and sampling share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baton_lightning.flow.condition import Condition

MODALITIES = ("video", "audio")


@dataclass(frozen=True)
class Held:
    """Latents of one modality that are held fixed while the others are generated.

    Args:
        values: Values of held latents: clean latents if they are known, noise if the clip lacks the modality.
        known: Which latents are known and clean, [B, T, Y, X] or [B, L], bool. The time of their tokens is 0.
        fixed: Which latents are held fixed, in the shape of ``known``; true wherever ``known`` is true.
        num_free: Number of clips in the batch with generated latents of this modality.
    """

    values: Float[Tensor, "B *X"]
    known: Bool[Tensor, "B *N"]
    fixed: Bool[Tensor, "B *N"]
    num_free: int

    def over(self, latents: Float[Tensor, "B *X"]) -> Float[Tensor, "B *X"]:
        """Replaces the held latents with their values."""
        return torch.where(self.channels(self.fixed), self.values.to(latents), latents)

    def channels(self, mask: Bool[Tensor, "B *N"]) -> Bool[Tensor, "B *M"]:
        """A mask over positions with a singleton channel axis: [B, 1, T, Y, X] for video, [B, L, 1] for audio."""
        return mask.unsqueeze(1 if self.values.ndim == 5 else -1)

    def mean_over_free(self, error: Float[Tensor, "B *X"]) -> tuple[Float[Tensor, "B"], Bool[Tensor, "B"]]:
        """Mean error of each clip over its generated latents, and which clips have generated latents."""
        free = ~self.fixed
        places = error.mean(1 if error.ndim == 5 else -1).flatten(1)
        weight = free.flatten(1).to(places)
        return (places * weight).sum(1) / weight.sum(1).clamp(min=1.0), free.flatten(1).any(1)


@dataclass(frozen=True)
class Given:
    """Held latents of both modalities; ``None`` = all latents of the modality are generated."""

    video: Held | None = None
    audio: Held | None = None

    def over(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Replaces the held latents of both modalities with their values."""
        return self.video.over(video) if self.video else video, self.audio.over(audio) if self.audio else audio

    @property
    def both(self) -> tuple[Held | None, Held | None]:
        """Held latents of video and of audio."""
        return self.video, self.audio


NOTHING = Given()


def evaluate(
    network: Callable[..., Any],
    video: Float[Tensor, "B C T Y X"],
    audio: Float[Tensor, "B L A"],
    t: Float[Tensor, "B"],
    condition: Condition,
    given: Given = NOTHING,
    *,
    has_plan: Bool[Tensor, "B"] | None = None,
    skip_blocks: Collection[int] = (),
    **kept: Any,
) -> tuple[Tensor, Tensor]:
    """Velocities of both modalities. Training, validation and all samplers evaluate the network only through this function.

    Held latents replace the noisy ones, and tokens of known latents get time 0. Text, plan and time are passed unchanged. So the network
    gets the same tensors for the same noisy clip in training and in sampling.

    Args:
        network: The transformer.
        video: Noisy video latents.
        audio: Noisy audio latents.
        t: Flow time, 0 = clean, 1 = noise.
        condition: Text and plan.
        given: Latents that are held fixed.
        has_plan: Which clips use the plan; ``None`` = all.
        skip_blocks: Indices of fused blocks to skip.
        kept: What the network keeps for further evaluations of the same clips: ``sources`` and ``plan_updates`` of the transformer.
    """
    video, audio = given.over(video, audio)
    known = {f"known_{name}": held.known for name, held in zip(MODALITIES, given.both, strict=True) if held is not None}
    texts = condition.video_context, condition.audio_context
    return network(video, audio, t, *texts, condition.plan, has_plan=has_plan, skip_blocks=skip_blocks, **known, **kept)
