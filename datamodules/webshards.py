"""The datamodule over webdataset tar shards: exact order, exact resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.shards.format import CACHE, CACHES, STATISTICS, Shard, read_root
from datamodules.order import EpochBatches
from datamodules.shard_dataset import ShardDataset, collate


class WebShards(LightningDataModule):
    """Clips in tar shards.

    Args:
        clip: Geometry of the clips.
        root: Folder of the data set.
        batch_size: Clips a rank takes per step.
        fields: Cached tensors to read: ``latents``, ``features``, ``text``.
        num_workers: Loader processes; 0 reads in the training process.
        max_damaged: Damaged clips a split may have before the run stops.
        seed: Seed of the order.
    """

    def __init__(
        self,
        clip: ClipSpec,
        root: str,
        batch_size: int = 32,
        fields: Sequence[str] = ("latents", "features", "text"),
        num_workers: int = 0,
        max_damaged: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clip, self.root, self.batch_size, self.fields = clip, Path(root), batch_size, tuple(fields)
        self.num_workers, self.max_damaged, self.seed = num_workers, max_damaged, seed
        self.epoch, self.consumed = 0, 0
        self.began: int | None = None

    def setup(self, stage: str) -> None:
        """Opens the splits that a verb needs."""
        if stage != "predict":
            self.require_fresh_cache()
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ()}[stage]
        for split in splits:
            if not hasattr(self, f"{split}_dataset"):
                setattr(self, f"{split}_dataset", ShardDataset(self.root / split, self.clip, self.fields, self.max_damaged))
        if stage == "predict":
            names = read_root(self.root)["splits"]
            self.encode_datasets = {s: ShardDataset(self.root / s, self.clip, ("media",), self.max_damaged) for s in names}

    # ---- loaders
    def _world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def train_dataloader(self) -> DataLoader:
        rank, world_size = self._world()
        dataset = self.train_dataset
        self.batches = EpochBatches(
            len(dataset), self.batch_size, rank=rank, world_size=world_size, seed=self.seed, position=self._begin
        )
        return DataLoader(dataset, batch_sampler=self.batches, collate_fn=collate, num_workers=self.num_workers)

    def _in_order(self, dataset: ShardDataset) -> DataLoader:
        """Every clip once, dealt out to ranks."""
        rank, world_size = self._world()
        items = [(0, p, p) for p in range(rank, len(dataset), world_size)]
        batches = [items[i : i + self.batch_size] for i in range(0, len(items), self.batch_size)]
        return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return self._in_order(self.val_dataset)

    def test_dataloader(self) -> DataLoader:
        return self._in_order(self.test_dataset)

    def predict_dataloader(self) -> list[DataLoader]:
        """One loader a split; a rank takes whole shards, and only those that are not cached yet."""
        return [self._by_shard(dataset) for dataset in self.encode_datasets.values()]

    def _by_shard(self, dataset: ShardDataset) -> DataLoader:
        rank, world_size = self._world()
        made_by = getattr(self.trainer.lightning_module, "recipe", "") if self.trainer is not None else ""
        batches: list[list[tuple[int, int, int]]] = []
        for number in range(rank, len(dataset.index.shards), world_size):
            if all(Shard.finished(dataset.index.tar(number, kind), made_by) for kind in CACHES):
                continue
            items = [(0, p, p) for p, (shard, _) in enumerate(dataset.places) if shard == number]
            batches += [items[i : i + self.batch_size] for i in range(0, len(items), self.batch_size)]
        return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=self.num_workers)

    # ---- position
    def _processed(self) -> int:
        """Batches this rank has trained on since the trainer was made; Lightning restores the count."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed if self.trainer is not None else 0

    def _begin(self) -> tuple[int, int]:
        """Position at which an iteration of the training loader begins."""
        now = self.state_dict()
        self.epoch, self.consumed, self.began = now["epoch"], now["consumed"], self._processed()
        return self.epoch, self.consumed

    def state_dict(self) -> dict[str, Any]:
        """Epoch and clips of it that all ranks together have consumed; derived from where the iteration began."""
        epoch, consumed = self.epoch, self.consumed
        if self.began is not None:
            consumed += (self._processed() - self.began) * self.batches.global_batch
            if consumed >= len(self.batches) * self.batches.global_batch:
                epoch, consumed = epoch + 1, 0
        return {"epoch": epoch, "consumed": consumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.consumed, self.began = state_dict["epoch"], state_dict["consumed"], None

    # ---- what others ask
    def feature_statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation [C] of the training split's features, by modality.

        Raises:
            ValueError: If the features were never cached.
        """
        path = self.root / STATISTICS
        if not path.exists():
            raise ValueError(f"data: {path} does not exist; cache the features with `python -m baton_lightning predict -c experiments/encode.yaml`")
        values = load_file(path)
        return {name: (values[f"{name}_mean"], values[f"{name}_std"]) for name in ("video", "audio")}

    def require_fresh_cache(self) -> None:
        """Refuses cached tensors of other clips.

        Raises:
            ValueError: If there is no finished cache, or the data set was built again after it.
        """
        index, fix = read_root(self.root), "make it with `python -m baton_lightning predict -c experiments/encode.yaml`"
        path = self.root / CACHE
        if not path.exists():
            raise ValueError(f"data: {self.root}/ has no finished cache of {', '.join(self.fields)}; {fix}")
        cache = json.loads(path.read_text())
        stale = [split for split, entry in index["splits"].items() if cache["splits"].get(split) != entry["sha256"]]
        if stale:
            raise ValueError(f"data: the cache of {self.root}/ was made of other clips than the splits {stale} hold now; {fix}")

    def manifest_digest(self) -> str:
        """Digest of the data set and its cache."""
        digest = hashlib.sha256((self.root / "index.json").read_bytes())
        if (self.root / CACHE).exists():
            digest.update((self.root / CACHE).read_bytes())
        return digest.hexdigest()
