"""Mean and deviation of the latents of a training set, by which a preconditioned transformer scales them."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from baton_lightning.shards.moments import Moments

NUM_CLIPS = 128
"""Clips that are read, evenly spaced over the split. The standard error of a mean is then below a tenth of the deviation."""


def latent_statistics(dataset: Any) -> dict[str, tuple[Float[Tensor, "C"], Float[Tensor, "C"]]]:
    """Mean and standard deviation of each channel of the cached latents, by modality; a modality that no clip has is left out.

    Args:
        dataset: Training split with cached latents.
    """
    total, sums = len(dataset), {"video": Moments(), "audio": Moments()}
    for position in sorted({i * total // NUM_CLIPS for i in range(NUM_CLIPS)}):
        batch = dataset.batch([position])
        clips = {"video": (batch.video_latents, batch.has_video, 0), "audio": (batch.audio_latents, batch.has_audio, -1)}
        for name, (latents, present, axis) in clips.items():
            if latents is not None and (present is None or bool(present[0])):
                sums[name].add(latents[0], axis)
    return {name: (moments.mean.float(), moments.std.float()) for name, moments in sums.items() if moments.count}
