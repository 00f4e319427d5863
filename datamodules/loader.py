"""A loader that determines its position when the first batch is requested, and that reports damaged clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from baton_lightning.batch import Batch
from baton_lightning.signals import held_signals, obey_parent_only
from datamodules.order import Slot
from datamodules.shard_dataset import ShardDataset


class Loader:
    """Batches of a dataset.

    It is not a ``DataLoader``, so Lightning does not replace its sampler. It does nothing before the first ``next()``, so a position that
    is restored late still takes effect.

    Args:
        dataset: The clips.
        batches: Returns the slots of every batch, in order; called once per iteration.
        length: Batches of a whole epoch.
        num_workers: Number of worker processes; 0 reads in this process.
    """

    def __init__(self, dataset: ShardDataset, batches: Callable[[], Iterable[list[Slot]]], length: int, num_workers: int = 0) -> None:
        self.dataset, self.batches, self.length, self.num_workers = dataset, batches, length, num_workers

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        reader = DataLoader(
            self.dataset,
            batch_sampler=self.batches(),  # type: ignore[arg-type]
            collate_fn=identity_collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=obey_parent_only,
        )
        with held_signals():
            batches = iter(reader)
        for batch, found in batches:
            self.dataset.report(found)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Empty: the datamodule saves the position. Lightning needs this method to resume within an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing, see :meth:`state_dict`."""


def identity_collate(batch: Any) -> Any:
    """The batch itself: the dataset returns whole batches."""
    return batch
