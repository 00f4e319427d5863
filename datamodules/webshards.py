"""The datamodule of webdataset tar shards, with a deterministic order and exact resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor

from baton_lightning.clip import ClipSpec
from baton_lightning.plain_files import require_no_link
from baton_lightning.shards.format import BUCKETS, CACHES
from datamodules.array_task import array_task
from datamodules.batch_sizes import BatchSizes
from datamodules.geometry_set import content_digest, geometry_sets, pooled
from datamodules.joined_dataset import JoinedDataset
from datamodules.loader import Loader
from datamodules.order import BatchSize, Buckets, Slot, clips_before, epoch_length, held_out_batches, training_batches
from datamodules.position import require_same_order
from datamodules.shard_dataset import MEDIA, ShardDataset

Clips = ShardDataset | JoinedDataset


class WebShards(LightningDataModule):
    """Clips in tar shards, read by byte offset.

    Training reads all clips in passes. Each pass contains every clip once, in a new order that depends only on the seed. A checkpoint
    contains the epoch and the number of its clips that all ranks together have consumed. A resumed run continues with the next clip, with
    any number of workers, and on any number of ranks that divides the batch. Held-out clips are read in the order of the split.

    With several geometries, a batch has clips of one, on all ranks, and carries its name. Geometries alternate as buckets do.

    Args:
        clip: Geometry of the clips. With ``clip.geometries``, clips of all geometries are read.
        root: Folder of the data set; with several geometries, of a data set for each in a folder of its name, e.g. ``960x544x5s``, as
            `shards build --bucket` writes them.
        batch_size: Clips of a batch, over all ranks together; a step has ``trainer.accumulate_grad_batches`` batches. ``null`` with
            ``tokens``.
        tokens: Tokens of the transformer in a batch, over all ranks together, instead of ``batch_size``: a batch has as many clips of its
            geometry as have no more tokens, at least one.
        multiple_of: Number of which the clips of a batch of ``tokens`` are a multiple, e.g. the largest number of ranks, so that ranks can
            share every batch; ``None`` = 1.
        fields: Fields of a batch: ``latents``, ``features``, ``text`` and ``plans`` from the cache, ``media`` for frames and waveform.
        buckets: Kinds of clips to read: ``av`` (picture and sound), ``video`` and ``audio`` (only one of them). A batch has clips of one
            kind; kinds alternate in proportion to their numbers of batches.
        epoch_clips: Clips of an epoch, a multiple of a step's clips; ``None`` = as many whole steps as the split has. The remaining clips
            start the next epoch. Not with ``tokens``, where batches differ in size.
        num_workers: Worker processes of a rank; 0 reads in the training process.
        max_damaged: Largest number of damaged clips of a split and geometry; with more, the run stops. Damaged clips are replaced.
        train_split: Split for training.
        val_split: Split for validation, in ``fit`` and ``validate``.
        test_split: Split for ``test``.
        seed: Seed of the order.
        task: For `predict`: number of this process among ``num_tasks`` independent processes, from 0; each works on different shards.
            ``None`` = the element of the Slurm array, if there is one.
        num_tasks: Number of processes for `predict`; 1 works on all shards, also in a Slurm array.

    Raises:
        ValueError: If ``buckets`` are unknown, or not exactly one of ``batch_size`` and ``tokens`` is given.
    """

    def __init__(
        self,
        clip: ClipSpec,
        root: str,
        batch_size: int | None = 32,
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
        tokens: int | None = None,
        multiple_of: int | None = None,
    ) -> None:
        super().__init__()
        self.task = array_task(task, num_tasks)
        self.clip, self.root, self.batch_size, self.fields = clip, Path(root), batch_size, tuple(fields)
        self.num_workers, self.max_damaged, self.seed = num_workers, max_damaged, seed
        if not buckets or set(buckets) - set(BUCKETS):
            raise ValueError(f"data.init_args.buckets must be among {', '.join(BUCKETS)}, got {', '.join(buckets) or 'none'}")
        self.sizes = BatchSizes(batch_size, tokens, multiple_of, epoch_clips)
        self.buckets, self.epoch_clips = tuple(buckets), epoch_clips
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.sets = geometry_sets(self.root, clip)
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
            reads = getattr(self._module(), "reads", (MEDIA,))
            for data_set in self.sets:
                names = data_set.require_splits()
                require_no_link(*(data_set.root / name for name in names))  # caches are written into them
                opened = {name: data_set.open(name, reads, replace=False, max_damaged=self.max_damaged) for name in names}
                data_set.encode_datasets = opened
            return
        for role in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]:
            if not hasattr(self, f"{role}_dataset"):
                setattr(self, f"{role}_dataset", self._open(self.splits[role]))

    def _open(self, split: str) -> Clips:
        opened = [data_set.open(split, self.fields, max_damaged=self.max_damaged) for data_set in self.sets]
        return opened[0] if len(opened) == 1 else JoinedDataset({dataset.clip.name: dataset for dataset in opened})

    def first_geometry(self) -> None:
        """Restricts the data to the clips of the first geometry."""
        self.sets = self.sets[:1]

    def _selected_buckets(self, dataset: Clips) -> Buckets:
        """Clips of the selected buckets of a split.

        Raises:
            ValueError: If the split has none of them.
        """
        selected = {name: clips for name, clips in dataset.buckets.items() if name.rpartition(" ")[2] in self.buckets}
        if not selected:
            folder = dataset.index.folder if isinstance(dataset, ShardDataset) else self.root
            raise ValueError(
                f"data: {folder}/ has clips of the buckets {', '.join(dataset.buckets)} and none of {', '.join(self.buckets)}"
                "; change data.init_args.buckets"
            )
        return selected

    def _batch_size(self, dataset: Clips) -> BatchSize:
        """Clips of a batch of each bucket."""
        return self.sizes.of(self._selected_buckets(dataset), dataset.bucket_clips)

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

    @property
    def _order(self) -> dict[str, Any]:
        """Settings on which the order of an epoch's clips depends, besides seed and clips."""
        return {"batch_size": self._batch_size(self.train_dataset), "epoch_clips": self.epoch_clips, "accumulate": self._accumulate}

    def train_dataloader(self) -> Loader:
        """Batches of the current epoch, from the run's position on."""
        dataset, world_size = self.train_dataset, self._ranks()["world_size"]
        length = epoch_length(self._selected_buckets(dataset), **self._order, world_size=world_size)
        return Loader(dataset, self._rest_of_epoch, length, self.num_workers)

    def _rest_of_epoch(self) -> Iterator[list[Slot]]:
        epoch, consumed = self._position()
        clips, ranks = self._selected_buckets(self.train_dataset), self._ranks()
        return training_batches(clips, **self._order, seed=self.seed, epoch=epoch, consumed=consumed, **ranks)

    def _held_out(self, dataset: Clips) -> Loader:
        batches = held_out_batches(self._selected_buckets(dataset), batch_size=self._batch_size(dataset), **self._ranks())
        return Loader(dataset, lambda: batches, len(batches), self.num_workers)

    def val_dataloader(self) -> Loader:
        return self._held_out(self.val_dataset)

    def test_dataloader(self) -> Loader:
        return self._held_out(self.test_dataset)

    def predict_dataloader(self) -> list[Loader]:
        """A loader for each split. A rank reads whole shards, except those that are already cached by the module's networks."""
        module = self._module()
        if (count := getattr(module, "num_clips", None)) is not None:
            return [self._sample(data_set.encode_datasets[self.splits["train"]], count) for data_set in self.sets]
        datasets = [dataset for data_set in self.sets for dataset in data_set.encode_datasets.values()]
        shards = [(dataset, number) for dataset in datasets for number in range(len(dataset.index.shards))]
        own_shards = [shards[i] for i in self.task.share(len(shards), **self._ranks())]
        pending: dict[ShardDataset, list[int]] = {dataset: [] for dataset in datasets}
        for dataset, number in own_shards:
            recipe = module.recipe(dataset.clip) if hasattr(module, "recipe") else ""
            if not dataset.is_cached(number, recipe, getattr(module, "kinds", CACHES)):
                pending[dataset].append(number)
        return [self._by_shard(dataset, numbers) for dataset, numbers in pending.items() if numbers]

    def _sample(self, dataset: ShardDataset, count: int) -> Loader:
        """This rank's share of ``count`` clips that are evenly spaced over a split, in batches of one bucket."""
        total, ranks, size = len(dataset), self._ranks(), self.sizes.num_clips(dataset.clip)
        sample = {i * total // count for i in range(count)} if count < total else set(range(total))
        batches = []
        for clips in dataset.buckets.values():
            own_clips = [(0, position, position) for position in clips if position in sample][ranks["rank"] :: ranks["world_size"]]
            batches += [own_clips[i : i + size] for i in range(0, len(own_clips), size)]
        return Loader(dataset, lambda: batches, len(batches), self.num_workers)

    def _by_shard(self, dataset: ShardDataset, numbers: list[int]) -> Loader:
        batches = [batch for number in numbers for batch in dataset.batches_of_shard(number, self.sizes.num_clips(dataset.clip))]
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
        epoch, ready, num_batches = (
            self.trainer.current_epoch,
            self.trainer.fit_loop.epoch_loop.batch_progress.current.ready,
            int(self.trainer.num_training_batches),
        )
        consumed = self._clips_before(epoch, min(ready, num_batches))
        if ready >= num_batches:
            return epoch, consumed  # saved at the end of an epoch: Lightning iterates that epoch once more, with no batches left
        if (state := self.restored) is not None:
            require_same_order(state, {**self._order, "seed": self.seed, "clips": self._counts()}, epoch, consumed)
        self.restored, self.iterating = None, epoch
        return epoch, consumed

    def _clips_before(self, epoch: int, batch: int) -> int:
        """Clips of an epoch before one of its batches."""
        clips = self._selected_buckets(self.train_dataset)
        num_batches = epoch_length(clips, **self._order)
        return clips_before(clips, batch, batch_size=self._batch_size(self.train_dataset), epoch=epoch, num_batches=num_batches)

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and number of its clips on which all ranks together have trained. Clips that workers have read ahead do not count."""
        opened = hasattr(self, "train_dataset")
        order = self._order if opened else {"batch_size": self.batch_size, "epoch_clips": self.epoch_clips, "accumulate": self._accumulate}
        order |= {"seed": self.seed} | ({"clips": self._counts()} if opened else {})
        if self.iterating is None or self.trainer is None:
            return self.restored or {"epoch": 0, "consumed": 0, **order}
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed
        if done >= self.trainer.num_training_batches:
            return {"epoch": self.iterating + 1, "consumed": 0, **order}
        return {"epoch": self.iterating, "consumed": self._clips_before(self.iterating, done), **order}

    def _counts(self) -> dict[str, int]:
        """Number of training clips of each selected bucket."""
        return {bucket: len(clips) for bucket, clips in self._selected_buckets(self.train_dataset).items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored, self.iterating = dict(state_dict), None

    # ---- cache
    def feature_statistics(self, online: Any = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation [C] of the training split's features, by modality, of all geometries together.

        Args:
            online: Networks that compute features of each batch, which check the statistics' provenance; ``None`` if features are cached.

        Raises:
            ValueError: If there are no statistics, or they belong to other features or clips.
        """
        split = self.splits["train"]
        own = [data_set.feature_statistics(split, online) for data_set in self.sets]
        return pooled(own, [data_set.num_features(split) for data_set in self.sets])

    def planned_by(self) -> dict[str, Any]:
        """Record of the planner that computed the cached plans: ``weights_sha256`` of its run, types, settings.

        Raises:
            ValueError: If no plans of these clips are cached, or those of two geometries are of different planners.
        """
        planners = [data_set.planned_by() for data_set in self.sets]
        for data_set, planner in zip(self.sets, planners, strict=True):
            if planner != planners[0]:
                raise ValueError(
                    f"data: {data_set.root}/ must hold plans of the planner of {self.sets[0].root}/ (weights "
                    f"{planners[0]['weights_sha256'][:12]}), got those of another one ({planner['weights_sha256'][:12]}); cache them again"
                )
        return planners[0]

    def manifest_digest(self) -> str:
        """Digest of the data set and its cache, for a run's manifest."""
        return content_digest(self.sets, self.fields)
