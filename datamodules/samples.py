"""Checks of tensors of a clip, and collation of samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from baton_lightning.batch import Batch
from baton_lightning.shards.format import DamagedMember


def checked_tensor(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor in float32, after a check of its shape and values.

    Raises:
        DamagedMember: If it has another shape, an integer type, or values that are not finite.
    """
    if tuple(tensor.shape) != shape:
        raise DamagedMember(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise DamagedMember(f"{name} must have a floating-point type, got {tensor.dtype}")
    if not torch.isfinite(tensor).all():
        raise DamagedMember(f"{name} holds {int((~torch.isfinite(tensor)).sum())} values that are not finite")
    return tensor.float()


TENSORS = (
    "video_latents", "audio_latents", "video_features", "audio_features", "video_plan", "audio_plan", "context", "frames", "waveform",
)  # fmt: skip


def collate(samples: Sequence[dict[str, Any]], planner: str | None = None, geometry: str | None = None) -> Batch:
    """A batch of samples of one epoch and bucket.

    Args:
        samples: Fields of each clip.
        planner: Digest of the planner that computed their plans.
        geometry: Name of their geometry, if the run has several.
    """
    tensors = {name: torch.stack([s[name] for s in samples]) for name in TENSORS if name in samples[0]}
    for name in ("has_video", "has_audio"):
        if not all(s[name] for s in samples):
            tensors[name] = torch.tensor([s[name] for s in samples])
    return Batch(
        keys=[s["key"] for s in samples],
        index=torch.tensor([s["place"] for s in samples]),
        epoch=samples[0]["epoch"],
        video_prompts=[s["video_prompt"] for s in samples],
        audio_prompts=[s["audio_prompt"] for s in samples],
        planner=planner,
        geometry=geometry,
        **tensors,
    )
