"""A loader that starts where it is told, at the moment the first batch is asked for, and that tells of damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from baton_lightning.batch import Batch
from datamodules.order import Slot
from datamodules.shard_dataset import ShardDataset


class Loader:
    """Batches of a dataset.

    Lightning takes it as it is: it replaces no sampler, and as nothing runs before the first ``next()``, a position that is restored
    late still counts.

    Args:
        dataset: Clips.
        batches: Returns what is to be read, in order; called once an iteration.
        length: Batches of a whole epoch.
        num_workers: Processes that read ahead; 0 reads in this one.
    """

    def __init__(self, dataset: ShardDataset, batches: Callable[[], Iterable[list[Slot]]], length: int, num_workers: int = 0) -> None:
        self.dataset, self.batches, self.length, self.num_workers = dataset, batches, length, num_workers

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        reader = DataLoader(
            self.dataset,
            batch_sampler=self.batches(),  # type: ignore[arg-type]
            collate_fn=as_it_is,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )
        for batch, found in reader:
            self.dataset.report(found)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position is the datamodule's. That the method exists tells Lightning that an epoch can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, likewise."""


def as_it_is(made: Any) -> Any:
    """The dataset makes whole batches."""
    return made
