"""Order of clips: a pure function of the seed, divided into global batches and distributed over ranks.

The clips of a bucket (of one geometry: picture and sound, picture only, sound only) form an endless sequence of permutations; each
permutation is a pass with every clip exactly once. A global batch of G clips has the next G clips of one bucket. G may differ between
buckets. Buckets alternate in proportion to their numbers of batches. An epoch is a fixed number of batches; a pass may end within an
epoch. Rank r of W takes the clips r, r + W, ... of a batch. G does not depend on W, so 1, 2 or 4 ranks see the same global batches, and
the position in an epoch is one number: the clips that all ranks together have consumed.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial

import torch

Slot = tuple[int, int, int]
"""Epoch, index in the epoch's order, position in the split."""
Buckets = Mapping[str, Sequence[int]]
"""Name of each bucket -> positions of its clips in the split."""
BatchSize = int | Mapping[str, int]
"""Clips of a global batch, over all ranks together: one number, or a number for each bucket."""


def batch_sizes(buckets: Buckets, batch_size: BatchSize) -> list[int]:
    """Clips of a global batch of each bucket."""
    return [batch_size if isinstance(batch_size, int) else batch_size[name] for name in buckets]


def shares(buckets: Buckets, batch_size: BatchSize) -> list[int]:
    """Numbers of batches of the buckets, in whole numbers that have the same proportions; for equal batches, the numbers of clips."""
    sizes = batch_sizes(buckets, batch_size)
    return [len(clips) * (math.lcm(*sizes) // size) for clips, size in zip(buckets.values(), sizes, strict=True)]


def permutation(num_clips: int, *, seed: int, number: int) -> tuple[int, ...]:
    """Positions in the order of pass ``number``."""
    digest = hashlib.blake2b(f"order/{seed}/{number}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return tuple(torch.randperm(num_clips, generator=generator).tolist())


def batches_of_buckets(number: int, sizes: Sequence[int]) -> list[int]:
    """Numbers of batches of each bucket among the first ``number`` batches, see :func:`bucket_of_batch`."""
    counts, left = [], sum(sizes)
    for size in sizes:
        counts.append(number * size // left)
        number, left = number - counts[-1], left - size
    return counts


def bucket_of_batch(number: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Bucket of a global batch, and the number of earlier batches of that bucket.

    Of the first n batches, floor(n * share) are of the first bucket; of the remaining ones the same rule gives the second bucket, and so
    on. So buckets alternate evenly, in proportion to their batches.

    Args:
        number: Number of the batch, counted from the start of the first epoch.
        sizes: Share of each bucket, see :func:`shares`.
    """
    left = sum(sizes)
    for bucket, size in enumerate(sizes):
        before = number * size // left
        if (number + 1) * size // left > before:
            return bucket, before
        number, left = number - before, left - size
    raise AssertionError("the last bucket takes all remaining batches")


def epoch_length(
    buckets: Buckets, *, batch_size: BatchSize, epoch_clips: int | None = None, accumulate: int = 1, world_size: int = 1
) -> int:
    """Number of global batches of an epoch; an epoch consists of whole optimiser steps.

    Args:
        buckets: Clips of the split.
        batch_size: Clips of a global batch.
        epoch_clips: Clips of an epoch; ``None`` = as many whole steps as the split has. The remaining clips start the next epoch. Only for
            batches of equal size.
        accumulate: Global batches of an optimiser step.
        world_size: Number of ranks.

    Raises:
        ValueError: If a bucket has fewer clips than a batch, ``batch_size`` is not a multiple of ``world_size``, or ``epoch_clips`` is not
            a multiple of the clips of an optimiser step.
    """
    require_whole_batches(buckets, batch_size, world_size)
    num_batches = sum(shares(buckets, batch_size)) // math.lcm(*batch_sizes(buckets, batch_size))
    if not isinstance(batch_size, int):
        if num_batches < accumulate:
            raise ValueError(
                f"data: {num_batches} batches do not make one optimiser step; set trainer.accumulate_grad_batches to {num_batches} or less"
            )
        return num_batches // accumulate * accumulate
    step, total = batch_size * accumulate, sum(map(len, buckets.values()))
    of = f"batch of {batch_size} clips" if accumulate == 1 else f"optimiser step of {accumulate} batches of {batch_size} clips"
    if epoch_clips is not None and (epoch_clips < 1 or epoch_clips % step):
        below = epoch_clips // step * step
        nearest = " or ".join(str(clips) for clips in (below, below + step) if clips > 0)
        raise ValueError(f"data.init_args.epoch_clips must be a multiple of the {of}, got {epoch_clips}; the nearest is {nearest}")
    if epoch_clips is None and total < step:
        raise ValueError(
            f"data: {total} clips do not make one {of}; set trainer.accumulate_grad_batches to {num_batches} or less, or "
            f"data.init_args.epoch_clips to {step}, which takes several passes over the clips"
        )
    return (epoch_clips or total // step * step) // batch_size


def require_whole_batches(buckets: Buckets, batch_size: BatchSize, world_size: int) -> None:
    """Refuses batches that ranks cannot share equally, and buckets with fewer clips than a batch.

    Raises:
        ValueError: If there are some.
    """
    for (name, clips), size in zip(buckets.items(), batch_sizes(buckets, batch_size), strict=True):
        of = f" of the bucket {name}" if len(buckets) > 1 else ""
        if size < 1 or size % world_size:
            below = size // world_size * world_size
            nearest = " or ".join(str(b) for b in (below, below + world_size) if b)
            if isinstance(batch_size, int):
                raise ValueError(
                    f"data.init_args.batch_size counts the clips of all ranks together and must be a multiple of their number, got "
                    f"{size} clips / {world_size} ranks = {size / world_size:.3g}; the nearest is {nearest}"
                )
            raise ValueError(
                f"data.init_args.tokens makes batches of {size} clips{of}, which {world_size} ranks cannot share equally; set "
                f"data.init_args.multiple_of to {world_size}, or give other tokens"
            )
        if len(clips) < size:
            without = ", or leave the bucket out of data.init_args.buckets" if len(buckets) > 1 else ""
            fix = f"set data.init_args.batch_size to {max(len(clips) // world_size * world_size, world_size)} or less"
            raise ValueError(
                f"data: {len(clips)} clips{of} do not make one global batch: {world_size} ranks x {size // world_size} clips = "
                f"{size}; {fix if isinstance(batch_size, int) else 'give fewer data.init_args.tokens'}, or build more clips{without}"
            )


def clips_before(buckets: Buckets, batch: int, *, batch_size: BatchSize, epoch: int, num_batches: int) -> int:
    """Clips of the first ``batch`` batches of an epoch.

    Args:
        buckets: Clips of the split.
        batch: Number of batches.
        batch_size: Clips of a global batch.
        epoch: Epoch, counted from 0.
        num_batches: Batches of an epoch.
    """
    if isinstance(batch_size, int):
        return batch * batch_size
    sizes = shares(buckets, batch_size)
    first, last = (batches_of_buckets(epoch * num_batches + number, sizes) for number in (0, batch))
    return sum((b - a) * size for a, b, size in zip(first, last, batch_sizes(buckets, batch_size), strict=True))


def training_batches(
    buckets: Buckets,
    *,
    batch_size: BatchSize,
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
    rows, sizes, weights = list(buckets.values()), batch_sizes(buckets, batch_size), shares(buckets, batch_size)
    before = partial(clips_before, buckets, batch_size=batch_size, epoch=epoch, num_batches=num_batches)
    passes = [lru_cache(maxsize=2)(partial(permutation, len(clips), seed=seed)) for clips in rows]
    for batch in range(bisect_right(range(num_batches + 1), consumed, key=before) - 1, num_batches):
        bucket, previous = bucket_of_batch(epoch * num_batches + batch, weights)
        size, start, slots = sizes[bucket], before(batch), []
        for within in range(rank, size, world_size):
            number, place = divmod(previous * size + within, len(rows[bucket]))
            slots.append((epoch, start + within, rows[bucket][passes[bucket](number=number)[place]]))
        yield slots


def held_out_batches(buckets: Buckets, *, batch_size: BatchSize, rank: int = 0, world_size: int = 1) -> list[list[Slot]]:
    """Batches of a rank in a held-out split, bucket after bucket; all ranks together read every clip exactly once.

    Every rank has the same number of batches, and none is empty, so that collectives match. Batches are as equal in size as possible; they
    have one clip more than ``batch_size / world_size`` only if a rank would otherwise have an empty batch.

    Raises:
        ValueError: If a bucket has fewer clips than there are ranks.
    """
    batches = []
    for (name, clips), size in zip(buckets.items(), batch_sizes(buckets, batch_size), strict=True):
        if len(clips) < world_size:
            of, without = (f" of the bucket {name}", " or leave it out of data.init_args.buckets") if len(buckets) > 1 else ("", "")
            raise ValueError(
                f"data: {len(clips)} held-out clips{of} cannot be shared by {world_size} ranks; use at most {len(clips)} devices{without}"
            )
        count = min(-(-len(clips) // size), len(clips) // world_size)
        bounds = [len(clips) * b // count for b in range(count + 1)]
        batches += [[(0, clips[i], clips[i]) for i in range(bounds[b] + rank, bounds[b + 1], world_size)] for b in range(count)]
    return batches
