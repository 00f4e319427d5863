"""The flow loss by modality and flow time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

BUCKETS = 4
MODALITIES = ("video", "audio")


class LossByTime(Metric):
    """Mean loss of each modality over the clips of each quarter of the flow time, over all ranks and all batches since the last reset."""

    higher_is_better = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.zeros(len(MODALITIES), BUCKETS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, t: Tensor, errors: Mapping[str, Tensor], present: Mapping[str, Tensor | None]) -> None:
        """Adds clips.

        Args:
            t: Flow time [B], 0 = clean, 1 = noise.
            errors: Modality -> loss of each clip [B].
            present: Modality -> which clips have it [B], bool; ``None`` = all.
        """
        bucket = (t * BUCKETS).long().clamp(0, BUCKETS - 1).to(self.total.device)
        for row, name in enumerate(MODALITIES):
            has = present[name]
            weight = (torch.ones_like(t) if has is None else has).to(self.total)
            self.count[row].index_add_(0, bucket, weight)
            self.total[row].index_add_(0, bucket, errors[name].detach().to(self.total) * weight)

    def compute(self) -> dict[str, Tensor]:
        """``loss_video_t/0.00-0.25`` and so on -> mean loss, for quarters with clips."""
        edges = [i / BUCKETS for i in range(BUCKETS + 1)]
        return {
            f"loss_{name}_t/{edges[i]:.2f}-{edges[i + 1]:.2f}": (self.total[row, i] / self.count[row, i]).float()
            for row, name in enumerate(MODALITIES)
            for i in range(BUCKETS)
            if self.count[row, i] > 0
        }
