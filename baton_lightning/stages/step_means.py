"""Logs of training as means over the batches of an optimiser step."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import Tensor


class StepMeans:
    """Weighted means of values over the batches whose gradients are accumulated for a step; each is logged once a step."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, name: str, value: Tensor, weight: int) -> None:
        """Adds the mean of a batch.

        Args:
            name: Name in the logs.
            value: Mean over some clips of the batch, a scalar.
            weight: Number of these clips.
        """
        total, number = self.sums.get(name, (value.new_zeros(()), 0))
        self.sums[name] = total + value.detach() * weight, number + weight

    def log(self, module: LightningModule) -> None:
        """Logs the means at the end of a step, and forgets them."""
        for name, (total, number) in self.sums.items():
            module.log(name, total / number, batch_size=number, prog_bar=name == "train/loss")
        self.sums.clear()
