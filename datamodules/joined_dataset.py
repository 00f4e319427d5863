"""Clips of several geometries, as one data set whose batches have one geometry."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch.utils.data import Dataset

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from datamodules.order import Buckets, Slot
from datamodules.shard_dataset import Damage, ShardDataset


class JoinedDataset(Dataset):
    """The clips of one data set after another. A batch must be of one of them. Damage is counted for each data set alone.

    Args:
        datasets: Name of each geometry -> its clips.
    """

    def __init__(self, datasets: Mapping[str, ShardDataset]) -> None:
        self.datasets, self.names = list(datasets.values()), list(datasets)
        self.ends = list(accumulate(map(len, self.datasets)))
        self.starts = [end - len(dataset) for end, dataset in zip(self.ends, self.datasets, strict=True)]
        self.buckets: Buckets = {}
        """Geometry and bucket, e.g. ``960x544x5s av`` -> positions."""
        self.bucket_clips: dict[str, ClipSpec] = {}
        for name, start, dataset in zip(self.names, self.starts, self.datasets, strict=True):
            for bucket, positions in dataset.buckets.items():
                self.buckets[f"{name} {bucket}"] = [start + position for position in positions]  # type: ignore[index]
                self.bucket_clips[f"{name} {bucket}"] = dataset.clip

    def __len__(self) -> int:
        return self.ends[-1]

    @property
    def damaged(self) -> dict[str, Damage]:
        """Damaged clips, by geometry and key."""
        named = zip(self.names, self.datasets, strict=True)
        return {f"{name}/{key}": damage for name, dataset in named for key, damage in dataset.damaged.items()}

    def metadata(self) -> list[dict[str, Any]]:
        """As of :class:`~datamodules.shard_dataset.ShardDataset`."""
        return [meta for dataset in self.datasets for meta in dataset.metadata()]

    def batch(self, positions: Sequence[int]) -> Batch:
        """A batch of the clips at these positions, which are of one geometry."""
        number = bisect_right(self.ends, positions[0])
        return self.datasets[number].batch([position - self.starts[number] for position in positions])

    def __getitems__(self, slots: Sequence[Slot]) -> tuple[Batch, list[tuple[int, Damage]]]:
        """A batch, and the damage found, with the number of its data set."""
        number = bisect_right(self.ends, slots[0][2])
        batch, found = self.datasets[number].__getitems__([(e, place, position - self.starts[number]) for e, place, position in slots])
        return batch, [(number, damage) for damage in found]

    def report(self, found: Sequence[tuple[int, Damage]]) -> None:
        """Counts damaged clips, see :meth:`ShardDataset.report`."""
        for number, dataset in enumerate(self.datasets):
            dataset.report([damage for owner, damage in found if owner == number])
