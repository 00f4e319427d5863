"""Statistics of features without a cache: mean and standard deviation over a sample of clips (a `predict` run)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.shards.moments import Moments
from baton_lightning.stages.features import OnlineFeatures


class FeatureStatistics(LightningModule):
    """Runs the frozen perceivers over a sample of the training clips and computes the moments of their features.

    Stages standardise features by mean and standard deviation. A cache has these for all clips. For online features they are estimated from
    N clips; the standard error of the mean is the standard deviation of clip means / sqrt(N), about 2 % of it for 2,048 clips.

    Args:
        clip: Geometry of the clips.
        features: Factory of the perceivers.
        num_clips: Number of clips of each geometry, evenly spaced over the training split; all clips if there are fewer.
        seed: Unused; part of every stage's interface.

    Raises:
        ValueError: If the sample is empty.
    """

    reads = ("media",)

    def __init__(self, clip: ClipSpec, features: Callable[[ClipSpec], OnlineFeatures], num_clips: int = 2048, seed: int = 0) -> None:
        super().__init__()
        if num_clips < 1:
            raise ValueError(f"model.init_args.num_clips must be at least 1, got {num_clips}")
        self.clip, self.features, self.num_clips = clip, features(clip), num_clips

    def record(self, clip: ClipSpec) -> dict[str, Any]:
        """Provenance of the statistics."""
        return self.features.made_by(clip)

    def predict_step(self, batch: Batch, batch_idx: int = 0, dataloader_idx: int = 0) -> list[dict[str, Moments]]:
        """Moments of each clip's features, by its modalities."""
        self.features.fill(batch)
        tensors: dict[str, Tensor | None] = {"video": batch.video_features, "audio": batch.audio_features}
        present = {"video": batch.has_video, "audio": batch.has_audio}
        made: list[dict[str, Moments]] = [{} for _ in batch.keys]
        for name, features in tensors.items():
            has = present[name]
            for i, clip in enumerate(made):
                if features is not None and (has is None or bool(has[i])):
                    clip[name] = Moments()
                    clip[name].add(torch.as_tensor(features[i]).cpu(), -1)
        return made
