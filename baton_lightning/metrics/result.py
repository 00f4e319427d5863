"""A number about a set of clips that never stands alone: how many clips it is over, and by which protocol it came about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip

Better = Literal["up", "down"]


@dataclass(frozen=True)
class Result:
    """What a metric says about a set.

    Args:
        metric: Name, as tables head their columns.
        value: The number; ``None`` if there was nothing to measure.
        n: Clips it stands on. Numbers over different clips do not compare.
        better: Whether good clips make it go up or down.
        protocol: How it was measured, in one line: networks, checkpoints, aggregation.
        also: Companions that keep the number honest, e.g. a signed mean beside a mean of absolute values.
        left_out: Reason -> clips that were not measured for it.
    """

    metric: str
    value: float | None
    n: int
    better: Better
    protocol: str
    also: dict[str, float | None] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class ClipMetric(Metric):
    """A metric over a set of clips; accumulates over batches and ranks.

    ``compute`` gives tensors: the value under the metric's name, the clips under ``n``, companions under names of their own.
    ``result`` gives the same as numbers, with the protocol.

    Args:
        measured_by: Protocol of the backend, for the record.
    """

    full_state_update = False
    name: str
    better: Better
    protocol: str
    """How clips are aggregated, in one line."""

    def __init__(self, measured_by: str = "") -> None:
        super().__init__()
        self.measured_by = measured_by
        self.add_state("n", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @classmethod
    def over(cls, measured: Mapping[str, Any], measured_by: str) -> ClipMetric:
        """An empty metric that takes what a backend measured.

        Args:
            measured: One clip's values, for sizes that the metric has to know.
            measured_by: Protocol of the backend.
        """
        return cls(measured_by)

    @classmethod
    def require(cls, clip: Clip) -> None:
        """Called before a clip is measured.

        Raises:
            LeftOut: If what it was asked to be has nothing that the metric looks at.
        """

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        """Counts one clip.

        Args:
            clip: The clip, with what it was asked to be.
            measured: What the backend said about it.

        Raises:
            LeftOut: If this clip says nothing about the metric.
        """
        raise NotImplementedError

    def result(self, left_out: Mapping[str, int] | None = None) -> Result:
        """The number with its n and its protocol; waits for all ranks.

        Args:
            left_out: Reason -> clips that were not counted.
        """
        numbers = {key: float(value) for key, value in self.compute().items()}
        finite = {key: None if math.isnan(value) else value for key, value in numbers.items()}
        n, value = int(numbers["n"]), finite[self.name]
        also = {key: number for key, number in finite.items() if key not in ("n", self.name)}
        protocol = "; ".join(part for part in (self.protocol, self.measured_by) if part)
        return Result(self.name, value, n, self.better, protocol, also, dict(left_out or {}))


class ClipMean(ClipMetric):
    """Mean of one number a clip, with the standard deviation over clips beside it.

    Args:
        name: Of the metric.
        field: Under which name the backend gives the number.
        better: Whether good clips make it go up or down.
        measured_by: Protocol of the backend.
    """

    protocol = "mean of clips"

    def __init__(self, name: str, field: str, better: Better, measured_by: str = "") -> None:
        super().__init__(measured_by)
        self.name, self.field, self.better = name, field, better
        for state in ("total", "squares"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Counts clips.

        Args:
            values: One number a clip, [B].

        Raises:
            ValueError: If a number is not finite: it would spoil the mean, and leaving it out would change n in silence.
        """
        if not torch.isfinite(values).all():
            raise ValueError(f"{self.name}: every clip's number must be finite, got {values.tolist()}")
        values = values.double()
        self.total += values.sum()
        self.squares += values.square().sum()
        self.n += values.numel()

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        self.update(torch.tensor([measured[self.field]], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        mean = self.total / self.n
        return {self.name: mean, "n": self.n, "std": (self.squares / self.n - mean.square()).clamp(min=0).sqrt()}
