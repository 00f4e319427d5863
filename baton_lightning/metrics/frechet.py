"""FD: Frechet distance between two *sets* of clips, in the feature space of an audio network.

``|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2))`` of means and covariances, from moments that are summed over batches and ranks. It is not a mean
over clips: a covariance needs at least two clips. With few clips and many features, the distance depends mostly on the number of clips, so
the result states both numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baton_lightning.metrics.result import ClipMetric

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class FrechetDistance(ClipMetric):
    """Frechet distance between the features of generated clips and of reference clips.

    Args:
        num_features: Length of a clip's feature vector.
        measured_by: Protocol of the backend.
        min_clips: Smallest number of clips of each side, at least 2; with fewer, :meth:`compute` raises an error.
    """

    name = "FD"
    better = "down"

    def __init__(self, num_features: int, measured_by: str = "", min_clips: int = 2) -> None:
        super().__init__(measured_by)
        if min_clips < 2:
            raise ValueError(f"FD: min_clips must be at least 2, because a covariance needs 2 clips, got {min_clips}")
        self.num_features, self.min_clips = num_features, min_clips
        for side in ("true", "made"):
            self.add_state(f"{side}_n", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", torch.zeros(num_features, num_features, dtype=torch.float64), dist_reduce_fx="sum")

    @classmethod
    def from_measured(cls, measured: Mapping[str, Any], measured_by: str) -> FrechetDistance:
        return cls(len(measured["made"]["features"]), measured_by)

    @property
    def protocol(self) -> str:  # type: ignore[override]
        return f"once over the whole set, {self.num_features} features a clip, covariances over n - 1"

    def update(self, true: Tensor, made: Tensor) -> None:
        """Adds clips; the two sides need not be paired.

        Args:
            true: Features of reference clips, [B, C].
            made: Features of generated clips, [B', C].
        """
        for side, features in (("true", true), ("made", made)):
            if features.ndim != 2 or features.shape[1] != self.num_features:
                raise ValueError(f"FD: features must be [B, {self.num_features}], got {list(features.shape)}")
            features = features.double()
            getattr(self, f"{side}_n").add_(len(features))
            getattr(self, f"{side}_sum").add_(features.sum(0))
            getattr(self, f"{side}_outer").add_(features.T @ features)
        self.n += len(made)

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        self.update(*(torch.tensor([measured[side]["features"]], device=self.device) for side in ("true", "made")))

    def compute(self) -> dict[str, Tensor]:
        """The distance.

        Raises:
            ValueError: If a side has too few clips.
        """
        (n, mean, covariance), (other_n, other_mean, other_covariance) = self._moments("true"), self._moments("made")
        # tr (S S')^(1/2) = sum of the square roots of the eigenvalues of R S' R, R = S^(1/2), which is symmetric: no complex numbers
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        shared = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
        distance = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * shared
        return {self.name: distance.clamp(min=0), "n": self.n, "n_true": n, "n_made": other_n}

    def _moments(self, side: str) -> tuple[Tensor, Tensor, Tensor]:
        n, total, outer = (getattr(self, f"{side}_{name}") for name in ("n", "sum", "outer"))
        if n < self.min_clips:
            raise ValueError(f"FD: needs at least {self.min_clips} {side} clips for a covariance, got {int(n)}")
        mean = total / n
        return n, mean, (outer - n * torch.outer(mean, mean)) / (n - 1)
