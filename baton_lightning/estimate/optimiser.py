"""States and temporaries of an optimiser per trained element, measured with the optimiser on small matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from baton_lightning.estimate.footprint import LiveTensors

SIDE = 64
"""Rows and columns of the matrices of the measurement."""


@dataclass(frozen=True)
class Cost:
    """Bytes per element in float32.

    Args:
        states: Persistent states, e.g. 8 for AdamW's two moments.
        group: Temporaries of a step for every element of a group: 4 for AdamW with ``foreach``, torch's choice on a GPU.
        tensor: Temporaries for every element of the current tensor: 8 for AdamW without ``foreach``, 0 with ``fused``.
        before: Temporaries of the previous tensor that are still alive: 4 for AdamW without ``foreach``.
    """

    states: float
    group: float
    tensor: float
    before: float

    def temporaries(self, elements: int, largest: int) -> float:
        """Bytes of temporaries in the step of a group.

        Args:
            elements: Elements of the group.
            largest: Elements of its largest tensor.
        """
        alone = largest >= elements
        return self.group * elements + (self.tensor + (0 if alone else self.before)) * min(largest, elements)


def cost(make: Callable[[Iterable], Optimizer]) -> Cost:
    """Cost of an optimiser on a GPU, where torch uses ``foreach`` by default.

    Args:
        make: Factory of the optimiser, called with parameter groups.
    """
    (states, one), (_, two), (_, three) = ([taken / SIDE**2 for taken in stepped(make, count)] for count in (1, 2, 3))
    group = three - two  # a third tensor adds only temporaries that exist for all tensors at once
    return Cost(states, group, one - group, two - one - group)


def stepped(make: Callable[[Iterable], Optimizer], count: int) -> tuple[int, int]:
    """Bytes of states, and of temporaries in a later step, for a number of square matrices."""
    with LiveTensors("cpu") as live:
        matrices = [nn.Parameter(torch.ones(SIDE, SIDE)) for _ in range(count)]
        for matrix in matrices:
            matrix.grad = torch.ones(SIDE, SIDE)
        made = make([{"params": matrices, "name": "rest", "rate": 1.0, "matrices": True}])
        for group in made.param_groups:
            if not group.get("fused") and group.get("foreach", False) is None:
                group["foreach"] = True
        before = live.now
        made.step()
        after = live.peak = live.now
        made.step()
    return after - before, live.peak - after
