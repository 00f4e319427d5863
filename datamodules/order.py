"""In which order clips are seen: a pure function of (seed, epoch), cut into global batches, dealt out to ranks.

The global order of an epoch is one permutation. Global batch b holds places b * G to (b + 1) * G - 1, with G = batch size * world size;
rank r takes every world-th place of it, from r on. So the clips of a global batch do not depend on how many ranks share it, and the
position in the epoch is one number: how many clips all ranks together have consumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch


def permutation(num_clips: int, *, seed: int, epoch: int) -> list[int]:
    """Order of an epoch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(num_clips, generator=generator).tolist()


class EpochBatches:
    """Batches of one rank, epoch after epoch.

    Args:
        num_clips: Clips in the split.
        batch_size: Clips a rank takes per step.
        rank: This rank.
        world_size: Number of ranks.
        seed: Seed of the order.
        position: Returns (epoch, clips consumed by all ranks in it); read when iteration starts, so a state that is restored late counts.

    Raises:
        ValueError: If the split cannot fill one global batch.
    """

    def __init__(
        self, num_clips: int, batch_size: int, *, rank: int = 0, world_size: int = 1, seed: int = 0, position: Callable[[], tuple[int, int]]
    ) -> None:
        self.num_clips, self.batch_size, self.rank, self.world_size, self.seed = num_clips, batch_size, rank, world_size, seed
        self.position = position
        self.global_batch = batch_size * world_size
        if num_clips < self.global_batch:
            raise ValueError(
                f"data: {num_clips} clips do not fill one global batch of {batch_size} a rank x {world_size} ranks = {self.global_batch}; "
                "use a smaller batch_size, fewer ranks or more clips"
            )

    def __len__(self) -> int:
        """Batches of a whole epoch; the clips that do not fill a global batch wait for the next order."""
        return self.num_clips // self.global_batch

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        """Batches as lists of (epoch, place in the epoch's order, clip)."""
        epoch, consumed = self.position()
        order = permutation(self.num_clips, seed=self.seed, epoch=epoch)
        first = -(-consumed // self.global_batch)
        for batch in range(first, len(self)):
            places = range(batch * self.global_batch + self.rank, (batch + 1) * self.global_batch, self.world_size)
            yield [(epoch, place, order[place]) for place in places]


class FixedBatches:
    """Batches that are known beforehand, the same in every pass.

    Args:
        items: Batches of (epoch, place, clip).
    """

    def __init__(self, items: list[list[tuple[int, int, int]]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return iter(self.items)
