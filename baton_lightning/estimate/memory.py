"""Memory of a GPU in training, optimiser steps and sampling, by strategy (ZeRO: arXiv 1910.02054).

The formulas follow torch 2.13, Lightning 2.6 and DeepSpeed 0.19. Tests compare them with real steps of a small network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton_lightning.estimate.optimiser import Cost

MASTERS = 4
"""Bytes of an element in float32."""
LIVE = 1_000_000_000
"""Number of parameters that ZeRO-3 gathers at a time, DeepSpeed's `stage3_max_live_parameters`."""


@dataclass(frozen=True)
class Load:
    """Memory load of a run, before it is partitioned.

    Args:
        groups: Trained elements of each group of the optimiser, in its order.
        largest: Elements of the largest trained tensor.
        frozen: Number of frozen parameters.
        frozen_bytes: Bytes of the frozen parameters.
        low: Whether training computes in half precision (e.g. bf16-mixed).
        cost: Cost of the optimiser.
        average: Whether there is an exponential moving average of the weights.
        activations: Bytes of a step's activations.
        sampling: Additional bytes of sampling.
        frozen_codes: Number of frozen parameters in int8, which no strategy casts.
    """

    groups: tuple[int, ...]
    largest: int
    frozen: int
    frozen_bytes: int
    low: bool
    cost: Cost
    average: bool
    activations: int
    sampling: int
    frozen_codes: int = 0

    @property
    def trained(self) -> int:
        return sum(self.groups)

    @property
    def kept(self) -> float:
        """Bytes per trained element besides its working copy: optimiser states, and the average."""
        return self.cost.states + (MASTERS if self.average else 0)

    def held(self, working: int) -> float:
        """Bytes of all weights under DeepSpeed, which casts those that are not codes to its working type of a number of bytes."""
        return working * (self.trained + self.frozen - self.frozen_codes) + self.frozen_codes

    def checkpoint(self, with_frozen: bool) -> float:
        """Bytes of a DeepSpeed checkpoint: working copies, master weights, states."""
        working = 2 if self.low else 4
        held = self.held(working) if with_frozen else working * self.trained
        return held + (MASTERS + self.kept) * self.trained


@dataclass(frozen=True)
class Buckets:
    """Bucket sizes of ZeRO, in elements.

    Args:
        reduce: Gradients per reduction.
        gather: Parameters of ZeRO-1 and 2 per gathering.
        sub_group: Elements per optimiser step of ZeRO-3.
        overlap: Whether a second bucket is filled while one is reduced.
    """

    reduce: int = 200_000_000
    gather: int = 200_000_000
    sub_group: int = 10**12
    overlap: bool = True


@dataclass(frozen=True)
class Peak:
    """Bytes on a GPU.

    Args:
        states: Weights, master weights, optimiser states and averages, which are always present.
        backward: Peak of forward and backward.
        step: Peak of the optimiser's step.
        sample: Peak of sampling.
        offloaded: Bytes of this rank in host memory.
    """

    states: float
    backward: float
    step: float
    sample: float
    offloaded: float = 0.0

    @property
    def most(self) -> float:
        return max(self.backward, self.step, self.sample)


def buckets(strategy: Any) -> Buckets:
    """Bucket sizes of an experiment's strategy: Lightning's arguments, or DeepSpeed's configuration and defaults."""
    given = dict(getattr(strategy, "init_args", None) or {})
    if given.get("config"):
        zero = dict(given["config"])["zero_optimization"]
        names = {"reduce": "reduce_bucket_size", "gather": "allgather_bucket_size", "sub_group": "sub_group_size"}
        defaults = {"reduce": 500_000_000, "gather": 500_000_000, "sub_group": 1_000_000_000}
        own = {field: int(dict(zero).get(name, defaults[field])) for field, name in names.items()}
        return Buckets(**own, overlap=bool(dict(zero).get("overlap_comm", int(dict(zero).get("stage", 0)) == 3)))
    names = {"reduce": "reduce_bucket_size", "gather": "allgather_bucket_size", "sub_group": "sub_group_size", "overlap": "overlap_comm"}
    return Buckets(**{field: given[name] for field, name in names.items() if given.get(name) is not None})


def saves_frozen(strategy: Any) -> bool:
    """Whether checkpoints of an experiment's strategy hold frozen parameters."""
    return not dict(getattr(strategy, "init_args", None) or {}).get("exclude_frozen_parameters", False)


