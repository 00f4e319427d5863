"""Metrics over a set of clips, and their results: a value with the number of clips and the protocol."""

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
    """Result of a metric over a set of clips.

    Args:
        metric: Name of the metric, as in published tables.
        value: The value; ``None`` if it is not a number.
        n: Number of clips. Values over different clips are not comparable.
        better: Whether higher (``up``) or lower (``down``) values are better.
        protocol: Networks, checkpoints and aggregation, in one line.
        also: Additional values, e.g. a signed mean for a mean of absolute values.
        left_out: Reason -> number of clips that were excluded for it.
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
    """A metric over a set of clips; it accumulates over batches and ranks.

    ``compute`` returns tensors: the value under the metric's name, the number of clips under ``n``, and additional values.
    ``result`` returns the same as a :class:`Result`.

    Args:
        measured_by: Protocol of the backend.
    """

    full_state_update = False
    name: str
    better: Better
    protocol: str
    """Aggregation over clips, in one line."""

    def __init__(self, measured_by: str = "") -> None:
        super().__init__()
        self.measured_by = measured_by
        self.add_state("n", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @classmethod
    def from_measured(cls, measured: Mapping[str, Any], measured_by: str) -> ClipMetric:
        """A new metric for the measurements of a backend.

        Args:
            measured: Measurement of one clip, from which the metric takes sizes.
            measured_by: Protocol of the backend.
        """
        return cls(measured_by)

    @classmethod
    def check_clip(cls, clip: Clip) -> None:
        """Called before a clip is measured.

        Raises:
            ClipExcluded: If the metric does not apply to the clip's prompt.
        """

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        """Adds one clip.

        Args:
            clip: The clip with its prompt.
            measured: The backend's measurement.

        Raises:
            ClipExcluded: If the metric does not apply to the measurement.
        """
        raise NotImplementedError

    def result(self, left_out: Mapping[str, int] | None = None) -> Result:
        """The value with n and protocol; synchronises all ranks.

        Args:
            left_out: Reason -> number of clips that were excluded for it.
        """
        numbers = {key: float(value) for key, value in self.compute().items()}
        finite = {key: None if math.isnan(value) else value for key, value in numbers.items()}
        n, value = int(numbers["n"]), finite[self.name]
        also = {key: number for key, number in finite.items() if key not in ("n", self.name)}
        protocol = "; ".join(part for part in (self.protocol, self.measured_by) if part)
        return Result(self.name, value, n, self.better, protocol, also, dict(left_out or {}))


class ClipMean(ClipMetric):
    """Mean over clips of one number per clip; ``std`` is the standard deviation over clips.

    Args:
        name: Name of the metric.
        field: Field of the backend's measurement that holds the number.
        better: Whether higher (``up``) or lower (``down``) values are better.
        measured_by: Protocol of the backend.
    """

    protocol = "mean of clips"

    def __init__(self, name: str, field: str, better: Better, measured_by: str = "") -> None:
        super().__init__(measured_by)
        self.name, self.field, self.better = name, field, better
        for state in ("total", "squares"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Adds clips.

        Args:
            values: One number per clip, [B].

        Raises:
            ValueError: If a number is not finite.
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
