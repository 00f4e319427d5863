"""Writes the predictions of `FeatureStatistics`: mean and standard deviation of features over a sample of clips, with their provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from baton_lightning.batch import Batch
from baton_lightning.names import counted
from baton_lightning.shards.format import CACHE, STATISTICS
from baton_lightning.shards.moments import Moments, save_statistics


class StatisticsWriter(Callback):
    """Collects the moments of clips on all ranks and sums them in the order of the split, bit-identically for any number of ranks."""

    def __init__(self) -> None:
        self.clips: dict[tuple[int, int], dict[str, Moments]] = {}
        """Number of the data set, position in the split -> modality -> moments."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses to replace statistics of all clips with those of a sample.

        Raises:
            ValueError: If the data set has a cache.
        """
        cached: list[Path] = [data_set.root for data_set in trainer.datamodule.sets if (data_set.root / CACHE).exists()]  # type: ignore[attr-defined]
        for root in cached:
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
        self.clips |= {(dataloader_idx, int(batch.index[i])): outputs[i] for i in whole}

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes ``features.stats.safetensors``."""
        gathered: list[Any] = [self.clips]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.clips)
        clips = {place: moments for part in gathered for place, moments in part.items()}
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for number, data_set in enumerate(data.sets):
            sums: dict[str, Moments] = {}
            own = [clips[place] for place in sorted(clips) if place[0] == number]
            for moments in own:
                for name, clip_moments in moments.items():
                    sums.setdefault(name, Moments()).include(clip_moments)
            split = data.splits["train"]
            digest = data_set.encode_datasets[split].index.digest
            provenance = {**pl_module.record(data_set.clip), "clips": digest, "num_clips": len(own)}  # type: ignore[operator]
            save_statistics(data_set.root / STATISTICS, sums, provenance)
            print(
                f"statistics of features over {counted(len(own), 'clip')} of {data_set.root / split}/ are in {data_set.root / STATISTICS}",
                flush=True,
            )
