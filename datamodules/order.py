"""In which order clips are seen: a pure function of (seed, number of the clip), cut into global batches, dealt out to ranks.

The order is one endless row of permutations of the split, pass after pass, so every pass shows each clip exactly once. An epoch is the
next so many clips of the row, whole batches of it; where a pass ends within one, the next pass begins. A global batch of G clips holds
the next G of them, and rank r of W takes every W-th from the r-th on. G does not depend on W, so 1, 2 or 4 ranks see the same global
batches, and the position in an epoch is one number: the clips that all ranks together have consumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import torch

Slot = tuple[int, int, int]
"""Epoch, place in the epoch's order, position in the split."""


@lru_cache(maxsize=2)
def permutation(num_clips: int, *, seed: int, number: int) -> tuple[int, ...]:
    """Positions in the order of a pass."""
    digest = hashlib.blake2b(f"order/{seed}/{number}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return tuple(torch.randperm(num_clips, generator=generator).tolist())


def epoch_length(num_clips: int, *, batch_size: int, epoch_clips: int | None = None, world_size: int = 1) -> int:
    """Global batches of an epoch.

    Args:
        num_clips: Clips in the split.
        batch_size: Clips of a global batch.
        epoch_clips: Clips of an epoch; ``None`` takes the whole batches that the split holds. What is left over opens the next epoch.
        world_size: Number of ranks.

    Raises:
        ValueError: If the clips do not make one batch, or a batch does not divide over the ranks, or an epoch into batches.
    """
    if batch_size < 1 or batch_size % world_size:
        below = batch_size // world_size * world_size
        nearest = " or ".join(str(b) for b in (below, below + world_size) if b)
        raise ValueError(
            f"data.init_args.batch_size counts the clips of all ranks together and must be a multiple of their number, got "
            f"{batch_size} clips / {world_size} ranks = {batch_size / world_size:.3g}; the nearest is {nearest}"
        )
    if num_clips < batch_size:
        raise ValueError(
            f"data: {num_clips} clips do not make one global batch: {world_size} ranks x {batch_size // world_size} clips = {batch_size}; "
            f"set data.init_args.batch_size to {max(num_clips // world_size * world_size, world_size)} or less, or build more clips"
        )
    if epoch_clips is not None and (epoch_clips < 1 or epoch_clips % batch_size):
        below = epoch_clips // batch_size * batch_size
        nearest = " or ".join(str(clips) for clips in (below, below + batch_size) if clips > 0)
        raise ValueError(
            f"data.init_args.epoch_clips must be a multiple of the batch of {batch_size} clips, got {epoch_clips}; the nearest is {nearest}"
        )
    return (epoch_clips or num_clips) // batch_size


def training_batches(
    num_clips: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    epoch_clips: int | None = None,
    consumed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[list[Slot]]:
    """What a rank sees of an epoch from ``consumed`` on.

    Args:
        num_clips: Clips in the split.
        batch_size: Clips of a global batch.
        seed: Seed of the order.
        epoch: Epoch, counted from 0.
        epoch_clips: As for :func:`epoch_length`.
        consumed: Clips of the epoch that all ranks together have consumed.
        rank: This rank.
        world_size: Number of ranks.
    """
    length = epoch_length(num_clips, batch_size=batch_size, epoch_clips=epoch_clips, world_size=world_size) * batch_size

    def position(place: int) -> int:
        number, within = divmod(epoch * length + place, num_clips)
        return permutation(num_clips, seed=seed, number=number)[within]

    for start in range(consumed, length, batch_size):
        yield [(epoch, place, position(place)) for place in range(start + rank, start + batch_size, world_size)]


def held_out_batches(num_clips: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[Slot]]:
    """What a rank sees of a held-out split: all ranks together every clip once, none twice.

    Every rank gets the same number of batches and never an empty one, so that ranks that must act together do: batches are as even
    as they come, and hold one clip more than asked for only where fewer would leave a rank without.

    Raises:
        ValueError: If there are fewer clips than ranks.
    """
    if num_clips < world_size:
        raise ValueError(f"data: {num_clips} held-out clips cannot be shared by {world_size} ranks; use at most {num_clips} devices")
    count = min(-(-num_clips // batch_size), num_clips // world_size)
    bounds = [num_clips * b // count for b in range(count + 1)]
    return [[(0, place, place) for place in range(bounds[b] + rank, bounds[b + 1], world_size)] for b in range(count)]