def peaks(load: Load, gpus: int, sizes: Buckets) -> dict[str, Peak]:
    """Peaks of a rank for every strategy; `offload` is ZeRO-3 with parameters and optimiser states in host memory.

    ZeRO-3 and offload are left out if there are weights in int8, which they do not partition.
    """
    whole = {"none": unsharded(load, 0)} if gpus == 1 else {"DDP": unsharded(load, MASTERS * load.trained)}
    whole |= {f"ZeRO-{stage}": zero(load, gpus, stage, sizes) for stage in (1, 2)}
    return whole if load.frozen_codes else whole | {"ZeRO-3": zero(load, gpus, 3, sizes), "offload": offloaded(load, gpus, sizes)}


def unsharded(load: Load, copies: float) -> Peak:
    """Peak without DeepSpeed: weights, gradients and states in float32; autocast holds 2-byte copies of the weights in the forward pass.

    Args:
        load: The run.
        copies: Bytes of DDP's gradient buckets.
    """
    states = (MASTERS + load.kept) * load.trained + load.frozen_bytes + copies
    gradients = MASTERS * load.trained  # Lightning drops them only after the next forward pass
    cast = 2 * load.trained if load.low else 0
    stepping = max(load.cost.temporaries(size, load.largest) for size in load.groups)
    return Peak(states, states + gradients + cast + load.activations, states + gradients + stepping, states + gradients + load.sampling)


def zero(load: Load, gpus: int, stage: int, sizes: Buckets) -> Peak:
    """Peak with DeepSpeed: working copies in 2 bytes (4 in float32), master weights and states in float32, partitioned by the stage."""
    working = 2 if load.low else 4
    shares = [math.ceil(size / gpus) for size in load.groups]
    states = load.held(working) / (gpus if stage == 3 else 1) + (MASTERS + load.kept) * sum(shares)
    if stage < 3:
        gradients = working * (load.trained if stage == 1 else sum(shares))
        passing = working * (min(sizes.reduce, load.trained) * (2 if sizes.overlap else 1))
        left = list(accumulate(reversed(shares)))[::-1]  # gradients of this group and those after it
        stepping = max(
            working * rest + max(conversion(working, share), stepped(load, share) - working * share)
            for share, rest in zip(shares, left, strict=True)
        )
        gathered = working * min(sizes.gather, load.trained)
        return Peak(
            states,
            states + gradients + passing + load.activations,
            states + max(stepping, gathered),
            states + load.sampling,
        )
    gradients = working * sum(shares)  # one buffer that is never freed
    passing = working * min(sizes.reduce, load.trained)
    gathered = working * min(LIVE, load.trained + load.frozen) if gpus > 1 else 0
    stepping = max(max(conversion(working, part), stepped(load, part)) for share in shares for part in [min(share, sizes.sub_group)])
    resident = states + gradients + passing
    return Peak(states, resident + gathered + load.activations, resident + stepping, resident + gathered + load.sampling)


def conversion(working: int, elements: int) -> float:
    """Bytes of flattened gradients, and of their float32 copies if they have 2 bytes."""
    return (working + MASTERS if working < MASTERS else working) * elements


def stepped(load: Load, elements: int) -> float:
    """Bytes of float32 gradients and the optimiser's temporaries, for one flat partition."""
    return MASTERS * elements + load.cost.temporaries(elements, elements)


def offloaded(load: Load, gpus: int, sizes: Buckets) -> Peak:
    """Peak of ZeRO-3 with weights, gradients, master weights and states in host memory; a GPU holds the current layers."""
    sharded = zero(load, gpus, 3, sizes)
    working = 2 if load.low else 4
    held = sharded.step - working * min(sizes.reduce, load.trained)
    gathered = working * min(LIVE, load.trained + load.frozen)
    passing = working * min(sizes.reduce, load.trained)
    return Peak(0, gathered + passing + load.activations, passing, gathered + passing + load.sampling, held)


def enough(load: Load, sizes: Buckets, room: float) -> int | None:
    """Smallest number of GPUs (1, 2, 4, ... 1024) with which ZeRO-3 fits into a memory size; ``None`` = none."""
    return next((n for n in counts() if zero(load, n, 3, sizes).most < room), None)


def counts() -> Iterator[int]:
    return (2**power for power in range(11))
