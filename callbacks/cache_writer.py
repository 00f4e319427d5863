"""Writes what `Encode` predicts beside the clips: one tar a shard and kind, whole or not at all, then statistics, then `cache.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensor_bytes
from safetensors.torch import save_file

from baton_lightning.batch import Batch
from baton_lightning.shards.format import CACHE, CACHES, STATISTICS, Shard, SplitIndex, cache_suffix, read_root, write_json
from baton_lightning.shards.writer import write_shard


class CacheWriter(BasePredictionWriter):
    """Collects a shard's predictions and writes them when its last clip has come."""

    def __init__(self) -> None:
        super().__init__("batch")
        self.pending: dict[str, dict[str, bytes]] = {kind: {} for kind in CACHES}

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, dict[str, Any]],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        dataset = list(trainer.datamodule.encode_datasets.values())[dataloader_idx]  # type: ignore[attr-defined]
        for kind, tensors in prediction.items():
            for i, key in enumerate(batch.keys):
                self.pending[kind][key] = tensor_bytes({name: values[i].detach().cpu().contiguous() for name, values in tensors.items()})
        for number in sorted({dataset.places[place][0] for place in batch.index.tolist()}):
            keys = [key for shard, key in dataset.places if shard == number and key not in dataset.damaged]
            if all(key in self.pending["text"] for key in keys):
                self._write(dataset.index, number, keys, pl_module.recipe)  # type: ignore[arg-type]

    def _write(self, index: SplitIndex, number: int, keys: list[str], recipe: str) -> None:
        for kind in CACHES:
            members = ((key, {cache_suffix(kind): self.pending[kind].pop(key)}) for key in keys)
            write_shard(index.tar(number, kind), members, made_by=recipe)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Statistics over the training split, then the record that says the cache is whole."""
        trainer.strategy.barrier("cache")
        if not trainer.is_global_zero:
            return
        root: Path = trainer.datamodule.root  # type: ignore[attr-defined]
        splits = read_root(root)["splits"]
        save_file(statistics(SplitIndex.read(root / ("train" if "train" in splits else next(iter(splits))))), root / STATISTICS)
        networks = {name: type(getattr(pl_module, name)).__qualname__ for name in getattr(pl_module, "makers", {})}
        write_json(root / CACHE, {"recipe": pl_module.recipe, "networks": networks, "splits": {k: v["sha256"] for k, v in splits.items()}})
        print(f"cached {', '.join(CACHES)} of {sum(v['num_clips'] for v in splits.values())} clips in {root}/", flush=True)


def statistics(index: SplitIndex) -> dict[str, torch.Tensor]:
    """Mean and standard deviation of every feature channel over a split."""
    sums: dict[str, torch.Tensor] = {}
    for number in range(len(index.shards)):
        shard = Shard.open(index.tar(number, "features"))
        for key in shard.members:
            for name, tensor in load_tensors(shard.read(key, cache_suffix("features"))).items():
                values = tensor.double().reshape(-1, tensor.shape[-1])
                moments = torch.stack([torch.full_like(values[0], len(values)), values.sum(0), values.square().sum(0)])
                sums[name] = sums.get(name, 0) + moments
    made = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        made |= {f"{name}_mean": mean.float(), f"{name}_std": (squares / count - mean.square()).clamp(min=1e-12).sqrt().float()}
    return made
