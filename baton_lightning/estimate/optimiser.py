"""What an optimiser keeps for a trained element, and what its step takes on top, measured on the optimiser itself at a small size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from baton_lightning.estimate.footprint import LiveTensors

SIDE = 64
"""Rows and columns of the matrices that it is tried on."""


@dataclass(frozen=True)
class Cost:
    """Bytes an element in float32.

    Args:
        states: Kept from step to step, e.g. 8 for AdamW's two moments.
        group: Temporaries of a step for every element of a group: 4 for AdamW with ``foreach``, torch's choice on a GPU.
        tensor: Temporaries for every element of the tensor that is stepped: 8 for AdamW that steps one after the other. 0 with ``fused``.
        before: Those of the tensor before it, which still live: 4 for the same.
    """

    states: float
    group: float
    tensor: float
    before: float

    def temporaries(self, elements: int, largest: int) -> float:
        """Bytes on top while a group is stepped.

        Args:
            elements: Elements of the group.
            largest: Elements of its largest tensor.
        """
        alone = largest >= elements
        return self.group * elements + (self.tensor + (0 if alone else self.before)) * min(largest, elements)


def cost(make: Callable[[Iterable], Optimizer]) -> Cost:
    """The cost of an optimiser as torch runs it on a GPU: with ``foreach``, unless its settings say otherwise.

    Args:
        make: Its factory, called with parameter groups.
    """
    (states, one), (_, two), (_, three) = ([taken / SIDE**2 for taken in stepped(make, count)] for count in (1, 2, 3))
    group = three - two  # beyond the second tensor, only what is kept for all of them adds up
    return Cost(states, group, one - group, two - one - group)


def stepped(make: Callable[[Iterable], Optimizer], count: int) -> tuple[int, int]:
    """Bytes of states and of a later step's temporaries, for so many square matrices."""
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
