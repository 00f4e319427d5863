"""DeSync: mean absolute offset of sound and picture, in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baton_lightning.metrics.result import ClipMetric

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class MeanOffset(ClipMetric):
    """Mean over clips of a clip's mean absolute offset; ``signed`` is the mean of signed offsets, which shows a bias.

    Args:
        measured_by: Protocol of the backend.
    """

    name = "DeSync"
    better = "down"
    protocol = "mean over clips of the mean absolute offset, in s"

    def __init__(self, measured_by: str = "") -> None:
        super().__init__(measured_by)
        for state in ("absolute", "signed"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, offsets: Tensor) -> None:
        """Adds clips.

        Args:
            offsets: [B, W], in s, one for each of the W windows of a clip; the backend defines the sign.
        """
        offsets = offsets.double()
        self.absolute += offsets.abs().mean(-1).sum()
        self.signed += offsets.mean(-1).sum()
        self.n += len(offsets)

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        self.update(torch.tensor([measured["offsets"]], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        return {self.name: self.absolute / self.n, "n": self.n, "signed": self.signed / self.n}
