"""Writes the predictions of `Encode` or `PlanEncoding` as caches beside the clips: one tar per shard and kind, written atomically, then the
statistics of features, then a record of the networks."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from baton_lightning import next_steps
from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.names import counted
from baton_lightning.shards.format import CACHE, STATISTICS, VERSION, Shard, SplitIndex, cache_record, cache_suffix, read_root, write_json
from baton_lightning.shards.moments import Moments, moments_of, read_moments, save_statistics, write_moments
from baton_lightning.shards.writer import write_shard

FEATURES = "features"


class CacheWriter(Callback):
    """Collects the predictions of a shard and writes them after its last clip.

    The module defines the ``kinds`` that it predicts, and for each geometry the ``recipe`` (a digest of it and the networks) and a
    ``record`` for the user. A shard is
    written by the rank or array task that predicts it. The first process that finds all shards written also writes the record,
    ``cache.json`` or ``plans.json``. With a shard of features, the moments of its clips are written; the statistics are the sum of moments
    in the order of shards, so they are bit-identical for any number of processes. A damaged clip has no cached tensors and is listed in
    the record.
    """

    def __init__(self) -> None:
        self.pending: dict[str, dict[str, Mapping[str, Tensor]]] = {}
        """Clip -> kind -> name -> tensor."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, dict[str, Sequence[Tensor]]],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch, and writes the shard if it is complete."""
        dataset = trainer.predict_dataloaders[dataloader_idx].dataset  # type: ignore[index]
        for i, key in enumerate(batch.keys):
            self.pending[key] = {kind: {name: t[i].cpu() for name, t in named.items()} for kind, named in outputs.items()}
        number = dataset.places[int(batch.index[0])][0]
        keys = [dataset.places[position][1] for position in dataset.ranges[number]]
        if len(self.pending) < len(keys):
            return
        whole, recipe = [key for key in keys if key not in dataset.damaged], pl_module.recipe(dataset.clip)  # type: ignore[operator]
        damaged = {key: dataset.damaged[key].reason for key in keys if key in dataset.damaged}
        notes = {"source": dataset.index.shards[number]["sha256"], "damaged": damaged}
        if FEATURES in pl_module.kinds:
            moments = moments_of(self.pending[key][FEATURES] for key in whole)
            write_moments(dataset.index.tar(number, FEATURES), moments, made_by=recipe, source=notes["source"])  # type: ignore[arg-type]
        for kind in pl_module.kinds:
            members = ((key, {cache_suffix(kind): serialise(self.pending[key][kind])}) for key in whole)
            write_shard(dataset.index.tar(number, kind), members, made_by=recipe, notes=notes)
        self.pending.clear()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the statistics of the training split, then the record that completes the cache."""
        if stage != "predict":
            return
        trainer.strategy.barrier("cache")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for data_set in data.sets if trainer.is_global_zero else ():
            write_record(data_set.root, data_set.clip, pl_module, data.splits["train"])
        if trainer.is_global_zero and cache_record(pl_module.kinds[0]) == CACHE:  # type: ignore[arg-type, index]
            cached = all((data_set.root / CACHE).exists() for data_set in data.sets)
            (next_steps.name_first_stage if cached else next_steps.name_encoding)(data.root)
        elif trainer.is_global_zero and (planner := getattr(pl_module, "run", None)) is not None:  # of plans
            next_steps.name_after_run(planner)


def serialise(tensors: Mapping[str, Tensor]) -> bytes:
    """A clip's tensors in safetensors format."""
    return tensor_bytes({name: tensor.contiguous() for name, tensor in tensors.items()})


def write_record(root: Path, clip: ClipSpec, module: Any, train_split: str) -> None:
    """Writes statistics and record, if all shards are cached and no other process has written them."""
    recipe = module.recipe(clip)
    with exclusive_lock(root):
        splits = {name: SplitIndex.read(root / name) for name in read_root(root)["splits"]}
        damaged: dict[str, str] = {}
        missing = []
        for index in splits.values():
            for number, entry in enumerate(index.shards):
                made = [Shard.finished(index.tar(number, kind), recipe) for kind in module.kinds]
                if any(shard is None or shard.notes.get("source") != entry["sha256"] for shard in made):
                    missing.append(index.tar(number))
                else:
                    damaged |= made[-1].notes.get("damaged", {})  # type: ignore[union-attr]
        if missing:
            print(f"not cached yet: {counted(len(missing), 'shard')}, the first is {missing[0]}; repeat the command, or the other tasks")
            return
        record: dict[str, Any] = {"version": VERSION, "recipe": recipe, **module.record(clip)}
        record |= {"splits": {name: index.digest for name, index in splits.items()}, "damaged": damaged}
        total = sum(index.num_clips for index in splits.values()) - len(damaged)
        file, has_features = root / cache_record(module.kinds[0]), FEATURES in module.kinds
        done = f"cached {', '.join(module.kinds)} of {counted(total, 'clip')} in {root}/, {len(damaged)} are damaged"
        exists = file.exists() and (not has_features or (root / STATISTICS).exists())
        if exists and file.read_text() == json.dumps(record, indent=1):
            print(f"{done}; nothing was to do", flush=True)
            return
        if has_features:
            split = splits[train_split if train_split in splits else next(iter(splits))]
            provenance = {**module.perceivers(clip), "clips": split.digest, "num_clips": split.num_clips}
            save_statistics(root / STATISTICS, feature_moments(split), provenance)
        write_json(file, record)
        print(done, flush=True)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Holds an exclusive lock on a folder; the operating system releases it if the process dies.

    Without file locks, several processes may write at the same time. This is safe: they atomically write the same bytes.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def feature_moments(index: SplitIndex) -> dict[str, Moments]:
    """Moments of the features of a split, by modality: the sum over its shards.

    If a shard has no moments, e.g. because an older version wrote it, its features are read and its moments are written.
    """
    sums: dict[str, Moments] = {}
    unknown = 0
    for number in range(len(index.shards)):
        shard = Shard.open(index.tar(number, FEATURES))
        made_by, source = shard.made_by, shard.notes.get("source", "")
        moments = read_moments(shard.tar, made_by=made_by, source=source)
        if moments is None:
            moments = moments_of(load_tensors(shard.read(key, cache_suffix(FEATURES))) for key in shard.members)
            write_moments(shard.tar, moments, made_by=made_by, source=source)
            unknown += 1
        for name, shard_moments in moments.items():
            sums.setdefault(name, Moments()).include(shard_moments)
    if unknown:
        print(f"{unknown} shards of {index.folder}/ had no moments; they were computed from the features", flush=True)
    return sums
