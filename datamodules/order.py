"""In which order clips are seen: a pure function of (seed, number of the clip), cut into global batches, dealt out to ranks.

The clips of a bucket (picture and sound, picture alone, sound alone) are one endless row of permutations, pass after pass, so every pass
shows each clip exactly once. A global batch of G clips holds the next G of one row; buckets take turns as often as they have clips. An
epoch is the next so many batches; where a pass ends within one, the next pass begins. Rank r of W takes every W-th clip of a batch from
the r-th on. G does not depend on W, so 1, 2 or 4 ranks see the same global batches, and the position in an epoch is one number: the clips
that all ranks together have consumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import torch

Slot = tuple[int, int, int]
"""Epoch, place in the epoch's order, position in the split."""
Buckets = Mapping[str, Sequence[int]]
"""Name of each bucket -> positions of its clips in the split."""


@lru_cache(maxsize=6)  # two passes of each bucket
def permutation(num_clips: int, *, seed: int, number: int) -> tuple[int, ...]:
    """Positions in the order of a pass."""
    digest = hashlib.blake2b(f"order/{seed}/{number}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return tuple(torch.randperm(num_clips, generator=generator).tolist())


def turn(number: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Which bucket a global batch is of, and how many batches of that bucket came before it.

    The first bucket has had floor(number * its share) turns at any moment, the second likewise of the turns that the first left over, and
    so on: each comes in proportion to its clips, as evenly as can be.

    Args:
        number: Which batch, counted from the first epoch's first.
        sizes: Clips in each bucket.
    """
    left = sum(sizes)
    for bucket, size in enumerate(sizes):
        before = number * size // left
        if (number + 1) * size // left > before:
            return bucket, before
        number, left = number - before, left - size
    raise AssertionError("the last bucket takes every turn that is left")


def epoch_length(buckets: Buckets, *, batch_size: int, epoch_clips: int | None = None, accumulate: int = 1, world_size: int = 1) -> int:
    """Global batches of an epoch, which are whole optimiser steps.

    Args:
        buckets: Clips of the split.
        batch_size: Clips of a global batch.
        epoch_clips: Clips of an epoch; ``None`` takes the whole steps that the split holds. What is left over opens the next epoch.
        accumulate: Global batches of an optimiser step.
        world_size: Number of ranks.

    Raises:
        ValueError: If the clips of a bucket do not make one batch, or a batch does not divide over the ranks, or an epoch into steps.
    """
    if batch_size < 1 or batch_size % world_size:
        below = batch_size // world_size * world_size
        nearest = " or ".join(str(b) for b in (below, below + world_size) if b)
        raise ValueError(
            f"data.init_args.batch_size counts the clips of all ranks together and must be a multiple of their number, got "
            f"{batch_size} clips / {world_size} ranks = {batch_size / world_size:.3g}; the nearest is {nearest}"
        )
    for name, clips in buckets.items():
        if len(clips) < batch_size:
            of = f" of the bucket {name}" if len(buckets) > 1 else ""
            without = ", or leave the bucket out of data.init_args.buckets" if len(buckets) > 1 else ""
            raise ValueError(
                f"data: {len(clips)} clips{of} do not make one global batch: {world_size} ranks x {batch_size // world_size} clips = "
                f"{batch_size}; set data.init_args.batch_size to {max(len(clips) // world_size * world_size, world_size)} or less, or "
                f"build more clips{without}"
            )
    step, total = batch_size * accumulate, sum(map(len, buckets.values()))
    of = f"batch of {batch_size} clips" if accumulate == 1 else f"optimiser step of {accumulate} batches of {batch_size} clips"
    if epoch_clips is not None and (epoch_clips < 1 or epoch_clips % step):
        below = epoch_clips // step * step
        nearest = " or ".join(str(clips) for clips in (below, below + step) if clips > 0)
        raise ValueError(f"data.init_args.epoch_clips must be a multiple of the {of}, got {epoch_clips}; the nearest is {nearest}")
    if epoch_clips is None and total < step:
        raise ValueError(
            f"data: {total} clips do not make one {of}; set trainer.accumulate_grad_batches to {total // batch_size} or less, or "
            f"data.init_args.epoch_clips to {step}, which takes several passes over the clips"
        )
    return (epoch_clips or total // step * step) // batch_size


def training_batches(
    buckets: Buckets,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    epoch_clips: int | None = None,
    accumulate: int = 1,
    consumed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[list[Slot]]:
    """What a rank sees of an epoch from ``consumed`` on.

    Args:
        buckets: Clips of the split.
        batch_size: Clips of a global batch.
        seed: Seed of the order.
        epoch: Epoch, counted from 0.
        epoch_clips: As for :func:`epoch_length`.
        accumulate: Likewise.
        consumed: Clips of the epoch that all ranks together have consumed.
        rank: This rank.
        world_size: Number of ranks.
    """
    num_batches = epoch_length(buckets, batch_size=batch_size, epoch_clips=epoch_clips, accumulate=accumulate, world_size=world_size)
    rows = list(buckets.values())
    sizes = [len(clips) for clips in rows]
    for batch in range(consumed // batch_size, num_batches):
        bucket, turns = turn(epoch * num_batches + batch, sizes)
        slots = []
        for within in range(rank, batch_size, world_size):
            number, place = divmod(turns * batch_size + within, sizes[bucket])
            position = rows[bucket][permutation(sizes[bucket], seed=seed, number=number)[place]]
            slots.append((epoch, batch * batch_size + within, position))
        yield slots


def held_out_batches(buckets: Buckets, *, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[Slot]]:
    """What a rank sees of a held-out split, bucket after bucket: all ranks together every clip once, none twice.

    Every rank gets the same number of batches and never an empty one, so that ranks that must act together do: batches are as even
    as they come, and hold one clip more than asked for only where fewer would leave a rank without.

    Raises:
        ValueError: If a bucket has fewer clips than there are ranks.
    """
    batches = []
    for name, clips in buckets.items():
        if len(clips) < world_size:
            of, without = (f" of the bucket {name}", " or leave it out of data.init_args.buckets") if len(buckets) > 1 else ("", "")
            raise ValueError(
                f"data: {len(clips)} held-out clips{of} cannot be shared by {world_size} ranks; use at most {len(clips)} devices{without}"
            )
        count = min(-(-len(clips) // batch_size), len(clips) // world_size)
        bounds = [len(clips) * b // count for b in range(count + 1)]
        batches += [[(0, clips[i], clips[i]) for i in range(bounds[b] + rank, bounds[b + 1], world_size)] for b in range(count)]
    return batches
