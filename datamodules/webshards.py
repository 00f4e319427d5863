"""The datamodule over webdataset tar shards: exact order, exact resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from baton_lightning import hints
from baton_lightning.clip import ClipSpec
from baton_lightning.shards.format import (
    BUCKETS,
    CACHE,
    CACHES,
    PLAN_CACHE,
    PLANS,
    STATISTICS,
    SplitIndex,
    cache_record,
    read_root,
    tensor_differences,
)
from baton_lightning.shards.moments import told_with
from baton_lightning.shards.records import read_cache
from datamodules.array_task import array_task
from datamodules.loader import Loader
from datamodules.order import Buckets, Slot, epoch_length, held_out_batches, training_batches
from datamodules.position import require_same_order
from datamodules.shard_dataset import KINDS, MEDIA, ShardDataset, maker


class WebShards(LightningDataModule):
    """Clips in tar shards, each read by a seek.

    Training sees each clip once, then each once again in another order, and so on; the order depends on the seed alone. A checkpoint
    holds the epoch and how many clips of it all ranks together have consumed; a resumed run goes on with the next clip, on any number
    of ranks that divides the batch, with any number of workers. Held-out clips come in their own order.

    Args:
        clip: Geometry of the clips.
        root: Folder of the data set.
        batch_size: Clips of a batch, over all ranks together; a step has ``trainer.accumulate_grad_batches`` of them.
        fields: What a batch holds: ``latents``, ``features``, ``text`` and ``plans`` of the cache, ``media`` for frames and waveform.
        buckets: Kinds of clips that are read, of ``av`` (picture and sound), ``video`` and ``audio`` (either alone); a batch holds one,
            and kinds take turns as often as the split has clips of them.
        epoch_clips: Clips of an epoch, a multiple of those of an optimiser step; ``None`` takes the whole steps that the split holds. Clips
            that are left over open the next epoch.
        num_workers: Processes a rank reads ahead with; 0 reads in the training process.
        max_damaged: Damaged clips that a split may have before the run stops. Another clip stands in for a damaged one.
        train_split: Split that ``fit`` trains on.
        val_split: Split that ``fit`` and ``validate`` score.
        test_split: Split that ``test`` scores.
        seed: Seed of the order.
        task: In `predict`, which of ``num_tasks`` independent processes this is, from 0; each takes its own shards. ``None``: the element
            of the Slurm array, if there is one.
        num_tasks: How many there are; 1 works on all shards, whatever Slurm says.
    """

    def __init__(
        self,
        clip: ClipSpec,
        root: str,
        batch_size: int = 32,
        fields: Sequence[str] = CACHES,
        buckets: Sequence[str] = BUCKETS,
        epoch_clips: int | None = None,
        num_workers: int = 0,
        max_damaged: int = 10,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        seed: int = 0,
        task: int | None = None,
        num_tasks: int | None = None,
    ) -> None:
        super().__init__()
        self.task = array_task(task, num_tasks)
        self.clip, self.root, self.batch_size, self.fields = clip, Path(root), batch_size, tuple(fields)
        self.num_workers, self.max_damaged, self.seed = num_workers, max_damaged, seed
        if not buckets or set(buckets) - set(BUCKETS):
            raise ValueError(f"data.init_args.buckets must be of {', '.join(BUCKETS)}, got {', '.join(buckets) or 'none'}")
        self.buckets = tuple(buckets)
        self.epoch = {"batch_size": batch_size, "epoch_clips": epoch_clips}
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.allow_zero_length_dataloader_with_multiple_devices = True  # in `predict` a rank may find nothing left to do
        self.restored: dict[str, Any] | None = None
        self.iterating: int | None = None
        """Epoch that the training loader is in; ``None`` before its first batch."""

    def setup(self, stage: str) -> None:
        """Opens the splits that a verb needs.

        Raises:
            ValueError: If data or cache are missing, damaged beyond ``max_damaged``, of other geometry, or stale.
        """
        if stage == "predict":
            names, reads = read_root(self.root)["splits"], getattr(self._module(), "reads", (MEDIA,))
            self.encode_datasets = {name: self._open(name, reads, replace=False) for name in names}
            return
        for role in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]:
            if not hasattr(self, f"{role}_dataset"):
                setattr(self, f"{role}_dataset", self._open(self.splits[role], self.fields))

    def _open(self, split: str, fields: Sequence[str], **options: Any) -> ShardDataset:
        if cached := [kind for kind in KINDS if kind in fields]:
            self.require_fresh_cache(cached)
        if PLANS in cached:
            options["planner"] = self.planned_by()["weights_sha256"]
        dataset = ShardDataset(self.root / split, self.clip, fields, max_damaged=self.max_damaged, **options)
        if cached:
            self._require_made_by_one(dataset)
        return dataset

    def _wanted(self, dataset: ShardDataset) -> Buckets:
        """The clips of a split that are read.

        Raises:
            ValueError: If it has none of the buckets that are asked for.
        """
        wanted = {bucket: clips for bucket, clips in dataset.buckets.items() if bucket in self.buckets}
        if not wanted:
            raise ValueError(
                f"data: {dataset.index.folder}/ has clips of the buckets {', '.join(dataset.buckets)} and none of {', '.join(self.buckets)}"
                "; change data.init_args.buckets"
            )
        return wanted

    def _module(self) -> Any:
        return None if self.trainer is None else self.trainer.lightning_module

    # ---- loaders
    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    @property
    def _accumulate(self) -> int:
        """Batches of an optimiser step."""
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    def train_dataloader(self) -> Loader:
        """One epoch, from where the run stands."""
        dataset, ranks = self.train_dataset, self._ranks()
        length = epoch_length(self._wanted(dataset), **self.epoch, accumulate=self._accumulate, world_size=ranks["world_size"])
        return Loader(dataset, self._rest_of_epoch, length, self.num_workers)

    def _rest_of_epoch(self) -> Iterator[list[Slot]]:
        epoch, consumed = self._begin()
        clips, ranks = self._wanted(self.train_dataset), self._ranks()
        order = {**self.epoch, "accumulate": self._accumulate}
        return training_batches(clips, **order, seed=self.seed, epoch=epoch, consumed=consumed, **ranks)

    def _held_out(self, dataset: ShardDataset) -> Loader:
        batches = held_out_batches(self._wanted(dataset), batch_size=self.batch_size, **self._ranks())
        return Loader(dataset, lambda: batches, len(batches), self.num_workers)

    def val_dataloader(self) -> Loader:
        return self._held_out(self.val_dataset)

    def test_dataloader(self) -> Loader:
        return self._held_out(self.test_dataset)

    def predict_dataloader(self) -> list[Loader]:
        """A loader for each split. A rank takes whole shards, and of those the ones that the module's networks have not yet cached."""
        if (count := getattr(self._module(), "num_clips", None)) is not None:
            return [self._sample(self.encode_datasets[self.splits["train"]], count)]
        made = getattr(self._module(), "recipe", ""), getattr(self._module(), "kinds", CACHES)
        shards = [(split, n) for split, d in self.encode_datasets.items() for n in range(len(d.index.shards))]
        mine = [shards[i] for i in self.task.share(len(shards), **self._ranks())]
        due = {s: [n for split, n in mine if split == s and not d.is_cached(n, *made)] for s, d in self.encode_datasets.items()}
        return [self._by_shard(self.encode_datasets[split], numbers) for split, numbers in due.items() if numbers]

    def _sample(self, dataset: ShardDataset, count: int) -> Loader:
        """This rank's share of clips that lie evenly over a split, in batches of one bucket."""
        total, ranks = len(dataset), self._ranks()
        sample = {i * total // count for i in range(count)} if count < total else set(range(total))
        batches = []
        for clips in dataset.buckets.values():
            mine = [(0, position, position) for position in clips if position in sample][ranks["rank"] :: ranks["world_size"]]
            batches += [mine[i : i + self.batch_size] for i in range(0, len(mine), self.batch_size)]
        return Loader(dataset, lambda: batches, len(batches), self.num_workers)

    def _by_shard(self, dataset: ShardDataset, numbers: list[int]) -> Loader:
        batches = [batch for number in numbers for batch in dataset.batches_of_shard(number, self.batch_size)]
        return Loader(dataset, lambda: batches, len(batches), self.num_workers)

    # ---- position
    def _begin(self) -> tuple[int, int]:
        """Epoch and clips consumed at which the training loader starts; Lightning's own count is the witness.

        Raises:
            ValueError: If a run is resumed amid an epoch with another batch size, or with epochs of another length, another seed or other
                clips.
        """
        if self.trainer is None:
            state = self.state_dict()
            return state["epoch"], state["consumed"]
        epoch = self.trainer.current_epoch
        consumed = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready * self.batch_size
        if consumed >= (whole := self.trainer.num_training_batches * self.batch_size):
            return epoch, whole  # saved at an epoch's end: Lightning asks for that epoch once more; it has nothing left
        if (state := self.restored) is not None:
            order = {**self.epoch, "accumulate": self._accumulate, "seed": self.seed, "clips": self._counts()}
            require_same_order(state, order, epoch, consumed)
        self.restored, self.iterating = None, epoch
        return epoch, consumed

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and how many clips of it all ranks together have consumed: what has been trained on, not what was read ahead."""
        order = {**self.epoch, "accumulate": self._accumulate, "seed": self.seed}
        if hasattr(self, "train_dataset"):
            order["clips"] = self._counts()
        if self.iterating is None or self.trainer is None:
            return self.restored or {"epoch": 0, "consumed": 0, **order}
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed
        if done >= self.trainer.num_training_batches:
            return {"epoch": self.iterating + 1, "consumed": 0, **order}
        return {"epoch": self.iterating, "consumed": done * self.batch_size, **order}

    def _counts(self) -> dict[str, int]:
        """Training clips of each bucket that is read."""
        return {bucket: len(clips) for bucket, clips in self._wanted(self.train_dataset).items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored, self.iterating = dict(state_dict), None

    # ---- cache
    def feature_statistics(self, online: Any = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation [C] of the training split's features, by modality; 0 and 1 for one that no clip has.

        Args:
            online: What makes features of each batch, and knows whether statistics are of them; ``None`` where they are cached.

        Raises:
            ValueError: If there are no statistics of these features and clips.
        """
        path, make = self.root / STATISTICS, hints.predict(hints.ENCODE if online is None else hints.STATISTICS, self.root)
        if not path.exists():
            raise ValueError(f"data: {path} does not exist; {'cache the features' if online is None else 'make it'} with {make}")
        if online is not None:
            online.require_statistics(told := told_with(path))
            if told.get("clips") != SplitIndex.read(self.root / self.splits["train"]).digest:
                raise ValueError(f"data: {path} is of other clips than {self.root / self.splits['train']}/ holds now; repeat {make}")
        try:
            values = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"data: {path} must hold the statistics of features, and is damaged ({error}); repeat {make}") from error
        widths = {"video": self.clip.video_plan_width, "audio": self.clip.audio_plan_width}
        return {
            name: (
                statistic(values.get(f"{name}_mean", torch.zeros(width)), width, path),
                statistic(values.get(f"{name}_std", torch.ones(width)), width, path),
            )
            for name, width in widths.items()
        }

    def require_fresh_cache(self, kinds: Sequence[str] = CACHES) -> None:
        """Refuses cached tensors of other clips or of another geometry.

        Raises:
            ValueError: If there is no finished cache, or it is not of these clips.
        """
        index = read_root(self.root)
        for path in dict.fromkeys(self.root / cache_record(kind) for kind in kinds):
            own = [kind for kind in kinds if cache_record(kind) == path.name]
            what, again = f"the cache of {', '.join(own)} in {self.root}/", f"repeat {maker(own[0], self.root)}"
            if not path.exists():
                raise ValueError(f"data: {self.root}/ has no finished cache of {', '.join(own)}; make it with {maker(own[0], self.root)}")
            cache = read_cache(path)
            if differs := tensor_differences(self.clip, cache.get("clip", {})):
                raise ValueError(f"data: {what} is of another geometry (clip section != cache): {'; '.join(differs)}; {again}")
            if stale := [split for split, entry in index["splits"].items() if cache["splits"].get(split) != entry["sha256"]]:
                raise ValueError(f"data: {what} was made of other clips than the splits {', '.join(stale)} hold now; {again}")

    def _require_made_by_one(self, dataset: ShardDataset) -> None:
        for kind in dataset.caches:
            path = self.root / cache_record(kind)
            recipe = read_cache(path)["recipe"]
            if other := [shard.tar for shard in dataset.shards[kind] if shard.made_by not in ("", recipe)]:
                raise ValueError(f"data: {other[0]} was made by other networks than {path} names; repeat {maker(kind, self.root)}")

    def planned_by(self) -> dict[str, Any]:
        """What is known of the planner whose tokens are cached: ``weights_sha256`` of its run, types, settings.

        Raises:
            ValueError: If no tokens of these clips are cached.
        """
        self.require_fresh_cache([PLANS])
        planner = read_cache(self.root / PLAN_CACHE).get("planner")
        if not isinstance(planner, dict) or not isinstance(planner.get("weights_sha256"), str):
            raise ValueError(f"data: {self.root / PLAN_CACHE} must name the planner of its tokens; repeat {maker(PLANS, self.root)}")
        return planner

    def manifest_digest(self) -> str:
        """Digest of the data set and its cache, for a run's manifest."""
        digest = hashlib.sha256((self.root / "index.json").read_bytes())
        for name in (CACHE, PLAN_CACHE if PLANS in self.fields else ""):
            if name and (self.root / name).exists():
                digest.update((self.root / name).read_bytes())
        return digest.hexdigest()


def statistic(values: Tensor, width: int, file: Path) -> Tensor:
    """A number for each channel [C].

    Raises:
        ValueError: If they are of another number, or not finite.
    """
    if tuple(values.shape) != (width,) or not values.is_floating_point() or not torch.isfinite(values).all():
        raise ValueError(f"data: {file} must hold {width} finite numbers a statistic, got {list(values.shape)}; make it again")
    return values
