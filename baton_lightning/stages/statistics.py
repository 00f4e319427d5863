"""Statistics of features without a cache of them: mean and standard deviation over a sample of clips (a `predict` run)."""

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
    """Runs the frozen perceivers over a sample of the training clips and sums up what they give.

    Stages standardise features by their mean and deviation. A cache knows these of all clips; where features are made online they are
    estimated: of N clips the mean is off by the deviation of clip means / sqrt(N), about 2 % of it for 2,048 clips.

    Args:
        clip: Geometry of the clips.
        features: Factory of the perceivers.
        num_clips: Clips of the sample, spread evenly over the training split; all of it if it has fewer.
        seed: Part of every stage's interface; nothing is drawn here.

    Raises:
        ValueError: If the sample is empty.
    """

    reads = ("media",)

    def __init__(self, clip: ClipSpec, features: Callable[[ClipSpec], OnlineFeatures], num_clips: int = 2048, seed: int = 0) -> None:
        super().__init__()
        if num_clips < 1:
            raise ValueError(f"model.init_args.num_clips must be at least 1, got {num_clips}")
        self.clip, self.features, self.num_clips = clip, features(clip), num_clips

    @property
    def record(self) -> dict[str, Any]:
        """What is told with the statistics."""
        return self.features.made_by

    def predict_step(self, batch: Batch, batch_idx: int = 0, dataloader_idx: int = 0) -> list[dict[str, Moments]]:
        """Moments of each clip's features, by the modalities that it has."""
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
