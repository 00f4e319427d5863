"""The datamodule of webdataset tar shards, with a deterministic order and exact resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor

from baton_lightning import hints
from baton_lightning.clip import ClipSpec
from baton_lightning.plain_files import require_no_link
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
from baton_lightning.shards.moments import read_provenance
from baton_lightning.shards.records import read_cache
from datamodules.array_task import array_task
from datamodules.feature_statistics import read_statistics
from datamodules.loader import Loader
from datamodules.order import Buckets, Slot, epoch_length, held_out_batches, training_batches
from datamodules.position import require_same_order
from datamodules.shard_dataset import KINDS, MEDIA, ShardDataset, cache_command


class WebShards(LightningDataModule):
    """Clips in tar shards, read by byte offset.

    Training reads all clips in passes. Each pass contains every clip once, in a new order that depends only on the seed. A checkpoint
    contains the epoch and the number of its clips that all ranks together have consumed. A resumed run continues with the next clip, with
    any number of workers, and on any number of ranks that divides the batch. Held-out clips are read in the order of the split.

    Args:
        clip: Geometry of the clips.
        root: Folder of the data set.
        batch_size: Clips of a batch, over all ranks together; a step has ``trainer.accumulate_grad_batches`` batches.
        fields: Fields of a batch: ``latents``, ``features``, ``text`` and ``plans`` from the cache, ``media`` for frames and waveform.
        buckets: Kinds of clips to read: ``av`` (picture and sound), ``video`` and ``audio`` (only one of them). A batch has clips of one
            kind; kinds alternate in proportion to their numbers of clips.
        epoch_clips: Clips of an epoch, a multiple of a step's clips; ``None`` = as many whole steps as the split has. The remaining clips
            start the next epoch.
        num_workers: Worker processes of a rank; 0 reads in the training process.
        max_damaged: Largest number of damaged clips of a split; with more, the run stops. Damaged clips are replaced.
        train_split: Split for training.
        val_split: Split for validation, in ``fit`` and ``validate``.
        test_split: Split for ``test``.
        seed: Seed of the order.
        task: For `predict`: number of this process among ``num_tasks`` independent processes, from 0; each works on different shards.
            ``None`` = the element of the Slurm array, if there is one.
        num_tasks: Number of processes for `predict`; 1 works on all shards, also in a Slurm array.
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
            raise ValueError(f"data.init_args.buckets must be among {', '.join(BUCKETS)}, got {', '.join(buckets) or 'none'}")
        self.buckets = tuple(buckets)
        self.epoch = {"batch_size": batch_size, "epoch_clips": epoch_clips}
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.allow_zero_length_dataloader_with_multiple_devices = True  # in `predict` a rank may have no batches
        self.restored: dict[str, Any] | None = None
        self.iterating: int | None = None
        """Epoch of the training loader; ``None`` before its first batch."""

    def setup(self, stage: str) -> None:
        """Opens the splits that a verb needs.

        Raises:
            ValueError: If data or caches are missing or stale, have another geometry, or more than ``max_damaged`` damaged clips.
        """
        if stage == "predict":
            require_no_link(*(self.root / name for name in read_root(self.root)["splits"]))  # caches are written into them
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

    def _selected_buckets(self, dataset: ShardDataset) -> Buckets:
        """Clips of the selected buckets of a split.

        Raises:
            ValueError: If the split has none of them.
        """
        selected = {bucket: clips for bucket, clips in dataset.buckets.items() if bucket in self.buckets}
        if not selected:
            raise ValueError(
                f"data: {dataset.index.folder}/ has clips of the buckets {', '.join(dataset.buckets)} and none of {', '.join(self.buckets)}"
                "; change data.init_args.buckets"
            )
        return selected

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
        """Batches of the current epoch, from the run's position on."""
        dataset, ranks = self.train_dataset, self._ranks()
        length = epoch_length(self._selected_buckets(dataset), **self.epoch, accumulate=self._accumulate, world_size=ranks["world_size"])
        return Loader(dataset, self._rest_of_epoch, length, self.num_workers)

    def _rest_of_epoch(self) -> Iterator[list[Slot]]:
        epoch, consumed = self._position()
        clips, ranks = self._selected_buckets(self.train_dataset), self._ranks()
        order = {**self.epoch, "accumulate": self._accumulate}
        return training_batches(clips, **order, seed=self.seed, epoch=epoch, consumed=consumed, **ranks)

    def _held_out(self, dataset: ShardDataset) -> Loader:
        batches = held_out_batches(self._selected_buckets(dataset), batch_size=self.batch_size, **self._ranks())
        return Loader(dataset, lambda: batches, len(batches), self.num_workers)

    def val_dataloader(self) -> Loader:
        return self._held_out(self.val_dataset)

    def test_dataloader(self) -> Loader:
        return self._held_out(self.test_dataset)

    def predict_dataloader(self) -> list[Loader]:
        """A loader for each split. A rank reads whole shards, except those that are already cached by the module's networks."""
        if (count := getattr(self._module(), "num_clips", None)) is not None:
            return [self._sample(self.encode_datasets[self.splits["train"]], count)]
        made = getattr(self._module(), "recipe", ""), getattr(self._module(), "kinds", CACHES)
        shards = [(split, n) for split, d in self.encode_datasets.items() for n in range(len(d.index.shards))]
        own_shards = [shards[i] for i in self.task.share(len(shards), **self._ranks())]
        pending = {s: [n for split, n in own_shards if split == s and not d.is_cached(n, *made)] for s, d in self.encode_datasets.items()}
        return [self._by_shard(self.encode_datasets[split], numbers) for split, numbers in pending.items() if numbers]

    def _sample(self, dataset: ShardDataset, count: int) -> Loader:
        """This rank's share of ``count`` clips that are evenly spaced over a split, in batches of one bucket."""
        total, ranks = len(dataset), self._ranks()
        sample = {i * total // count for i in range(count)} if count < total else set(range(total))
        batches = []
        for clips in dataset.buckets.values():
            own_clips = [(0, position, position) for position in clips if position in sample][ranks["rank"] :: ranks["world_size"]]
            batches += [own_clips[i : i + self.batch_size] for i in range(0, len(own_clips), self.batch_size)]
        return Loader(dataset, lambda: batches, len(batches), self.num_workers)

    def _by_shard(self, dataset: ShardDataset, numbers: list[int]) -> Loader:
        batches = [batch for number in numbers for batch in dataset.batches_of_shard(number, self.batch_size)]
        return Loader(dataset, lambda: batches, len(batches), self.num_workers)

    # ---- position
    def _position(self) -> tuple[int, int]:
        """Epoch and number of consumed clips at which the training loader starts, from Lightning's progress.

        Raises:
            ValueError: If the order changed, see :func:`~datamodules.position.require_same_order`.
        """
        if self.trainer is None:
            state = self.state_dict()
            return state["epoch"], state["consumed"]
        epoch = self.trainer.current_epoch
        consumed = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready * self.batch_size
        if consumed >= (epoch_clips_total := self.trainer.num_training_batches * self.batch_size):
            return epoch, epoch_clips_total  # saved at the end of an epoch: Lightning iterates that epoch once more, with no batches left
        if (state := self.restored) is not None:
            order = {**self.epoch, "accumulate": self._accumulate, "seed": self.seed, "clips": self._counts()}
            require_same_order(state, order, epoch, consumed)
        self.restored, self.iterating = None, epoch
        return epoch, consumed

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and number of its clips on which all ranks together have trained. Clips that workers have read ahead do not count."""
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
        """Number of training clips of each selected bucket."""
        return {bucket: len(clips) for bucket, clips in self._selected_buckets(self.train_dataset).items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored, self.iterating = dict(state_dict), None

    # ---- cache
    def feature_statistics(self, online: Any = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation [C] of the training split's features, by modality; 0 and 1 for a modality that no clip has.

        Args:
            online: Networks that compute features of each batch, which check the statistics' provenance; ``None`` if features are cached.

        Raises:
            ValueError: If there are no statistics, or they belong to other features or clips.
        """
        path, make = self.root / STATISTICS, hints.predict(hints.ENCODE if online is None else hints.STATISTICS, self.root)
        if not path.is_file():
            raise ValueError(f"data: {path} does not exist; {'cache the features' if online is None else 'make it'} with {make}")
        if online is not None:
            online.require_statistics(provenance := read_provenance(path))
            if provenance.get("clips") != SplitIndex.read(self.root / self.splits["train"]).digest:
                raise ValueError(f"data: {path} is not of the clips in {self.root / self.splits['train']}/; repeat {make}")
        return read_statistics(path, {"video": self.clip.video_plan_width, "audio": self.clip.audio_plan_width}, make)

    def require_fresh_cache(self, kinds: Sequence[str] = CACHES) -> None:
        """Refuses caches that are incomplete, or computed from other clips or with another geometry.

        Raises:
            ValueError: If there is no complete cache of these clips.
        """
        index = read_root(self.root)
        for path in dict.fromkeys(self.root / cache_record(kind) for kind in kinds):
            own = [kind for kind in kinds if cache_record(kind) == path.name]
            what, fix = f"the cache of {', '.join(own)} in {self.root}/", f"repeat {cache_command(own[0], self.root)}"
            if not path.exists():
                raise ValueError(f"data: {self.root}/ has no finished cache of {', '.join(own)}; run {cache_command(own[0], self.root)}")
            cache = read_cache(path)
            if differs := tensor_differences(self.clip, cache.get("clip", {})):
                raise ValueError(f"data: {what} is of another geometry (clip section != cache): {'; '.join(differs)}; {fix}")
            if stale := [split for split, entry in index["splits"].items() if cache["splits"].get(split) != entry["sha256"]]:
                raise ValueError(f"data: {what} was made from clips other than those in the splits {', '.join(stale)}; {fix}")

    def _require_made_by_one(self, dataset: ShardDataset) -> None:
        for kind in dataset.caches:
            path = self.root / cache_record(kind)
            recipe = read_cache(path)["recipe"]
            if other := [shard.tar for shard in dataset.shards[kind] if shard.made_by not in ("", recipe)]:
                raise ValueError(
                    f"data: {other[0]} was not made by the networks that {path} names; repeat {cache_command(kind, self.root)}"
                )

    def planned_by(self) -> dict[str, Any]:
        """Record of the planner that computed the cached plans: ``weights_sha256`` of its run, types, settings.

        Raises:
            ValueError: If no plans of these clips are cached.
        """
        self.require_fresh_cache([PLANS])
        planner = read_cache(self.root / PLAN_CACHE).get("planner")
        if not isinstance(planner, dict) or not isinstance(planner.get("weights_sha256"), str):
            fix = f"repeat {cache_command(PLANS, self.root)}"
            raise ValueError(f"data: {self.root / PLAN_CACHE} must name the planner of its tokens; {fix}")
        return planner

    def manifest_digest(self) -> str:
        """Digest of the data set and its cache, for a run's manifest."""
        digest = hashlib.sha256((self.root / "index.json").read_bytes())
        for name in (CACHE, PLAN_CACHE if PLANS in self.fields else ""):
            if name and (self.root / name).exists():
                digest.update((self.root / name).read_bytes())
        return digest.hexdigest()
