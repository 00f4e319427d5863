"""Order of clips: a pure function of the seed, divided into global batches and distributed over ranks.

The clips of a bucket (picture and sound, picture only, sound only) form an endless sequence of permutations; each permutation is a pass
with every clip exactly once. A global batch of G clips has the next G clips of one bucket. Buckets alternate in proportion to their
numbers of clips. An epoch is a fixed number of batches; a pass may end within an epoch. Rank r of W takes the clips r, r + W, ... of a
batch. G does not depend on W, so 1, 2 or 4 ranks see the same global batches, and the position in an epoch is one number: the clips that
all ranks together have consumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import torch

Slot = tuple[int, int, int]
"""Epoch, index in the epoch's order, position in the split."""
Buckets = Mapping[str, Sequence[int]]
"""Name of each bucket -> positions of its clips in the split."""


@lru_cache(maxsize=6)  # two passes of each bucket
def permutation(num_clips: int, *, seed: int, number: int) -> tuple[int, ...]:
    """Positions in the order of pass ``number``."""
    digest = hashlib.blake2b(f"order/{seed}/{number}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return tuple(torch.randperm(num_clips, generator=generator).tolist())


def bucket_of_batch(number: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Bucket of a global batch, and the number of earlier batches of that bucket.

    Of the first n batches, floor(n * share) are of the first bucket; of the remaining ones the same rule gives the second bucket, and so
    on. So buckets alternate evenly, in proportion to their clips.

    Args:
        number: Number of the batch, counted from the start of the first epoch.
        sizes: Number of clips of each bucket.
    """
    left = sum(sizes)
    for bucket, size in enumerate(sizes):
        before = number * size // left
        if (number + 1) * size // left > before:
            return bucket, before
        number, left = number - before, left - size
    raise AssertionError("the last bucket takes all remaining batches")


def epoch_length(buckets: Buckets, *, batch_size: int, epoch_clips: int | None = None, accumulate: int = 1, world_size: int = 1) -> int:
    """Number of global batches of an epoch; an epoch consists of whole optimiser steps.

    Args:
        buckets: Clips of the split.
        batch_size: Clips of a global batch.
        epoch_clips: Clips of an epoch; ``None`` = as many whole steps as the split has. The remaining clips start the next epoch.
        accumulate: Global batches of an optimiser step.
        world_size: Number of ranks.

    Raises:
        ValueError: If a bucket has fewer clips than a batch, ``batch_size`` is not a multiple of ``world_size``, or ``epoch_clips`` is not
            a multiple of the clips of an optimiser step.
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
    """Batches of a rank in an epoch, starting after ``consumed`` clips.

    Args:
        buckets: Clips of the split.
        batch_size: Clips of a global batch.
        seed: Seed of the order.
        epoch: Epoch, counted from 0.
        epoch_clips: As for :func:`epoch_length`.
        accumulate: As for :func:`epoch_length`.
        consumed: Clips of the epoch that all ranks together have consumed.
        rank: This rank.
        world_size: Number of ranks.
    """
    num_batches = epoch_length(buckets, batch_size=batch_size, epoch_clips=epoch_clips, accumulate=accumulate, world_size=world_size)
    rows = list(buckets.values())
    sizes = [len(clips) for clips in rows]
    for batch in range(consumed // batch_size, num_batches):
        bucket, previous = bucket_of_batch(epoch * num_batches + batch, sizes)
        slots = []
        for within in range(rank, batch_size, world_size):
            number, place = divmod(previous * batch_size + within, sizes[bucket])
            position = rows[bucket][permutation(sizes[bucket], seed=seed, number=number)[place]]
            slots.append((epoch, batch * batch_size + within, position))
        yield slots


def held_out_batches(buckets: Buckets, *, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[Slot]]:
    """Batches of a rank in a held-out split, bucket after bucket; all ranks together read every clip exactly once.

    Every rank has the same number of batches, and none is empty, so that collectives match. Batches are as equal in size as possible; they
    have one clip more than ``batch_size / world_size`` only if a rank would otherwise have an empty batch.

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
