"""Latents that a clip is given instead of having them generated, and the one call of the network that training and sampling share."""

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
        values: What they are held at: clean latents where they are known, noise where a clip lacks the modality.
        known: Which of them are known and clean, [B, T, Y, X] or [B, L], bool. The time of their tokens is 0.
        fixed: Which of them are held at all; holds wherever ``known`` does.
        num_free: Clips of the batch of which something is generated.
    """

    values: Float[Tensor, "B *X"]
    known: Bool[Tensor, "B *N"]
    fixed: Bool[Tensor, "B *N"]
    num_free: int

    def over(self, latents: Float[Tensor, "B *X"]) -> Float[Tensor, "B *X"]:
        """Latents in which those that are held have their values."""
        return torch.where(self.channels(self.fixed), self.values.to(latents), latents)

    def channels(self, mask: Bool[Tensor, "B *N"]) -> Bool[Tensor, "B *M"]:
        """A mask over places with a singleton axis where the latents have their channels: video [B, C, T, Y, X], audio [B, L, C]."""
        return mask.unsqueeze(1 if self.values.ndim == 5 else -1)

    def mean_over_free(self, error: Float[Tensor, "B *X"]) -> tuple[Float[Tensor, "B"], Bool[Tensor, "B"]]:
        """Mean of each clip's error over the latents that are not held, and which clips have any."""
        free = ~self.fixed
        places = error.mean(1 if error.ndim == 5 else -1).flatten(1)
        weight = free.flatten(1).to(places)
        return (places * weight).sum(1) / weight.sum(1).clamp(min=1.0), free.flatten(1).any(1)


@dataclass(frozen=True)
class Given:
    """What is held of both modalities; ``None`` = everything is generated."""

    video: Held | None = None
    audio: Held | None = None

    def over(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of both modalities in which those that are held have their values."""
        return self.video.over(video) if self.video else video, self.audio.over(audio) if self.audio else audio

    def to(self, device: torch.device | str) -> Given:
        """Moves every tensor."""
        held = [None if h is None else Held(h.values.to(device), h.known.to(device), h.fixed.to(device), h.num_free) for h in self.both]
        return Given(*held)

    @property
    def both(self) -> tuple[Held | None, Held | None]:
        """Of the picture and of the sound."""
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
) -> tuple[Tensor, Tensor]:
    """Velocities of both modalities. Training, validation and every sampler ask the network here and nowhere else.

    What is held is put in its place, its tokens are given time 0 if it is known, and the text, the plan and the time are passed as they
    are. So the network meets the same tensors for the same noisy clip, whoever asks.

    Args:
        network: The transformer.
        video: Noisy video latents.
        audio: Noisy audio latents.
        t: Flow time, 0 = clean, 1 = noise.
        condition: Text and plan.
        given: What is held.
        has_plan: Which clips see the plan; ``None`` = all.
        skip_blocks: Fused blocks to skip.
    """
    video, audio = given.over(video, audio)
    known = {f"known_{name}": held.known for name, held in zip(MODALITIES, given.both, strict=True) if held is not None}
    texts = condition.video_context, condition.audio_context
    return network(video, audio, t, *texts, condition.plan, has_plan=has_plan, skip_blocks=skip_blocks, **known)
