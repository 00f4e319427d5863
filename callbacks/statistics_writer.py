"""Writes the predictions of `FeatureStatistics`: mean and standard deviation of features over a sample of clips, with their provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from baton_lightning.batch import Batch
from baton_lightning.shards.format import CACHE, STATISTICS
from baton_lightning.shards.moments import Moments, save_statistics


class StatisticsWriter(Callback):
    """Collects the moments of clips on all ranks and sums them in the order of the split, bit-identically for any number of ranks."""

    def __init__(self) -> None:
        self.clips: dict[int, dict[str, Moments]] = {}
        """Position in the split -> modality -> moments."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses to replace statistics of all clips with those of a sample.

        Raises:
            ValueError: If the data set has a cache.
        """
        root: Path = trainer.datamodule.root  # type: ignore[attr-defined]
        if (root / CACHE).exists():
            raise ValueError(
                f"{root / STATISTICS} belongs to the cache of {root}/ and covers all clips, so it is not replaced with a sample's; use it, "
                f"or delete {CACHE} to train without the cache"
            )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[dict[str, Moments]],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the clips of a batch that are not damaged."""
        dataset = trainer.predict_dataloaders[dataloader_idx].dataset  # type: ignore[index]
        whole = [i for i, key in enumerate(batch.keys) if key not in dataset.damaged]
        self.clips |= {int(batch.index[i]): outputs[i] for i in whole}

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes ``features.stats.safetensors``."""
        gathered: list[Any] = [self.clips]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.clips)
        clips = {position: moments for part in gathered for position, moments in part.items()}
        if not trainer.is_global_zero:
            return
        sums: dict[str, Moments] = {}
        for position in sorted(clips):
            for name, clip_moments in clips[position].items():
                sums.setdefault(name, Moments()).include(clip_moments)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        root, split = data.root, data.splits["train"]
        provenance = {**pl_module.record, "clips": data.encode_datasets[split].index.digest, "num_clips": len(clips)}  # type: ignore[dict-item]
        save_statistics(root / STATISTICS, sums, provenance)
        print(f"statistics of features over {len(clips)} clips of {root / split}/ are in {root / STATISTICS}", flush=True)
